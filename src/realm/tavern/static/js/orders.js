// Orders: buttons with data-order POST once, wait for the answer on the line, and say in words what went wrong.
// No optimistic numbers: the page changes when the event comes.
import {on, panel, status} from './line.js';

const waiting = new Map(); // command id -> button
const LOST = 'The line to the realm is lost: orders wait until it is back.';

function oops(button, words) {
  const place = button.closest('section, .board, dialog, main')?.querySelector('[data-oops]') || document.querySelector('[data-oops]');
  if (place) place.textContent = words;
  else document.getElementById('herald').textContent = words;
}

function settle(button) {
  button.removeAttribute('aria-busy');
  button.classList.remove('busy');
}

export async function give(path, {method = 'POST', body, button} = {}) {
  // The key is the order's id: its result may be on the line before this request has its answer.
  const key = crypto.randomUUID?.() ?? `k-${Date.now()}-${Math.random().toString(36).slice(2)}`;
  const headers = {'Idempotency-Key': key};
  if (body) headers['Content-Type'] = 'application/json';
  if (button) waiting.set(key, button);
  try {
    const answer = await fetch(`/api/${path}`, {method, headers, body});
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.detail || `the realm answered ${answer.status}`);
  } catch (error) {
    waiting.delete(key);
    throw error;
  }
  return key;
}

function ask(id, what) {
  const dialog = document.getElementById(id);
  dialog.querySelector('[data-what]').textContent = what;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), {once: true}));
}

async function press(button) {
  if (button.getAttribute('aria-busy') === 'true') return;
  if (status.conn !== 'live' || button.getAttribute('aria-disabled') === 'true') {
    oops(button, button.getAttribute('aria-disabled') === 'true' && status.conn === 'live' ? button.title : LOST);
    return;
  }
  oops(button, '');
  const stage = document.querySelector('[data-battle-state] .foe .f');
  if (button.dataset.confirm && !await ask(button.dataset.confirm, button.dataset.what ?? stage?.textContent.trim() ?? '')) return;
  button.setAttribute('aria-busy', 'true');
  button.classList.add('busy');
  try {
    const key = await give(button.dataset.order, {method: button.dataset.method, body: button.dataset.body, button});
    // The arena may be down or the step long: the button is usable again, the order stays noted.
    setTimeout(() => waiting.get(key) === button && settle(button), 8000);
  } catch (error) {
    settle(button);
    oops(button, error.message);
  }
}

async function move(select) {
  const say = document.getElementById('move-say');
  try {
    await give(`quests/${select.dataset.move}/move`, {body: JSON.stringify({lane: select.value}), button: select});
    if (say) say.textContent = `Moving to lane ${select.value}.`;
  } catch (error) {
    oops(select, error.message);
    panel('queue');
  }
}

async function assign(select) {
  const say = document.getElementById('move-say');
  try {
    await give(`quests/${select.dataset.school}/school`, {body: JSON.stringify({school: select.value}), button: select});
    if (say) say.textContent = `Going to the school ${select.value}.`;
  } catch (error) {
    oops(select, error.message);
    panel('queue');
  }
}

function dim(conn) {
  for (const button of document.querySelectorAll('[data-order], [data-upload], [data-move], [data-school]')) {
    if (conn === 'live') {
      if (button.dataset.dimmed) {
        button.removeAttribute('aria-disabled');
        button.title = button.dataset.dimmed === '-' ? '' : button.dataset.dimmed;
        if (!button.title) button.removeAttribute('title');
        delete button.dataset.dimmed;
      }
    } else if (!button.dataset.dimmed && conn !== 'connecting') {
      button.dataset.dimmed = button.title || '-';
      button.setAttribute('aria-disabled', 'true');
      button.title = LOST;
    }
  }
}

export function start() {
  document.addEventListener('click', event => {
    const button = event.target.closest('[data-order]');
    if (button) press(button);
  });
  document.addEventListener('change', event => {
    if (event.target.matches('[data-move]')) move(event.target);
    if (event.target.matches('[data-school]')) assign(event.target);
  });
  on('event', event => {
    if (event.kind !== 'command') return;
    const button = waiting.get(event.payload.command_id);
    if (!button) return;
    waiting.delete(event.payload.command_id);
    settle(button);
    if (event.payload.state === 'failed') oops(button, event.payload.result?.reason || event.text);
  });
  on('status', message => dim(message.conn));
  document.addEventListener('htmx:after:swap', () => dim(status.conn));
}

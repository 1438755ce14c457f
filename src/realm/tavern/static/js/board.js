// Bringing quests: button, drop anywhere, key u. Files are streamed by the browser, two at a time, with progress.
// Moving quests: the menu on each card, or drag; both give the same order.
import {status} from './line.js';
import {give} from './orders.js';
import {size} from './words.js';

const queue = [];
let running = 0;

function line(words) {
  for (const place of document.querySelectorAll('[data-upload-status]')) {
    if (place.tagName === 'UL') continue;
    place.textContent = words;
  }
}

function row(file) {
  const list = document.querySelector('ul[data-upload-status]');
  if (!list) return {say: (words, bad) => { line(`${file.name}: ${words}`); if (bad) line(`${file.name}: ${words}`); }, end: () => {}};
  const item = document.createElement('li');
  const name = document.createElement('b');
  const words = document.createElement('span');
  const stop = document.createElement('button');
  name.textContent = file.name;
  stop.type = 'button';
  stop.className = 'btn btn-sm';
  stop.textContent = 'Cancel';
  item.append(name, ' ', words, ' ', stop);
  list.prepend(item);
  return {
    stop,
    say: (text, bad) => { words.textContent = text; item.classList.toggle('bad', Boolean(bad)); },
    end: () => stop.remove(),
  };
}

function next() {
  if (running >= 2 || !queue.length) return;
  running += 1;
  const {file, lane, shown} = queue.shift();
  const request = new XMLHttpRequest(); // fetch cannot tell upload progress
  const form = new FormData();
  form.append('file', file, file.name);
  request.open('POST', `/api/inbox?lane=${encodeURIComponent(lane)}`);
  request.responseType = 'json';
  request.upload.onprogress = event => {
    if (event.lengthComputable) shown.say(`sending, ${Math.floor(100 * event.loaded / event.total)}% of ${size(event.total)}`);
  };
  const finish = (words, bad) => {
    shown.say(words, bad);
    shown.end();
    running -= 1;
    next();
  };
  request.onload = () => {
    const told = request.response;
    if (request.status === 201) finish(`lies in the inbox (${size(told.files[0].bytes)}, lane ${told.files[0].lane}); the Cleric reads it next`);
    else finish(`refused: ${told?.detail || `the realm answered ${request.status}`}`, true);
    document.body.dispatchEvent(new CustomEvent('realm:queue'));
  };
  request.onerror = () => finish('not sent: the line to the realm is lost', true);
  request.onabort = () => finish('cancelled', true);
  shown.stop?.addEventListener('click', () => request.abort());
  shown.say('sending');
  request.send(form);
}

export function upload(files, lane = document.getElementById('up-lane')?.value || 'normal') {
  for (const file of files) {
    const shown = row(file);
    if (status.conn !== 'live') {
      shown.say('not sent: the line to the realm is lost', true);
      shown.end();
      continue;
    }
    if (!file.name.toLowerCase().endsWith('.jsonl')) {
      // The realm would refuse it too, but only after the browser has begun to send it.
      shown.say('refused: the Cleric reads .jsonl files only, one JSON object per line', true);
      shown.end();
      continue;
    }
    queue.push({file, lane, shown});
    next();
    next();
  }
}

export function choose() {
  (document.getElementById('up-file') || document.getElementById('drop-input')).click();
}

const carries = event => [...(event.dataTransfer?.types || [])].includes('Files');

function dropping() {
  const veil = document.getElementById('drop-veil');
  let depth = 0;
  addEventListener('dragenter', event => { if (carries(event)) { depth += 1; veil.hidden = false; } });
  addEventListener('dragleave', event => { if (carries(event) && --depth <= 0) { depth = 0; veil.hidden = true; } });
  addEventListener('dragover', event => { if (carries(event)) event.preventDefault(); });
  addEventListener('drop', event => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const lane = event.target.closest?.('[data-lane]')?.dataset.lane;
    upload(event.dataTransfer.files, lane);
  });
}

function dragging() {
  let card = null;
  document.addEventListener('dragstart', event => {
    card = event.target.closest?.('.card[draggable=true]');
    if (card) event.dataTransfer.setData('text/plain', card.dataset.name);
  });
  document.addEventListener('dragover', event => {
    const column = card && event.target.closest?.('.col-q[data-lane]');
    if (column) event.preventDefault();
  });
  document.addEventListener('drop', event => {
    const column = card && event.target.closest?.('.col-q[data-lane]');
    if (column && column.dataset.lane !== card.dataset.lane) {
      event.preventDefault();
      give(`quests/${card.dataset.quest}/move`, {body: JSON.stringify({lane: column.dataset.lane})}).catch(error => {
        document.querySelector('.board [data-oops]').textContent = error.message;
      });
    }
    card = null;
  });
}

function columns() {
  const buttons = [...document.querySelectorAll('.seg-f [data-col]')];
  const show = name => {
    document.querySelector('.board')?.setAttribute('data-show', name);
    for (const button of buttons) button.setAttribute('aria-pressed', String(button.dataset.col === name));
  };
  for (const button of buttons) button.addEventListener('click', () => show(button.dataset.col));
  const pick = () => show(buttons.find(b => b.getAttribute('aria-pressed') === 'true')?.dataset.col ?? 'inbox');
  if (buttons.length) {
    pick();
    document.addEventListener('htmx:after:swap', pick);
  }
}

export function start() {
  const form = document.getElementById('upload-form');
  form?.addEventListener('submit', event => {
    event.preventDefault();
    upload(document.getElementById('up-file').files);
    form.reset();
  });
  const hidden = document.getElementById('drop-input');
  hidden?.addEventListener('change', () => { upload(hidden.files); hidden.value = ''; });
  document.addEventListener('click', event => {
    const button = event.target.closest('[data-upload]');
    if (button && button.getAttribute('aria-disabled') !== 'true') choose();
  });
  dropping();
  dragging();
  columns();
}

// The frame: line pill and lost bar, toggles, keys, dialogs, toasts, clock, the log's Hold.
import {calm, on, panel, release, retry, status, toldAt} from './line.js';
import {choose} from './board.js';
import {title} from './live.js';
import {duration, group, pace} from './words.js';

const LATE_MS = 5000;
const root = document.documentElement;
const $ = id => document.getElementById(id);
const store = (key, value) => {
  try {
    localStorage.setItem(key, value);
  } catch {
    // storage is switched off: the choice lasts for this page
  }
};
const clockText = t => new Date(t).toLocaleTimeString('en-GB', {hour12: false});

// --- line ---------------------------------------------------------------------------------------------------------
let speed = '';
let stepMs = 0; // a hero whose steps take longer than LATE_MS is slow, not late
let shownConn = '';

function pill() {
  const fighting = Boolean(document.querySelector('[data-battle-state=training]'));
  const stale = status.conn === 'live' && fighting && Date.now() - toldAt > Math.max(LATE_MS, 2 * stepMs);
  const conn = stale ? 'late' : status.conn;
  const words = {live: 'Live', late: 'Late', reconnecting: 'Reconnecting', offline: 'Offline', connecting: 'Connecting'}[conn];
  const age = duration((Date.now() - (stale ? toldAt : status.newsAt)) / 1000);
  const detail = {live: fighting && speed ? speed : '', late: `no news for ${age}`, reconnecting: `last news ${clockText(status.newsAt)}`,
    offline: `last news ${clockText(status.newsAt)}`, connecting: ''}[conn];
  if (root.dataset.conn !== conn) root.dataset.conn = conn;
  if ($('conn-t').textContent !== words) $('conn-t').textContent = words;
  // A role=status that changes every second would never be silent: the detail is not announced.
  if ($('conn-d').textContent !== detail) $('conn-d').textContent = detail;
  lost(conn, age);
  if (shownConn && shownConn !== 'live' && shownConn !== 'late' && conn === 'live') herald('The line is back; the numbers are live again.');
  if (conn !== 'connecting') shownConn = conn;
}

function lost(conn, age) {
  let bar = $('lost');
  if (conn !== 'reconnecting' && conn !== 'offline') {
    bar?.remove();
    return;
  }
  if (!bar) {
    const main = $('main');
    main.insertBefore($('lost-t').content.cloneNode(true), main.querySelector('h1.sr')?.nextSibling ?? main.firstChild);
    bar = $('lost');
    bar.querySelector('b').textContent = conn === 'offline' ? 'The realm does not answer.' : 'The raven is late.';
  }
  const wait = status.nextAt ? Math.max(0, Math.ceil((status.nextAt - Date.now()) / 1000)) : 0;
  bar.querySelector('.why').textContent = `The event stream is lost. The numbers below are from ${clockText(status.newsAt)}, ${age} ago, and are not moving. `
    + (wait ? `Next try in ${wait} s (attempt ${status.attempt}).` : `Trying now (attempt ${status.attempt}).`);
}

// --- announcements and toasts ---------------------------------------------------------------------------------------
let spokeAt = 0;
export function herald(words) {
  if (Date.now() - spokeAt < 10000) return; // at most one message in ten seconds
  spokeAt = Date.now();
  $('herald').textContent = words;
}

const toasts = [];
function toast(strong, rest) {
  toasts.push([strong, rest]);
  if (toasts.length > 5) toasts.shift();
  if (!$('toasts').children.length) nextToast();
}

function nextToast() {
  const told = toasts.shift();
  if (!told) return;
  const box = $('toast-t').content.cloneNode(true).firstElementChild;
  box.querySelector('b').textContent = told[0];
  box.querySelector('p').textContent = told[1];
  const end = () => { box.remove(); nextToast(); };
  let timer = setTimeout(end, 6000);
  const wait = () => clearTimeout(timer);
  const go = () => { timer = setTimeout(end, 3000); };
  box.addEventListener('mouseenter', wait);
  box.addEventListener('mouseleave', go);
  box.addEventListener('focusin', wait);
  box.addEventListener('focusout', go);
  box.querySelector('button').addEventListener('click', end);
  $('toasts').append(box);
}

function deeds(event) {
  const old = Date.now() / 1000 - event.t > 60; // told again after a gap: the log has it, no fanfare
  if (event.kind === 'level' && event.payload.kind === 'skill' && !old) {
    const skill = String(event.payload.skill || '').toUpperCase();
    toast(`${skill} ${event.payload.to} is mastered`, event.text);
  }
  if ((event.level === 'deed' || event.level === 'trouble') && !old) herald(event.text);
}

// --- toggles --------------------------------------------------------------------------------------------------------
const TOGGLES = {
  calm: {key: 'realm.calm', on: () => root.dataset.motion === 'calm', set: value => {
    if (value) root.dataset.motion = 'calm';
    else delete root.dataset.motion;
    if (!value) release();
    dispatchEvent(new Event('realm:calm'));
  }},
  view: {key: 'realm.view', on: () => root.dataset.view === 'mortal', set: value => {
    if (value) root.dataset.view = 'mortal';
    else delete root.dataset.view;
  }},
  nokeys: {key: 'realm.nokeys', on: () => root.dataset.nokeys === '1', set: value => {
    if (value) root.dataset.nokeys = '1';
    else delete root.dataset.nokeys;
  }},
};

function showToggles() {
  for (const button of document.querySelectorAll('[data-toggle]')) {
    button.setAttribute('aria-pressed', String(TOGGLES[button.dataset.toggle].on()));
  }
}

function toggle(name) {
  const one = TOGGLES[name];
  one.set(!one.on());
  store(one.key, one.on() ? '1' : '');
  showToggles();
}

// --- keys -----------------------------------------------------------------------------------------------------------
const GO = {t: '/', b: '/battle', q: '/quests', j: '/jobs', o: '/oracle', v: '/vault', u: '/guild', e: '/temple', c: '/campaign', s: '/settings'};
let pending = 0;

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea, select, dialog[open]')) return;
  if (TOGGLES.nokeys.on()) return;
  if (pending && Date.now() - pending < 1200 && GO[event.key]) {
    pending = 0;
    location.href = GO[event.key];
    return;
  }
  pending = event.key === 'g' ? Date.now() : 0;
  if (event.key === 'p') document.querySelector('[aria-keyshortcuts=p]')?.click();
  else if (event.key === 'u') choose();
  else if (event.key === 'c') toggle('calm');
  else if (event.key === 'm') toggle('view');
  else if (event.key === '?') $('keys').showModal();
  else if (event.key === '/') {
    event.preventDefault();
    document.querySelector('main .filters [aria-pressed=true], main .filters [aria-current], main select, main input')?.focus();
  }
}

function rove(event) {
  const links = [...document.querySelectorAll('.rail a')];
  const at = links.indexOf(document.activeElement);
  const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1}[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  links[(to + links.length) % links.length].focus();
}

// --- log ------------------------------------------------------------------------------------------------------------
let holding = false;
let missed = 0;

function hold() {
  holding = !holding;
  missed = 0;
  if (!holding) panel('log');
  showHold();
}

function showHold() {
  $('hold')?.setAttribute('aria-pressed', String(holding));
  const pillNew = $('log-new');
  if (pillNew) {
    pillNew.hidden = !missed;
    pillNew.textContent = `${group(missed)} new`;
  }
}

function scrolled() {
  const box = document.querySelector('#p-log .scroller');
  return Boolean(box && box.scrollTop > 40);
}

function logGate(event) {
  // Held or read further down: the log is not replaced under the reader's eyes.
  const source = event.target;
  if (source?.id === 'p-log' && event.detail?.ctx?.sourceEvent?.type === 'realm:log' && (holding || scrolled())) event.preventDefault();
}

// --- small things ---------------------------------------------------------------------------------------------------
function clocks(scope = document) {
  for (const element of scope.querySelectorAll('time[data-clock]')) {
    const date = new Date(element.dateTime);
    const today = date.toDateString() === new Date().toDateString();
    const text = date.toLocaleTimeString('en-GB', {hour: '2-digit', minute: '2-digit', hour12: false});
    element.textContent = today || element.closest('.entries') ? text : `${date.toLocaleDateString('en-CA').slice(5)} ${text}`;
    element.title = date.toLocaleString('en-GB');
  }
}

const ignored = new Set();
function notices() {
  for (const element of document.querySelectorAll('[data-notice]')) element.hidden = ignored.has(element.dataset.notice);
  title();
}

let arena = null;
function clicks(event) {
  const hit = name => event.target.closest(`[data-${name}]`);
  const open = hit('open');
  if (hit('toggle')) toggle(hit('toggle').dataset.toggle);
  else if (open) $(open.dataset.open).showModal();
  else if (hit('retry')) retry();
  else if (hit('ignore')) {
    ignored.add(hit('ignore').dataset.ignore);
    notices();
  } else if (hit('copy')) {
    const button = hit('copy');
    navigator.clipboard?.writeText(button.dataset.copy).then(() => { button.textContent = 'Copied'; }, () => { button.textContent = 'Copy by hand'; });
  } else if (event.target.closest('#hold')) hold();
  else if (event.target.closest('#log-new')) {
    holding = false;
    missed = 0;
    document.querySelector('#p-log .scroller').scrollTop = 0;
    panel('log');
    showHold();
  }
}

export function start() {
  on('status', pill);
  on('tick', tick => {
    speed = `${pace(1 / tick.step_s)} steps/s`;
    stepMs = 1000 * tick.step_s;
  });
  on('event', event => {
    deeds(event);
    if (event.kind !== 'queue' && (holding || scrolled())) {
      missed += 1;
      showHold();
    }
  });
  on('forge', sample => {
    if (arena !== null && arena !== sample.arena) {
      panel('alert');
      panel('battle');
    }
    arena = sample.arena;
  });
  setInterval(() => {
    pill();
    if ($('clock') && !calm()) $('clock').textContent = clockText(Date.now());
  }, 1000);
  document.addEventListener('keydown', key);
  document.querySelector('.shell')?.addEventListener('keydown', rove);
  document.addEventListener('click', clicks);
  document.addEventListener('htmx:before:request', logGate);
  document.addEventListener('htmx:after:swap', () => { showHold(); clocks(); notices(); });
  for (const dialog of document.querySelectorAll('dialog.sheet')) {
    dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(''); });
  }
  $('clock').textContent = clockText(Date.now());
  showToggles();
  clocks();
  notices();
  pill();
}

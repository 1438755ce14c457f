// A tab's end of the line. Everything that happens arrives here once and is handed on:
//   on('status', fn), on('tick', fn), on('forge', fn), on('event', fn)
// Coarse news also become DOM events (realm:queue, realm:battle, …) on <body>, on which panels fetch themselves again.
import {Line} from './line.core.js';

const root = document.documentElement;
const listeners = {status: [], tick: [], forge: [], event: [], resync: []};
const PANELS = {
  battle: ['battle', 'hero', 'queue'], quest: ['queue', 'battle'], queue: ['queue'], cleric: ['queue'],
  trial: ['hero', 'battle'], level: ['hero'], regression: ['hero'], blessing: ['hero'], checkpoint: ['hero'],
  champion: ['hero'], vault: ['hero'], groundskeeper: ['hero'], campaign: ['hero', 'battle'], zone: ['strain'], hint: ['strain'], alert: ['alert'],
  incident: ['alert'], service: ['alert', 'battle'], temple: ['temple', 'alert'], mode: ['mode', 'battle', 'alert'], command: ['battle', 'mode', 'queue', 'jobs'],
  job: ['jobs'],
};
// In Calm only what a person asked for, or must know, still moves the page.
const LOUD = new Set(['battle', 'mode', 'command', 'alert', 'incident', 'quest', 'queue', 'temple', 'job']);
const held = new Set();

export const on = (type, fn) => listeners[type].push(fn);
export const calm = () => root.dataset.motion === 'calm';
let send = () => {};
export const retry = () => send({type: 'retry'});
export let status = {conn: 'connecting', newsAt: Date.now()};
// When the realm last told something of its own: a tick or a durable event. The machine's samples come every 2 s whether
// anybody trains or not, so they keep the line alive (newsAt) but are no news of the battle.
export let toldAt = Date.now();

export function panel(name) {
  document.body.dispatchEvent(new CustomEvent(`realm:${name}`));
}

export function release() {
  for (const name of held) panel(name);
  held.clear();
}

function hear(message) {
  if (message.type === 'status') {
    if (message.conn === 'live' && status.conn !== 'live') toldAt = Date.now(); // a new line gets its five seconds too
    status = message;
    listeners.status.forEach(fn => fn(message));
  } else if (message.type === 'resync') {
    panel('all');
    listeners.resync.forEach(fn => fn());
  } else if (message.type === 'frame') {
    status.newsAt = Date.now();
    if (message.kind !== 'forge' && message.kind !== 'shown') toldAt = Date.now();
    if (message.kind === 'tick' || message.kind === 'forge') {
      listeners[message.kind].forEach(fn => fn(message.data));
      return;
    }
    if (message.kind === 'shown') {
      const stage = document.querySelector('[data-battle-state]');
      const {battle, state, at} = message.data;
      if (!stage) return;
      if (stage.dataset.battleState !== state || stage.dataset.battle !== (battle ?? '') || Number(stage.dataset.at) < at) panel('battle');
      return;
    }
    listeners.event.forEach(fn => fn(message.data));
    for (const name of [...(PANELS[message.kind] || []), 'log']) {
      if (calm() && !(LOUD.has(message.kind) && name !== 'log')) held.add(name);
      else panel(name);
    }
  }
}

const hello = () => ({type: 'hello', kinds: root.dataset.kinds.split(' '), after: Number(root.dataset.eventId)});

function shareWorker() {
  const worker = new SharedWorker('/static/js/line.worker.js', {type: 'module', name: `realm-${root.dataset.version}`});
  worker.port.onmessage = event => hear(event.data);
  worker.port.start();
  send = message => worker.port.postMessage(message);
  send(hello());
  addEventListener('pagehide', () => send({type: 'bye'}));
  addEventListener('pageshow', event => { if (event.persisted) send(hello()); });
}

// Without SharedWorker one tab leads and tells the others; the lock passes on when it closes.
function lead() {
  const channel = new BroadcastChannel('realm-line');
  const {kinds, after} = hello();
  channel.onmessage = event => (event.data.type === 'retry' ? send(event.data) : hear(event.data));
  send = message => channel.postMessage(message);
  const start = () => {
    const line = new Line({kinds, after, tell: message => { channel.postMessage(message); hear(message); }});
    send = message => { if (message.type === 'retry') line.retry(); };
    return new Promise(() => {}); // held until the tab is gone
  };
  if (navigator.locks) navigator.locks.request('realm-line', start);
  else start();
}

export function connect() {
  if (typeof SharedWorker === 'function') shareWorker();
  else lead();
}

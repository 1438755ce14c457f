// Damage numbers over the scene: at most three on screen, one new per 600 ms, one critical per 30 s. Never in Calm,
// with reduced motion or on a lost line; they are decoration and hidden from assistive technology.
import {calm, on, status} from './line.js';
import {damage} from './words.js';

const quiet = matchMedia('(prefers-reduced-motion: reduce)');
const PLACES = [[49.5, 66], [80, 60], [57, 30], [70, 70]];
let shownAt = 0;
let critAt = 0;
let place = 0;

function show(loss, critical) {
  const box = document.getElementById('hits');
  if (!box) return;
  while (box.children.length >= 3) box.firstChild.remove();
  const [left, top] = critical ? [67, 30] : PLACES[place++ % PLACES.length];
  const number = document.createElement('span');
  number.className = critical ? 'dmg live crit' : 'dmg live';
  number.style.left = `${left}%`;
  number.style.top = `${top}%`;
  if (critical) {
    const word = document.createElement('small');
    word.textContent = 'Crit';
    number.append(word);
  }
  number.append(damage(loss).toFixed(1));
  number.addEventListener('animationend', () => number.remove());
  box.append(number);
}

export function start() {
  on('tick', tick => {
    const now = performance.now();
    if (calm() || quiet.matches || document.hidden || status.conn !== 'live' || !tick.hits.length) return;
    const crit = now - critAt > 30000 ? tick.hits.find(hit => hit.crit) : undefined;
    if (!crit && now - shownAt < 600) return;
    if (crit) critAt = now;
    shownAt = now;
    show((crit || tick.hits.at(-1)).loss, Boolean(crit));
  });
}

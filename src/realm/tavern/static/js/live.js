// Ticks and machine samples write numbers, bars and the needle; nothing else. At most 10 times a second, once a second
// with reduced motion, never in Calm or in a hidden tab: then the newest value waits and is written on return.
import {calm, on, status} from './line.js';
import {compact, damage, duration, gigabytes, group, pace} from './words.js';

const quiet = matchMedia('(prefers-reduced-motion: reduce)');
let tick = null;
let dirty = false;
let painted = 0;

export const newest = () => tick;

function put(key, text) {
  for (const element of document.querySelectorAll(`[data-live="${key}"]`)) {
    if (element.textContent !== text) element.textContent = text;
  }
}

function bar(id, share, now, text) {
  const element = document.getElementById(id);
  if (!element) return;
  element.style.setProperty('--v', share.toFixed(2));
  element.setAttribute('aria-valuenow', now);
  if (text) element.setAttribute('aria-valuetext', text);
}

function paint() {
  dirty = false;
  painted = performance.now();
  const t = tick;
  const stage = document.querySelector('[data-battle-state]');
  // A panel of another battle is fetched anew; one that was printed after this tick knows better.
  if (!stage || stage.dataset.battle !== t.battle || t.campaign_step < Number(stage.dataset.at)) return;
  const state = stage.dataset.battleState;
  put('loss', t.loss_ema.toFixed(4));
  put('dmg', damage(t.loss_ema).toFixed(2));
  put('c-loss', t.loss_ema.toFixed(3));
  put('c-damage', damage(t.loss_ema).toFixed(2));
  put('c-strain', t.strain.toFixed(3));
  put('strain', t.strain.toFixed(3));
  put('floor', t.floor.toFixed(3));
  put('effort', group(t.effort, 1));
  put('pace', pace(1 / t.step_s));
  if (t.tok_s !== null) put('toks', compact(t.tok_s));
  if (t.strain_rate !== null) put('rate', `${t.strain_rate < 0 ? '-' : '+'}${Math.abs(1000 * t.strain_rate).toFixed(2)} / 1k steps`);
  if (t.total) {
    const left = t.total - t.step;
    put('step', group(t.step));
    put('pct', `${(100 * t.step / t.total).toFixed(1)}%`);
    put('qhp', `${group(left)} / ${group(t.total)} steps left`);
    if (state === 'training' && t.eta_s !== null) put('eta', duration(t.eta_s));
    bar('qhp', 100 * left / t.total, t.step, `Step ${group(t.step)} of ${group(t.total)}`);
  }
  const into = t.campaign_step % 1000;
  put('level', String(Math.floor(t.campaign_step / 1000)));
  put('lvl', `${group(into)} / 1,000 steps`);
  bar('lvl', into / 10, into);
  const needle = document.querySelector('.needle');
  needle?.setAttribute('transform', `rotate(${-90 + 180 * Math.min(t.strain, 0.7) / 0.7} 136 140)`);
  if (!needle) document.body.dispatchEvent(new CustomEvent('realm:strain')); // first step: the gauge has no needle yet
  title();
}

export function title() {
  const base = document.title.replace(/^(\(!\) |\d+% )/, '');
  const trouble = document.querySelector('[data-notice]');
  const share = tick?.total && document.querySelector('[data-battle-state=training]') ? `${Math.floor(100 * tick.step / tick.total)}% ` : '';
  const wanted = (document.hidden ? (trouble ? '(!) ' : share) : '') + base;
  if (document.title !== wanted) document.title = wanted;
}

function soon() {
  if (dirty || !tick || calm() || document.hidden) return;
  dirty = true;
  const gap = quiet.matches ? 1000 : 100;
  setTimeout(() => requestAnimationFrame(() => { if (tick && !calm()) paint(); else dirty = false; }), Math.max(0, painted + gap - performance.now()));
}

function forge(sample) {
  if (calm() || document.hidden) return;
  const set = (key, share, text) => {
    const meter = document.querySelector(`[data-forge-bar="${key}"]`);
    const value = document.querySelector(`[data-forge="${key}"]`);
    meter?.style.setProperty('--v', share.toFixed(1));
    if (value && value.textContent !== text) value.textContent = text;
  };
  sample.gpus.forEach((gpu, i) => {
    set(`gpu${i}-vram`, 100 * gpu.used / gpu.total, `${gigabytes(gpu.used)} GB`);
    if (gpu.load !== null) set(`gpu${i}-load`, gpu.load, `${Math.round(gpu.load)} %`);
    if (gpu.temp !== null) set(`gpu${i}-temp`, gpu.temp, `${Math.round(gpu.temp)} °C`);
    if (gpu.watts !== null && gpu.watts_limit) set(`gpu${i}-watts`, 100 * gpu.watts / gpu.watts_limit, `${Math.round(gpu.watts)} W`);
  });
  if (sample.cpu_load !== null) set('cpu', sample.cpu_load, `${Math.round(sample.cpu_load)} %`);
  if (sample.cpu_temp !== null) set('cputemp', sample.cpu_temp, `${Math.round(sample.cpu_temp)} °C`);
  set('ram', 100 * sample.ram_used / sample.ram_total, `${gigabytes(sample.ram_used)} GB`);
  set('disk', 100 * (sample.disk_total - sample.disk_free) / sample.disk_total, `${gigabytes(sample.disk_free)} GB`);
  const total = sample.gpus.length ? sample.gpus.reduce((sum, gpu) => sum + gpu.total, 0) : sample.ram_total;
  const used = sample.gpus.length ? sample.gpus.reduce((sum, gpu) => sum + gpu.used, 0) : sample.ram_used;
  put('hp', `${gigabytes(total - used)} GB ${sample.gpus.length ? '' : 'RAM '}free of ${(total / 1e9).toFixed(0)}`);
  bar('hp', 100 * (total - used) / total, gigabytes(total - used));
}

export function start() {
  on('tick', data => { tick = data; soon(); });
  on('forge', forge);
  document.addEventListener('visibilitychange', () => { title(); soon(); });
  // A panel that was fetched anew may be older than the newest tick.
  document.addEventListener('htmx:after:swap', soon);
  addEventListener('realm:calm', soon);
  addEventListener('realm:calm', () => { if (!calm() && status.conn === 'live') soon(); });
}

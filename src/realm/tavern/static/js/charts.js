// Curves. The server thins to real steps of lowest and highest loss per bin; new steps are appended from ticks and drawn
// at most twice a second. Three small plots on the home page, five large ones on a battle's own page.
import {calm, on} from './line.js';
import {damage, group} from './words.js';

/* global uPlot */
const POINTS = 600;
const KEEP = 2000;
const ZONES = [[0, 0.1, 'recovery'], [0.1, 0.3, 'productive'], [0.3, 0.5, 'stretch'], [0.5, Infinity, 'overload']];
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = {loss: () => css('--gold-300'), damage: () => css('--ember'), strain: () => css('--zone-productive'),
  lr: () => css('--mp-hi'), grad_norm: () => css('--favor-hi'), tok: () => css('--zone-recovery')};

function bands(u) {
  const {ctx, bbox} = u;
  for (const [low, high, zone] of ZONES) {
    const bottom = Math.min(u.valToPos(low, 'y', true), bbox.top + bbox.height);
    const top = Math.max(high === Infinity ? bbox.top : u.valToPos(high, 'y', true), bbox.top);
    if (bottom <= top) continue;
    const tint = css(`--zone-${zone}`);
    ctx.save();
    ctx.globalAlpha = 0.14;
    ctx.fillStyle = tint;
    ctx.fillRect(bbox.left, top, bbox.width, bottom - top);
    ctx.globalAlpha = 0.5;
    ctx.strokeStyle = tint;
    ctx.setLineDash([2, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, top);
    ctx.lineTo(bbox.left + bbox.width, top);
    ctx.stroke();
    ctx.restore();
  }
}

function endDot(u, paint) {
  const last = u.data[0].length - 1;
  const value = u.data[2]?.[last] ?? u.data[1]?.[last];
  if (last < 0 || value == null) return;
  const x = u.valToPos(u.data[0][last], 'x', true);
  const y = u.valToPos(value, 'y', true);
  const {ctx} = u;
  const unit = devicePixelRatio;
  ctx.save();
  for (const [radius, fill, alpha] of [[7.5, paint, 0.28], [4.2, '#fff5dd', 1], [3, paint, 1]]) {
    ctx.globalAlpha = alpha;
    ctx.fillStyle = fill;
    ctx.beginPath();
    ctx.arc(x, y, radius * unit, 0, 7);
    ctx.fill();
  }
  ctx.restore();
}

// Log axes need a range of positive values; a little air keeps the line off the frame.
function range(log, zones) {
  return (u, low, high) => {
    if (low == null || high == null) return log ? [0.1, 1] : [0, 1];
    if (log) return [Math.max(low, 1e-4) / 1.15, Math.max(high, 1e-4) * 1.15];
    if (zones) return [0, Math.max(0.6, high * 1.08)];
    const air = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
    return [low - air, high + air];
  };
}

function make(box, {key, small, log, zones, pair}) {
  const paint = colour[key]();
  const fine = {stroke: paint, width: 1, alpha: pair ? 0.4 : 1, points: {show: false}};
  const thick = {stroke: paint, width: 2.2, points: {show: false},
    fill: zones || !small ? undefined : u => {
      const fade = u.ctx.createLinearGradient(0, u.bbox.top, 0, u.bbox.top + u.bbox.height);
      fade.addColorStop(0, `${paint}55`);
      fade.addColorStop(1, `${paint}00`);
      return fade;
    }};
  const axis = {stroke: css('--text-mut'), font: '13px "Alegreya Sans"', grid: {stroke: '#ffffff12', width: 1}, ticks: {stroke: '#ffffff22', width: 1}};
  return new uPlot({
    width: Math.max(60, box.clientWidth), height: Math.max(60, box.clientHeight),
    legend: {show: false}, pxAlign: false, padding: small ? [8, 10, 6, 6] : [10, 12, 0, 0],
    cursor: small ? {show: false} : {drag: {x: true, y: false}, sync: {key: 'battle'}, points: {show: true}},
    scales: {x: {time: false}, y: {distr: log ? 3 : 1, log: 10, range: range(log, zones)}},
    axes: small ? [{show: false}, {show: false}] : [axis, {...axis, size: 64, values: (u, ticks) => ticks.map(brief)}],
    series: [{}, fine, ...(pair ? [thick] : [])],
    hooks: {
      drawClear: [u => zones && bands(u)],
      draw: [u => small && endDot(u, paint)],
      setCursor: small ? [] : [u => say(u, key)],
    },
  }, [[], [], ...(pair ? [[]] : [])], box);
}

function say(u, key) {
  const at = u.cursor.idx ?? u.data[0].length - 1;
  const target = document.querySelector(`[data-big-v="${key}"]`);
  const value = u.data[u.data.length - 1]?.[at];
  if (target && value != null) target.textContent = `step ${group(u.data[0][at])}: ${value >= 1000 ? group(value) : value.toPrecision(4)}`;
}

function brief(value) {
  if (value == null) return '';
  return value >= 1000 ? group(value) : String(Number(value.toPrecision(3)));
}

function fit(plot, box) {
  const width = Math.max(60, box.clientWidth);
  const height = Math.max(60, box.clientHeight);
  if (plot.width !== width || plot.height !== height) plot.setSize({width, height});
}

const fetchSeries = async id => {
  const answer = await fetch(`/api/battles/${encodeURIComponent(id)}/series?points=${POINTS}`);
  if (!answer.ok) throw new Error(`curves: ${answer.status}`);
  return answer.json();
};

/** Columns of one battle, by step of the quest; `from` = first step drawn. */
class Columns {
  constructor(told) {
    this.zero = told.zero;
    this.step = told.step.map(step => step - told.zero);
    for (const name of ['loss', 'loss_ema', 'strain', 'lr', 'grad_norm']) this[name] = told[name].slice();
    this.tok = told.tokens.map((tokens, i) => (told.step_s[i] > 0 ? tokens / told.step_s[i] : null));
    this.floor = told.floor.at(-1) ?? 0;
    this.best = Math.min(Infinity, ...told.loss);
  }

  add(tick) {
    for (const hit of tick.hits) {
      const step = hit.step - this.zero;
      if (this.step.length && step <= this.step.at(-1)) continue;
      this.step.push(step);
      this.loss.push(hit.loss);
      this.loss_ema.push(hit.ema);
      this.strain.push(Math.max(0, hit.ema - tick.floor));
      this.lr.push(tick.lr);
      this.grad_norm.push(tick.grad_norm);
      this.tok.push(tick.tok_s);
      this.floor = tick.floor;
      this.best = Math.min(this.best, hit.loss);
    }
    while (this.step.length > KEEP) this.halve();
  }

  // Longer than the plot has pixels: of each pair of steps the one further from its EMA stays, so spikes live.
  halve() {
    const names = ['step', 'loss', 'loss_ema', 'strain', 'lr', 'grad_norm', 'tok'];
    const keep = [];
    for (let i = 0; i + 1 < this.step.length - 200; i += 2) {
      const far = j => Math.abs(this.loss[j] - this.loss_ema[j]);
      keep.push(far(i) >= far(i + 1) ? i : i + 1);
    }
    for (let i = (keep.at(-1) ?? -1) + 1; i < this.step.length; i += 1) keep.push(i);
    for (const name of names) this[name] = keep.map(i => this[name][i]);
  }
}

function feed(key, c) {
  if (key === 'loss') return [c.step, c.loss, c.loss_ema];
  if (key === 'damage') return [c.step, c.loss.map(damage), c.loss_ema.map(damage)];
  if (key === 'strain') return [c.step, c.loss.map(loss => Math.max(0, loss - c.floor)), c.strain];
  return [c.step, c[key]];
}

const text = (name, value) => {
  const element = document.querySelector(`[data-ax="${name}"]`);
  if (element && element.textContent !== value) element.textContent = value;
};

function describe(plots, c) {
  const last = c.step.length - 1;
  if (last < 0) return;
  const zone = ZONES.find(([, high]) => c.strain[last] < high) || ZONES[3];
  const inside = Math.round(100 * c.strain.filter(s => s >= zone[0] && s < zone[1]).length / c.strain.length);
  const words = {
    loss: `${c.loss_ema[0].toFixed(2)} to ${c.loss_ema[last].toFixed(2)}`,
    damage: `best hit ${damage(c.best).toFixed(1)}`,
    strain: `in zone ${inside}%`,
  };
  for (const [key, said] of Object.entries(words)) {
    text(`${key}-from`, `step ${group(c.step[0] > 1 ? c.step[0] : 0)}`);
    text(`${key}-say`, said);
    text(`${key}-to`, group(c.step[last]));
    plots[key]?.root.parentElement.setAttribute('aria-label', `${key} over ${group(c.step[last])} steps of this quest: ${said}`);
  }
}

function watchSizes(plots) {
  const observer = new ResizeObserver(() => {
    for (const plot of Object.values(plots)) fit(plot, plot.root.parentElement);
  });
  for (const plot of Object.values(plots)) observer.observe(plot.root.parentElement);
}

/** Draws the columns into the plots, at most twice a second, not in Calm and not in a hidden tab. */
function drawer(plots, get, after) {
  let dirty = false;
  const draw = () => {
    dirty = false;
    if (calm() || document.hidden || !get()) return;
    for (const [key, plot] of Object.entries(plots)) {
      const zoomed = plot.realmZoomed;
      plot.setData(feed(key, get()), !zoomed);
    }
    after?.(get());
  };
  const soon = () => {
    if (dirty) return;
    dirty = true;
    setTimeout(() => requestAnimationFrame(draw), 500);
  };
  document.addEventListener('visibilitychange', soon);
  addEventListener('realm:calm', soon);
  return {draw, soon};
}

function home(section) {
  const plots = {};
  for (const box of section.querySelectorAll('[data-plot]')) {
    const key = box.dataset.plot;
    plots[key] = make(box, {key, small: true, log: key !== 'strain', zones: key === 'strain', pair: true});
  }
  let columns = null;
  let loading = '';
  let shown = '';
  const pen = drawer(plots, () => columns, c => describe(plots, c));
  const load = async id => {
    if (!id || loading === id) return;
    loading = id;
    try {
      columns = new Columns(await fetchSeries(id));
      shown = id;
      pen.draw();
    } catch (error) {
      console.warn(error);
    }
    loading = '';
  };
  load(section.dataset.series);
  on('tick', tick => {
    if (tick.battle !== shown) {
      load(tick.battle);
      return;
    }
    columns.add(tick);
    pen.soon();
  });
  on('resync', () => load(shown || section.dataset.series));
  watchSizes(plots);
}

function big(section) {
  const id = section.dataset.big;
  const plots = {};
  let columns = null;
  const build = () => {
    const log = document.getElementById('log-y')?.checked ?? true;
    for (const box of section.querySelectorAll('[data-big-plot]')) {
      const key = box.dataset.bigPlot;
      plots[key]?.destroy();
      const plot = make(box, {key, small: false, log: key === 'loss' && log, zones: key === 'strain', pair: key === 'loss' || key === 'strain'});
      plot.over.addEventListener('mouseup', () => { plot.realmZoomed = true; });
      plot.over.addEventListener('dblclick', () => { plot.realmZoomed = false; });
      box.tabIndex = 0;
      box.onkeydown = event => keys(event, plot);
      plots[key] = plot;
    }
  };
  build();
  const pen = drawer(plots, () => columns, () => Object.entries(plots).forEach(([key, plot]) => say(plot, key)));
  const load = () => fetchSeries(id).then(told => { columns = new Columns(told); pen.draw(); }, error => console.warn(error));
  load();
  document.getElementById('log-y')?.addEventListener('change', () => { build(); pen.draw(); });
  on('tick', tick => {
    if (tick.battle === id && columns) {
      columns.add(tick);
      pen.soon();
    }
  });
  on('resync', load);
  watchSizes(plots);
}

function keys(event, plot) {
  const step = {ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20}[event.key];
  if (!step || !plot.data[0].length) return;
  event.preventDefault();
  const at = Math.min(plot.data[0].length - 1, Math.max(0, (plot.cursor.idx ?? plot.data[0].length - 1) + step));
  plot.setCursor({left: plot.valToPos(plot.data[0][at], 'x'), top: 10});
}

export function start() {
  if (typeof uPlot !== 'function') return;
  const small = document.getElementById('p-curves');
  if (small) home(small);
  const large = document.querySelector('[data-big]');
  if (large) big(large);
}

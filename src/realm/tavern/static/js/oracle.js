// Talking with checkpoints: one stream per answer, or one with a channel for each rival. Whatever a model writes is
// text: it reaches the page through textContent only.
import {gigabytes, size} from './words.js';

const $ = id => document.getElementById(id);
const main = $('main');
const KEYS = ['temperature', 'top_p', 'max_tokens', 'seed', 'system'];
const STORE = `oracle:${main.dataset.campaign}`;
const FAR = 200; // most characters of each side for the word comparison, squared in work
let turns = [];      // {role, content}: the whole conversation, sent each time
let running = null;  // AbortController of the answer under way
let mode = 'chat';
let item = null;     // the public problem that was asked last
let asked = null;    // what a retry repeats

function make(tag, cls, text) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(words, act) {
  const node = make('button', 'btn btn-sm', words);
  node.type = 'button';
  node.addEventListener('click', act);
  return node;
}

const oops = words => { $('o-oops').textContent = words; };
const herald = words => { $('herald').textContent = words; };
const nameOf = id => [...$('o-model').options].find(o => o.value === id)?.textContent ?? id;
const rivals = () => [...document.querySelectorAll('[data-rival]')].map(s => s.value).filter(Boolean);

function settings() {
  const made = {};
  for (const key of KEYS.slice(0, 4)) {
    const field = $(`o-${key}`);
    if (field.value !== '') made[key] = Number(field.value);
    if (!field.checkValidity()) throw new Error(`${field.labels[0].firstChild.textContent.trim()}: ${field.validationMessage}`);
  }
  return made;
}

function save() {
  const kept = Object.fromEntries(KEYS.map(key => [key, $(`o-${key}`).value]));
  try { localStorage.setItem(STORE, JSON.stringify(kept)); } catch { /* private mode: settings last as long as the page */ }
}

function restore() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem(STORE)) ?? {}; } catch { /* unreadable: the defaults stand */ }
  for (const key of KEYS) if (typeof kept[key] === 'string') $(`o-${key}`).value = kept[key];
}

// --- an answer on the page

class Answer {
  constructor(place, title) {
    this.box = make('article', 'o-turn it');
    this.title = make('h3', '', title);
    this.text = make('div', 'o-text');
    this.foot = make('div', 'o-foot');
    this.box.append(this.title, this.text, this.foot);
    place.append(this.box);
    Object.assign(this, {said: '', begun: performance.now(), first: null, usage: null, finish: null, told: [], error: null});
  }

  take(chunk) {
    this.usage = chunk.usage ?? this.usage;
    for (const choice of chunk.choices ?? []) {
      const piece = choice.delta?.content ?? '';
      if (piece && this.first === null) this.first = performance.now();
      this.said += piece;
      this.told.push(...(choice.logprobs?.content ?? []));
      this.finish = choice.finish_reason ?? this.finish;
    }
    this.show();
  }

  // What stands between <think> marks is folded away; an open one is still being thought.
  parts() {
    const found = /^\s*<think>([\s\S]*?)(<\/think>|$)/.exec(this.said);
    return found ? [found[1].trim(), this.said.slice(found[0].length).trimStart()] : ['', this.said];
  }

  show() {
    const [thought, answer] = this.parts();
    if (thought && !this.thinking) {
      this.thinking = make('details');
      this.thinking.append(make('summary', '', 'Thinking'), make('div'));
      this.text.before(this.thinking);
    }
    if (this.thinking) this.thinking.lastChild.textContent = thought;
    this.text.textContent = answer;
  }

  heat() {
    if (!this.told.length || this.parts()[0]) return;
    this.text.textContent = '';
    for (const token of this.told) {
      const p = Math.exp(token.logprob ?? 0);
      if (p >= 0.7) { this.text.append(token.token); continue; }
      const node = make('i', p < 0.3 ? 'u2' : 'u1', token.token);
      node.title = `${(100 * p).toFixed(0)}%: ` + token.top_logprobs.map(t => `${JSON.stringify(t.token)} ${(100 * Math.exp(t.logprob)).toFixed(0)}%`).join(', ');
      this.text.append(node);
    }
  }

  end(cut) {
    const facts = [];
    if (this.usage) {
      const seconds = (performance.now() - this.begun) / 1000;
      facts.push(`${this.usage.completion_tokens} tokens`, `${(this.usage.completion_tokens / Math.max(seconds, 0.001)).toFixed(0)} a second`);
    }
    if (this.first !== null) facts.push(`first after ${Math.round(this.first - this.begun)} ms`);
    if (this.finish === 'length') facts.push('ended at the limit of tokens');
    this.foot.append(make('span', '', facts.join(' · ')));
    if (this.error) this.foot.append(make('span', 'cut', this.error));
    else if (cut) this.foot.append(make('span', 'cut', cut));
    if (this.said) this.foot.append(button('Copy', () => navigator.clipboard?.writeText(this.parts()[1]).then(() => herald('Copied.'))));
    if ($('o-heat').checked && !cut) this.heat();
  }

  async mark(problem) {
    const answer = await fetch('/api/trials/mark', {method: 'POST', headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({skill: problem.skill, prompt: problem.prompt, response: this.parts()[1]})});
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.detail);
    this.foot.prepend(make('span', told.correct ? 'right' : 'wrong', told.correct ? 'Right' : `Wrong: ${told.reason}`));
  }
}

// --- the line to the Oracle

async function* stream(path, body, signal) {
  const answer = await fetch(path, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body), signal});
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.error?.message ?? told.detail ?? `the Oracle answered ${answer.status}`);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = '', done = false; !done;) {
    const part = await reader.read();
    held += part.value ?? '';
    done = part.done;
    const lines = held.split('\n');
    held = lines.pop();
    for (const line of lines) {
      if (line === 'data: [DONE]') return;
      if (line.startsWith('data: ')) yield JSON.parse(line.slice(6));
    }
  }
  throw new Error('cut off');
}

function shown(cut) {
  return cut?.name === 'AbortError' ? 'stopped' : cut?.message === 'cut off' || cut instanceof TypeError ? 'cut off: the line to the Oracle broke' : cut?.message;
}

function busy(on) {
  $('o-send').hidden = on;
  $('o-stop').hidden = !on;
  for (const id of ['o-new', 'o-ask-item']) if ($(id)) $(id).disabled = on;
}

function scroll() {
  const log = $('o-log');
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 160) log.scrollTop = log.scrollHeight;
}

async function ask(text, problem = null) {
  if (running || !text.trim()) return;
  oops('');
  let how;
  try { how = settings(); } catch (error) { oops(error.message); return; }
  const names = mode === 'compare' ? rivals() : [$('o-model').value];
  if (mode === 'compare' && (names.length < 2 || new Set(names).size < names.length)) {
    oops('Choose two to four different checkpoints to compare.');
    return;
  }
  $('o-empty')?.remove();
  item = problem;
  asked = {text, problem, before: turns.slice()};
  const mine = make('article', 'o-turn me');
  mine.append(make('h3', '', problem ? `You, a public problem of ${problem.skill} level ${problem.level}` : 'You'), make('div', 'o-text', text));
  $('o-log').append(mine);
  turns.push({role: 'user', content: text});
  const system = $('o-system').value.trim();
  const body = {...how, messages: system ? [{role: 'system', content: system}, ...turns] : turns.slice()};
  running = new AbortController();
  busy(true);
  try {
    await (mode === 'compare' ? versus(names, body) : alone(names[0], body));
  } finally {
    running = null;
    busy(false);
    scroll();
    status();
  }
}

async function alone(name, body) {
  const answer = new Answer($('o-log'), nameOf(name));
  let cut = null;
  scroll();
  try {
    const more = $('o-heat').checked ? {logprobs: true, top_logprobs: 3} : {};
    for await (const chunk of stream('/api/oracle/chat', {...body, ...more, model: name, stream: true, stream_options: {include_usage: true}}, running.signal)) {
      if (chunk.error) throw new Error(chunk.error.message);
      answer.take(chunk);
      scroll();
    }
    if (item) await answer.mark(item);
  } catch (error) { cut = error; }
  answer.end(cut && shown(cut));
  // A half answer stays in the conversation; none at all takes the question back out of it.
  if (answer.said) turns.push({role: 'assistant', content: answer.parts()[1]});
  else turns.pop();
  again(answer);
  herald(cut ? `The answer ended early: ${shown(cut)}` : 'The answer is complete.');
}

async function versus(names, body) {
  const blind = $('o-blind').checked;
  const place = make('div', 'o-rivals');
  $('o-log').append(place);
  const order = blind ? names.map(name => [Math.random(), name]).sort((a, b) => a[0] - b[0]).map(pair => pair[1]) : names;
  const answers = new Map(order.map((name, k) => [name, new Answer(place, blind ? `Voice ${k + 1}` : nameOf(name))]));
  let cut = null;
  scroll();
  try {
    for await (const event of stream('/api/oracle/compare', {...body, models: names}, running.signal)) {
      const answer = answers.get(event.channel);
      if (event.error) answer.error = event.error.message;
      else answer.take(event.chunk);
      scroll();
    }
  } catch (error) { cut = error; }
  for (const answer of answers.values()) {
    if (item && !cut && !answer.error) await answer.mark(item).catch(error => { answer.error = error.message; });
    answer.end(cut && !answer.finish ? shown(cut) : null);
  }
  turns.pop(); // several answers are no conversation: the next question begins where this one did
  differ([...answers.values()]);
  if (blind) vote(place, answers); else again([...answers.values()].at(-1));
  herald(cut ? `The comparison ended early: ${shown(cut)}` : 'All answers are complete.');
}

function vote(place, answers) {
  const reveal = () => {
    for (const [name, answer] of answers) answer.title.textContent += `: ${nameOf(name)}`;
    for (const each of place.querySelectorAll('[data-vote]')) each.remove();
  };
  for (const answer of answers.values()) {
    const choose = button('This one', () => { answer.title.textContent += ' (your choice)'; reveal(); });
    choose.dataset.vote = '';
    answer.foot.prepend(choose);
  }
}

// Words that the first answer does not have in the same order (longest common subsequence) are marked in the others.
function differ([first, ...others]) {
  const words = text => text.split(/(\s+)/).filter(Boolean);
  const base = words(first.parts()[1]);
  for (const other of others) {
    const own = words(other.parts()[1]);
    if (!own.length || base.length > FAR || own.length > FAR) continue;
    const table = Array.from({length: base.length + 1}, () => new Uint16Array(own.length + 1));
    for (let i = base.length - 1; i >= 0; i--) {
      for (let j = own.length - 1; j >= 0; j--) table[i][j] = base[i] === own[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
    other.text.textContent = '';
    for (let i = 0, j = 0; j < own.length; j++) {
      while (i < base.length && base[i] !== own[j] && table[i + 1][j] >= table[i][j + 1]) i++;
      const same = i < base.length && base[i] === own[j];
      other.text.append(same || !own[j].trim() ? own[j] : make('mark', '', own[j]));
      if (same) i++;
    }
  }
}

function again(answer) {
  const {text, problem, before} = asked;
  for (const old of document.querySelectorAll('[data-again]')) old.remove();
  const back = act => () => { if (!running) { turns = before; act(); } };
  const retry = button('Ask again', back(() => ask(text, problem)));
  const edit = button('Change the question', back(() => { $('o-say').value = text; $('o-say').focus(); }));
  for (const each of [retry, edit]) { each.dataset.again = ''; answer.foot.append(each); }
}

// --- who is awake

async function status() {
  const place = $('o-status');
  let told;
  try { told = await (await fetch('/api/oracle')).json(); } catch { told = {running: false, detail: 'the line to the realm is lost'}; }
  place.textContent = '';
  if (!told.running) {
    place.append(make('span', 'oops', told.detail ?? told.error?.message ?? 'the Oracle does not answer'));
    return;
  }
  servers(told.models);
  if (!told.loaded.length) place.append(make('span', 'mut', 'Nothing is loaded; the first question wakes the Oracle.'));
  for (const one of told.loaded) {
    const row = make('div', 'row');
    row.append(make('span', '', `${one.hero} step ${one.step.toLocaleString('en-US')}, ${size(one.bytes)}`), button('Unload', async event => {
      event.currentTarget.disabled = true;
      const answer = await fetch(`/api/oracle/loaded/${encodeURIComponent(one.id)}`, {method: 'DELETE'});
      if (!answer.ok) oops((await answer.json()).error?.message ?? `the Oracle answered ${answer.status}`);
      status();
    }));
    row.lastChild.setAttribute('aria-label', `Unload ${one.hero} step ${one.step}`);
    place.append(row);
  }
  main.dataset.free = told.free;
  need();
}

// Models of other machines are known only to the service: they join the lists once it answers.
function servers(models) {
  for (const select of document.querySelectorAll('#o-model, [data-rival]')) {
    for (const model of models) {
      if ([...select.options].some(o => o.value === model.id)) continue;
      select.append(new Option(model.id.includes('/') ? model.id : `${model.hero} step ${model.step} (${model.id.slice(-6)})`, model.id));
    }
  }
}

function need() {
  const free = Number(main.dataset.free), keep = Number(main.dataset.keepFree);
  const chosen = mode === 'compare' ? [...document.querySelectorAll('[data-rival]')] : [$('o-model')];
  const bytes = chosen.reduce((sum, s) => sum + Number(s.selectedOptions[0]?.dataset.bytes ?? 0), 0);
  if (!free) return;
  const fits = bytes + keep <= free;
  $('o-need').textContent = `Loading needs about ${size(bytes)}; ${gigabytes(free)} GB is free and ${gigabytes(keep)} GB stays free for training.` + (fits ? '' : ' That is too much: stop the battle or choose a smaller one.');
}

function pick(next) {
  mode = next;
  for (const each of document.querySelectorAll('[data-mode]')) each.setAttribute('aria-pressed', String(each.dataset.mode === mode));
  for (const each of document.querySelectorAll('[data-for]')) each.hidden = each.dataset.for !== mode;
  need();
}

function send(event) {
  event?.preventDefault();
  const text = $('o-say').value;
  if (running || !text.trim()) return;
  $('o-say').value = '';
  ask(text);
}

async function problem() {
  oops('');
  try {
    const seed = Math.floor(Math.random() * 1e6);
    const answer = await fetch(`/api/trials/items?skill=${encodeURIComponent($('o-skill').value)}&level=${encodeURIComponent($('o-level').value)}&seed=${seed}`);
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.detail);
    await ask(told[0].prompt, told[0]);
  } catch (error) { oops(error.message); }
}

restore();
for (const each of document.querySelectorAll('[data-mode]')) each.addEventListener('click', () => pick(each.dataset.mode));
for (const key of KEYS) $(`o-${key}`).addEventListener('change', save);
for (const each of document.querySelectorAll('#o-model, [data-rival]')) each.addEventListener('change', need);
for (const each of document.querySelectorAll('[data-sample]')) each.addEventListener('click', () => ask(each.dataset.sample));
$('o-form').addEventListener('submit', send);
$('o-say').addEventListener('keydown', event => { if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) send(event); });
main.addEventListener('keydown', event => { if (event.key === 'Escape' && running) running.abort(); });
$('o-stop').addEventListener('click', () => { running?.abort(); $('o-say').focus(); });
$('o-new').addEventListener('click', () => { turns = []; asked = null; $('o-log').textContent = ''; $('o-say').focus(); });
$('o-ask-item')?.addEventListener('click', problem);
$('o-skill')?.addEventListener('change', event => { $('o-level').value = event.target.selectedOptions[0].dataset.level; });
status();

'use strict';

// What comes from a repository is text of strangers: it reaches the page through text nodes and attributes that run
// nothing, never as markup.
const {devices, models} = JSON.parse(document.getElementById('data').textContent);
const SVG = 'http://www.w3.org/2000/svg';
const MARGIN = {left: 48, right: 16, top: 28, bottom: 44};  // px, of the plot; the slider's in the style
const STEPS = 200;  // of the slider
const NEAR = 32;  // px: how far from a point a tap may be
const COLUMNS = [  // key in the address, title, value of a row, its text, whether narrow screens have it
  ['name', 'network', r => r.model.name, null, true],
  ['top1', 'top-1 %', r => r.model.top1, r => percent(r.model), true],
  ['ms', 'ms', r => r.ms, r => ms(r.ms), true],
  ['p90', 'p90 ms', r => r.p90_ms, r => ms(r.p90_ms), false],
  ['macs', 'MACs, M', r => r.model.macs_m, r => r.model.macs_m.toFixed(1), false],
  ['params', 'params, M', r => r.model.params_m, r => r.model.params_m.toFixed(2), false],
  ['px', 'input, px', r => r.model.resolution, r => String(r.model.resolution), false],
  ['source', 'latency', r => r.source, r => r.source, false],
];
const get = id => document.getElementById(id);
const state = {device: '', runtime: '', dataset: '', max: null, sort: 'top1', down: true, model: null};
let rows = [];     // of the chosen device, runtime and data set, by latency, the best of equal ones first
let plotted = [];  // those of them with an accuracy
let writing = 0;   // timer of the address
let scale = null;  // of the plot
let lines = new Map();  // row -> its line in the table

// ---- text ------------------------------------------------------------------------------------------------------------

function ms(value) {
  return value === null ? '–' : value.toFixed(value < 1 ? 3 : value < 10 ? 2 : value < 100 ? 1 : 0);
}

function percent(model) {
  return model.top1 === null ? '–' : model.top1.toFixed(2) + (model.predicted ? ' *' : '');
}

function element(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  found.append(...children);
  return found;
}

function shape(tag, attributes, text) {
  const found = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  if (text !== undefined) found.textContent = text;
  return found;
}

// ---- state <-> address -----------------------------------------------------------------------------------------------

/** Values of the latencies that pass, the most frequent first. */
function options(pass, value) {
  const counts = new Map();
  for (const model of models) {
    const there = new Set(model.latency.filter(l => pass(l, model)).map(l => value(l, model)));
    for (const one of there) counts.set(one, (counts.get(one) || 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([one]) => one);
}

function fill(id, values, wanted, label = value => value) {
  state[id] = values.includes(wanted) ? wanted : values[0];
  get(id).replaceChildren(...values.map(value => {
    const option = element('option', {}, label(value));
    option.value = value;
    option.selected = value === state[id];
    return option;
  }));
  return values;
}

function choose(wanted) {
  fill('device', options(() => true, l => l.device), wanted.device, slug => devices[slug]);
  fill('runtime', options(l => l.device === state.device, l => l.setting), wanted.runtime);
  const here = l => l.device === state.device && l.setting === state.runtime;
  const data = fill('dataset', options(here, (l, model) => model.data), wanted.dataset);
  get('data-label').hidden = data.length < 2;
  rows = [];
  for (const model of models) {
    const latency = model.data === state.dataset && model.latency.find(here);
    if (latency) rows.push({model, ...latency});
  }
  rows.sort((a, b) => a.ms - b.ms || b.model.top1 - a.model.top1);
  lines = new Map(rows.map(row => [row, newLine(row)]));
  plotted = rows.filter(r => r.model.top1 !== null);
}

function readAddress() {
  clearTimeout(writing);
  const given = new URLSearchParams(location.hash.slice(1));
  const max = Number(given.get('max'));
  state.max = max > 0 && Number.isFinite(max) ? max : null;
  state.sort = COLUMNS.some(([key]) => key === given.get('sort')) ? given.get('sort') : 'top1';
  state.down = given.get('down') !== '0';
  state.model = given.get('model');
  choose({device: given.get('device'), runtime: given.get('runtime'), dataset: given.get('dataset')});
  get('max').value = state.max === null ? '' : state.max;
  sortTable();
  draw();
}

/** Soon, and once for many changes: browsers refuse to be told too often. */
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(writeAddressNow, 150);
}

function writeAddressNow() {
  const words = new URLSearchParams();
  for (const key of ['device', 'runtime', 'dataset']) words.set(key, state[key]);
  if (state.max !== null) words.set('max', state.max);
  if (state.sort !== 'top1') words.set('sort', state.sort);
  if (!state.down) words.set('down', '0');
  if (state.model !== null) words.set('model', state.model);
  history.replaceState(null, '', '#' + words);
}

// ---- drawing ---------------------------------------------------------------------------------------------------------

function fits(row) {
  return state.max === null || row.ms <= state.max;
}

function best() {
  const within = rows.filter(fits);
  return within.reduce((a, b) => (b.model.top1 ?? -1) > (a.model.top1 ?? -1) ? b : a, within[0]);
}

function chosen() {
  return rows.find(r => r.model.id === state.model) || best();
}

function draw() {
  const within = rows.filter(fits);
  const limit = state.max === null ? '' : ` within ${state.max} ms`;
  get('summary').textContent = `${within.length} of ${rows.length} network${rows.length === 1 ? '' : 's'}${limit} on ${devices[state.device]}`;
  for (const [row, line] of lines) line.hidden = !fits(row);  // cheaper than a table without them
  drawPlot();
  mark();
}

function drawPlot() {
  const plot = get('plot');
  const width = Math.max(280, get('figure').clientWidth);
  const height = Math.round(Math.min(400, Math.max(250, width * 0.58)));
  plot.setAttribute('viewBox', `0 0 ${width} ${height}`);
  plot.setAttribute('height', height);
  scale = newScale(width, height);
  const {x, y} = scale;
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const parts = [];
  for (const tick of scale.yTicks) {
    parts.push(shape('line', {class: 'grid', x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick)}));
    parts.push(shape('text', {x: MARGIN.left - 6, y: y(tick) + 4, 'text-anchor': 'end'}, short(tick)));
  }
  for (const tick of scale.xTicks) {
    parts.push(shape('line', {class: 'grid', x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5}));
    parts.push(shape('text', {x: x(tick), y: bottom + 18, 'text-anchor': 'middle'}, short(tick)));
  }
  parts.push(shape('text', {x: right, y: bottom + 36, 'text-anchor': 'end'}, `latency, ms${scale.log ? ' (log)' : ''}`));
  parts.push(shape('text', {x: 6, y: 14}, 'top-1, %'));
  parts.push(shape('polyline', {
    class: 'front', points: front().map(r => `${x(r.ms)},${y(r.model.top1)}`).join(' ')}));
  for (const row of plotted) {
    const kind = (row.source === 'predicted' ? ' predicted' : '') + (fits(row) ? '' : ' over');
    const point = shape('circle', {class: 'point' + kind, cx: x(row.ms), cy: y(row.model.top1), r: 4.5});
    point.append(shape('title', {}, `${row.model.name}: ${percent(row.model)} % at ${ms(row.ms)} ms`));
    parts.push(point);
  }
  if (state.max !== null && x(state.max) >= MARGIN.left && x(state.max) <= right) {
    const at = x(state.max), left = at > width / 2;
    parts.push(shape('line', {class: 'limit', x1: at, x2: at, y1: MARGIN.top, y2: bottom}));
    parts.push(shape('text', {
      class: 'limit-text', x: at + (left ? -6 : 6), y: bottom - 8, 'text-anchor': left ? 'end' : 'start'},
      `${state.max} ms`));
  }
  parts.push(shape('circle', {class: 'ring', id: 'ring', r: 8.5}));
  plot.replaceChildren(...parts);
  get('slider').value = state.max === null ? STEPS : Math.round(STEPS * scale.share(state.max));
  get('slider').setAttribute('aria-valuetext', state.max === null ? 'none' : `${state.max} ms`);
}

function newScale(width, height) {
  const [low, high] = domain(plotted.map(r => r.ms), 0.04), [below, above] = domain(plotted.map(r => r.model.top1), 0.06);
  const log = low > 0 && high / low > 25;
  const turn = log ? Math.log : value => value;
  const share = value => (turn(value) - turn(low)) / (turn(high) - turn(low));
  return {
    log, share, low, high,
    value: part => log ? low * (high / low) ** part : low + (high - low) * part,
    x: value => MARGIN.left + share(value) * (width - MARGIN.left - MARGIN.right),
    y: value => height - MARGIN.bottom - (value - below) / (above - below) * (height - MARGIN.top - MARGIN.bottom),
    xTicks: log ? logTicks(low, high) : ticks(low, high, width / 90),
    yTicks: ticks(below, above, height / 60),
  };
}

/** From a little below the smallest value to a little above the largest; latencies stay above 0. */
function domain(values, pad) {
  if (!values.length) return [1, 2];
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low) * pad || Math.abs(high) * 0.1 || 1;
  return [low > 0 ? Math.max(low - room, low * 0.9) : low - room, high + room];
}

function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(2, wanted), power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(f => f * power >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(10)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const f of [1, 2, 5]) {
      const value = Number((f * 10 ** power).toPrecision(10));
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

function short(value) {
  return String(Number(value.toPrecision(6)));
}

function front() {
  let top = -1;
  return plotted.filter(r => r.model.top1 > top && (top = r.model.top1, true));
}

function newLine(row) {
  const {model} = row;
  const name = element('button', {type: 'button', class: 'name'}, model.name);
  const copy = element('button', {
    type: 'button', class: 'copy', 'aria-label': `Copy the line that loads ${model.name}`}, 'Copy');
  name.addEventListener('click', () => pick(model.id));
  copy.addEventListener('click', () => copyLine(model, copy));
  const line = element('tr', {}, element('th', {scope: 'row'}, name));
  for (const [, , , text, narrow] of COLUMNS.slice(1)) {
    line.append(element('td', narrow ? {} : {class: 'wide'}, text(row)));
  }
  line.append(element('td', {}, copy));
  return line;
}

function sortTable() {
  const [, , value] = COLUMNS.find(([key]) => key === state.sort);
  const sign = state.down ? -1 : 1;
  const sorted = rows.slice().sort((a, b) => {
    const [u, v] = [value(a), value(b)];
    if (u === null || v === null) return (u === null) - (v === null);
    return sign * (typeof u === 'string' ? (u < v ? -1 : u > v ? 1 : 0) : u - v);
  });
  get('rows').replaceChildren(...sorted.map(row => lines.get(row)));
  for (const th of get('head').children) {
    if (th.dataset.key === state.sort) th.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
    else th.removeAttribute('aria-sort');
  }
}

/** The chosen network, in panel, plot and table. */
function mark() {
  const row = chosen();
  for (const [one, line] of lines) {
    if (one === row) line.setAttribute('aria-current', 'true');
    else line.removeAttribute('aria-current');
  }
  const there = row && row.model.top1 !== null;
  get('ring').toggleAttribute('hidden', !there);
  if (there) {
    get('ring').setAttribute('cx', scale.x(row.ms));
    get('ring').setAttribute('cy', scale.y(row.model.top1));
  }
  get('panel').replaceChildren(...row ? panel(row) : ['No network is that fast; raise the limit.']);
}

function panel(row) {
  const {model} = row, picked = model.id === state.model;
  const limit = state.max === null ? '' : ` within ${state.max} ms`;
  const over = fits(row) ? '' : `, over the limit of ${state.max} ms`;
  const title = /^https?:\/\//.test(model.url || '')
    ? element('a', {href: model.url, rel: 'noopener noreferrer'}, model.name) : model.name;
  const facts = [
    ['top-1', model.top1 === null ? 'not known' : `${model.top1.toFixed(2)} % ${model.predicted ? '(predicted) ' : ''}`],
    ['on', model.data],
    ['latency', `${ms(row.ms)} ms` + (row.p90_ms === null ? '' : `, p90 ${ms(row.p90_ms)} ms`)],
    [row.source, [row.version, row.n === null ? '' : `${row.n} runs`, row.date || ''].filter(Boolean).join(', ')],
    ['cost', `${model.macs_m.toFixed(1)} M MACs, ${model.params_m.toFixed(2)} M params`],
    ['input', `${model.resolution} px`],
    ['space', model.space],
    ['arch', element('code', {}, model.arch)],
  ];
  const copy = element('button', {type: 'button', id: 'copy'}, 'Copy the line');
  copy.addEventListener('click', () => copyLine(model, copy));
  const buttons = element('div', {class: 'buttons'}, copy);
  if (picked) {
    const back = element('button', {type: 'button', id: 'back'}, 'Back to the best');
    back.addEventListener('click', () => {
      pick(null);
      get('copy').focus();
    });
    buttons.append(back);
  }
  return [
    element('p', {class: 'what'}, picked ? 'Chosen' + over : 'Most accurate' + limit),
    element('h2', {}, title),
    element('dl', {}, ...facts.flatMap(([what, text]) => [element('dt', {}, what), element('dd', {}, text)])),
    element('code', {class: 'load'}, model.load), buttons];
}

// ---- what people do --------------------------------------------------------------------------------------------------

function pick(id) {
  state.model = id;
  mark();
  writeAddress();
}

async function copyLine(model, button) {
  const before = button.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(model.load);
  } catch {
    done = copyOldWay(model.load);
    button.focus();
  }
  button.textContent = done ? 'Copied' : 'Not allowed';
  get('said').textContent = done ? `Copied the line that loads ${model.name}` : 'The browser does not allow to copy';
  setTimeout(() => { button.textContent = before; }, 1500);
}

function copyOldWay(text) {
  const area = element('textarea', {});
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  return done;
}

function setLimit(value) {
  state.max = value;
  draw();
  writeAddress();
}

function nearest(event) {
  const box = get('plot').getBoundingClientRect();
  const distance = r => Math.hypot(
    scale.x(r.ms) - (event.clientX - box.left), scale.y(r.model.top1) - (event.clientY - box.top));
  const row = plotted.reduce((a, b) => !a || distance(b) < distance(a) ? b : a, null);
  return row && distance(row) <= NEAR ? row : null;
}

function walk(event) {
  if (event.key === 'Escape') return pick(null);
  const at = plotted.indexOf(chosen());
  const to = {
    ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: plotted.length - 1,
  }[event.key];
  if (to === undefined || !plotted.length) return;
  event.preventDefault();
  pick(plotted[Math.min(Math.max(to, 0), plotted.length - 1)].model.id);
}

function sortBy(key) {
  state.down = state.sort === key ? !state.down : key === 'top1';
  state.sort = key;
  sortTable();
  writeAddress();
}

function setTheme(name) {
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  get('theme').textContent = `Theme: ${name}`;
  try {
    localStorage.setItem('theme', name);
  } catch { /* a page from a file may not keep anything */ }
}

function keptTheme() {
  try {
    const kept = localStorage.getItem('theme');
    return ['auto', 'light', 'dark'].includes(kept) ? kept : 'auto';
  } catch {
    return 'auto';
  }
}

function start() {
  for (const [key, title, , , narrow] of COLUMNS) {
    const button = element('button', {type: 'button'}, title);
    button.addEventListener('click', () => sortBy(key));
    get('head').append(element('th', {scope: 'col', 'data-key': key, ...narrow ? {} : {class: 'wide'}}, button));
  }
  get('head').append(element('td', {}));
  for (const id of ['device', 'runtime', 'dataset']) {
    get(id).addEventListener('change', event => {
      state.model = null;
      choose({...state, [id]: event.target.value});
      sortTable();
      draw();
      writeAddress();
    });
  }
  get('controls').addEventListener('submit', event => event.preventDefault());
  get('max').addEventListener('input', event => {
    const value = Number(event.target.value);
    setLimit(value > 0 ? value : null);
  });
  get('slider').addEventListener('input', event => {
    const part = Number(event.target.value) / STEPS;
    const value = part < 1 ? Number(scale.value(part).toPrecision(3)) : null;
    get('max').value = value === null ? '' : value;
    setLimit(value);
  });
  get('plot').addEventListener('click', event => {
    const row = nearest(event);
    if (row) pick(row.model.id);
  });
  get('plot').addEventListener('keydown', walk);
  get('theme').addEventListener('click', () => {
    setTheme({auto: 'dark', dark: 'light', light: 'auto'}[document.documentElement.dataset.theme || 'auto']);
  });
  addEventListener('hashchange', readAddress);
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth !== width) {
      width = innerWidth;
      drawPlot();
      mark();
    }
  });
  setTheme(keptTheme());
  readAddress();
}

start();

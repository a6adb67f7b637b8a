// Asks the server again and again, and shows what changed.

const POLL_MS = 2000, GIVEN_UP_MS = 60000;
const TABLES = ['studies', 'leaders', 'differences', 'trials'];
const STATUS_COLOURS = {
  complete: '#4a38c8', pruned: '#6c737d', running: '#1f7a4f', paused: '#967ff5', diverged: '#c0392b', failed: '#5b2700'};
const byId = id => document.getElementById(id);
const drawn = new Map();  // the JSON that a figure shows
const visible = new Set(), stale = new Set();
let status = null, tag = null, skewS = 0, answeredAt = null, plotly = null, address = true;

function now() {
  return Date.now() / 1000 + skewS;
}

// The two largest units: `2 h 3 min`.
function duration(seconds) {
  let left = Math.max(0, Math.round(seconds));
  const found = [];
  for (const [unit, size] of [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]]) {
    const number = Math.floor(left / size);
    left -= number * size;
    if (number || found.length) found.push(`${number} ${unit}`);
  }
  return found.slice(0, 2).join(' ') || '0 s';
}

function ago(timestamp) {
  return `${duration(now() - timestamp)} ago`;
}

function show(id, text) {
  const one = byId(id);
  if (one.textContent !== text) one.textContent = text;
  one.hidden = !text;
}

function showCounts() {
  const known = Object.entries(status.counts).filter(([, number]) => number);
  const total = Math.max(status.planned ?? 0, known.reduce((sum, [, number]) => sum + number, 0));
  const bar = byId('progress');
  bar.hidden = false;
  bar.replaceChildren(...known.map(([name, number]) => {
    const part = element('span', '', {title: `${number} ${name}`});
    part.style.width = `${100 * number / total}%`;
    part.style.background = dyed(STATUS_COLOURS[name], isDark());
    return part;
  }));
  const words = known.map(([name, number]) => `${number} ${name}`).join(', ');
  bar.setAttribute('aria-label', `${status.ended} of ${status.planned ?? 'an unknown number of'} trials have ended: ${words}`);
  const left = status.seconds_left === null ? '' : `, about ${duration(status.seconds_left - (now() - status.computed_at))} left`;
  show('counts', `${status.ended}${status.planned === null ? '' : ` of ${status.planned}`} trials have ended${left}: ${words}`);
  document.title = `${status.ended}${status.planned === null ? '' : `/${status.planned}`} ${byId('name').textContent}`;
}

function showActivity() {
  const place = (status.host === null ? '' : ` on ${status.host}`) + (status.pid === null ? '' : ` (process ${status.pid})`);
  const parts = [];
  if (status.driver) parts.push(`The sweep is running${place}`);
  else if (!status.over && status.host !== null) {
    parts.push(`No process runs the sweep: the one${place} was killed${status.seen_at === null ? '' : `, last seen ${ago(status.seen_at)}`}`);
  } else parts.push(status.over ? 'The sweep is over' : 'No process runs the sweep');
  if (status.driver && status.slots !== null) {
    parts.push(`${status.slots_in_use} of ${status.slots} slots in use` + (status.queued ? `, ${status.queued} queued` : ''));
  }
  if (status.report_at !== null && !status.is_replay) parts.push(`last report ${ago(status.report_at)}`);
  if (status.cost) parts.push(status.cost);
  show('activity', parts.join(' · '));
  byId('resume').hidden = status.driver || status.over;
  byId('resume').querySelector('code').textContent = status.resume;
}

function tick() {
  if (answeredAt !== null) {
    const after = (Date.now() - answeredAt) / 1000;
    show('updated', after < 1.5 ? 'Updated just now' : `Last update ${duration(after)} ago`);
  }
  if (status === null) return;
  showCounts();
  showActivity();
}

function figureOf(name, chart) {
  const known = document.querySelector(`figure[data-figure="${CSS.escape(name)}"]`);
  if (known) return known;
  const figure = element('figure', '', {'data-figure': name});
  figure.append(element('h2'), element('div', '', {class: 'plot'}), element('figcaption'));
  byId(name === 'timeline' ? 'slots' : 'figures').append(figure);
  seen.observe(figure);
  return figure;
}

async function drawStale() {
  const wanted = [...stale].filter(figure => visible.has(figure));
  if (!wanted.length) return;
  await (plotly ??= loadLive());
  for (const figure of wanted) if (stale.delete(figure)) await draw(figure);
}

function loadLive() {
  return new Promise((done, failed) => {
    const script = element('script', '', {src: '/plotly.js'});
    script.addEventListener('load', done);
    script.addEventListener('error', () => { plotly = null; failed(new Error('plotly.js')); });
    document.head.append(script);
  });
}

const seen = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) visible[isIntersecting ? 'add' : 'delete'](target);
  drawStale().catch(() => {});
}, {rootMargin: '400px'});

function showFigures(figures) {
  charts = figures;
  hoverTexts.clear();
  for (const figure of document.querySelectorAll('figure[data-figure]')) {
    if (figure.dataset.figure in figures) continue;
    drawn.delete(figure.dataset.figure);
    visible.delete(figure);
    stale.delete(figure);
    seen.unobserve(figure);
    figure.remove();
  }
  for (const [name, chart] of Object.entries(figures)) {
    const figure = figureOf(name, chart), json = JSON.stringify(chart);
    if (drawn.get(name) === json) continue;
    drawn.set(name, json);
    figure.querySelector('h2').textContent = chart.title;
    figure.querySelector('figcaption').replaceChildren(...linkedText(chart.caption));
    stale.add(figure);
  }
  // In the order of the answer, without moving what is in place.
  const box = byId('figures'), order = Object.keys(figures).filter(name => name !== 'timeline');
  order.forEach((name, place) => {
    const figure = figureOf(name);
    if (box.children[place] !== figure) box.insertBefore(figure, box.children[place] ?? null);
  });
}

function showAnswer(content) {
  const texts = content.lead;
  if (byId('answer').dataset.texts === JSON.stringify(texts)) return;
  byId('answer').dataset.texts = JSON.stringify(texts);
  byId('answer').replaceChildren(...texts.map(text => {
    const line = element('p', '', {class: 'lead'});
    line.append(...linkedText(text));
    return line;
  }));
}

function showNotes(notes) {
  byId('notes').previousElementSibling.hidden = !notes.length;
  byId('notes').replaceChildren(...notes.map(note => {
    const item = element('li');
    item.append(...linkedText(note));
    return item;
  }));
}

function receive(content) {
  if (content.error !== undefined) {
    show('trouble', `The run cannot be shown: ${content.error}`);
    return;
  }
  show('trouble', '');
  status = content.status;
  byId('name').textContent = content.name;
  known.settings = content.trials.settings;
  known.fields = content.trials.fields;
  for (const id of Object.keys(trialData)) if (!(id in content.trials.trials)) delete trialData[id];
  Object.assign(trialData, content.trials.trials);
  show('waiting', content.waiting);
  showAnswer(content);
  for (const name of TABLES) fillTable(byId(name), content.tables[name]);
  showNotes(content.notes);
  showFigures(content.figures);
  if (selected !== null) {
    if (!trialOf(selected)) select(null);
    else if (panel.dataset.shown !== JSON.stringify(trialOf(selected))) fillPanel(selected);
    panel.dataset.shown = selected === null ? '' : JSON.stringify(trialOf(selected));
  }
  drawStale().catch(() => {});
  if (address) {
    address = false;
    followAddress();
  }
}

async function poll() {
  if (document.hidden) return;
  try {
    const headers = tag === null ? {} : {'If-None-Match': tag};
    const response = await fetch('/data.json', {headers, cache: 'no-store', signal: AbortSignal.timeout(GIVEN_UP_MS)});
    if (!response.ok && response.status !== 304) throw new Error(`status ${response.status}`);
    skewS = (Date.parse(response.headers.get('Date') ?? '') - Date.now()) / 1000;
    if (!(Math.abs(skewS) > 2)) skewS = 0;  // it has whole seconds
    answeredAt = Date.now();
    if (response.status === 200) {
      tag = response.headers.get('ETag');
      receive(await response.json());
    } else if (byId('trouble').dataset.gone) show('trouble', '');
    delete byId('trouble').dataset.gone;
  } catch (error) {
    byId('trouble').dataset.gone = 'yes';
    tag = null;
    show('trouble', 'The dashboard does not answer, so this page does not change any more. It goes on once '
      + `lmsweep dashboard runs again on this port (${location.port}).`);
  }
  tick();
}

async function pollForever() {
  for (;;) {
    await poll();
    await new Promise(done => setTimeout(done, POLL_MS));
  }
}

document.addEventListener('visibilitychange', poll);
addEventListener('hashchange', followAddress);
addEventListener('resize', () => {
  for (const figure of document.querySelectorAll('figure.live')) {
    const box = figure.querySelector('.plot');
    if (figure.narrow !== box.clientWidth < NARROW) draw(figure);
  }
});
listeners.push(mark);
setInterval(tick, 1000);
pollForever();

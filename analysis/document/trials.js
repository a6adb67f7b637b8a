// The selected trial: marked in all figures and tables, with its settings, its curve and its commands in a panel.

const known = JSON.parse(document.getElementById('trial-data').textContent);
const trialData = known.trials ?? {};
const panel = document.getElementById('trial');
const listeners = [];
let selected = null;

// What is known of a trial, by name of the field; undefined for an id that is not one.
function trialOf(id) {
  if (!Object.hasOwn(trialData, id)) return undefined;
  return Object.fromEntries(known.fields.map((field, place) => [field, trialData[id][place]]));
}

function anchorOf(id) {
  return 'trial-' + id.split(/\s+/).filter(Boolean).join('_');
}

// Lines for the mouse: [title, fact, ...].
function factsOf(id) {
  const trial = trialOf(id);
  if (!trial) return [id];
  const step = trial.status !== 'complete' && trial.step ? ` at step ${trial.step}` : '';
  const lines = [`${id}: ${trial.status}${step}`];
  if (trial.loss) lines.push(`loss ${trial.loss}`);
  for (const field of ['experiment', 'of']) if (trial[field]) lines.push(`${field} ${trial[field]}`);
  known.settings.forEach((name, place) => {
    if (trial.values[place] !== '-') lines.push(`${name} ${trial.values[place]}`);
  });
  return lines;
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function definitions(pairs) {
  const list = element('dl');
  for (const [name, value] of pairs) if (value && value !== '-') list.append(element('dt', name), element('dd', value));
  return list;
}

// A heading with a button that copies, and the text.
function command(title, text) {
  const heading = element('h3', title), copy = element('button', 'Copy', {type: 'button'}), words = element('pre', text);
  copy.setAttribute('aria-label', `Copy: ${title}`);
  copy.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = 'Copied';
    } catch {
      getSelection().selectAllChildren(words);
    }
  });
  heading.append(copy);
  return [heading, words];
}

function curveOf(points) {
  const [width, height, left, bottom] = [420, 130, 46, 22];
  const svg = (tag, attributes, text) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  };
  const [xs, ys] = [points.map(point => point[0]), points.map(point => point[1])];
  const range = values => [Math.min(...values), Math.max(...values)];
  const [[x0, x1], [y0, y1]] = [range(xs), range(ys)];
  const place = ([x, y]) => [
    left + (x - x0) / (x1 - x0 || 1) * (width - left - 8), 8 + (y1 - y) / (y1 - y0 || 1) * (height - bottom - 14)];
  const short = value => Number(value.toPrecision(4)).toString();
  const drawn = svg('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Validation loss against updates'});
  const text = (x, y, words, anchor) =>
    drawn.append(svg('text', {x, y, 'text-anchor': anchor, fill: 'var(--soft)', 'font-size': 12}, words));
  drawn.append(svg('polyline', {
    points: points.map(point => place(point).map(value => value.toFixed(1)).join()).join(' '), fill: 'none',
    stroke: 'var(--mark)', 'stroke-width': 2}));
  text(left - 6, 16, short(y1), 'end');
  text(left - 6, height - bottom, short(y0), 'end');
  text(left, height - 4, `update ${short(x0)}`, 'start');
  text(width - 8, height - 4, short(x1), 'end');
  return drawn;
}

function fillPanel(id) {
  const trial = trialOf(id);
  const close = element('button', 'Close', {type: 'button'});
  close.addEventListener('click', () => select(null));
  const head = element('header');
  head.append(element('h2', id), close);
  const where = ['size', 'arm', 'experiment'].map(field => [field, trial[field]]);
  const settings = known.settings.map((name, place) => [name, trial.values[place]]);
  const facts = definitions([
    ['status', trial.status], ['step', trial.step], ['loss', trial.loss], ...where, ['repeats', trial.of],
    ['message', trial.message], ...settings]);
  const row = element('a', 'Its row in the table of trials', {href: '#' + encodeURIComponent(anchorOf(id))});
  row.addEventListener('click', event => { event.preventDefault(); showRow(id); });
  panel.replaceChildren(head, facts);
  const points = curvePoints(id);
  if (points.length > 1) panel.append(curveOf(points));
  if (document.getElementById(anchorOf(id))) panel.append(row);
  const [train, sample, save] = trial.commands;
  if (train) {
    panel.append(...command('Train it again', train), ...command('Its settings, for another sweep', trial.options));
    panel.append(...command('If it has a checkpoint', `${sample}\n${save}`));
  } else panel.append(...command('Its settings, for another sweep', trial.options));
}

function reveal(target) {
  for (let one = target; one; one = one.parentElement) if (one.tagName === 'DETAILS') one.open = true;
}

function showRow(id) {
  const row = document.getElementById(anchorOf(id));
  if (!row) return;
  reveal(row);
  row.hidden = false;
  row.scrollIntoView({block: 'center'});
  row.focus({preventScroll: true});
}

// Select a trial, or none with null.
function select(id) {
  if (id !== null && !trialOf(id)) return;
  for (const row of document.querySelectorAll('tr.chosen')) {
    row.classList.remove('chosen');
    row.removeAttribute('aria-current');
  }
  selected = id;
  panel.hidden = id === null;
  if (id !== null) {
    const row = document.getElementById(anchorOf(id));
    row?.classList.add('chosen');
    row?.setAttribute('aria-current', 'true');
    fillPanel(id);
  }
  try {
    history.replaceState(null, '', id === null ? location.pathname + location.search : '#' + encodeURIComponent(anchorOf(id)));
  } catch { /* a page without an address of its own */ }
  for (const listener of listeners) listener(id);
}

// A link to a trial or to a section, in the address.
function followAddress() {
  let name;
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { return; }
  const target = name && document.getElementById(name);
  if (!target) return;
  reveal(target);
  if (target.dataset.trial !== undefined) {
    select(target.dataset.trial);
    showRow(target.dataset.trial);
  } else target.scrollIntoView();
}

document.addEventListener('click', event => {
  const link = event.target.closest('a.trial');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  select(link.dataset.trial);
});
document.addEventListener('keydown', event => { if (event.key === 'Escape' && selected !== null) select(null); });

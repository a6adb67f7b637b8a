// Figures: plotly draws one when it comes into view. Until then, and on paper, its SVG is shown.

const NARROW = 520;
const darkColours = JSON.parse(document.getElementById('dark-data').textContent);
const touch = matchMedia('(pointer: coarse)').matches;
const hoverTexts = new Map();
let charts = {};

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
}

async function loadPlotly() {
  const script = document.createElement('script');
  script.textContent = await unpacked('plotly');
  document.head.append(script);
}

// The colour that a CSS variable stands for just now.
function colourOf(name) {
  const probe = document.createElement('i');
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

// A copy of plain data, with the colours of a dark page. Heat maps keep theirs, which the text in their cells fits.
function dyed(value, dark) {
  if (value?.type === 'heatmap') return {...value, colorbar: dyed(value.colorbar, dark)};
  if (Array.isArray(value)) return typeof value.at(-1) === 'number' ? value : value.map(one => dyed(one, dark));
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, dyed(one, dark)]));
  }
  return dark && typeof value === 'string' && Object.hasOwn(darkColours, value) ? darkColours[value] : value;
}

function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function hoverText(id) {
  if (!hoverTexts.has(id)) {
    const [title, ...facts] = factsOf(id).map(escaped);
    hoverTexts.set(id, [`<b>${title}</b>`, ...facts].join('<br>'));
  }
  return hoverTexts.get(id);
}

// What the mouse shows of each point: its own text, and its trial.
function addHover(trace) {
  if (trace.type === 'bar') trace.textposition = 'none';  // the text is for the mouse
  const joined = (id, own) => [own, id && hoverText(id)].filter(Boolean).join('<br>');
  if (trace.customdata) {
    const own = trace.text;
    trace.text = trace.customdata.map((id, place) => Array.isArray(id)
      ? id.map((one, column) => joined(one, own?.[place]?.[column])) : joined(id, own?.[place]));
    trace.hovertemplate = own ? '%{text}<extra></extra>' : '%{text}<br>(%{x:.4~g}, %{y:.4~g})<extra></extra>';
  } else if (trace.type === 'scatter' && !trace.hovertemplate && trace.hoverinfo !== 'skip') {
    trace.hovertemplate = '(%{x:.4~g}, %{y:.4~g})' + (trace.name ? `<br>${trace.name}` : '') + '<extra></extra>';
  }
}

// Panels side by side stand below each other where there is no room.
function stack(layout) {
  const names = Object.keys(layout).filter(name => name.startsWith('xaxis'));
  const domains = names.map(name => JSON.stringify(layout[name].domain));
  if (new Set(domains).size < 2) return;
  const gap = 0.3 / names.length, each = (1 - gap * (names.length - 1)) / names.length;
  names.forEach((name, place) => {
    const top = 1 - place * (each + gap);
    layout[name].domain = [0, 1];
    layout[name.replace('x', 'y')].domain = [Math.max(0, top - each), top];
  });
  layout.height = 300 * names.length + 110;
}

// Points of the trial in each pair of axes, with a gap between those of different traces.
function pointsOf(chart, id) {
  const places = {};
  for (const trace of chart.data) {
    const key = `${trace.xaxis} ${trace.yaxis}`;
    const {x, y} = places[key] ??= {x: [], y: []};
    if (!id || !trace.customdata) continue;
    const isLine = trace.mode === 'lines';
    const add = (a, b) => { x.push(a); y.push(b); if (!isLine) { x.push(null); y.push(null); } };
    trace.customdata.forEach((one, place) => {
      if (Array.isArray(one)) one.forEach((own, column) => { if (own === id) add(trace.x[column], trace.y[place]); });
      else if (one === id) add(trace.x[place], trace.y[place]);
    });
    if (x.length && x.at(-1) !== null) { x.push(null); y.push(null); }
  }
  return places;
}

// The points of a trial's learning curve, from the first figure that has one.
function curvePoints(id) {
  for (const chart of Object.values(charts)) {
    for (const trace of chart.data) {
      if (trace.mode !== 'lines' || !trace.customdata?.includes(id)) continue;
      const points = trace.customdata.flatMap((one, place) =>
        one === id && trace.x[place] !== null && trace.y[place] !== null ? [[trace.x[place], trace.y[place]]] : []);
      if (points.length > 1) return points;
    }
  }
  return [];
}

function overlays(chart, id) {
  return Object.entries(pointsOf(chart, id)).map(([axes, {x, y}]) => {
    const [xaxis, yaxis] = axes.split(' ');
    const mark = colourOf('--mark');
    return {
      type: 'scatter', mode: 'lines+markers', x, y, xaxis, yaxis, showlegend: false, hoverinfo: 'skip', name: 'selected',
      line: {color: mark, width: 3}, marker: {color: mark, size: 11, symbol: 'circle-open', line: {width: 2.5}},
      cliponaxis: false,
    };
  });
}

function adapted(chart, width) {
  const dark = isDark();
  const {data, layout} = dyed(chart, dark);
  const narrow = width < NARROW;
  data.forEach(addHover);
  if (narrow) {
    stack(layout);
    layout.margin = {...layout.margin, l: 48, r: 8};
    layout.annotations = (layout.annotations || []).filter(one => one.name !== 'cell');
  }
  Object.assign(layout, {uirevision: 'kept', dragmode: touch ? false : 'zoom'});
  layout.font = {...layout.font, family: 'system-ui, "DejaVu Sans", sans-serif', size: narrow ? 12 : 13};
  layout.legend = {orientation: 'h', yref: 'container', y: 0, yanchor: 'bottom', x: 0, itemclick: 'toggleothers', itemdoubleclick: 'toggle'};
  layout.modebar = {bgcolor: 'rgba(0,0,0,0)', color: colourOf('--soft'), activecolor: colourOf('--accent')};
  layout.hoverlabel = {
    bgcolor: colourOf('--paper'), bordercolor: colourOf('--soft'), align: 'left',
    font: {color: colourOf('--ink'), size: 13},
  };
  return {data: [...data, ...overlays(chart, selected)], layout};
}

async function draw(figure) {
  const chart = charts[figure.dataset.figure], box = figure.querySelector('.plot');
  if (!chart || !box.clientWidth) return;
  const first = !figure.classList.contains('live');
  const width = box.clientWidth;
  figure.narrow = width < NARROW;
  const {data, layout} = adapted(chart, width);
  box.style.height = `${layout.height}px`;
  await Plotly[first ? 'newPlot' : 'react'](box, data, layout, {
    responsive: true, displaylogo: false, displayModeBar: touch ? false : 'hover',
    modeBarButtons: [['zoom2d', 'pan2d', 'resetScale2d']],
  });
  if (!first) return;
  figure.classList.add('live');
  box.on('plotly_click', event => {
    const id = event.points.map(point => point.customdata).find(one => typeof one === 'string' && trialOf(one));
    if (id) select(id);
  });
}

function mark(id) {
  for (const figure of document.querySelectorAll('figure.live')) {
    const box = figure.querySelector('.plot');
    const places = box.data.flatMap((trace, place) => trace.name === 'selected' && trace.hoverinfo === 'skip' ? [place] : []);
    const points = Object.values(pointsOf(charts[figure.dataset.figure], id));
    if (places.length) Plotly.restyle(box, {x: points.map(one => one.x), y: points.map(one => one.y)}, places);
  }
}

function redraw() {
  for (const figure of document.querySelectorAll('figure.live')) draw(figure);
}

async function startFigures() {
  const figures = [...document.querySelectorAll('figure[data-figure]')];
  if (!figures.length || typeof DecompressionStream === 'undefined') return;
  charts = JSON.parse(await unpacked('figure-data'));
  let loading = null;
  const seen = new IntersectionObserver(entries => entries.filter(one => one.isIntersecting).forEach(async one => {
    seen.unobserve(one.target);
    await (loading ??= loadPlotly());
    await draw(one.target);
  }), {rootMargin: '400px'});
  const resized = new ResizeObserver(entries => entries.forEach(({target}) => {
    const figure = target.closest('figure');
    if (figure.classList.contains('live') && target.clientWidth && figure.narrow !== target.clientWidth < NARROW) draw(figure);
  }));
  for (const figure of figures) {
    seen.observe(figure);
    resized.observe(figure.querySelector('.plot'));
  }
  listeners.push(mark);
}

// Tables: a click on a heading sorts, and the trials can be filtered.

const SUFFIXES = {k: 1e3, M: 1e6, B: 1e9, G: 1e9, T: 1e12, P: 1e15, E: 1e18, Z: 1e21};

// The number that a cell begins with, or null: `1.31M`, `4.200 ± 0.010`, `+0.3`, `12 %`.
function numberOf(text) {
  const found = text.match(/^([+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)([kMBGTPEZ]\b)?/);
  return found ? Number(found[1].replaceAll(',', '')) * (SUFFIXES[found[2]] ?? 1) : null;
}

function isMissing(text) {
  return text === '-' || text === '';
}

function cellsOf(table, column) {
  return [...table.tBodies[0].rows].map(row => row.cells[column].textContent.trim());
}

function isNumeric(table, column) {
  const words = cellsOf(table, column).filter(text => !isMissing(text));
  return words.length > 0 && words.every(text => numberOf(text) !== null);
}

// Missing values stay last. Equal ones keep their order.
function sortBy(table, column, descending) {
  const numeric = isNumeric(table, column);
  const keyed = [...table.tBodies[0].rows].map(row => {
    const text = row.cells[column].textContent.trim();
    return {row, key: numeric ? numberOf(text) : text, missing: isMissing(text)};
  });
  const order = descending ? -1 : 1;
  keyed.sort((a, b) => a.missing - b.missing || (a.missing ? 0 : order * (
    numeric ? a.key - b.key : a.key.localeCompare(b.key, 'en', {numeric: true}))));
  table.tBodies[0].append(...keyed.map(one => one.row));
  [...table.tHead.rows[0].cells].forEach((cell, place) => {
    if (place === column) cell.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
    else cell.removeAttribute('aria-sort');
  });
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener('click', () => sortBy(table, column, cell.getAttribute('aria-sort') === 'ascending'));
    if (isNumeric(table, column)) {
      cell.classList.add('number');
      for (const row of table.tBodies[0].rows) row.cells[column].classList.add('number');
    }
  });
}

// A bar of filters above the table; the function that it returns applies them to rows that came since.
function makeFilters(table) {
  const rows = () => [...table.tBodies[0].rows];
  const valuesOf = key => [...new Set(rows().map(row => row.dataset[key] ?? ''))].filter(Boolean);
  const bar = document.createElement('div');
  bar.className = 'filters';
  const text = document.createElement('input');
  text.type = 'search';
  text.placeholder = 'Filter: words that a row must have';
  text.setAttribute('aria-label', 'Filter trials by words');
  const choices = ['status', 'size', 'arm', 'experiment'].map(key => {
    const select = document.createElement('select');
    select.dataset.key = key;
    select.setAttribute('aria-label', `Filter trials by ${key}`);
    select.append(new Option(`any ${key}`, ''));
    return select;
  });
  const shown = document.createElement('span');
  shown.setAttribute('role', 'status');
  const apply = () => {
    const needed = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0, of = 0;
    for (const row of rows()) {
      const words = needed.length ? row.textContent.toLowerCase() : '';
      const fits = needed.every(word => words.includes(word))
        && choices.every(select => !select.value || row.dataset[select.dataset.key] === select.value);
      row.hidden = !fits;
      count += fits;
      of++;
    }
    shown.textContent = `${count} of ${of}`;
  };
  const refresh = () => {
    for (const select of choices) {
      const known = new Set([...select.options].map(option => option.value));
      const values = valuesOf(select.dataset.key);
      select.append(...values.filter(value => !known.has(value)).map(value => new Option(value, value)));
      select.hidden = select.options.length < 3;
    }
    apply();
  };
  for (const control of [text, ...choices]) control.addEventListener('input', apply);
  bar.append(text, ...choices, shown);
  table.closest('.scroll').before(bar);
  refresh();
  return refresh;
}

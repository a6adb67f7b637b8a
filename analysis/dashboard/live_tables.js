// Tables that change: cells are written anew where their text changed; order, filters and scrolling are kept.

const filterAgain = new Map();

function cellText(text) {
  return text.replace('+-', '±');
}

// Text in which every id of a trial leads to that trial.
function linkedText(text) {
  return text.split(/([\w./+-]*\w)/).map(part => trialOf(part) ? trialLink(part) : cellText(part));
}

function trialLink(id) {
  return element('a', id, {class: 'trial', href: '#' + encodeURIComponent(anchorOf(id)), 'data-trial': id});
}

function newRow(id, group, cells) {
  const row = document.createElement('tr');
  if (id !== undefined) {
    row.id = anchorOf(id);
    row.tabIndex = -1;
    row.dataset.trial = id;
  }
  cells.forEach((_, column) => row.append(element(column ? 'td' : 'th', '', column ? {} : {scope: 'row'})));
  return row;
}

function fillRow(row, group, cells) {
  Object.assign(row.dataset, group);
  let changed = false;
  cells.forEach((text, column) => {
    const cell = row.cells[column];
    if (cell.dataset.text === text) return;
    cell.dataset.text = text;
    cell.replaceChildren(...(trialOf(text) ? [trialLink(text)] : [cellText(text)]));
    changed = true;
  });
  return changed;
}

function align(table) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const numeric = isNumeric(table, column);
    heading.classList.toggle('number', numeric);
    for (const row of table.tBodies[0].rows) {
      row.cells[column].classList.toggle('number', numeric);
      row.cells[column].classList.toggle('words', !numeric && row.cells[column].textContent.length > 40);
    }
  });
}

// The column that the reader sorted by: [heading, descending], or nothing.
function sorting(table) {
  const cell = table.tHead?.querySelector('[aria-sort]');
  return cell ? [cell.textContent, cell.getAttribute('aria-sort') === 'descending'] : null;
}

function sortAgain(table, chosen) {
  const column = chosen ? [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === chosen[0]) : -1;
  if (column >= 0) sortBy(table, column, chosen[1]);
  return column >= 0;
}

function fillTable(table, content) {
  const section = table.closest('section'), heading = section.querySelector('h2');
  heading.hidden = !content;
  section.hidden = !content;
  if (!content) return;
  heading.textContent = content.title;
  const chosen = sorting(table);
  const isNew = table.dataset.columns !== JSON.stringify(content.columns);
  if (isNew) {
    table.dataset.columns = JSON.stringify(content.columns);
    const head = element('tr');
    head.append(...content.columns.map(name => element('th', name, {scope: 'col'})));
    table.replaceChildren(element('thead'), element('tbody'));
    table.tHead.append(head);
  }
  const body = table.tBodies[0];
  const before = new Map([...body.rows].map((row, place) => [row.dataset.trial ?? place, row]));
  let changed = isNew;
  const rows = content.rows.map((cells, place) => {
    const id = content.ids?.[place];
    const row = before.get(id ?? place) ?? newRow(id, content.groups?.[place], cells);
    before.delete(id ?? place);
    if (fillRow(row, content.groups?.[place] ?? {}, cells)) changed = true;
    return row;
  });
  for (const row of before.values()) row.remove();
  changed ||= before.size > 0;
  if (!changed) return;
  const focused = document.activeElement;
  if (isNew) {
    body.append(...rows);
    makeSortable(table);
  }
  align(table);
  if (!sortAgain(table, chosen) && rows.some((row, place) => body.rows[place] !== row)) body.append(...rows);
  if (document.activeElement !== focused && body.contains(focused)) focused.focus({preventScroll: true});
  if (!content.ids) return;
  if (!filterAgain.has(table)) filterAgain.set(table, makeFilters(table));
  filterAgain.get(table)();
  if (selected !== null) document.getElementById(anchorOf(selected))?.classList.add('chosen');
}

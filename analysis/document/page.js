// Starts everything: the theme, the tables, the figures, the address.

const theme = document.getElementById('theme');

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

function setTheme(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  theme.textContent = isDark() ? 'Light' : 'Dark';
  theme.setAttribute('aria-label', `${theme.textContent} colours`);
  redraw();
}

function kept(value) {
  try {
    if (value) localStorage.setItem('theme', value);
    return localStorage.getItem('theme');
  } catch {
    return null;
  }
}

theme.hidden = false;
theme.addEventListener('click', () => setTheme(kept(isDark() ? 'light' : 'dark') ?? (isDark() ? 'light' : 'dark')));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => setTheme(null));
setTheme(kept(null));

for (const table of document.querySelectorAll('table')) if (table.tBodies[0]?.rows.length) makeSortable(table);
const trialTable = document.getElementById('trials');
if (trialTable) makeFilters(trialTable);

document.addEventListener('click', event => {
  const link = event.target.closest('a.trial');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  select(link.dataset.trial);
});
document.addEventListener('keydown', event => { if (event.key === 'Escape' && selected !== null) select(null); });

let closed = [];
addEventListener('beforeprint', () => {
  closed = [...document.querySelectorAll('details.section:not([open])')];
  for (const one of closed) one.open = true;
});
addEventListener('afterprint', () => { for (const one of closed) one.open = false; });

const started = startFigures();
addEventListener('hashchange', followAddress);
started.finally(followAddress);

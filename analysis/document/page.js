// Starts everything: the tables, the figures, the address.

for (const table of document.querySelectorAll('table')) if (table.tBodies[0]?.rows.length) makeSortable(table);
const trialTable = document.getElementById('trials');
if (trialTable) makeFilters(trialTable);

let closed = [];
addEventListener('beforeprint', () => {
  closed = [...document.querySelectorAll('details.section:not([open])')];
  for (const one of closed) one.open = true;
});
addEventListener('afterprint', () => { for (const one of closed) one.open = false; });

const started = startFigures();
addEventListener('hashchange', followAddress);
started.finally(followAddress);

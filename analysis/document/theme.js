// The button that changes between light and dark colours; the choice is kept.

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

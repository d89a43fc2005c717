// The page: addresses, colours, keys.

function addressed() {
  const found = location.hash.match(/^#q\/([^/]+)\/(\d+)(?:\?runs=(.*))?$/);
  if (!found) return null;
  try {
    const task = state.table.tasks.findIndex(([name]) => name === decodeURIComponent(found[1]));
    const index = state.table.rows.findIndex(([ofTask, number]) => ofTask === task && number === Number(found[2]));
    if (found[3] === undefined) return { index, runs: null };
    const labels = found[3].split(',').filter(Boolean).map(decodeURIComponent);
    const runs = labels.map((label) => about.runs.findIndex(([name]) => name === label)).filter((run) => run >= 0);
    return { index, runs: runs.length || !labels.length ? runs : null };
  } catch {
    return { index: -1, runs: null };
  }
}

async function route() {
  const asked = addressed();
  if (asked && asked.index >= 0) {
    await showQuestion(asked.index, asked.runs);
    return;
  }
  if (asked) say('This report has no such question.');
  const open = document.documentElement.dataset.view === 'question';
  document.documentElement.dataset.view = 'report';
  document.getElementById('question').hidden = true;
  document.title = document.querySelector('h1').textContent;
  if (open) {
    if (location.hash === '#questions') window.scrollTo(0, view.scroll ?? 0);
    else document.querySelector(location.hash || 'main')?.scrollIntoView();
  }
}

function keyed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.('input, select, textarea');
  const inQuestion = document.documentElement.dataset.view === 'question';
  if (event.key === 'Escape' && inQuestion) closeQuestion();
  else if (typing) return;
  else if (event.key === '/' && !inQuestion) {
    event.preventDefault();
    document.getElementById('filter-text')?.focus();
  } else if (inQuestion && event.target.closest?.('.columns')) return; // the arrows scroll there
  else if (inQuestion && (event.key === 'ArrowRight' || event.key === 'j')) step(1);
  else if (inQuestion && (event.key === 'ArrowLeft' || event.key === 'k')) step(-1);
}

const dark = window.matchMedia('(prefers-color-scheme: dark)');

function colour() {
  const chosen = document.getElementById('theme').value;
  const theme = chosen === 'auto' ? (dark.matches ? 'dark' : 'light') : chosen;
  document.documentElement.dataset.theme = theme;
  document.documentElement.style.colorScheme = theme;
  redraw();
}

function startTheme() {
  const select = document.getElementById('theme');
  try { select.value = localStorage.getItem('harness-ext-colours') ?? 'auto'; } catch { /* no storage on this page */ }
  select.addEventListener('change', () => {
    try { localStorage.setItem('harness-ext-colours', select.value); } catch { /* no storage on this page */ }
    colour();
  });
  dark.addEventListener('change', colour);
  colour();
}

async function start() {
  startTheme();
  document.addEventListener('keydown', keyed);
  if (!('DecompressionStream' in window)) {
    document.getElementById('table').textContent = 'This browser cannot unpack the data. Chromium and Edge from 80, '
      + 'Firefox from 113 and Safari from 16.4 can.';
    return;
  }
  await startTable();
  window.addEventListener('hashchange', route);
  await route();
  await showCharts();
  document.documentElement.dataset.ready = 'yes';
}

start().catch((error) => {
  document.getElementById('table').textContent = `The report cannot be shown: ${error.message}`;
  throw error;
});

// The table of questions: filters, pages, and links to each question.

const FLAGS = [
  [1, 'malformed', 'a verdict could not be read'],
  [2, 'cut', 'a reply was cut at its limit'],
  [4, 'failed', 'there is no answer'],
  [8, 'leak', 'a hint gave the answer away'],
  [16, 'long', 'among the longest of the run'],
];
const UP = 32;
const DOWN = 64;
const PER_PAGE = 50;
const CONDITIONS = [
  ['', 'anything'],
  ['right', 'is right'],
  ['wrong', 'is wrong'],
  ['partly', 'is partly right'],
  ['up', 'got better (wrong → right)'],
  ['down', 'got worse (right → wrong)'],
  ['flip', 'changed its score'],
  ...FLAGS.map(([bit, name, meaning]) => [String(bit), `${name}: ${meaning}`]),
];

const state = { table: null, shown: [], page: 0, said: null };

function word(value) {
  if (value === null) return 'not a number';
  return value === 1 ? 'right' : value === 0 ? 'wrong' : String(value);
}

function mark(value) {
  if (value === null) return '—';
  return value === 1 ? '✓' : value === 0 ? '✗' : value.toFixed(2);
}

function tone(value) {
  return value === null ? '' : value >= 1 ? 'good' : value <= 0 ? 'bad' : 'mid';
}

function flagNames(flags) {
  return FLAGS.filter(([bit]) => flags & bit).map(([, name]) => name);
}

function matches(cell, condition) {
  if (!condition) return true;
  if (!cell) return false;
  const [value, , flags] = cell;
  switch (condition) {
    case 'right': return value !== null && value >= 1;
    case 'wrong': return value !== null && value <= 0;
    case 'partly': return value !== null && value > 0 && value < 1;
    case 'up': return Boolean(flags & UP);
    case 'down': return Boolean(flags & DOWN);
    case 'flip': return Boolean(flags & (UP | DOWN));
    default: return Boolean(flags & Number(condition));
  }
}

function cellOf(cell, run, question) {
  if (!cell) return element('td', {}, '');
  const [value, first, flags] = cell;
  const changed = first !== null && flags & (UP | DOWN);
  const names = flagNames(flags);
  const words = `${about.runs[run][0]}: ${changed ? `${word(first)}, then ${word(value)}` : word(value)}`;
  return element('td', { title: [words, ...names].join(', ') },
    element('span', { class: `cell ${tone(value)}`, role: 'img', 'aria-label': words },
      changed ? `${mark(first)} → ${mark(value)}` : mark(value)),
    names.length ? element('span', { class: 'flags' }, names.join(' ')) : null);
}

function linkTo(index, runs) {
  const [task, number] = state.table.rows[index];
  const name = encodeURIComponent(state.table.tasks[task][0]);
  const chosen = runs ? `?runs=${runs.map((run) => encodeURIComponent(about.runs[run][0])).join(',')}` : '';
  return `#q/${name}/${number}${chosen}`;
}

function rowOf(index) {
  const [task, number, snippet, targets, cells] = state.table.rows[index];
  return element('tr', {},
    element('th', { scope: 'row', class: 'left' }, element('a', { href: linkTo(index) }, `${state.table.tasks[task][0]} ${number}`)),
    element('td', { class: 'text', dir: 'auto' }, snippet),
    element('td', { class: 'text gold', dir: 'auto' }, targets.join(' | ')),
    cells.map((cell, run) => cellOf(cell, run, index)));
}

function field(name) {
  return document.getElementById(`filter-${name}`);
}

async function filter({ samePage = false } = {}) {
  const text = field('text').value.trim().toLowerCase();
  const task = field('task').value;
  const pairs = [1, 2].map((n) => [field(`run-${n}`).value, field(`is-${n}`).value]);
  const said = text && field('said').checked ? await everythingSaid() : null;
  const found = [];
  state.table.rows.forEach(([ofTask, number, snippet, targets, cells], index) => {
    if (task && state.table.tasks[ofTask][0] !== task) return;
    if (text && !`${number} ${snippet} ${targets.join(' ')}`.toLowerCase().includes(text)
      && !(said && said[index].includes(text))) return;
    for (const [run, condition] of pairs) {
      const some = run === 'every' ? cells.every((c) => matches(c, condition))
        : run === 'any' ? cells.some((c) => matches(c, condition)) : matches(cells[Number(run)], condition);
      if (!some) return;
    }
    if (field('differ').checked && new Set(cells.filter(Boolean).map(([value]) => value)).size < 2) return;
    found.push(index);
  });
  const order = field('order').value;
  const most = (index) => Math.max(...state.table.rows[index][4].map((cell) => cell?.[3] ?? 0));
  if (order === 'long') found.sort((a, b) => most(b) - most(a));
  state.shown = found;
  if (!samePage) state.page = 0;
  showPage();
}

async function everythingSaid() {
  if (!state.said) {
    say('Reading all transcripts …');
    const { rows, per_block: size } = state.table;
    const texts = [];
    for (let block = 0; block * size < rows.length; block += 1) {
      for (const question of await part(`block-${block}`)) texts.push(JSON.stringify([question.contexts, question.said]).toLowerCase());
      unpacked.delete(`block-${block}`);
    }
    state.said = texts;
  }
  return state.said;
}

function showPage() {
  const body = document.getElementById('rows');
  const pages = Math.max(1, Math.ceil(state.shown.length / PER_PAGE));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  body.replaceChildren(...state.shown.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE).map(rowOf));
  document.getElementById('found').textContent = `${state.shown.length} of ${state.table.rows.length} questions`;
  document.getElementById('page').textContent = `page ${state.page + 1} of ${pages}`;
  document.getElementById('before').disabled = state.page === 0;
  document.getElementById('after').disabled = state.page >= pages - 1;
}

function turnPage(by) {
  state.page += by;
  showPage();
}

async function startTable() {
  state.table = await part('table');
  const runs = [['any', 'any run'], ['every', 'every run'], ...about.runs.map(([name], i) => [String(i), name])];
  const condition = (n) => [
    element('label', {}, n === 1 ? 'Where' : 'and where', element('select', { id: `filter-run-${n}`, onchange: filter }, options(runs))),
    element('label', {}, n === 1 ? 'the answer' : 'the answer', element('select', { id: `filter-is-${n}`, onchange: filter }, options(CONDITIONS))),
  ];
  let pause = 0;
  const later = () => { clearTimeout(pause); pause = setTimeout(filter, 200); };
  const check = (name, label) => element('label', { class: 'check' },
    element('input', { type: 'checkbox', id: `filter-${name}`, onchange: filter }), label);
  const metrics = [...new Set(state.table.tasks.map(([, metric]) => metric))].join(', ');
  document.getElementById('table').replaceChildren(
    element('p', { class: 'sub' }, `Right and wrong by ${metrics}. A cell with an arrow shows the first draft and the final answer.`),
    element('form', { class: 'filters', role: 'search', onsubmit: (event) => event.preventDefault() },
      element('label', {}, 'Text', element('input', { type: 'search', id: 'filter-text', oninput: later })),
      check('said', 'search transcripts, too'),
      element('label', {}, 'Task', element('select', { id: 'filter-task', onchange: filter },
        options([['', 'all tasks'], ...state.table.tasks.map(([name]) => [name, name])]))),
      condition(1), condition(2), check('differ', 'runs differ'),
      element('label', {}, 'Order', element('select', { id: 'filter-order', onchange: filter },
        options([['data', 'as in the data'], ['long', 'most tokens first']])))),
    element('div', { class: 'pages' },
      element('span', { id: 'found', role: 'status' }),
      element('button', { type: 'button', id: 'before', onclick: () => turnPage(-1) }, '← previous'),
      element('span', { id: 'page' }),
      element('button', { type: 'button', id: 'after', onclick: () => turnPage(1) }, 'next →'),
      element('span', { class: 'note' }, 'Keys: / searches; in a question ← → go on and Esc closes.')),
    element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Questions' },
      element('table', { class: 'list' },
        element('thead', {}, element('tr', {},
          element('th', { scope: 'col', class: 'left' }, 'question'), element('th', { scope: 'col', class: 'left' }, 'asked'),
          element('th', { scope: 'col', class: 'left' }, 'gold'),
          about.runs.map(([name, colour]) => element('th', {
            scope: 'col', class: 'run', dir: 'auto', style: { 'border-bottom-color': colour },
          }, name)))),
        element('tbody', { id: 'rows' }))));
  await filter();
}

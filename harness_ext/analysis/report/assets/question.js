// One question: the transcripts of several runs side by side.

const SEATS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f7f7f'];
const view = { index: null, runs: null, seats: new Map(), turn: 0, shown: '' };

function seatColour(seat) {
  if (!view.seats.has(seat)) view.seats.set(seat, SEATS[view.seats.size % SEATS.length]);
  return view.seats.get(seat);
}

function textOf(turn) {
  return (turn.parts ?? []).join('');
}

function usageOf([read, cached, written, seconds, reused]) {
  const known = [];
  if (read !== null) known.push(`read ${read} tokens${cached ? ` (${cached} cached)` : ''}`);
  if (written !== null) known.push(`wrote ${written}`);
  if (seconds) known.push(`${seconds < 10 ? seconds.toFixed(2) : Math.round(seconds)} s`);
  if (reused) known.push('from the store');
  return known.join(', ');
}

function saidOf(turn) {
  const [before, read, after] = turn.parts;
  return element('p', { class: 'said', dir: 'auto' }, before,
    read === undefined ? null : element('mark', { title: `read by the rule ${turn.rule}` }, read), after);
}

function changesOf(before, after) {
  const parts = wordDiff(before, after);
  if (!parts) return null;
  const kinds = { '-': 'del', '+': 'ins' };
  return element('p', { class: 'said', dir: 'auto' },
    parts.map(([kind, text]) => (kind === ' ' ? text : element(kinds[kind], {}, text))));
}

function turnOf(turn, before) {
  const body = element('div', { class: 'body' });
  if (turn.thought) {
    body.append(element('details', {}, element('summary', {}, `thought, ${turn.thought.length} characters`),
      element('p', { class: 'said thought', dir: 'auto' }, turn.thought)));
  }
  if (turn.note) body.append(element('p', { class: 'said' }, turn.note));
  if (turn.parts) {
    const plain = textOf(turn).trim() ? saidOf(turn) : element('p', { class: 'note' }, 'an empty reply');
    const changes = before === undefined || before === textOf(turn) ? null : changesOf(before, textOf(turn));
    body.append(changes ?? plain);
    if (before !== undefined && before === textOf(turn)) body.append(element('p', { class: 'note' }, 'the same as before'));
    if (changes) {
      let shown = changes;
      const button = element('button', {
        type: 'button',
        onclick: () => {
          const next = shown === changes ? plain : changes;
          shown.replaceWith(next);
          shown = next;
          button.textContent = shown === changes ? 'show as written' : 'show what changed';
        },
      }, 'show as written');
      body.append(button);
    }
  }
  if (turn.inner) {
    body.append(element('details', {}, element('summary', {}, `${turn.inner.turns.length} turn${turn.inner.turns.length === 1 ? '' : 's'} inside (${turn.inner.stop})`),
      turn.inner.turns.map((inner) => turnOf(inner))));
  }
  const foot = [usageOf(turn.usage)];
  if (turn.read !== undefined) foot.unshift(`read: ${turn.read} (rule ${turn.rule})`);
  const tones = { 0: 'bad', 1: 'good' };
  return element('div', { class: 'turn', style: { '--seat': seatColour(turn.seat) } },
    element('header', {}, element('h4', {}, `${turn.seat} ${turn.kind}`),
      turn.verdict ? element('span', { class: `cell ${tones[turn.accepted] ?? ''}` }, turn.verdict) : null,
      turn.notes ? element('span', { class: 'note' }, `(${turn.notes.join(', ')})`) : null),
    body, element('p', { class: 'foot' }, foot.filter(Boolean).join(' · ')));
}

function transcriptOf([, context, said], scores, contexts) {
  const drafts = new Map();
  const made = [];
  if (contexts.length > 1) made.push(element('p', { class: 'note' }, `asked in form ${context + 1} of ${contexts.length}`));
  const turns = [];
  for (const turn of said.turns) {
    turns.push(turnOf(turn, turn.whole ? drafts.get(turn.seat) : undefined));
    if (turn.whole) drafts.set(turn.seat, textOf(turn));
  }
  if (said.authors) {
    made.push(element('div', { class: 'turn' },
      element('header', {}, element('h4', {}, 'the text, by author'),
        [...new Set(said.authors.map(([author]) => author))].map((author) => element('span', { class: 'cell author', style: { '--seat': seatColour(author) } }, author))),
      element('div', { class: 'body' }, element('p', { class: 'said', dir: 'auto' },
        said.authors.map(([author, text]) => element('span', { class: 'author', title: author, style: { '--seat': seatColour(author) } }, text))))));
    made.push(element('details', {}, element('summary', {}, `the ${turns.length} calls that made it`), turns));
  } else made.push(...turns);
  made.push(element('p', {}, element('strong', {}, `ended: ${said.stop}`), scores ? ` · ${scores.map(word).join(' → ')}` : ''));
  if (said.failure) made.push(element('p', { class: 'warning' }, said.failure));
  if (!said.authors && !said.turns.some((turn) => textOf(turn) === said.text)) {
    made.push(element('details', {}, element('summary', {}, 'the final text'), element('p', { class: 'said', dir: 'auto' }, said.text)));
  }
  if (said.details) made.push(element('details', {}, element('summary', {}, 'what the protocol recorded'), element('pre', {}, said.details)));
  return made;
}

function columnOf(run, question, cells) {
  const [name, colour] = about.runs[run];
  const cell = cells[run];
  const said = question.said.filter(([directory]) => about.directories[directory][0] === run);
  const several = said.length > 1;
  const seen = new Map();
  const made = said.map((one) => {
    const draws = question.scores[one[0]] ?? [];
    const order = seen.get(one[0]) ?? 0;
    if (one[2].index === 0) seen.set(one[0], order + 1);
    return [
      several ? element('h4', {}, `${about.directories[one[0]][1]}, repeat ${one[2].repeat}${one[2].index ? `, request ${one[2].index}` : ''}`) : null,
      transcriptOf(one, draws[Math.min(one[2].repeat, draws.length - 1)], question.contexts),
    ];
  });
  return element('article', { 'aria-label': name, style: { '--run': colour } },
    element('header', {}, element('h3', { dir: 'auto' }, name),
      cell ? element('span', { class: `cell ${tone(cell[0])}` }, word(cell[0])) : null,
      cell && cell[2] ? element('span', { class: 'note' }, ` ${flagNames(cell[2]).join(', ')}`) : null,
      cell && cell[3] !== null ? element('span', { class: 'note' }, ` · ${cell[3]} tokens written`) : null),
    said.length ? made : element('p', { class: 'note' }, 'No transcript of this question.'));
}

async function questionAt(index) {
  const size = state.table.per_block;
  return (await part(`block-${Math.floor(index / size)}`))[index % size];
}

function chosenRuns(cells) {
  const known = about.runs.map((_, run) => run).filter((run) => cells[run]);
  if (view.runs) return view.runs;
  const other = known.find((run) => cells[run][0] !== cells[known[0]]?.[0]);
  return [...new Set([known[0], other ?? known[1]])].filter((run) => run !== undefined);
}

async function showQuestion(index, runs) {
  const place = document.getElementById('question');
  const [task, number, , targets, cells] = state.table.rows[index];
  const turn = view.turn += 1;
  const question = await questionAt(index);
  if (turn !== view.turn) return; // another question was opened in the meantime
  view.index = index;
  view.shown = JSON.stringify(question);
  if (runs) view.runs = runs;
  const chosen = chosenRuns(cells);
  const at = state.shown.indexOf(index);
  const name = `${state.table.tasks[task][0]}, document ${number}`;
  const boxes = about.runs.map(([run, colour], i) => element('label', {},
    element('input', {
      type: 'checkbox', checked: chosen.includes(i), value: i,
      onchange: () => {
        const now = boxes.map((box, j) => [box.querySelector('input').checked, j]).filter(([on]) => on).map(([, j]) => j);
        location.replace(linkTo(index, now));
      },
    }),
    element('span', { dir: 'auto' }, run),
    cells[i] ? element('span', { class: `cell ${tone(cells[i][0])}`, 'aria-label': word(cells[i][0]), role: 'img' }, mark(cells[i][0])) : null));
  const button = (label, action, more = {}) => element('button', { type: 'button', onclick: action, ...more }, label);
  place.replaceChildren(
    element('div', { class: 'bar' },
      button('← all questions', closeQuestion),
      button('← previous', () => step(-1), { disabled: at <= 0 }),
      button('next →', () => step(1), { disabled: at < 0 || at >= state.shown.length - 1 }),
      element('span', { class: 'note' }, at < 0 ? '' : `${at + 1} of ${state.shown.length} that the filters leave`),
      button('copy link', () => copy(location.href.split('#')[0] + linkTo(index, chosen), 'The link is copied.')),
      button('copy as Markdown', () => copy(markdownOf(index, question, chosen), 'The question is copied as Markdown.'))),
    element('h2', { id: 'question-title', tabindex: '-1', dir: 'auto' }, name),
    element('p', { dir: 'auto' }, element('strong', {}, 'Gold: '), targets.join(' | ') || '—'),
    ...question.contexts.map((context, i) => element('details', { open: i === 0 },
      element('summary', {}, question.contexts.length > 1 ? `What was asked, form ${i + 1}` : 'What was asked'),
      context.map(([role, text]) => [role ? element('p', { class: 'name' }, role) : null,
        element('pre', { dir: 'auto', class: 'said' }, text)]))),
    element('fieldset', {}, element('legend', { class: 'note' }, 'Runs side by side'), boxes),
    element('div', { class: 'columns', tabindex: '0', role: 'region', 'aria-label': 'Transcripts' },
      chosen.length ? chosen.map((run) => columnOf(run, question, cells)) : element('p', { class: 'note' }, 'No run is chosen.')));
  const first = document.documentElement.dataset.view !== 'question';
  document.documentElement.dataset.view = 'question';
  place.hidden = false;
  document.title = name;
  if (first) { view.scroll = window.scrollY; window.scrollTo(0, 0); }
  document.getElementById('question-title').focus({ preventScroll: !first });
}

function closeQuestion() {
  location.hash = '#questions';
}

function step(by) {
  const next = state.shown[state.shown.indexOf(view.index) + by];
  if (next !== undefined && view.index !== null) location.replace(linkTo(next, view.runs));
}

// A fence must be longer than any run of backticks within, or the text would end it.
function fenced(text) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map((match) => match[0].length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}text\n${text}\n${fence}`;
}

function markdownOf(index, question, runs) {
  const [task, number, , targets, cells] = state.table.rows[index];
  const lines = [`## ${state.table.tasks[task][0]}, document ${number}`, '', `Gold: ${fenced(targets.join(' | '))}`, ''];
  for (const context of question.contexts) {
    for (const [role, text] of context) lines.push(role ? `**${role}**` : '**asked**', '', fenced(text), '');
  }
  for (const run of runs) {
    lines.push(`### ${about.runs[run][0]}: ${cells[run] ? word(cells[run][0]) : 'not in this run'}`, '');
    for (const [directory, , said] of question.said) {
      if (about.directories[directory][0] !== run) continue;
      for (const turn of said.turns) {
        lines.push(`**${turn.seat} ${turn.kind}**${turn.verdict ? ` (${turn.verdict})` : ''}`, '', fenced(turn.note ?? textOf(turn)), '');
      }
      lines.push(`Ended: ${said.stop}`, '');
    }
  }
  return lines.join('\n');
}

async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    say(done);
  } catch {
    const area = element('textarea', { 'aria-label': 'Text to copy', readonly: true, rows: 6, style: { width: '100%' } }, text);
    document.querySelector('#question .bar').after(area);
    area.select();
    say('Press Ctrl+C to copy.');
  }
}

// What a served page has besides: it asks the server whether its runs went on, and shows what is new in its place.

const EVERY = 2000; // milliseconds

class Away extends Error {} // no server answers
class Refused extends Error {} // it answers, but not with what was asked for

async function askedFor(name) {
  const answer = await fetch(name, { cache: 'no-store' }).catch(() => { throw new Away(); });
  if (answer.status === 410) { // this page is older than what the server still has
    location.reload();
    return new Promise(() => {});
  }
  if (!answer.ok) throw new Refused(answer.status);
  return answer.text();
}

// Moves an element of the newer page here; what was unfolded stays unfolded.
function renew(fresh, id) {
  const old = document.getElementById(id);
  const made = document.adoptNode(fresh.getElementById(id));
  const before = [...old.querySelectorAll('details')];
  [...made.querySelectorAll('details')].forEach((one, i) => { if (before[i]) one.open = before[i].open; });
  old.replaceWith(made);
}

// Sections with charts come and go with what the runs have recorded.
function renewSections(fresh) {
  const charted = (page) => [...page.querySelectorAll('section')].filter((section) => section.querySelector('[data-charts]'));
  const kept = new Map(charted(document).map((section) => [section.id, section]));
  const wanted = charted(fresh).map((section) => kept.get(section.id) ?? document.adoptNode(section));
  for (const section of kept.values()) if (!wanted.includes(section)) section.remove();
  for (const section of wanted) document.getElementById('questions').before(section);
  renew(fresh, 'parts');
}

async function renewQuestion(asked) {
  const index = asked === null ? -1 : state.table.rows.findIndex(([task, number]) => state.table.tasks[task][0] === asked[0] && number === asked[1]);
  if (index < 0) return;
  view.index = index;
  if (JSON.stringify(await questionAt(index)) !== view.shown) await showQuestion(index, view.runs);
}

async function renewAll() {
  const fresh = new DOMParser().parseFromString(await askedFor('.'), 'text/html');
  const now = fresh.getElementById('about');
  const next = now && JSON.parse(now.textContent);
  if (!next || JSON.stringify(next.runs) !== JSON.stringify(about.runs)) {
    location.reload(); // another set of runs is another page
    return;
  }
  const row = document.documentElement.dataset.view === 'question' ? state.table.rows[view.index] : null;
  const open = row && [state.table.tasks[row[0]][0], row[1]];
  const tasks = JSON.stringify(state.table.tasks);
  Object.assign(about, next);
  unpacked.clear();
  state.said = null;
  for (const id of ['about-runs', 'summary', 'method', 'live']) renew(fresh, id);
  renewSections(fresh);
  state.table = await part('table');
  if (JSON.stringify(state.table.tasks) === tasks) await filter({ samePage: true });
  else await startTable();
  await renewQuestion(open);
  await showCharts();
  document.documentElement.dataset.version = about.live;
}

async function follow() {
  let pause = EVERY;
  try {
    const now = JSON.parse(await askedFor('state'));
    document.getElementById('live').textContent = now.note;
    if (now.version !== about.live) {
      const started = performance.now();
      await renewAll();
      pause = Math.max(EVERY, 3 * (performance.now() - started)); // a large run must not be scored all the time
    }
  } catch (error) {
    const live = document.getElementById('live');
    if (error instanceof Away) {
      live.textContent = 'harness-ext view has ended. This page stays as it is.';
      return;
    }
    if (!(error instanceof Refused)) throw error;
    about.live = 'outdated'; // if a part of the page is new already, all of it has to be made again
    live.textContent = `The server could not make this page (${error.message}). It is asked again.`;
  }
  setTimeout(follow, pause);
}

const ready = new MutationObserver(() => {
  if (document.documentElement.dataset.ready !== 'yes') return;
  ready.disconnect();
  follow();
});
ready.observe(document.documentElement, { attributes: true });

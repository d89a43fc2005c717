// The list of runs, and a page that has nothing to show yet: both ask again and again.

const EVERY = 2000; // milliseconds

async function follow() {
  const started = performance.now();
  let fresh;
  try {
    const answer = await fetch('.', { cache: 'no-store' });
    if (answer.ok) fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
    else document.getElementById('note').textContent = `The server could not make this page (${answer.status}). It is asked again.`;
  } catch {
    document.getElementById('note').textContent = 'harness-ext view has ended. This page stays as it is.';
    return;
  }
  if (!fresh) {
    setTimeout(follow, EVERY);
    return;
  }
  if (fresh.getElementById('about')) {
    location.reload(); // now there is a report
    return;
  }
  const chosen = new Set([...document.querySelectorAll('input:checked')].map((box) => box.value));
  const active = document.activeElement?.value;
  const made = document.adoptNode(fresh.querySelector('main'));
  for (const box of made.querySelectorAll('input')) box.checked = chosen.has(box.value);
  document.querySelector('main').replaceWith(made);
  if (active) [...made.querySelectorAll('input')].find((box) => box.value === active)?.focus();
  setTimeout(follow, Math.max(EVERY, 3 * (performance.now() - started)));
}

setTimeout(follow, EVERY);

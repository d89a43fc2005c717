// Charts: drawn by plotly when they come into view, each with its figures as a table.

const drawn = new Map();

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { text: of('--text'), line: of('--line'), card: of('--card') };
}

function layoutOf(layout) {
  const { text, line, card } = colours();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  const all = {
    font: { family: 'system-ui, sans-serif', size: 13, color: text },
    paper_bgcolor: card, plot_bgcolor: card,
    margin: { l: 8, r: 12, t: 8, b: 8 },
    legend: { orientation: 'h', yanchor: 'bottom', y: 1.02, x: 0, xanchor: 'left' },
    hoverlabel: { namelength: -1 },
    ...layout,
  };
  for (const name of ['xaxis', 'yaxis']) {
    const title = { font: { size: 12 }, ...layout[name]?.title };
    all[name] = { automargin: true, ...axis, ...layout[name], title };
  }
  for (const shape of all.shapes ?? []) shape.line = { ...shape.line, color: text };
  return all;
}

async function draw(figure) {
  const { place, chart, choices, frame } = figure;
  const drawing = chart.drawings[choices().join('\u001f')];
  if (!drawing) {
    place.replaceChildren(element('p', { class: 'note' }, 'Nothing is known for this choice.'));
    frame.replaceChildren();
    return;
  }
  const Plotly = await withPlotly();
  if (!place.classList.contains('js-plotly-plot')) place.replaceChildren();
  place.style.minHeight = `${drawing.layout.height ?? 400}px`;
  await Plotly.react(place, structuredClone(drawing.traces), layoutOf(structuredClone(drawing.layout)),
    { displayModeBar: false, responsive: true });
  frame.replaceChildren(tableOf(drawing.head, drawing.rows));
  place.dataset.drawn = 'yes';
}

function figureOf(chart) {
  const selects = chart.switches.map(([name, positions]) => element('select', {
    'aria-label': `${name}: ${chart.title}`, hidden: positions.length < 2,
    onchange: () => draw(figure),
  }, options(positions.map((p) => [p, p]))));
  const shown = chart.switches.map(([name, positions], i) =>
    (positions.length > 1 ? element('label', {}, name, selects[i]) : selects[i]));
  const place = element('div', { class: 'plot', role: 'img', 'aria-label': `${chart.title}. The table below has the figures.` });
  const frame = element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Figures: ${chart.title}` });
  const figure = { chart, place, frame, choices: () => selects.map((select) => select.value) };
  figure.made = element('figure', { id: `chart-${chart.name}` },
    element('h3', {}, chart.title), element('figcaption', {}, chart.caption),
    element('div', { class: 'switches' }, shown), place,
    element('details', {}, element('summary', {}, 'The figures as a table'), frame));
  drawn.set(place, figure);
  watcher.observe(place);
  return figure.made;
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watcher.unobserve(entry.target);
    draw(drawn.get(entry.target));
  }
}, { rootMargin: '400px' });

// A chart that is there already, with the same switches, stays in its place and is drawn anew.
function fill(place, charts) {
  const there = new Map([...drawn.values()].filter(({ made }) => place.contains(made)).map((figure) => [figure.chart.name, figure]));
  const made = charts.map((chart) => {
    const known = there.get(chart.name);
    if (!known || JSON.stringify(known.chart.switches) !== JSON.stringify(chart.switches)) return figureOf(chart);
    there.delete(chart.name);
    known.chart = chart;
    if (known.place.dataset.drawn) draw(known);
    return known.made;
  });
  for (const { place: gone } of there.values()) drawn.delete(gone);
  place.replaceChildren(...made);
}

async function showCharts() {
  const found = await part('charts');
  for (const place of document.querySelectorAll('[data-charts]')) fill(place, found[place.dataset.charts]);
}

window.addEventListener('beforeprint', () => redraw(true));

function redraw(all = false) {
  for (const [place, figure] of drawn) if (all || place.dataset.drawn) draw(figure);
}

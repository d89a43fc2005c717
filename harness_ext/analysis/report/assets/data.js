// The data of the page: packed parts, which are unpacked when they are needed, and helpers to build elements.

const about = JSON.parse(document.getElementById('about').textContent);
const waiting = new Map();
const unpacked = new Map();

// In a folder, each part is a script that calls this: a page from a disk may load scripts, but not data.
window.reportPart = (name, text) => waiting.get(name)?.(text);

function packedText(name) {
  const inside = document.getElementById(`part-${name}`);
  if (inside) return Promise.resolve(inside.textContent);
  if (about.live) return askedFor(`${about.live}/${name}`);
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    loadScript(`${name}.js`).catch(reject);
  });
}

function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = address;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${address} is missing beside this page`));
    document.head.append(script);
  });
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Response(stream).text();
}

function part(name) {
  if (!unpacked.has(name)) unpacked.set(name, packedText(name).then(inflate).then(JSON.parse));
  return unpacked.get(name);
}

let plotly = null;
function withPlotly() {
  plotly ??= (async () => {
    if (about.split) await loadScript('plotly.js');
    else {
      const script = document.createElement('script');
      script.textContent = await inflate(await packedText('plotly'));
      document.head.append(script);
    }
    return window.Plotly;
  })();
  return plotly;
}

// Everything that a model, a task or a file says reaches the page as text, through this function alone.
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (key === 'style') for (const [n, v] of Object.entries(value)) made.style.setProperty(n, v);
    else made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

function options(values, chosen) {
  return values.map(([value, label]) => element('option', { value, selected: value === chosen }, label));
}

function tableOf(head, rows) {
  return element('table', {},
    element('thead', {}, element('tr', {}, head.map((name) => element('th', { scope: 'col' }, name)))),
    element('tbody', {}, rows.map((row) => element('tr', {}, row.map((cell, i) =>
      (i ? element('td', {}, cell) : element('th', { scope: 'row', dir: 'auto' }, cell)))))));
}

let statusTimer = 0;
function say(text) {
  document.getElementById('status').textContent = text;
  clearTimeout(statusTimer);
  statusTimer = setTimeout(() => { document.getElementById('status').textContent = ''; }, 4000);
}

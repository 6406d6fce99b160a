'use strict';
const dark = matchMedia('(prefers-color-scheme: dark)');
const told = document.getElementById('told');
const held = id => document.getElementById(id).textContent;
const variable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const all = selector => document.querySelectorAll(selector);

function figure(place) {
  const {data, layout} = JSON.parse(held(place.dataset.figure), (key, value) =>
    /color$/.test(key) && typeof value === 'string' && value.startsWith('--') ? variable(value) : value);
  const ink = variable('--ink'), line = variable('--line');
  for (const key of ['xaxis', 'yaxis'])
    layout[key] = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true,
      ...layout[key]};
  const longest = Math.max(0, ...data.map(trace => (trace.name || '').length));
  if (layout.legend && place.clientWidth < 560)
    Object.assign(layout.legend, {entrywidth: longest > 14 ? 0.98 : 0.48, entrywidthmode: 'fraction'});
  return [data, {...layout, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', autosize: true,
    dragmode: matchMedia('(pointer: coarse)').matches ? false : 'zoom',  // a finger scrolls the page
    font: {color: ink, family: 'system-ui, sans-serif', size: 12},
    hoverlabel: {bgcolor: variable('--card'), bordercolor: line, font: {color: ink}}}];
}

function draw() {
  for (const place of all('[data-figure]')) {
    const [data, layout] = figure(place);
    if ((layout.meta || {}).min_width) place.style.minWidth = layout.meta.min_width + 'px';
    if (!place.data) place.textContent = '';
    Plotly.react(place, data, layout, {responsive: true, displayModeBar: false});
  }
}

// ---- samples of a scatter: told in a box, by pointer, finger or arrow keys ----

function look(sample) {
  const parts = [];
  if (sample.picture) {
    const image = new Image();
    image.src = sample.picture;
    image.alt = '';
    parts.push(image);
  }
  if (sample.text) {
    const words = document.createElement('q');
    words.textContent = sample.text;
    parts.push(words);
  }
  return parts;
}

let settle = () => {};  // moves the box to its point

function tell(place, point, sample) {
  const about = document.createElement('div');
  about.textContent = sample.about;
  told.replaceChildren(...look(sample), about);
  settle = () => {
    const frame = place.getBoundingClientRect(), box = told.getBoundingClientRect();
    const x = frame.left + point.xaxis._offset + point.xaxis.d2p(point.x);
    const y = frame.top + point.yaxis._offset + point.yaxis.d2p(point.y);
    const top = y + 22 + box.height < innerHeight ? y + 22 : Math.max(8, y - 22 - box.height);
    told.style.left = Math.max(8, Math.min(x - box.width / 2, innerWidth - box.width - 8)) + 'px';
    told.style.top = top + 'px';
  };
  settle();
  for (const image of told.querySelectorAll('img')) image.onload = settle;
}

function hush() {
  told.replaceChildren();
  settle = () => {};
}

function connect(group) {
  const samples = JSON.parse(held(group[0].dataset.samples));
  let busy = false, at = -1;
  const quiet = work => { busy = true; work(); busy = false };
  function clear(places) {
    hush();
    quiet(() => places.forEach(place => Plotly.Fx.unhover(place)));
  }
  function mark(places, curve, number) {
    quiet(() => places.forEach(place => Plotly.Fx.hover(place, [{curveNumber: curve, pointNumber: number}])));
  }
  for (const place of group) {
    const others = group.filter(other => other !== place);
    for (const kind of ['plotly_hover', 'plotly_click'])  // a finger clicks only
      place.on(kind, ({points: [point]}) => {
        if (busy) return;
        mark(others, point.curveNumber, point.pointNumber);
        if (point.customdata === undefined) hush();
        else tell(place, point, samples[point.customdata]);
      });
    place.on('plotly_unhover', () => { if (!busy) clear(others) });  // of this place it is plotly.js's own
    place.addEventListener('blur', () => clear(group));
    addEventListener('pointerdown', event => { if (!place.contains(event.target)) clear([place]) });
    place.addEventListener('keydown', event => {
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (event.key === 'Escape') clear(group);
      if (!step) return;
      event.preventDefault();
      const shown = place.data.flatMap((trace, curve) => trace.customdata && trace.visible !== 'legendonly'
        ? trace.customdata.map((_, number) => [curve, number]) : []);
      if (!shown.length) return;
      at = (at < 0 && step < 0 ? shown.length - 1 : at + step + shown.length) % shown.length;
      const [curve, number] = shown[at], trace = place.data[curve], {xaxis, yaxis} = place._fullLayout;
      mark(group, curve, number);
      tell(place, {xaxis, yaxis, x: trace.x[number], y: trace.y[number]}, samples[trace.customdata[number]]);
    });
  }
}

function fill(fold) {  // the pictures of a table of samples, when it is opened
  for (const cell of fold.querySelectorAll('[data-sample]:empty')) {
    const table = cell.closest('[data-samples]');
    table.samples = table.samples || JSON.parse(held(table.dataset.samples));
    cell.append(...look(table.samples[cell.dataset.sample]));
  }
}

function reach() {  // what scrolls sideways is scrolled by keyboard too
  for (const part of all('.scroll'))
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute('tabindex');
}

async function library() {
  const bytes = Uint8Array.from(atob(held('library')), sign => sign.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(plain).text();
  document.head.append(script);
}

library().then(() => {
  draw();
  const groups = {};
  for (const place of all('[data-figure][data-samples]')) (groups[place.dataset.samples] ||= []).push(place);
  Object.values(groups).forEach(connect);
  dark.addEventListener('change', draw);
  document.addEventListener('toggle', event => {
    fill(event.target);
    reach();
    dispatchEvent(new Event('resize'));
  }, true);
  addEventListener('resize', reach);
  addEventListener('scroll', () => settle(), {passive: true});
  reach();
  document.documentElement.dataset.drawn = 'true';
});

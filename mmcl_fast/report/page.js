'use strict';
const darkScheme = matchMedia('(prefers-color-scheme: dark)');
const finger = matchMedia('(pointer: coarse)');
const sampleBox = document.getElementById('sample');
const textOf = id => document.getElementById(id).textContent;
const cssVariable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const queryAll = selector => document.querySelectorAll(selector);

// Reads a place's figure. A colour such as "--ink" becomes the value that the page's style has for it now.
function readFigure(place) {
  const {data, layout} = JSON.parse(textOf(place.dataset.figure), (key, value) =>
    /color$/.test(key) && typeof value === 'string' && value.startsWith('--') ? cssVariable(value) : value);
  const ink = cssVariable('--ink'), line = cssVariable('--line');
  for (const key of ['xaxis', 'yaxis'])
    layout[key] = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true,
      ...layout[key]};
  const longest = Math.max(0, ...data.map(trace => (trace.name || '').length));
  if (layout.legend && place.clientWidth < 560)
    Object.assign(layout.legend, {entrywidth: longest > 14 ? 0.98 : 0.48, entrywidthmode: 'fraction'});
  return [data, {...layout, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', autosize: true,
    dragmode: finger.matches ? false : 'zoom',  // a finger scrolls the page
    font: {color: ink, family: 'system-ui, sans-serif', size: 12},
    hoverlabel: {bgcolor: cssVariable('--card'), bordercolor: line, font: {color: ink}}}];
}

function drawPlots() {
  for (const place of queryAll('[data-figure]')) {
    const [data, layout] = readFigure(place);
    if ((layout.meta || {}).min_width) place.style.minWidth = layout.meta.min_width + 'px';
    if (!place.data) place.textContent = '';
    // The mouse events that a browser makes up after a tap would count as a double click and move the axes.
    Plotly.react(place, data, layout,
      {responsive: true, displayModeBar: false, doubleClick: finger.matches ? false : 'reset+autosize'});
  }
}

// ---- samples of a scatter plot: a box shows the one that a pointer, a finger or the arrow keys choose ----

function sampleNodes(sample) {
  const nodes = [];
  if (sample.picture) {
    const image = new Image();
    image.src = sample.picture;
    image.alt = '';
    nodes.push(image);
  }
  if (sample.text) {
    const quote = document.createElement('q');
    quote.textContent = sample.text;
    nodes.push(quote);
  }
  return nodes;
}

let moveBox = () => {};  // puts the box next to its point, also after the page has scrolled

function showSample(place, point, sample) {
  const about = document.createElement('div');
  about.textContent = sample.about;
  sampleBox.replaceChildren(...sampleNodes(sample), about);
  moveBox = () => {
    const frame = place.getBoundingClientRect(), box = sampleBox.getBoundingClientRect();
    const x = frame.left + point.xaxis._offset + point.xaxis.d2p(point.x);
    const y = frame.top + point.yaxis._offset + point.yaxis.d2p(point.y);
    const top = y + 22 + box.height < innerHeight ? y + 22 : Math.max(8, y - 22 - box.height);
    sampleBox.style.left = Math.max(8, Math.min(x - box.width / 2, innerWidth - box.width - 8)) + 'px';
    sampleBox.style.top = top + 'px';
  };
  moveBox();
  for (const image of sampleBox.querySelectorAll('img')) image.onload = moveBox;
}

function hideSample() {
  sampleBox.replaceChildren();
  moveBox = () => {};
}

// Makes the plots of a group mark the same sample, and show it.
function connectPlots(group) {
  const samples = JSON.parse(textOf(group[0].dataset.samples));
  let ignoreEvents = false, current = -1;
  const withoutEvents = work => { ignoreEvents = true; work(); ignoreEvents = false };
  function unmark(places) {
    hideSample();
    withoutEvents(() => places.forEach(place => Plotly.Fx.unhover(place)));
  }
  function mark(places, curve, number) {
    withoutEvents(() => places.forEach(place => Plotly.Fx.hover(place, [{curveNumber: curve, pointNumber: number}])));
  }
  for (const place of group) {
    const others = group.filter(other => other !== place);
    for (const kind of ['plotly_hover', 'plotly_click'])  // a finger only clicks
      place.on(kind, ({points: [point]}) => {
        if (ignoreEvents) return;
        mark(others, point.curveNumber, point.pointNumber);
        if (point.customdata === undefined) hideSample();
        else showSample(place, point, samples[point.customdata]);
      });
    place.on('plotly_unhover', () => { if (!ignoreEvents) unmark(others) });  // plotly.js unmarks this place itself
    place.addEventListener('blur', () => unmark(group));
    addEventListener('pointerdown', event => { if (!place.contains(event.target)) unmark([place]) });
    place.addEventListener('keydown', event => {
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (event.key === 'Escape') unmark(group);
      if (!step) return;
      event.preventDefault();
      const visible = place.data.flatMap((trace, curve) => trace.customdata && trace.visible !== 'legendonly'
        ? trace.customdata.map((_, number) => [curve, number]) : []);
      if (!visible.length) return;
      const before = current < 0 && step < 0;
      current = (before ? visible.length - 1 : current + step + visible.length) % visible.length;
      const [curve, number] = visible[current], trace = place.data[curve], {xaxis, yaxis} = place._fullLayout;
      mark(group, curve, number);
      showSample(place, {xaxis, yaxis, x: trace.x[number], y: trace.y[number]}, samples[trace.customdata[number]]);
    });
  }
}

// Puts the pictures into a table of samples when it is opened: a browser need not decode them before.
function fillPictures(fold) {
  for (const cell of fold.querySelectorAll('[data-sample]:empty')) {
    const table = cell.closest('[data-samples]');
    table.samples = table.samples || JSON.parse(textOf(table.dataset.samples));
    cell.append(...sampleNodes(table.samples[cell.dataset.sample]));
  }
}

// Lets the keyboard scroll what is wider than its place.
function makeScrollable() {
  for (const part of queryAll('.scroll'))
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute('tabindex');
}

async function loadLibrary() {
  const bytes = Uint8Array.from(atob(textOf('library')), sign => sign.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(plain).text();
  document.head.append(script);
}

loadLibrary().then(() => {
  drawPlots();
  const groups = {};
  for (const place of queryAll('[data-figure][data-samples]')) (groups[place.dataset.samples] ||= []).push(place);
  Object.values(groups).forEach(connectPlots);
  darkScheme.addEventListener('change', drawPlots);
  document.addEventListener('toggle', event => {
    fillPictures(event.target);
    makeScrollable();
    dispatchEvent(new Event('resize'));  // plots in an opened fold take its width
  }, true);
  addEventListener('resize', makeScrollable);
  addEventListener('scroll', () => moveBox(), {passive: true});
  makeScrollable();
  document.documentElement.dataset.drawn = 'true';
});

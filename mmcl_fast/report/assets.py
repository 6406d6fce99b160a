"""Style and script of the page."""

STYLE = """
:root { --paper:#f6f7f9; --card:#fff; --ink:#1c2330; --soft:#5c6675; --line:#e0e4ea; --mark:#2563eb;
  --note:#fff7e0; --note-line:#e9b949; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper:#11151c; --card:#1a202a; --ink:#e7ebf2; --soft:#9aa6b6;
  --line:#2e3744; --mark:#7aa7ff; --note:#2a2415; --note-line:#8a6d1f; } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink); line-height:1.5;
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif }
main { max-width:1560px; margin:0 auto; padding:24px clamp(12px,3vw,40px) 60px }
h1 { font-size:clamp(22px,3.2vw,32px); margin:0 0 4px; letter-spacing:-.02em }
h2 { font-size:21px; margin:40px 0 12px; padding-top:12px; border-top:1px solid var(--line) }
h3 { font-size:16px; margin:0 0 4px }
p.about { color:var(--soft); margin:0 0 12px; max-width:85ch; font-size:14px }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin:20px 0 }
.card,.panel { background:var(--card); border:1px solid var(--line); border-radius:10px;
  padding:14px 16px; min-width:0 }
.card b { display:block; font-size:26px; font-variant-numeric:tabular-nums; letter-spacing:-.02em }
.card span { color:var(--soft); font-size:13px }
.grid { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr)); gap:16px;
  margin:16px 0 }
.three { grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr)) }
.notes { background:var(--note); border:1px solid var(--note-line); border-radius:10px;
  padding:10px 16px; margin:16px 0 }
.notes p { margin:4px 0; max-width:110ch }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; font-size:14px }
th,td { padding:6px 10px; text-align:left; border-bottom:1px solid var(--line); vertical-align:top }
th { color:var(--soft); font-weight:600; white-space:nowrap }
td.n,th.n { text-align:right; white-space:nowrap }
td.k { white-space:nowrap } td.f { color:var(--soft); min-width:240px } tr:last-child td { border-bottom:0 }
td.v { overflow-wrap:anywhere; font-family:ui-monospace,monospace; font-size:13px }
td.d { font-weight:700; color:var(--mark) }
details { margin:12px 0 } summary { cursor:pointer; font-weight:600; padding:6px 0 }
footer { color:var(--soft); margin-top:40px; font-size:13px }
"""

SCRIPT = """
const dark = matchMedia('(prefers-color-scheme: dark)');
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function layout(figure) {
  const ink = colour('--ink'), line = colour('--line'), out = structuredClone(figure.layout);
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, automargin: true};
  for (const key of Object.keys(out)) if (/^[xy]axis/.test(key)) out[key] = {...axis, ...out[key]};
  return {...out, xaxis: out.xaxis || axis, yaxis: out.yaxis || axis, paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)', autosize: true,
    font: {color: ink, family: 'system-ui, sans-serif', size: 12},
    hoverlabel: {bgcolor: colour('--card'), bordercolor: line, font: {color: ink}}};
}
function draw() {
  for (const place of document.querySelectorAll('[data-figure]')) {
    const figure = JSON.parse(document.getElementById(place.dataset.figure).textContent);
    const least = (figure.layout.meta || {}).min_width;
    if (figure.layout.legend && place.clientWidth < 560)
      Object.assign(figure.layout.legend, {entrywidth: 0.48, entrywidthmode: 'fraction'});
    if (least) place.style.minWidth = least + 'px';
    Plotly.react(place, figure.data, layout(figure), {responsive: true, displayModeBar: false});
  }
}
draw();
dark.addEventListener('change', draw);
document.addEventListener('toggle', () => dispatchEvent(new Event('resize')), true);
"""

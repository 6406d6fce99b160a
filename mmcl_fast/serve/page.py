"""The page to drop files on: one HTML text that needs nothing else. Without JavaScript its form still gives JSON."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { --paper:#f6f7f9; --card:#fff; --ink:#1c2330; --soft:#566070; --line:#d5dae2; --mark:#1d4ed8; --on-mark:#fff;
  --bar:#2563eb; --other:#0f766e; --fault:#b42318; --edge:#768294; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --paper:#11151c; --card:#1a202a; --ink:#e7ebf2; --soft:#a3afbf;
  --line:#2e3744; --mark:#8ab4ff; --on-mark:#0c1420; --bar:#6ea0ff; --other:#3fbfae; --fault:#ff9b8f;
  --edge:#76849a; } }
* { box-sizing:border-box }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif }
main { max-width:1160px; margin:0 auto; padding:24px clamp(14px,3vw,40px) 60px }
h1 { font-size:clamp(22px,3vw,30px); margin:0; letter-spacing:-.02em }
h2 { font-size:17px; margin:0; overflow-wrap:anywhere }
h3 { font-size:13px; margin:16px 0 6px; color:var(--soft); font-weight:600 }
p { margin:4px 0 16px } .soft { color:var(--soft) }
form,article { background:var(--card); border:1px solid var(--line); border-radius:12px; padding:16px }
form { display:grid; gap:16px; grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr)) }
label { font-weight:600; display:block; margin-bottom:6px }
.drop { border:2px dashed var(--edge); border-radius:10px; padding:20px; min-height:170px; display:flex; gap:12px;
  flex-direction:column; justify-content:center; align-items:center; text-align:center }
.drop.over { border-color:var(--mark); border-style:solid }
.drop input { max-width:100%; font:inherit; color:inherit }
textarea,select,input[type=number] { font:inherit; color:inherit; background:var(--paper); width:100%;
  border:1px solid var(--edge); border-radius:8px; padding:8px 10px }
textarea { min-height:170px; resize:vertical; display:block }
.row { grid-column:1/-1; display:flex; flex-wrap:wrap; gap:16px; align-items:end }
.row > div { flex:0 1 190px; min-width:130px } .row button { margin-left:auto }
select,input[type=number],button { height:44px }
button { font:inherit; font-weight:600; color:var(--on-mark); background:var(--mark); border:0; border-radius:8px;
  padding:0 26px; cursor:pointer }
button:disabled { opacity:.55; cursor:wait }
:focus-visible { outline:3px solid var(--mark); outline-offset:2px }
#said { min-height:24px; margin:14px 0 } #said.fault,.fault { color:var(--fault) }
#answers { display:grid; gap:16px; align-items:start;
  grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr)) }
article header { display:flex; gap:8px; justify-content:space-between; align-items:baseline }
.chip { border:1px solid var(--line); border-radius:99px; padding:1px 10px; font-size:13px; color:var(--soft) }
article img,article video { display:block; max-width:100%; max-height:220px; margin:12px auto 0; border-radius:8px }
article audio { width:100%; margin-top:12px }
blockquote { margin:10px 0 0; padding-left:12px; border-left:3px solid var(--line); overflow-wrap:anywhere }
ol,ul { list-style:none; margin:0; padding:0 }
li { margin:0 0 8px } li > div { display:flex; justify-content:space-between; gap:12px }
li span { overflow-wrap:anywhere; min-width:0 } li b { font-variant-numeric:tabular-nums; font-weight:600 }
.bar { display:block; height:8px; border-radius:4px; background:var(--line); overflow:hidden }
.bar i { display:block; height:100%; background:var(--bar) } ul .bar i { background:var(--other) }
footer { margin-top:32px; font-size:14px } a { color:var(--mark) }
"""

SCRIPT = """
const at = id => document.getElementById(id), form = at('form'), files = at('files'), drop = at('drop');
const made = (name, text, kind) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const percent = share => (100 * share).toFixed(1) + ' %';
function say(text, fault) { at('said').textContent = text; at('said').className = fault ? 'fault' : ''; }
function bars(list, rows) {
  for (const [name, share] of rows) {
    const item = made('li'), line = made('div'), bar = made('span', undefined, 'bar'), filled = made('i');
    filled.style.width = 100 * share + '%';
    bar.setAttribute('aria-hidden', 'true');
    bar.append(filled);
    line.append(made('span', name), made('b', percent(share)));
    item.append(line, bar);
    list.append(item);
  }
  return list;
}
function preview(item, file) {
  const name = {image: 'img', video: 'video', audio: 'audio'}[item.modality];
  if (!name || !file) return [];
  const node = made(name);
  node.src = URL.createObjectURL(file);
  if (name === 'img') node.alt = '';
  else { node.controls = true; node.setAttribute('aria-label', item.file); }
  node.onerror = () => node.remove();
  return [node];
}
function card(item, source) {
  const box = made('article'), head = made('header');
  head.append(made('h2', item.file), made('span', item.modality || 'unknown', 'chip'));
  box.append(head, ...(typeof source === 'string' ? [made('blockquote', source)] : preview(item, source)));
  if (item.error) { box.append(made('p', item.error, 'fault')); return box; }
  box.append(made('h3', 'Taken for'));
  box.append(bars(made('ol'), item.labels.map(one => [one.class + (one.modality ? ' (' + one.modality + ')' : ''),
    one.probability])));
  const shares = Object.entries(item.contributions || {}).sort((a, b) => b[1] - a[1]);
  if (shares.length) box.append(made('h3', 'Prompts and gates from'), bars(made('ul'), shares));
  return box;
}
async function ask() {
  const body = new FormData(), chosen = [...files.files], text = at('text').value;
  chosen.forEach(file => body.append('file', file, file.name));
  if (text.trim()) body.append('text', text);
  const lines = Object.fromEntries(text.split('\\n').map((line, i) => ['text:' + (i + 1), line.slice(0, 200)]));
  if (!chosen.length && !text.trim()) { say('Choose a file or write a line first.', true); return; }
  const asked = new URLSearchParams({top_k: at('top').value || 5});
  if (at('modality').value) asked.set('modality', at('modality').value);
  at('ask').disabled = true;
  say('Looking at it…');
  try {
    const reply = await fetch('predict?' + asked, {method: 'POST', body}), answer = await reply.json();
    const items = answer.items || [];
    at('answers').querySelectorAll('[src]').forEach(node => URL.revokeObjectURL(node.src));
    at('answers').replaceChildren(...items.map((item, i) => card(item, chosen[i] || lines[item.file])));
    const broken = items.filter(item => item.error).length;
    if (!items.length) say(answer.error, true);
    else say(items.length - broken + ' of ' + items.length + ' read.', broken > 0);
    if (items.length) files.value = at('text').value = '';
  } catch (fault) {
    say('No answer from the server; is it still running?', true);
  }
  at('ask').disabled = false;
}
form.addEventListener('submit', event => { event.preventDefault(); ask(); });
files.addEventListener('change', () => { if (files.files.length) ask(); });
for (const kind of ['dragenter', 'dragover'])
  addEventListener(kind, event => { event.preventDefault(); drop.classList.add('over'); });
addEventListener('dragleave', event => { if (!event.relatedTarget) drop.classList.remove('over'); });
addEventListener('drop', event => {
  event.preventDefault();
  drop.classList.remove('over');
  if (event.dataTransfer.files.length) { files.files = event.dataTransfer.files; ask(); }
});
fetch('healthz').then(reply => reply.json()).then(known => {
  at('model').textContent = known.model + ': ' + known.method + ' on ' + known.encoder + ', ' + known.classes.length +
    ' classes learned from ' + known.modalities.join(', ') + '. Up to ' + known.max_items + ' items and ' +
    (known.max_bytes / 1e6).toFixed(known.max_bytes < 1e7 ? 1 : 0) + ' MB at once.';
}).catch(() => {});
"""

BODY = """
<main>
<h1>What is this?</h1>
<p id="model" class="soft">A learner of image, video, audio, depth and text.</p>
<form id="form" action="predict" method="post" enctype="multipart/form-data">
<div><label for="files">Files of any kind</label>
<div id="drop" class="drop"><span class="soft">Drop them anywhere on this page, or</span>
<input id="files" type="file" name="file" multiple></div></div>
<div><label for="text">Texts, one a line</label>
<textarea id="text" name="text" spellcheck="false"></textarea></div>
<div class="row">
<div><label for="modality">Read files as</label>
<select id="modality"><option value="">what they hold</option>OPTIONS</select></div>
<div><label for="top">Classes to show</label><input id="top" type="number" min="1" max="999" value="5"></div>
<button id="ask">Predict</button></div>
</form>
<p id="said" role="status"></p>
<section id="answers" aria-label="Answers"></section>
<footer class="soft">The same from a shell: <code>curl --data-binary @photo.jpg ADDRESS/predict</code>. Also here:
<a href="healthz">healthz</a>, <a href="metrics">metrics</a>.</footer>
</main>
"""


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'sha256-{_digest(STYLE)}'; script-src 'sha256-{_digest(SCRIPT)}'; "
    "connect-src 'self'; form-action 'self'; img-src blob:; media-src blob:; base-uri 'none'; frame-ancestors 'none'"
)


def html(modalities: list[str]) -> str:
    """The page, with these to choose from."""
    options = "".join(f"<option>{name}</option>" for name in modalities)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>mmcl-fast</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>{BODY.replace('OPTIONS', options)}"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )

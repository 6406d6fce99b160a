/* No comment here begins with two slashes: a test holds that the page names no address of another machine. */
const byId = id => document.getElementById(id);
const form = byId('form'), files = byId('files'), drop = byId('drop');
const makeNode = (name, text, kind) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
/* A server that guards all addresses gives this page alone without its token. */
const TOKEN = 'mmcl-fast-token';
const withToken = (options = {}) => {
  const token = sessionStorage.getItem(TOKEN);
  return token ? {...options, headers: {Authorization: 'Bearer ' + token}} : options;
};

function askForToken(text) {
  byId('unlock').hidden = false;
  form.hidden = true;
  byId('links').hidden = true;  /* a link carries no token */
  showMessage(text, Boolean(text));
  byId('token').type = 'password';  /* not in the page's text: browsers complain about each form with one */
  byId('token').focus();
}

const percent = share => (100 * share).toFixed(1) + ' %';

function showMessage(text, isFault) {
  byId('message').textContent = text;
  byId('message').className = isFault ? 'fault' : '';
}

function addBars(list, rows) {
  for (const [name, share] of rows) {
    const item = makeNode('li'), line = makeNode('div');
    const bar = makeNode('span', undefined, 'bar'), filled = makeNode('i');
    filled.style.width = 100 * share + '%';
    bar.setAttribute('aria-hidden', 'true');
    bar.append(filled);
    line.append(makeNode('span', name), makeNode('b', percent(share)));
    item.append(line, bar);
    list.append(item);
  }
  return list;
}

function previewOf(item, file) {
  const name = {image: 'img', video: 'video', audio: 'audio'}[item.modality];
  if (!name || !file) return [];
  const node = makeNode(name);
  node.src = URL.createObjectURL(file);
  if (name === 'img') node.alt = '';
  else { node.controls = true; node.setAttribute('aria-label', item.file); }
  node.onerror = () => node.remove();  /* a format that the server reads and the browser does not */
  return [node];
}

function answerCard(item, source) {
  const card = makeNode('article'), head = makeNode('header');
  head.append(makeNode('h2', item.file), makeNode('span', item.modality || 'unknown', 'chip'));
  card.append(head, ...(typeof source === 'string' ? [makeNode('blockquote', source)] : previewOf(item, source)));
  if (item.error) { card.append(makeNode('p', item.error, 'fault')); return card; }
  card.append(makeNode('h3', 'Predicted class'));
  card.append(addBars(makeNode('ol'), item.labels.map(label =>
    [label.class + (label.modality ? ' (' + label.modality + ')' : ''), label.probability])));
  const shares = Object.entries(item.contributions || {}).sort((a, b) => b[1] - a[1]);
  if (shares.length) card.append(makeNode('h3', 'Prompts and gates from'), addBars(makeNode('ul'), shares));
  return card;
}

async function predict() {
  const body = new FormData(), chosen = [...files.files], text = byId('text').value;
  chosen.forEach(file => body.append('file', file, file.name));
  if (text.trim()) body.append('text', text);
  const lines = Object.fromEntries(text.split('\n').map((line, i) => ['text:' + (i + 1), line.slice(0, 200)]));
  if (!chosen.length && !text.trim()) { showMessage('Choose a file or write a line first.', true); return; }
  const query = new URLSearchParams({top_k: byId('top').value || 5});
  if (byId('modality').value) query.set('modality', byId('modality').value);
  byId('ask').disabled = true;
  showMessage('Predicting…');
  try {
    const reply = await fetch('predict?' + query, withToken({method: 'POST', body}));
    const answer = await reply.json();
    if (reply.status === 401) {
      byId('ask').disabled = false;
      askForToken('The server did not take the token. Type it again.');
      return;
    }
    const items = answer.items || [];
    byId('answers').querySelectorAll('[src]').forEach(node => URL.revokeObjectURL(node.src));
    byId('answers').replaceChildren(...items.map((item, i) => answerCard(item, chosen[i] || lines[item.file])));
    const failed = items.filter(item => item.error).length;
    if (!items.length) showMessage(answer.error, true);
    else showMessage(items.length - failed + ' of ' + items.length + ' read.', failed > 0);
    if (items.length) files.value = byId('text').value = '';
  } catch (fault) {
    showMessage('The server does not answer. Is it still running?', true);
  }
  byId('ask').disabled = false;
}

form.addEventListener('submit', event => { event.preventDefault(); predict(); });
files.addEventListener('change', () => { if (files.files.length) predict(); });
for (const kind of ['dragenter', 'dragover'])
  addEventListener(kind, event => { event.preventDefault(); drop.classList.add('over'); });
addEventListener('dragleave', event => { if (!event.relatedTarget) drop.classList.remove('over'); });
addEventListener('drop', event => {
  event.preventDefault();
  drop.classList.remove('over');
  if (event.dataTransfer.files.length) { files.files = event.dataTransfer.files; predict(); }
});

function describeModel(health) {
  byId('model').textContent = health.model + (health.version ? ', version ' + health.version : '') + ': ' +
    health.method + ' on ' + health.encoder + ', ' +
    health.classes.length + ' classes learned from ' + health.modalities.join(', ') + '. A request may hold ' +
    health.max_items + ' items and ' + (health.max_bytes / 1e6).toFixed(health.max_bytes < 1e7 ? 1 : 0) + ' MB.';
}

async function begin(afterToken) {
  const reply = await fetch('healthz', withToken());
  if (reply.status === 401) {
    sessionStorage.removeItem(TOKEN);
    askForToken(afterToken ? 'The server did not take the token. Type it again.' : '');
    return;
  }
  if (sessionStorage.getItem(TOKEN)) byId('links').hidden = true;
  byId('unlock').hidden = true;
  form.hidden = false;
  showMessage('');
  describeModel(await reply.json());
}

byId('unlock').addEventListener('submit', event => {
  event.preventDefault();
  const token = byId('token').value.trim();
  byId('token').value = '';
  if (!/^[\x21-\x7e]+$/.test(token)) { askForToken('A token has letters, digits and signs, without spaces.'); return; }
  sessionStorage.setItem(TOKEN, token);
  begin(true).catch(() => showMessage('The server does not answer. Is it still running?', true));
});
begin(false).catch(() => {});

"""In the page's head: a database of PNG files in the visitor's browser, by the recipes that they carry."""

COOKIE = "stablediff_visitor"  # the secret by which a server that keeps pictures knows a browser

DATABASE = r"""
window.stablediff = (() => {
  const KEPT = 200, SAVED = 50;
  const open = () => new Promise((good, bad) => {
    const request = indexedDB.open('stablediff', 1);
    request.onupgradeneeded = () => request.result.createObjectStore('pictures', { keyPath: 'recipe' });
    request.onsuccess = () => good(request.result);
    request.onerror = () => bad(request.error);
  });
  const ask = async (mode, work) => {
    const database = await open();
    return new Promise((good, bad) => {
      const change = database.transaction('pictures', mode);
      const request = work(change.objectStore('pictures'));
      change.oncomplete = () => { database.close(); good(request && request.result); };
      // Of a store that is full only this is told.
      change.onerror = change.onabort = () => { database.close(); bad(change.error); };
    });
  };
  const recipeOf = bytes => {
    const view = new DataView(bytes), latin = new TextDecoder('latin1'), utf8 = new TextDecoder();
    if (bytes.byteLength < 8 || view.getUint32(0) !== 0x89504e47) return null;
    for (let at = 8; at + 12 <= bytes.byteLength;) {
      const length = view.getUint32(at), data = new Uint8Array(bytes, at + 8, length);
      const kind = latin.decode(new Uint8Array(bytes, at + 4, 4));
      const end = data.indexOf(0), name = end > 0 ? latin.decode(data.subarray(0, end)) : '';
      if (name === 'parameters' && kind === 'tEXt') return latin.decode(data.subarray(end + 1));
      if (name === 'parameters' && kind === 'iTXt') {
        const language = data.indexOf(0, end + 3), word = data.indexOf(0, language + 1);
        return utf8.decode(data.subarray(word + 1));
      }
      at += 12 + length;
    }
    return null;
  };
  const all = async () => (await ask('readonly', store => store.getAll())).sort((a, b) => b.time - a.time);
  const remove = recipe => ask('readwrite', store => store.delete(recipe));
  const clear = () => ask('readwrite', store => store.clear());
  const keep = async (url, time) => {
    const bytes = await (await fetch(url)).arrayBuffer(), recipe = recipeOf(bytes);
    if (recipe === null) return false;
    const blob = new Blob([bytes], { type: 'image/png' });
    const put = () => ask('readwrite', store => store.put({ recipe, blob, time }));
    await put().catch(async () => {  // the oldest make room
      for (const old of (await all()).slice(-10)) await remove(old.recipe);
      await put();
    });
    return true;
  };
  const tidy = async () => {
    for (const old of (await all()).slice(KEPT)) await remove(old.recipe);
    document.dispatchEvent(new Event('stablediff-history'));
  };
  // A job's pictures are saved once: those that were deleted since do not come back with the job.
  const saved = () => JSON.parse(localStorage.getItem('stablediff-saved') || '[]'), saving = new Set();
  const save = async (gallery, job) => {
    if (!job || saving.has(job) || saved().includes(job)) return;
    saving.add(job);
    try {
      let time = Date.now(), kept = 0;
      for (const item of gallery || []) kept += await keep(item.image.url, time--);
      if (!kept) return;
      localStorage.setItem('stablediff-saved', JSON.stringify([...saved(), job].slice(-SAVED)));
      await tidy();
    } finally {
      saving.delete(job);
    }
  };
  const adopt = async files => {
    for (const file of files || []) await keep(file.url, parseInt(file.orig_name) / 1000);
    await tidy();
  };
  return { all, save, adopt, remove, clear };
})();
"""

SAVE = "(gallery, job) => { window.stablediff.save(gallery, job); }"
# While a job runs there is no recipe, and what is in the gallery is not yet its own.
SAVE_FINISHED = "(gallery, job, recipe) => { if (recipe) window.stablediff.save(gallery, job); }"
# What the server has kept and this browser has not; its files are named by their microseconds. The server knows this
# browser by a secret that it makes up for itself.
KNOWN = r"""async () => {
  const bytes = [...crypto.getRandomValues(new Uint8Array(24))];
  const fresh = bytes.map(byte => byte.toString(16).padStart(2, '0')).join('');
  const secret = (/(?:^|; )COOKIE=([^;]*)/.exec(document.cookie) || [])[1] || fresh;
  const secure = location.protocol === 'https:' ? '; Secure' : '';
  // Again at each visit: browsers forget what a script wrote a week or a year ago.
  document.cookie = `COOKIE=${secret}; path=/; max-age=31536000; SameSite=Lax${secure}`;
  return JSON.stringify((await window.stablediff.all()).map(picture => picture.recipe));
}""".replace("COOKIE", COOKIE)
ADOPT = "files => { window.stablediff.adopt(files); }"

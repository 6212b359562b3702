"""What Gradio's editor needs besides: scripts for the browser."""

import json

from stablediff.web.texts import LANGUAGES, text

_FILE_SIDE = 1536  # pixels of the pictures that visitors bring
_HINTS = json.dumps([text("edit_drop", language) for language in LANGUAGES])  # what an empty editor shows

# The editor is built when its tab opens, and loses what it is given before. Paint that it is given is laid into the
# middle of what its brush takes for the canvas, which is an empty editor's: first comes the picture, then the brush is
# measured anew, then comes the paint.
WHEN_THE_CANVAS_IS_THERE = """async key => {
  const canvas = () => document.querySelector('#editor canvas');
  while (!canvas() || !canvas().width) await new Promise(done => setTimeout(done, 200));
  await window.editor?.ready;
  await new Promise(done => setTimeout(done, 500));
  return key;
}"""
WHEN_THE_PICTURE_IS_THERE = """async key => {
  for (let left = 100; left && !window.editor?.background_image; left--)
    await new Promise(done => setTimeout(done, 200));
  await new Promise(done => setTimeout(done, 500));
  for (const tool of window.editor?.tools?.values() ?? []) tool.brush_textures?.initialize_textures?.();
  return key;
}"""
# The editor decodes files in the browser, and says nothing of those that it cannot read: they are tried before. Large
# ones are made smaller: it would send all their pixels, which takes minutes and more than a server takes.
TRY_FILES = """
const passed = new WeakSet();
const taken = async file => {
  const picture = await createImageBitmap(file);
  const scale = SIDE / Math.max(picture.width, picture.height);
  if (scale >= 1) { picture.close(); return file; }
  const size = side => Math.max(1, Math.round(side * scale));
  const canvas = new OffscreenCanvas(size(picture.width), size(picture.height));
  const pen = canvas.getContext('2d');
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  return new File([await canvas.convertToBlob()], file.name.replace(/\\.\\w+$/, '') + '.png', { type: 'image/png' });
};
const tried = (name, filesOf, repeat) => document.addEventListener(name, async event => {
  if (!event.target.closest || !event.target.closest('#editor') || passed.has(event)) return;
  const files = [...(filesOf(event) || [])];
  if (!files.length) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const target = event.target, all = new DataTransfer();
  try { all.items.add(await taken(files[0])); } catch { trigger('click'); return; }
  trigger('select');
  const again = repeat(target, all);
  passed.add(again);
  target.dispatchEvent(again);
}, true);
tried('change', event => event.target.files, (input, all) => {
  input.files = all.files;
  return new Event('change', { bubbles: true });
});
tried('drop', event => event.dataTransfer && event.dataTransfer.files, (_, all) => {
  return new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: all });
});
""".replace("SIDE", str(_FILE_SIDE))
# An editor that was cleared after it had been filled from here sends a white picture.
WHAT_IS_SHOWN = """value => {
  const shown = document.querySelector('#editor').innerText;
  return HINTS.some(hint => shown.includes(hint)) ? null : value;
}""".replace("HINTS", _HINTS)

"""The last tab: what this visitor has drawn, kept in the visitor's own browser, and on the server where that is set."""

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from stablediff.web.archive import KEPT, Archive
from stablediff.web.create import Create
from stablediff.web.database import ADOPT, KNOWN
from stablediff.web.events import QUIET
from stablediff.web.shelf import files
from stablediff.web.studio import Studio, owner_of
from stablediff.web.texts import text

_SHOW = r"""
const urls = [];
const make = (name, className, words) => {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = words;
  return made;
};
const render = async () => {
  const words = JSON.parse(props.value), pictures = await window.stablediff.all();
  const shown = make('div', 'pictures', '');
  urls.splice(0).forEach(url => URL.revokeObjectURL(url));
  for (const picture of pictures) {
    const url = URL.createObjectURL(picture.blob);
    const card = make('div', 'card', ''), image = document.createElement('img');
    urls.push(url);
    image.src = url;
    image.alt = picture.recipe.split('\n')[0];
    image.loading = 'lazy';
    const line = make('div', 'line', ''), again = make('button', 'again', words.again);
    const keep = make('a', 'keep', words.download), gone = make('button', 'gone', words.delete);
    for (const control of [again, keep, gone]) {
      control.setAttribute('aria-label', control.textContent + ': ' + image.alt);
    }
    again.onclick = () => trigger('select', { recipe: picture.recipe });
    keep.href = url;
    keep.download = 'stablediff-' + ((/Seed: (\d+)/.exec(picture.recipe) || [])[1] || '') + '.png';
    gone.onclick = async () => {
      await window.stablediff.remove(picture.recipe);
      trigger('delete', { recipe: picture.recipe });
      const place = pictures.indexOf(picture);
      await render();
      // Who goes by the keyboard stays where the picture was.
      const left = element.querySelectorAll('.gone');
      (left[Math.min(place, left.length - 1)] || element.querySelector('.quiet')).focus();
    };
    line.append(again, keep, gone);
    card.append(image, make('div', 'words', image.alt), line);
    shown.append(card);
  }
  const place = element.querySelector('.history');
  if (!place) return;
  const empty = make('button', 'empty', words.clear);
  empty.onclick = async () => {
    if (empty.textContent === words.clear) { empty.textContent = words.sure; return; }
    await window.stablediff.clear();
    trigger('clear', {});
    render();
  };
  const line = make('p', 'quiet', pictures.length ? words.kept : words.empty);
  line.tabIndex = -1;
  place.replaceChildren(line, shown);
  if (pictures.length) place.append(empty);
};
watch('value', render);
document.addEventListener('stablediff-history', render);
render();
"""


def make_history(studio: Studio, create: Create, tabs: gr.Tabs, page: gr.Blocks) -> None:
    archive = studio.archive

    def words(language: str) -> str:
        keys = {"again": "history_again", "download": "history_download", "delete": "delete", "clear": "history_clear"}
        keys |= {"sure": "history_sure", "empty": "history_empty"}
        keys["kept"] = "history_kept" if archive is None else "history_kept_here"
        return json.dumps({name: text(key, language) for name, key in keys.items()}, ensure_ascii=False)

    history = studio.voice(
        gr.HTML,
        {"value": words},
        html_template='<div class="history"></div>',
        js_on_load=_SHOW,
        elem_id="history",
    )

    def restore(language: str, event: gr.EventData) -> dict[Any, Any]:
        return {**create.restore(language, str(event.recipe)), tabs: gr.Tabs(selected="create")}

    history.select(
        restore, studio.language, [*create.named.values(), create.settings.quality, create.restored, tabs], **QUIET
    )
    if archive is not None:
        _connect_archive(archive, history, page)


def _connect_archive(archive: Archive, history: gr.HTML, page: gr.Blocks) -> None:
    """What the server has kept comes into the browser when the page opens, and what is deleted goes there too."""
    known = gr.Textbox(visible="hidden", show_label=False)
    missing = gr.File(file_count="multiple", visible="hidden", show_label=False)

    def bring(visitor: gr.Request, known: str) -> Iterator[list[str] | None]:
        try:
            recipes = json.loads(known)
        except ValueError:
            recipes = None
        here = {str(recipe) for recipe in recipes[:KEPT]} if isinstance(recipes, list) else set()
        kept = [(picture.path.name, picture.path.read_bytes()) for picture in archive.all(owner_of(visitor), here)]
        with files(kept) as paths:
            yield paths or None

    def delete(visitor: gr.Request, event: gr.EventData) -> None:
        archive.remove(owner_of(visitor), str(event.recipe))

    def clear(visitor: gr.Request) -> None:
        archive.remove(owner_of(visitor))

    opened = page.load(bring, known, missing, js=KNOWN, **QUIET)
    opened.then(None, missing, None, js=ADOPT, api_visibility="private")
    history.delete(delete, None, None, **QUIET)
    history.clear(clear, None, None, **QUIET)

"""How the page looks: paper and ink, one accent, the fonts of the visitor's own system."""

import gradio as gr

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=_SANS,
        font_mono=_MONO,
    ).set(
        body_background_fill="#faf9f7",
        body_background_fill_dark="#171614",
        body_text_color="#292524",
        body_text_color_dark="#e7e5e4",
        body_text_color_subdued="#57534e",
        body_text_color_subdued_dark="#b5aea8",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#201e1c",
        background_fill_secondary="#f5f4f1",
        background_fill_secondary_dark="#1b1a18",
        border_color_primary="#e3dfda",
        border_color_primary_dark="#3b3733",
        block_background_fill="#ffffff",
        block_background_fill_dark="#201e1c",
        block_border_width="1px",
        block_label_background_fill="#ffffff",
        block_label_background_fill_dark="#201e1c",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_label_text_color="#57534e",
        block_label_text_color_dark="#b5aea8",
        block_title_text_color="#57534e",
        block_title_text_color_dark="#b5aea8",
        block_shadow="none",
        block_shadow_dark="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="#26231f",
        input_placeholder_color="#78716c",
        input_placeholder_color_dark="#a8a29e",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#0d9488",
        button_primary_text_color="#ffffff",
        button_secondary_background_fill="#efece7",
        button_secondary_background_fill_dark="#322e2a",
        button_secondary_background_fill_hover="#e3dfda",
        button_secondary_background_fill_hover_dark="#45403a",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
        color_accent="#0f766e",
        color_accent_soft="#d6efe9",
        color_accent_soft_dark="#134e4a",
    )


CSS = """
.gradio-container { box-sizing: border-box; max-width: min(1180px, 100vw) !important; margin: 0 auto !important;
  padding: 0 1rem 2rem !important; }
.dark button[role=tab].selected { color: #5eead4; }
#head { align-items: center; gap: .75rem; padding: .75rem 0 .25rem; flex-wrap: wrap; }
#head h1 { font-size: 1.35rem; font-weight: 650; letter-spacing: -.02em; margin: 0; }
#head > * { flex: 0 0 auto; width: auto; min-width: 0; }
#head .title { flex: 1 1 8rem; }
.slot:not(:has(.chips)):not(:has(.wrong)):not(:has(.hint)) { display: none; }
.slot { padding: 0 .25rem; }
.fit .html-container { padding: 0; }
.fit { flex: 0 0 auto; min-width: 0; width: auto; align-self: center; }
#language { border: 0; background: none; padding: 0; flex: 0 0 auto; min-width: 0 !important; }
#language .wrap { flex-wrap: nowrap; gap: .25rem; }
#language label { padding: .3rem .6rem; }
#model { width: 15rem; }
#dark { flex: 0 0 auto; min-width: 2.5rem; }
.desk { display: grid !important; grid-template: "ask show" auto "tune show" 1fr / minmax(0, 2fr) minmax(0, 3fr);
  gap: 1rem; }
.desk > .ask { grid-area: ask; } .desk > .show { grid-area: show; } .desk > .tune { grid-area: tune; }
.halves { display: grid !important; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; }
@media (max-width: 820px) {
  .desk { grid-template: "ask" "show" "tune" / minmax(0, 1fr); }
  .halves { grid-template-columns: minmax(0, 1fr); }
  .tab-container button { padding: 0 .5rem; }
  .gallery { height: 360px !important; min-height: 0 !important; }
}
.tight { gap: .5rem; flex-wrap: wrap; }
.tight > button { flex: 0 1 auto; min-width: 0; }
.seed { display: grid !important; grid-template-columns: minmax(0, 1fr) auto auto; gap: .5rem; align-items: end; }
.seed > button { min-width: 2.75rem; height: 2.75rem; padding: 0; }
.status { min-height: 3rem; }
.status progress { width: 100%; height: .5rem; appearance: none; border: 0; border-radius: .25rem; overflow: hidden; }
.status progress, .status progress::-webkit-progress-bar { background: var(--border-color-primary); }
.status progress::-webkit-progress-value { background: var(--color-accent); }
.status progress::-moz-progress-bar { background: var(--color-accent); }
.wrong { color: #b91c1c; font-size: .9rem; }
.dark .wrong { color: #fca5a5; }
.hint { color: #92400e; font-size: .85rem; }
.dark .hint { color: #fbbf24; }
.quiet, .quiet p { color: var(--body-text-color-subdued); font-size: .85rem; }
.chips { display: flex; flex-wrap: wrap; gap: .25rem; align-items: center; font-size: .8rem; max-height: 11rem;
  overflow-y: auto; }
.chips .count { color: var(--body-text-color-subdued); margin-right: .25rem; }
.chips .chip { background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  border-radius: .4rem; padding: 0 .35rem; line-height: 1.5rem; }
.chips .chip small { color: var(--body-text-color-subdued); }
.chips .strange { border: 1px dashed #b45309; }
.dark .chips .strange { border-color: #fbbf24; }
.chips .cut { flex-basis: 100%; border-top: 1px dashed var(--color-accent); color: var(--body-text-color-subdued); }
.chips .hint { flex-basis: 100%; }
#comparison .image-container, #comparison .image-frame { padding-top: 14px; }  /* below its buttons */
.gallery .preview, #gallery .preview { background: var(--block-background-fill); backdrop-filter: none; }
table.steps { font-variant-numeric: tabular-nums; font-size: .85rem; width: 100%; border-collapse: collapse; }
table.steps, table.steps tr { border: 0 !important; }
table.steps th, table.steps td { padding: .2rem .5rem; text-align: left; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; font-weight: 400; }
.explained { overflow-x: auto; }
.explained figure { margin: .75rem 0 0; }
.explained code, .source code { font-size: .85rem; overflow-wrap: anywhere; }
.explained a, .source a { color: var(--color-accent); }
.dark .explained a, .dark .source a { color: #5eead4; }
.frames { display: flex; gap: .4rem; overflow-x: auto; padding: 4px; }
.frames button { flex: 0 0 auto; width: 64px; padding: 0; border: 0; border-radius: .3rem; overflow: hidden;
  background: none; cursor: pointer; }
.frames img { display: block; width: 64px; height: auto; margin: 0; image-rendering: pixelated; }
.source pre { overflow-x: auto; margin: .25rem 0 .75rem; font-size: .8rem; line-height: 1.5; }
.source pre i { color: var(--body-text-color-subdued); font-style: normal; user-select: none; }
.source mark { background: var(--color-accent-soft); color: inherit; border-radius: .2rem; }
.history .pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: .75rem; }
.history .card { border: 1px solid var(--border-color-primary); border-radius: .6rem; padding: .5rem;
  background: var(--block-background-fill); min-width: 0; }
.history img { width: 100%; aspect-ratio: 1; object-fit: contain; margin: 0; background: #fff; border-radius: .4rem; }
.history .words { font-size: .85rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; padding: .3rem 0; }
.history .line { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem .6rem; font-size: .8rem; }
.history .line > *, .history .empty { background: none; border: 0; margin: 0 !important; padding: 0; cursor: pointer;
  color: var(--color-accent); text-decoration: underline; font: inherit; }
.history .empty { margin-top: 1rem !important; font-size: .85rem; }
.dark .history .line > * { color: #5eead4; }
.dark .history .empty { color: #5eead4; }
:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
"""

# What stands around the page. Gradio puts the page's own selector before each rule of CSS, so these go into the head.
FRAME = """
.gradio-container, .main.fillable.app { width: 100%; }
footer .divider { display: none; }
@media (max-width: 760px) {
  .gradio-container { padding: 0 .5rem 2rem !important; }
  .main.fillable.app { padding-left: .25rem !important; padding-right: .25rem !important; }
}
"""

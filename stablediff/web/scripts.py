"""What the visitor's browser does itself."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Allowed = Mapping[str, Any] | None  # {"among": [...]} or {"low": ..., "high": ...}; None for any text

# Ctrl+Enter (or Cmd+Enter) presses the tab's main button; a dark or light choice is taken up again. A list that hears
# of the Tab it is left with opens again, over what follows: it is not told.
KEYS = """
document.addEventListener('keydown', event => {
  if (event.key === 'Tab' && event.target.getAttribute('role') === 'combobox') event.stopPropagation();
}, true);
document.addEventListener('keydown', event => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  const buttons = [...document.querySelectorAll('button.run')].filter(button => button.offsetParent !== null);
  if (buttons.length) { event.preventDefault(); event.stopPropagation(); buttons[0].click(); }
}, true);
document.addEventListener('DOMContentLoaded', () => {
  const dark = localStorage.getItem('stablediff-dark');
  if (dark !== null) document.body.classList.toggle('dark', dark === '1');
});
"""

TOGGLE_DARK = """() => {
  const dark = document.body.classList.toggle('dark');
  localStorage.setItem('stablediff-dark', dark ? '1' : '0');
}"""

_LANGUAGE = """(() => {
  const kept = localStorage.getItem('stablediff-language');
  return kept || ((navigator.language || '').startsWith('ru') ? 'ru' : 'en');
})()"""


def remember_job(tab: str) -> str:
    """A page that is opened again goes on with the job that it left; a new page with the one of the last page."""
    return f"""key => {{
  for (const place of [sessionStorage, localStorage]) place.setItem('stablediff-job-{tab}', key);
}}"""


def open_page(tabs: Iterable[str]) -> str:
    """-> the language, and of each tab the job that was left there."""
    names = json.dumps(list(tabs))
    return f"""() => {{
  const language = {_LANGUAGE};
  const left = name => [sessionStorage, localStorage].map(place => place.getItem('stablediff-job-' + name));
  document.documentElement.lang = language;
  return [language, ...{names}.map(name => left(name).find(key => key !== null) || '')];
}}"""


def remember(tab: str) -> str:
    """What the visitor has set stays in the browser. Controls tell of changes while a page is being built, too, before
    they were recalled: those are not the visitor's."""
    return f"""(...values) => {{
  if ((window.stablediffRecalled || {{}})['{tab}']) localStorage.setItem('stablediff-{tab}', JSON.stringify(values));
}}"""


def recall(tab: str, allowed: Sequence[Allowed]) -> str:
    """-> the controls as the visitor left them, but for what they cannot be any more. `allowed`: of each."""
    return f"""(...now) => {{
  const allowed = {json.dumps(allowed)};
  (window.stablediffRecalled ||= {{}})['{tab}'] = true;
  let kept = null;
  try {{ kept = JSON.parse(localStorage.getItem('stablediff-{tab}')); }} catch {{ }}
  if (!Array.isArray(kept) || kept.length !== now.length) return now;
  const fits = (value, rule) => rule === null ? typeof value === 'string'
    : 'among' in rule ? rule.among.includes(value)
    : typeof value === 'number' && value >= rule.low && value <= rule.high;
  return kept.map((value, place) => fits(value, allowed[place]) ? value : now[place]);
}}"""


# The language control may not have been set yet when the page opens.
WITH_LANGUAGE = f"(value, _language) => [value, {_LANGUAGE}]"

REMEMBER_LANGUAGE = """language => {
  localStorage.setItem('stablediff-language', language);
  document.documentElement.lang = language;
}"""

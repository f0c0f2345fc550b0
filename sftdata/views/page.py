"""Pages of one file: templates of this folder, with everything that is put into them escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from sftdata.views.visible import mark, mark_change, one_line, visible

FOLDER = Path(__file__).parent


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"number": number, "share": share, "percent": percent, "visible": visible, "one_line": one_line}
    environment.filters.update(filters, ends_shown=ends_shown)
    environment.globals.update(mark=mark, mark_change=mark_change)
    return environment


def fill_page(template: str, **values: Any) -> str:
    """Return a page made from a template of this folder."""
    page: str = _environment().get_template(template).render(**values)
    return page


def ends_shown(text: str) -> str:
    """Return a text with its invisible characters written out and a sign at the end of each line."""
    return visible(text).replace("\n", "⏎\n").replace("\t", "⇥\t")


def number(value: int) -> str:
    """Return a number with separators between thousands."""
    return f"{value:,}"


def share(part: float, whole: float) -> str:
    """Return the width of a bar, as CSS: never more than all of it."""
    return f"{min(100 * part / whole, 100) if whole else 0:.2f}%"


def percent(part: float, whole: float) -> str:
    """Return a share for a person to read; what is there is never shown as nothing."""
    if not whole:
        return "–"
    value = 100 * part / whole
    if 0 < value < 0.1:
        return "< 0.1 %"
    return f"{value:.1f} %" if value < 99.95 or value == 100 else f"{value:.2f} %"

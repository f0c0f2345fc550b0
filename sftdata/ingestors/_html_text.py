"""From a parsed page to text: a block begins a line, an inline element does not, and what is hidden never appears."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from bs4.element import NavigableString

_NEVER_SHOWN = frozenset(str.split("script style template noscript head title iframe object svg canvas audio video noframes"))
_BLOCKS = frozenset(
    str.split(
        "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
        "footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup option p pre section select "
        "summary table tbody tfoot thead tr ul"
    )
)
_CELLS = frozenset(("td", "th"))
BOILERPLATE = frozenset({"nav", "header", "footer", "aside", "form"})
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\n\r\f\v\xa0]+")


def hides(name: str, attributes: Mapping[str, Any]) -> bool:
    """Say whether an element is never shown: scripts and the like, `hidden`, `aria-hidden`, and hiding inline styles."""
    if name in _NEVER_SHOWN:
        return True
    if not attributes or name in ("html", "body"):  # whole pages are hidden only until their script runs
        return False
    if "hidden" in attributes or str(attributes.get("aria-hidden", "")).strip().lower() == "true":
        return True
    return bool(_HIDING_STYLE.search(str(attributes.get("style", ""))))


def is_shown(element: Tag) -> bool:
    """Say whether neither the element nor one that it stands in is hidden."""
    return not (hides(element.name, element.attrs) or any(hides(parent.name, parent.attrs) for parent in element.parents))


def element_text(element: Tag | BeautifulSoup, without: frozenset[str] = frozenset()) -> str:
    """Return an element's text, a line for each block, list item and table row; cells are parted by a tab.

    Runs of spaces become one and U+00A0 a space, except that `pre` keeps its lines and spaces; two line breaks (`br`) in a row
    leave an empty line. Elements named in `without` are left out.
    """
    lines = _Lines()
    for kind, value in _events(element, without):
        if kind == "text":
            lines.add(value)
        elif kind == "break":
            lines.feed()
        elif value in _CELLS:
            lines.cell(kind == "open")
        elif value == "pre":
            lines.pre(kind == "open")
        elif value in _BLOCKS:
            lines.block(kind == "open")
    return lines.text()


def _events(element: Tag, without: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield ("text", text), ("break", ""), ("open", name) and ("close", name) in order; no recursion, pages nest deep."""
    from bs4.element import NavigableString, Tag

    stack: list[object] = [element]
    while stack:
        node = stack.pop()
        if isinstance(node, str) and not isinstance(node, NavigableString):
            yield "close", node
        elif type(node) is NavigableString:  # its subclasses are comments, doctypes and the like
            text = str(node)
            yield "text", text.removeprefix("\n") if _begins_pre(node) else text
        elif isinstance(node, Tag):
            if node.name == "br":
                yield "break", ""
            elif node is element or not (hides(node.name, node.attrs) or node.name in without):
                yield "open", node.name
                stack.append(str(node.name))
                stack.extend(reversed(node.contents))


def _begins_pre(text: NavigableString) -> bool:
    """Say whether a line break at the beginning of a text is markup only."""
    return text.parent is not None and text.parent.name == "pre" and text.previous_sibling is None


class _Lines:
    """Text under construction: `_pending` is the white space that counts only if text follows."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._pending = ""
        self._cells: list[int] = []
        self._num_pre = 0

    def add(self, text: str) -> None:
        if self._num_pre:
            self._add_pre(text.replace("\xa0", " ").replace("\r\n", "\n").replace("\r", "\n"))
            return
        words = _SPACES.sub(" ", text)
        if words.startswith(" "):
            self._pending = self._pending or " "
        if words != " ":
            self._write(words.strip(" "))
            self._pending = " " if words.endswith(" ") else ""

    def _add_pre(self, text: str) -> None:
        body = text.rstrip("\n")
        if body:
            self._write(body)
            self._pending = text[len(body) :]
        else:
            self._pending += text

    def _write(self, text: str) -> None:
        if text:
            self._parts.append(self._pending if self._parts else "\t" * self._pending.count("\t"))
            self._parts.append(text)

    def block(self, opens: bool) -> None:
        if not (opens and self._pending.endswith("\t")):  # the first block of a cell stays on the row's line
            self._pending = "\n\n" if self._pending.count("\n") > 1 else "\n"

    def feed(self) -> None:
        self._pending = "\n\n" if "\n" in self._pending else "\n"

    def cell(self, opens: bool) -> None:
        if opens:
            self.block(opens)
            self._cells.append(len(self._parts))
        elif self._cells:
            is_empty = self._cells.pop() == len(self._parts)
            self._pending = self._pending + "\t" if is_empty else "\t"

    def pre(self, opens: bool) -> None:
        self.block(opens)
        self._num_pre += 1 if opens else -1

    def text(self) -> str:
        return "".join(self._parts).rstrip()

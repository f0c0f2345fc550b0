"""From a page's tree to text: a block begins a line, an inline element does not."""

from __future__ import annotations

import re

from sftdata.ingestors._html_tree import BLOCKS, CELLS, Element

_SPACES = re.compile(r"[\t\n\r\f\v\xa0][ \t\n\r\f\v\xa0]*| [ \t\n\r\f\v\xa0]+")
"""Spaces that are not one space already."""


def element_text(element: Element, without: frozenset[str] = frozenset()) -> str:
    """Return an element's text, a line for each block, list item and table row; cells are parted by a tab.

    Runs of spaces become one and U+00A0 a space, except that `pre` keeps its lines and spaces; two line breaks (`br`) in a row
    leave an empty line. Elements named in `without`, dropped ones and the lines of muted ones are left out.
    """
    lines = _Lines()
    stack: list[Element | str | tuple[str]] = [element]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            lines.add(node)
        elif isinstance(node, tuple):
            lines.mark(node[0], False)
        elif node.name == "br":
            lines.feed()
        elif node is element or not (node.is_dropped or node.name in without):
            lines.mark(node.name, True)
            stack.append((node.name,))
            if node.block.is_muted:
                stack.extend(child for child in reversed(node.children) if not isinstance(child, str))
            else:
                stack.extend(reversed(node.children))
    return lines.text()


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

    def mark(self, name: str, opens: bool) -> None:
        if name in CELLS:
            self._cell(opens)
        elif name in BLOCKS:
            self._block(opens)
            if name == "pre":
                self._num_pre += 1 if opens else -1

    def _block(self, opens: bool) -> None:
        if not (opens and self._pending.endswith("\t")):  # the first block of a cell stays on the row's line
            self._pending = "\n\n" if self._pending.count("\n") > 1 else "\n"

    def feed(self) -> None:
        self._pending = "\n\n" if "\n" in self._pending else "\n"

    def _cell(self, opens: bool) -> None:
        if opens:
            self._block(opens)
            self._cells.append(len(self._parts))
        elif self._cells:
            is_empty = self._cells.pop() == len(self._parts)
            self._pending = self._pending + "\t" if is_empty else "\t"

    def text(self) -> str:
        return "".join(self._parts).rstrip()

"""Where the main part of a page lies, found without a look at most of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, cast

from sftdata.ingestors._html_main import DOUBTS_DENIED, FILLED, FREE, SURE_NAMES, name_doubt
from sftdata.ingestors._html_tree import element_names, hides

if TYPE_CHECKING:
    import turbohtml

_ENOUGH = 200
"""Characters of paragraphs side by side from which they are taken for the main part without a look at the rest."""


def main_region(document: turbohtml.Document) -> turbohtml.Element | None:
    """Return the element around the page's paragraphs (`p`) that hold the main part; None where they have too little text.

    Only those are looked at: a page takes a tenth of the time of `keep_main`, which then has only that element to judge.
    """
    lengths: dict[Any, int] = {}
    for paragraph in document.find_all("p"):
        num_chars = len(paragraph.text) - FREE
        if num_chars > 0:
            around: Any = paragraph.parent
            lengths[around] = lengths.get(around, 0) + num_chars
    standing: dict[Any, int] = {}
    lengths = {node: length for node, length in lengths.items() if _standing(node, standing) != _HIDDEN}
    sure = {node: length for node, length in lengths.items() if standing[node] == _SHOWN}
    if sum(sure.values()) > (1 - DOUBTS_DENIED[2]) * sum(lengths.values()):
        lengths = sure
    best = max(lengths, key=lengths.__getitem__, default=None)
    if best is None or lengths[best] < _ENOUGH:
        return None
    held: dict[Any, int] = {}
    for node, length in lengths.items():
        for around in _nodes_around(node):
            held[around] = held.get(around, 0) + length
    for around in _nodes_around(best):
        if held[around] * FILLED > held[best] or (around is best.parent and _num_alike(best, held) > 1):
            best = around
    return cast("turbohtml.Element", best)


def _num_alike(node: Any, held: Collection[Any]) -> int:
    """Count the siblings, the node itself one of them, that hold paragraphs and have its name and classes."""
    kind = node.tag, node.attr("class")
    siblings = [other for other in node.parent.children if other in held] if kind[1] else []
    return sum((other.tag, other.attr("class")) == kind for other in siblings)


def _nodes_around(node: Any) -> Iterator[Any]:
    """Yield a parsed element and all that it stands in, the document not."""
    while node.parent is not None:
        yield node
        node = node.parent


_SHOWN, _IN_BOILERPLATE, _HIDDEN = 0, 1, 2


def _standing(node: Any, known: dict[Any, int]) -> int:
    """Say what an element stands in; `known` keeps the answers for it and all that it stands in, which others share."""
    path = []
    for around in _nodes_around(node):
        if around in known:
            break
        path.append(around)
    standing = known.get(path[-1].parent if path else node, _SHOWN)
    for around in reversed(path):
        standing = known[around] = max(standing, _own_standing(around))
    return standing


def _own_standing(node: Any) -> int:
    if not hasattr(node, "tag") or hides(node.tag, node.attrs):  # what a template holds is a fragment, which has no name
        return _HIDDEN
    if node.tag in SURE_NAMES:
        return _IN_BOILERPLATE
    return int(node.tag not in ("html", "body") and bool(node.attrs) and name_doubt(element_names(node)) == 2)

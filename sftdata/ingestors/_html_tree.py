"""A page as a light tree: what it shows, in order, with the counts from which its main part is found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import turbohtml
    from bs4 import BeautifulSoup, Tag

_NEVER_SHOWN = frozenset(str.split("script style template noscript head title iframe object svg canvas audio video noframes"))
BLOCKS = frozenset(
    str.split(
        "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure "
        "footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup option p pre section select "
        "summary table tbody tfoot thead tr ul"
    )
)
CELLS = frozenset(("td", "th"))
_OWN_LINES = BLOCKS | CELLS
_HIDING_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


class Element:
    """An element that is shown. `children` are elements and texts; parents come before children in `Tree.elements`."""

    num_chars = 0
    """Characters of a block's own text, without the white space around each piece."""
    num_linked = 0
    """Those of them that are in links."""
    part_chars = part_linked = 0
    """The same with those of all blocks inside."""
    own_value = value = held = 0.0
    """What a block's own text is worth, what the whole element is, and what it is at most."""
    doubt = 0
    """How sure its name says that it is boilerplate: 0, 1 or 2."""
    is_dropped = False
    """Left out with all that is in it."""
    is_muted = False
    """Left out but for the blocks in it."""

    def __init__(self, name: str, names: str, parent: Element | None) -> None:
        self.name = name
        self.names = names
        """Classes, `#id`, `@role` and `@itemprop`, as the page writes them."""
        self.parent = parent
        self.children: list[Element | str] = []
        self.block: Element = self
        """The block whose lines the element's text is part of."""
        self.in_link = name == "a"
        self.depth = 0
        if parent is not None:
            self.depth = parent.depth + 1
            self.in_link = parent.in_link or self.in_link
            if name not in _OWN_LINES:
                self.block = parent.block
                return
        self.texts: list[str] = []
        """The text of a block, without that of the blocks in it."""


class Tree(NamedTuple):
    """A page."""

    elements: list[Element]
    """The elements that are shown; the first is the page."""
    num_solid: int
    """Characters of all texts but scripts and the like, hidden ones too, spaces not counted."""
    num_attributes: int
    """Attributes of the element that has most."""


def hides(name: str, attributes: Mapping[str, Any]) -> bool:
    """Say whether an element is never shown: scripts and the like, `hidden`, `aria-hidden`, and hiding inline styles."""
    if name in _NEVER_SHOWN or (name == "dialog" and "open" not in attributes):
        return True
    if not attributes or name in ("html", "body"):  # whole pages are hidden only until their script runs
        return False
    if "hidden" in attributes:
        return True
    if "style" in attributes and _HIDING_STYLE.search(str(attributes["style"])):
        return True
    return "aria-hidden" in attributes and str(attributes["aria-hidden"]).strip().lower() == "true"


def is_shown(element: Tag) -> bool:
    """Say whether neither the element nor one that it stands in is hidden."""
    return not (hides(element.name, element.attrs) or any(hides(parent.name, parent.attrs) for parent in element.parents))


def read_tree(node: turbohtml.Document | turbohtml.Element) -> Tree:
    """Return a page, or an element of one, as HTML's own parsing rules read it; no recursion, pages nest deep."""
    from turbohtml import Element as Node
    from turbohtml import Text

    root = Element("", "", None)
    elements, texts, num_attributes = [root], [], 0
    stack: list[tuple[Any, Element]] = [(node, root)]
    while stack:
        parent_node, parent = stack.pop()
        for child in parent_node.children:
            kind = type(child)
            if kind is Text:
                texts.append(_add_text(parent, child.data))
            elif kind is Node:
                name, attributes = child.tag, child.attrs
                if attributes and len(attributes) > num_attributes:
                    num_attributes = len(attributes)
                if name in _NEVER_SHOWN:
                    continue
                if hides(name, attributes):
                    texts.append(child.text)
                    continue
                element = Element(name, element_names(child) if attributes else "", parent)
                parent.children.append(element)
                elements.append(element)
                stack.append((child, element))
    return Tree(elements, _num_solid(texts), num_attributes)


def read_soup(soup: Tag | BeautifulSoup) -> Tree:
    """Return what BeautifulSoup has parsed, the element itself first."""
    from bs4.element import NavigableString
    from bs4.element import Tag as Node

    root = Element(soup.name, "", None)
    elements, texts = [root], []
    stack: list[tuple[Any, Element]] = [(soup, root)]
    while stack:
        node, parent = stack.pop()
        for child in node.contents:
            if type(child) is NavigableString:  # its subclasses are comments, doctypes, scripts and the like
                begins_pre = parent.name == "pre" and not parent.children
                texts.append(_add_text(parent, str(child).removeprefix("\n") if begins_pre else str(child)))
            elif isinstance(child, Node):
                if not hides(child.name, child.attrs):
                    element = Element(child.name, _soup_names(child), parent)
                    parent.children.append(element)
                    elements.append(element)
                    stack.append((child, element))
                else:
                    texts.append(child.get_text())
    return Tree(elements, _num_solid(texts), 0)


def element_names(node: turbohtml.Element) -> str:
    """Return what an element's author calls it, as `Element.names` has it."""
    attributes = node.attrs
    names = node.attr("class") or "" if "class" in attributes else ""  # to ask first takes a third of the time
    if "id" in attributes:
        names += f" #{node.attr('id')}"
    if "role" in attributes:
        names += f" @{node.attr('role')}"
    if "itemprop" in attributes:
        names += f" @{node.attr('itemprop')}"
    return names


def _soup_names(tag: Tag) -> str:
    marks = (f"{mark}{tag[name]}" for name, mark in (("id", "#"), ("role", "@"), ("itemprop", "@")) if tag.has_attr(name))
    return " ".join((*(tag.get_attribute_list("class") if tag.has_attr("class") else ()), *marks))


def _add_text(parent: Element, text: str) -> str:
    parent.children.append(text)
    if not text.isspace():
        num_chars, block = len(text.strip()), parent.block
        block.texts.append(text)
        block.num_chars += num_chars
        if parent.in_link:
            block.num_linked += num_chars
    return text


def _num_solid(texts: Iterable[str]) -> int:
    return len("".join("".join(texts).split()))

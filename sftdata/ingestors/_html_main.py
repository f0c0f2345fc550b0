"""The main part of a page: every block of text has a value, the part that holds the page's value is found, and what in it is
boilerplate left out.

A method of our own after two known ideas: the part with the largest sum of block values (Pasternack and Roth, *Extracting
article text from the web with maximum subsequence segmentation*, WWW 2009) and telling names of classes (Readability).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from sftdata.ingestors._html_tree import CELLS, Element

_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_TEXTUAL = _HEADINGS | frozenset(str.split("p pre blockquote li dd dt td th tr tbody table ul ol dl code"))
_LEAVES = frozenset(str.split("p li td th tr tbody table pre span b blockquote ul ol dl"))
_LISTS = frozenset(str.split("ul ol dl table div section"))
_SENTENCE = re.compile(r"[.!?…:;,]['\"”’)»]?(?:\s|$)|[。！？，、；：]")

FREE = 20
"""Characters that a block must have before it is worth anything: menu entries and labels have fewer."""
_DEBT = -15.0
"""The least that a part counts for the one around it: long menus do not outweigh an article."""
_LINK_PRICE = 2
"""Characters of text that one character in a link takes away."""
FILLED = 0.83
"""Share of the value from which a part stands for the one around it."""
_MEANT = 0.4
"""The same for a part that the page itself declares to be the article."""
_PIECE = 0.05
"""The same for each of the pieces that such an article is in."""
DOUBTS_DENIED = {1: 0.4, 2: 0.9}
"""Share of the page's text from which a part cannot be boilerplate, by how sure its name says that it is."""
_LEAD = 0.3
"""Share of the value that may stand before the headline, and is left out with it."""

SURE_NAMES = frozenset(("nav", "footer", "aside", "form", "figcaption", "menu", "button", "select", "textarea", "dialog"))
_SURE = (
    r"foot|footer|footnav|nav|navbar|navigation|menu|breadcrumbs?|comments?|commentlist|disqus|cookies?|sidebar|rail|outbrain"
    r"|taboola|newsletter|login|masthead|modal|popup|overlay|tooltip|skip|share|sharing|social"
)
_LIKELY = (
    r"ads?|advert\w*|banner|breadcrumb\w*|byline|caption|comment\w*|cookie\w*|copyright|disqus\w*|dateline|footer\w*|meta"
    r"|metadata|newsletter\w*|pager|pagination|postmeta|print|promo\w*|recirc\w*|recommend\w*|related\w*|respond|rss|share\w*"
    r"|sidebar\w*|signup|social\w*|sponsor\w*|subscribe\w*|subscription|tags?|teaser\w*|toolbar|trending|widget\w*|popular\w*"
    r"|author\w*|credits?|toc|shoutbox"
)
_WORD = r"(?:^|[\s_-])(?:%s)(?=$|[\s_-])"
_IS_SURE = re.compile(_WORD % _SURE, re.IGNORECASE)
_IS_LIKELY = re.compile(_WORD % f"{_SURE}|{_LIKELY}", re.IGNORECASE)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ARTICLE = re.compile(
    r"article[-_]?(?:body|text|content)|(?:entry|post|body)[-_]?(?:content|text)|post[-_]?body|story[-_]?body|(?:^|\s)@(?:main|article)",
    re.IGNORECASE,
)


def keep_main(elements: Sequence[Element]) -> Element | None:
    """Find the main part among a page's elements and mark in it what is left out; None where nothing is worth keeping."""
    _doubt(elements)
    _measure(elements)
    main = _narrowed(max(elements, key=_worth))
    if main.value <= 0:
        return None
    main = _declared(elements, main)
    _leave_out(elements, main)
    _leave_out_headline(elements, main)
    return main


def _worth(element: Element) -> float:
    return element.value if not element.doubt else -1.0


# Which elements are doubtful by their name.


def _doubt(elements: Sequence[Element]) -> None:
    for element in elements:
        if element.name in SURE_NAMES:
            element.doubt = 2
        elif element.names and element.name not in ("html", "body"):
            element.doubt = name_doubt(element.names)


@lru_cache(maxsize=1 << 14)
def name_doubt(names: str) -> int:
    """Return how sure an element's names say that it is boilerplate: 0, 1 or 2."""
    text = _HUMP.sub("-", _telling(names).replace("@", ""))
    if not _IS_LIKELY.search(text):
        return 0
    return 2 if _IS_SURE.search(text) else 1


def _telling(names: str) -> str:
    """Leave out long names: these are slugs, made of a title, that tell what a part is about, not what it does."""
    if names.count("-") + names.count("_") > 2:
        is_slug = (name.count("-") + name.count("_") > (2 if name.startswith("#") else 4) for name in names.split())
        names = " ".join(name for name, slug in zip(names.split(), is_slug, strict=True) if not slug)
    return names.replace("#", "")


# What blocks and parts are worth.


def _measure(elements: Sequence[Element]) -> None:
    """Give every element its value: that of its own block and, where they are not in doubt, of the parts in it."""
    total = 0.0
    for element in elements:
        element.value = 0.0
        if element.num_chars:
            element.value = element.own_value = _block_value(element)
            total += max(element.value, 0.0)
    _deny_doubts(elements, total)
    for element in reversed(elements):
        element.part_chars += element.num_chars
        element.part_linked += element.num_linked
        around = element.parent
        if around is not None and not element.doubt:
            around.value += max(element.value, _DEBT)
            around.part_chars += element.part_chars
            around.part_linked += element.part_linked


def _block_value(block: Element) -> float:
    """Return the worth of a block: its characters, less those in links; negative for labels, menus and the like.

    A character counts as the mean of 1 and its bytes in UTF-8, so that Chinese, which needs half as many, is not worth less.
    """
    if block.name in _HEADINGS:
        return 0.0
    text = " ".join(block.texts)
    weight = 1.0 if text.isascii() else (1 + len(text.encode("utf-8", "replace")) / len(text)) / 2
    value = weight * (block.num_chars - (1 + _LINK_PRICE) * block.num_linked) - FREE
    if weight * block.num_chars <= FREE or not _SENTENCE.search(text):
        value = min(value, FREE) - FREE
    return value + FREE if block.name in ("p", "pre", "blockquote") else value


def _deny_doubts(elements: Sequence[Element], total: float) -> None:
    """Take back the doubt about parts that hold so much of the page's text that nothing would be left without them."""
    for element in reversed(elements):
        if element.value > 0:
            element.held += element.value
        if element.doubt and element.held > DOUBTS_DENIED[element.doubt] * total:
            element.doubt = 0
        if element.held and element.parent is not None:
            element.parent.held += element.held


# Where the main part is, and what in it is not part of it.


def _narrowed(part: Element) -> Element:
    """Return the innermost part that holds nearly all that `part` is worth."""
    while True:
        inner = max((child for child in part.children if isinstance(child, Element)), key=_worth, default=None)
        if inner is None or inner.name in _LEAVES or _worth(inner) <= FILLED * part.value or _has_twin(inner, part):
            return part
        part = inner


def _has_twin(inner: Element, part: Element) -> bool:
    """Say whether a part with a class has a sibling with the same that holds text: an answer beside answers."""
    classes = _classes(inner)
    return bool(classes) and any(
        isinstance(child, Element)
        and child is not inner
        and _worth(child) > 0
        and (child.name, _classes(child)) == (inner.name, classes)
        for child in part.children
    )


def _classes(element: Element) -> str:
    return element.names.partition("#")[0].partition("@")[0].strip()


def _declared(elements: Sequence[Element], part: Element) -> Element:
    """Return the part of `part` that the page declares to be its article, or its parts where it has several; else `part`."""
    least = _PIECE * part.value
    declared = [element for element in elements if _worth(element) > least and _is_declared(element)]
    declared = [element for element in declared if _is_inside(element, part)]
    large = [element for element in declared if element.value > _MEANT * part.value]
    if not large:
        return part
    article = min(large, key=_worth)
    names = {*article.names.split()}
    pieces = [
        element for element in declared if not names.isdisjoint(element.names.split()) and not _is_inside(article, element)
    ]
    return next(around for around in _around(article) if all(_is_inside(piece, around) for piece in pieces))


def _is_declared(element: Element) -> bool:
    """Say whether the page calls the element its article: by its name, role, microdata, or a class that many sites use."""
    if element.name in ("article", "main"):
        return True
    if not element.names or element.name in _LEAVES:
        return False
    return _names_article(element.names)


@lru_cache(maxsize=8192)
def _names_article(names: str) -> bool:
    return bool(_ARTICLE.search(_telling(names)))


def _is_inside(element: Element, part: Element) -> bool:
    return any(around is part for around in _around(element))


def _around(element: Element) -> Iterator[Element]:
    """Yield an element and all that it stands in, from inside out."""
    around: Element | None = element
    while around is not None:
        yield around
        around = around.parent


def _leave_out(elements: Sequence[Element], main: Element) -> None:
    """Drop parts in doubt and lists of links; mute lines that are links or labels."""
    for element in elements:
        if element is main:
            continue
        num_chars = element.num_chars
        if element.doubt or _is_link_list(element):
            element.is_dropped = True
        elif num_chars and element.name not in CELLS and (
            (element.num_linked > 0.5 * num_chars and num_chars < 200)
            or (element.name not in _TEXTUAL and element.own_value < 0)
        ):
            element.is_muted = True


def _is_link_list(element: Element) -> bool:
    return element.name in _LISTS and element.value < 0 and element.part_linked > 0.5 * element.part_chars


def _leave_out_headline(elements: Sequence[Element], main: Element) -> None:
    """Drop the first headline, which is the page's title, and what little stands before it."""
    headline = next((element for element in elements if element.name == "h1" and element.num_chars), None)
    if headline is None or headline is main or not _is_inside(headline, main):
        return
    before = [headline]
    for part in _around(headline):
        if part is main or part.parent is None:
            break
        siblings = part.parent.children
        before.extend(child for child in siblings[: siblings.index(part)] if isinstance(child, Element))
    if sum(max(part.value, 0.0) for part in before if not part.is_dropped) < _LEAD * main.value:
        for part in before:
            part.is_dropped = True

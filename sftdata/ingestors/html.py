"""HTML pages: the text of chosen elements, of the whole page, or of its main part without boilerplate."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

from sftdata.errors import RecipeError
from sftdata.ingestors import _html_scan as scanning
from sftdata.ingestors._html_head import read_metadata
from sftdata.ingestors._html_main import keep_main
from sftdata.ingestors._html_region import main_region
from sftdata.ingestors._html_text import element_text
from sftdata.ingestors._html_tree import Tree, is_shown, read_soup, read_tree
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.schemas import QUARANTINE_BYTES
from sftdata.sources import InputFile

if TYPE_CHECKING:
    import turbohtml
    from bs4 import BeautifulSoup, Tag

Mode = Literal["select", "text", "main", "main_fast"]
Per = Literal["match", "page"]

_BOILERPLATE = frozenset({"nav", "header", "footer", "aside", "form"})
"""Elements that are left out of a page in which no main part is found."""
_KEPT = 0.9
"""Share of the visible characters that a parser must keep; below, it has lost text."""
_SLACK = 50
"""Characters that count as nothing lost: text between stray markup, which parsers read differently."""
_LOST = "both parsers lose text that the page shows"


class _Page(NamedTuple):
    data: bytes
    text: str


@ingestor(
    suffixes=(".html", ".htm", ".xhtml"), libraries=("beautifulsoup4", "lxml", "Resiliparse", "soupsieve", "turbohtml")
)
def html(
    file: InputFile,
    *,
    select: str | None = None,
    per: Per = "match",
    fields: dict[str, str] | None = None,
    mode: Mode | None = None,
) -> Iterator[Record | Bad]:
    """Read a page's text: its main part without boilerplate, all of it, or the elements that `select` (CSS) matches.

    Fields: text, title, url (canonical), language, date (ISO), each "" where the page does not tell. `fields` adds more, or
    replaces these, by CSS: looked for inside the record's element, then in the page; several matches are joined by line breaks.
    `mode`: `select` (the default where a selector is given; a record for each match, or with `per: page` one for all matches
    of a page), `text` (all that is shown), `main` (the default), or `main_fast` (the same, but only paragraphs are looked at to
    find the main part, and lost text is not looked for). Blocks begin lines, cells are parted by tabs, `pre` keeps its lines,
    hidden elements and scripts never appear. A page over 16 MiB, 200,000 elements, 512 nested ones or 10,000 attributes in a
    tag is bad, and so is one whose text no parser keeps.
    """
    chosen = _mode(mode, select, per)
    for selector in (select, *(fields or {}).values()):
        _check_selector(selector)
    data = file.read(scanning.MAX_BYTES + 1)
    if len(data) > scanning.MAX_BYTES:
        yield _bad(data, "html_limits", f"more than {scanning.MAX_BYTES:,} bytes")
        return
    page = _Page(data, scanning.decode_page(data))
    if chosen == "select" or fields:
        # BeautifulSoup reads the page: its parsers need every limit, and the exact count of what they must keep.
        yield from _by_selectors(page, chosen, select, per, fields or {})
    else:
        yield _whole(page, chosen)


def _mode(mode: Mode | None, select: str | None, per: Per) -> Mode:
    if mode == "select" and select is None:
        raise RecipeError("mode: select needs a selector: select: article")
    if mode not in (None, "select") and select is not None:
        raise RecipeError(f"mode: {mode} does not take a selector; leave out select or the mode")
    if per == "page" and select is None:
        raise RecipeError("per: page joins what a selector matches; without one a page is one record anyway")
    return mode or ("main" if select is None else "select")


def _check_selector(selector: str | None) -> None:
    import soupsieve

    if selector is None:
        return
    try:
        soupsieve.compile(selector)
    except (soupsieve.SelectorSyntaxError, NotImplementedError) as error:
        raise RecipeError(f"selector {selector!r} is not CSS: {str(error).partition(chr(10))[0]}") from error


def _bad(data: bytes, reason: str, place: str, number: int = 0) -> Bad:
    return Bad(str(number), reason, place, data[:QUARANTINE_BYTES])


def _over_limit(page: _Page, scan: scanning.Scan) -> Bad | None:
    if scan.depth > scanning.MAX_DEPTH:
        return _bad(page.data, "html_limits", f"{scan.depth:,} nested elements, the limit is {scanning.MAX_DEPTH}")
    if scan.num_elements > scanning.MAX_ELEMENTS:
        return _bad(page.data, "html_limits", f"{scan.num_elements:,} elements, the limit is {scanning.MAX_ELEMENTS:,}")
    if scan.num_attributes > scanning.MAX_ATTRIBUTES:
        return _bad(page.data, "html_limits", f"{scan.num_attributes:,} attributes in a tag, over {scanning.MAX_ATTRIBUTES:,}")
    return None


# A page as a whole.


@contextmanager
def _collection_later() -> Iterator[None]:
    """Put off the collection of cyclic garbage: a tree in the making has none, and to look for it takes a fifth of the time."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


@_collection_later()
def _whole(page: _Page, mode: Mode) -> Record | Bad:
    import turbohtml

    document = turbohtml.parse(page.text)
    region = main_region(document) if mode == "main_fast" else None
    text = _text_of(page, region, mode) if region is not None else ""
    text = text or _text_of(page, document, "main" if mode == "main_fast" else mode)
    if isinstance(text, Bad):
        return text
    if not text:
        return _bad(page.data, "no_text", "the page shows no text")
    return Record("0", {"text": text, **read_metadata(document, page.text)})


def _text_of(page: _Page, node: turbohtml.Document | turbohtml.Element, mode: Mode) -> str | Bad:
    """Return what a page or a region of it shows; what lies in it is read again by the slow parser where text is lost."""
    tree = read_tree(node)
    if _is_extreme(tree):
        over = _over_limit(page, scanning.scan_page(page.text))
        if over is not None:
            return over
    if mode != "main_fast" and _loses(tree.num_solid, page.text):
        soup = _soup(page.text, "html.parser")
        tree = read_soup(soup)
        if _loses(tree.num_solid, page.text):
            return _bad(page.data, "html_lost_text", _LOST)
    return _main_text(tree) if mode != "text" else element_text(tree.elements[0])


def _is_extreme(tree: Tree) -> bool:
    """Say whether a page may be over a limit, which the exact count then decides; the parser itself nests 512 elements."""
    deepest = max(element.depth for element in tree.elements)
    return (
        deepest > 0.9 * scanning.MAX_DEPTH
        or len(tree.elements) > scanning.MAX_ELEMENTS
        or tree.num_attributes > scanning.MAX_ATTRIBUTES
    )


def _loses(num_solid: int, text: str) -> bool:
    """Say whether a parser has kept fewer characters than stand outside the page's tags: by an estimate, and then exactly."""
    return _too_few(num_solid, scanning.estimate_visible(text)) and _too_few(num_solid, scanning.scan_page(text).num_visible)


def _too_few(num_solid: int, num_visible: int) -> bool:
    return num_solid < _KEPT * num_visible - _SLACK


def _main_text(tree: Tree) -> str:
    """Return the main part; where there is none, all but the elements made for boilerplate, and then the whole page."""
    main = keep_main(tree.elements)
    text = element_text(main) if main is not None else ""
    if not text:
        for element in tree.elements:
            element.is_dropped = element.is_muted = False
        text = element_text(tree.elements[0], _BOILERPLATE) or element_text(tree.elements[0])
    return text


# Elements and fields by CSS.


def _by_selectors(page: _Page, mode: Mode, select: str | None, per: Per, fields: dict[str, str]) -> Iterator[Record | Bad]:
    import turbohtml

    scan = scanning.scan_page(page.text)
    over = _over_limit(page, scan)
    if over is not None:
        yield over
        return
    soup = _parse(page.text, scan)
    if soup is None:
        yield _bad(page.data, "html_lost_text", _LOST)
    elif select is not None:
        metadata = read_metadata(turbohtml.parse(page.text), page.text)
        yield from _matches(page, soup, select, per, fields, metadata)
    else:
        row = _whole(page, mode)
        if isinstance(row, Record):
            row.fields.update({name: _field(soup, selector, soup) for name, selector in fields.items()})
        yield row


def _matches(
    page: _Page, soup: BeautifulSoup, select: str, per: Per, fields: dict[str, str], metadata: dict[str, str]
) -> Iterator[Record | Bad]:
    found = soup.select(select)
    if not found:
        yield _bad(page.data, "no_match", f"no element matches {select!r}")
        return
    groups = [found] if per == "page" else [[element] for element in found]
    for number, elements in enumerate(groups):
        text = "\n".join(filter(None, map(_shown_text, elements)))
        if text:
            around = elements[0] if per == "match" else soup
            extra = {name: _field(around, selector, soup) for name, selector in fields.items()}
            yield Record(str(number), {"text": text, **metadata, **extra})
        else:
            yield _bad(page.data, "no_text", f"match {number} of {select!r} shows no text", number)


def _field(element: Tag, selector: str, soup: BeautifulSoup) -> str:
    found = element.select(selector) or soup.select(selector)
    return "\n".join(filter(None, map(_shown_text, found)))


def _shown_text(element: Tag) -> str:
    return element_text(read_soup(element).elements[0]) if is_shown(element) else ""


def _parse(text: str, scan: scanning.Scan) -> BeautifulSoup | None:
    """Parse the page with lxml; with the slower html.parser where lxml loses text; None where that one does too."""
    if scan.depth <= scanning.LXML_DEPTH and scan.longest_text <= scanning.LXML_TEXT:
        soup = _soup(text, "lxml")
        if not _too_few(_num_solid(soup), scan.num_visible):
            return soup
    soup = _soup(text, "html.parser")
    return None if _too_few(_num_solid(soup), scan.num_visible) else soup


def _num_solid(soup: BeautifulSoup) -> int:
    return len("".join(soup.get_text().split()))


def _soup(text: str, parser: str) -> BeautifulSoup:
    from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, XMLParsedAsHTMLWarning
    from bs4.exceptions import ParserRejectedMarkup

    with warnings.catch_warnings():
        # XHTML is read as HTML, and a page may be a line of plain text, on purpose.
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        try:
            return BeautifulSoup(text, parser)
        except ParserRejectedMarkup:  # an empty tree fails the check of what was kept
            return BeautifulSoup("", parser)

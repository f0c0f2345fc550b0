"""HTML pages: the text of chosen elements, of the whole page, or of its main part without boilerplate."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sftdata.errors import RecipeError
from sftdata.ingestors import _html_scan as scanning
from sftdata.ingestors._html_text import BOILERPLATE, element_text, hides, is_shown
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.schemas import QUARANTINE_BYTES
from sftdata.sources import InputFile

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

Mode = Literal["select", "text", "main"]

_HEAD_CHARS = 1 << 18
"""Characters in which a page's title, address, language and date are looked for, where its head has no end."""
_SHORT = 1000
"""Visible characters below which a page is too short for the extractor, which then glues and cuts text."""
_KEPT = 0.9
"""Share of the visible characters that a parser must keep; below, it has lost text."""
_SLACK = 50
"""Characters that count as nothing lost: text between stray markup, which parsers read differently."""


class _Page(NamedTuple):
    data: bytes
    text: str
    scan: scanning.Scan


@ingestor(suffixes=(".html", ".htm", ".xhtml"), libraries=("beautifulsoup4", "lxml", "Resiliparse", "soupsieve", "trafilatura"))
def html(
    file: InputFile,
    *,
    select: str | None = None,
    fields: dict[str, str] | None = None,
    mode: Mode | None = None,
) -> Iterator[Record | Bad]:
    """Read a page's text: one record for each element that `select` (CSS) matches, or the main part of the page.

    Fields: text, title, url (canonical), language, date (ISO), each "" where the page does not tell. `fields` adds more, or
    replaces these, by CSS: looked for inside the record's element, then in the page; several matches are joined by line breaks.
    `mode`: `select`, `text` (all that is shown) or `main` (boilerplate removed); by default select where a selector is given,
    else main. Blocks begin lines, cells are parted by tabs, `pre` keeps its lines, hidden elements and scripts never appear.
    A page over 16 MiB, 200,000 elements, 512 nested ones or 10,000 attributes in a tag is bad, and so is one whose text no
    parser keeps.
    """
    chosen = _mode(mode, select)
    for selector in (select, *(fields or {}).values()):
        _check_selector(selector)
    data = file.read(scanning.MAX_BYTES + 1)
    page = _Page(data, scanning.decode_page(data), scanning.Scan(0, 0, 0, 0, 0))
    broken = _over_limit(page)
    if broken is None:
        page = page._replace(scan=scanning.scan_page(page.text))
        broken = _over_limit(page)
    if broken is not None:
        yield broken
    elif chosen == "select":
        yield from _selected(page, str(select), fields or {})
    else:
        yield _whole(page, chosen, fields or {})


def _mode(mode: Mode | None, select: str | None) -> Mode:
    if mode is None:
        return "main" if select is None else "select"
    if mode == "select" and select is None:
        raise RecipeError("mode: select needs a selector: select: article")
    if mode != "select" and select is not None:
        raise RecipeError(f"mode: {mode} does not take a selector; leave out select or the mode")
    return mode


def _check_selector(selector: str | None) -> None:
    import soupsieve

    if selector is None:
        return
    try:
        soupsieve.compile(selector)
    except (soupsieve.SelectorSyntaxError, NotImplementedError) as error:
        raise RecipeError(f"selector {selector!r} is not CSS: {str(error).partition(chr(10))[0]}") from error


def _over_limit(page: _Page) -> Bad | None:
    scan = page.scan
    if len(page.data) > scanning.MAX_BYTES:
        return _bad(page, "html_limits", f"more than {scanning.MAX_BYTES:,} bytes")
    if scan.depth > scanning.MAX_DEPTH:
        return _bad(page, "html_limits", f"{scan.depth:,} nested elements, the limit is {scanning.MAX_DEPTH}")
    if scan.num_elements > scanning.MAX_ELEMENTS:
        return _bad(page, "html_limits", f"{scan.num_elements:,} elements, the limit is {scanning.MAX_ELEMENTS:,}")
    if scan.num_attributes > scanning.MAX_ATTRIBUTES:
        return _bad(page, "html_limits", f"{scan.num_attributes:,} attributes in a tag, over {scanning.MAX_ATTRIBUTES:,}")
    return None


def _bad(page: _Page, reason: str, place: str, number: int = 0) -> Bad:
    return Bad(str(number), reason, place, page.data[:QUARANTINE_BYTES])


def _selected(page: _Page, select: str, fields: dict[str, str]) -> Iterator[Record | Bad]:
    soup = _parse(page)
    if soup is None:
        yield _bad(page, "html_lost_text", "both parsers lose text that the page shows")
        return
    matches = soup.select(select)
    if not matches:
        yield _bad(page, "no_match", f"no element matches {select!r}")
        return
    metadata = _metadata(soup)
    for number, element in enumerate(matches):
        text = element_text(element) if is_shown(element) else ""
        if text:
            extra = {name: _field(element, selector, soup) for name, selector in fields.items()}
            yield Record(str(number), {"text": text, **metadata, **extra})
        else:
            yield _bad(page, "no_text", f"match {number} of {select!r} shows no text", number)


def _whole(page: _Page, mode: Mode, fields: dict[str, str]) -> Record | Bad:
    text = _main_text(page) if mode == "main" else ""
    soup = None
    if fields or not text:
        soup = _parse(page)
        if soup is None:
            return _bad(page, "html_lost_text", "both parsers lose text that the page shows")
        # Where the extractor finds no main part, all but the elements made for boilerplate stands for it.
        text = text or element_text(soup, BOILERPLATE if mode == "main" else frozenset())
    if not text:
        return _bad(page, "no_text", "the page shows no text")
    metadata = _metadata(soup or _head(page.text))
    extra = {name: _field(soup, selector, soup) for name, selector in fields.items()} if soup else {}
    return Record("0", {"text": text, **metadata, **extra})


def _field(element: Tag, selector: str, soup: BeautifulSoup) -> str:
    found = element.select(selector) or soup.select(selector)
    return "\n".join(filter(None, (element_text(match) for match in found if is_shown(match))))


def _parse(page: _Page) -> BeautifulSoup | None:
    """Parse the page with lxml; with the slower html.parser where lxml loses text; None where that one does too."""
    if _lxml_reads(page.scan):
        soup = _soup(page.text, "lxml")
        if _keeps(soup.get_text(), page.scan):
            return soup
    soup = _soup(page.text, "html.parser")
    return soup if _keeps(soup.get_text(), page.scan) else None


def _lxml_reads(scan: scanning.Scan) -> bool:
    return scan.depth <= scanning.LXML_DEPTH and scan.longest_text <= scanning.LXML_TEXT


def _keeps(text: str, scan: scanning.Scan) -> bool:
    return len("".join(text.split())) >= _KEPT * scan.num_visible - _SLACK


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


# The main part.

_SPACE, _PICTURES = "\n\t ", "\u240a\u2409\u2420"
"""White space, which the extractor would fold in `pre`, and Unicode's pictures of it."""


def _main_text(page: _Page) -> str:
    """Return the main part by trafilatura, "" where it finds none, or cannot be trusted with the page."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it reports pages without a main part; so do we
    if page.scan.num_visible < _SHORT or not _lxml_reads(page.scan):
        return ""
    tree = trafilatura.load_html(page.text)
    if tree is None or not _keeps(str(tree.text_content()), page.scan):
        return ""
    _drop_hidden(tree)
    pictured = "<pre" in page.text and not any(picture in page.text for picture in _PICTURES)
    if pictured:
        _translate_code(tree, str.maketrans(_SPACE, _PICTURES))
    text = trafilatura.extract(tree, fast=True, include_comments=False) or ""
    if pictured:
        text = text.translate(str.maketrans(_PICTURES, _SPACE))
    return text.replace("\xa0", " ").strip()


def _drop_hidden(tree: Any) -> None:
    for element in list(tree.iter("*")):
        if element.tag not in ("head", "title") and element.getparent() is not None and hides(element.tag, element.attrib):
            element.drop_tree()


def _translate_code(tree: Any, table: dict[int, int]) -> None:
    """Replace the characters of a table in all `pre`."""
    for code in tree.iter("pre"):
        for element in code.iter("*"):
            if element.text:
                element.text = element.text.strip("\n").translate(table) if element is code else element.text.translate(table)
            if element.tail and element is not code:
                element.tail = element.tail.translate(table)


# What a page says about itself.


def _head(text: str) -> BeautifulSoup:
    end = _HEAD_END.search(text, 0, _HEAD_CHARS)
    return _soup(text[: end.start() if end else _HEAD_CHARS], "lxml")


_HEAD_END = re.compile(r"</head|<body", re.IGNORECASE)
_DATES = ("article:published_time", "datepublished", "date", "dc.date", "dcterms.date", "pubdate", "publish_date")
_DATE = re.compile(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})")


def _metadata(soup: BeautifulSoup) -> dict[str, str]:
    meta: dict[str, str] = {}
    for tag in soup.find_all("meta"):
        for attribute in ("property", "name", "itemprop", "http-equiv"):
            if tag.get(attribute):
                meta.setdefault(str(tag[attribute]).lower(), str(tag.get("content", "")).strip())
    title = soup.find("title")
    canonical = soup.find("link", rel="canonical")
    root = soup.find("html")
    return {
        "title": (element_text(title) if title else "") or meta.get("og:title", ""),
        "url": (str(canonical.get("href", "")).strip() if canonical else "") or meta.get("og:url", ""),
        "language": str(root.get("lang") or root.get("xml:lang") or "") if root else meta.get("content-language", ""),
        "date": next(filter(None, (_iso_date(meta.get(name, "")) for name in _DATES)), ""),
    }


def _iso_date(text: str) -> str:
    """Return a date as ISO 8601: with its time where it is written so, else the day alone; "" where there is none."""
    match = _DATE.match(text)
    if match is None:
        return ""
    try:
        day = date(int(match[1]), int(match[2]), int(match[3])).isoformat()
    except ValueError:
        return ""
    return text if re.fullmatch(re.escape(day) + r"(?:[T ][\d:.]+(?:Z|[+-]\d\d:?\d\d)?)?", text) else day

"""What happens to a page before it is parsed: its bytes are decoded as browsers do, and one counted scan finds its limits."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from sftdata.ingestors._encoding import few_broken, marked_encoding

MAX_BYTES = 16 << 20
"""Bytes of a page."""
MAX_ATTRIBUTES = 10_000
"""Attributes in one tag: parsers take quadratic time in them."""
MAX_DEPTH = 512
"""Nested elements."""
MAX_ELEMENTS = 200_000
"""Elements of a page: a parsed one costs about 1 KB and 20 µs, whatever it holds."""
LXML_DEPTH = 250
"""Nesting from which libxml2 drops content without an error (256, less the elements that it adds itself)."""
LXML_TEXT = 9_000_000
"""Characters of one text from which libxml2 drops it without an error (10 MB)."""

_META_CHARSET = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})")
# What the labels of pages stand for (WHATWG Encoding, §4.2), where Python's codec of that name reads less.
_WIDENED = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "utf-16": "utf-8",  # a page whose declaration can be read as ASCII is not UTF-16
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}
_PROOF = 8
"""Valid sequences from which a page that is UTF-8 throughout is so, whatever it declares."""


def decode_page(data: bytes) -> str:
    """Return a page's text: by its byte order mark, its declaration, else by a test over all of its bytes.

    A page that is valid UTF-8 with at least eight sequences beyond ASCII is UTF-8 even where it declares something else. A few
    broken sequences become U+FFFD, as in browsers. NUL, which no page means, is left out.
    """
    text = _decode(data)
    return text.replace("\0", "") if "\0" in text else text  # to look for it takes a tenth of the time


def _decode(data: bytes) -> str:
    marked = marked_encoding(data)
    if marked is not None:
        return data.removeprefix(codecs.BOM_UTF8).decode(marked, "replace")
    declared = _declared_encoding(data[:1024])
    as_utf8 = _strict(data, "utf-8")
    if as_utf8 is not None and (declared is None or len(data) - len(as_utf8) >= _PROOF):
        return as_utf8
    for encoding in (declared, "utf-8"):
        if encoding is not None and (text := _damaged(data, encoding)) is not None:
            return text
    return _undeclared(data)


def _declared_encoding(head: bytes) -> str | None:
    match = _META_CHARSET.search(head) or _XML_ENCODING.match(head.lstrip())
    if match is None:
        return None
    try:
        name = codecs.lookup(match[1].decode("ascii")).name
        "".encode(name)
    except LookupError:
        return None
    return _WIDENED.get(name, name)


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeError:
        return None


def _damaged(data: bytes, encoding: str) -> str | None:
    """Return the text in `encoding`, with U+FFFD for broken sequences, if those are at most one in ten."""
    try:
        if not few_broken(data.decode(encoding, "surrogateescape")):
            return None
    except UnicodeError:
        return None
    return data.decode(encoding, "replace")


def _undeclared(data: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    guessed = detect_encoding(data)
    for encoding in (_WIDENED.get(guessed, guessed) if guessed else "gb18030", "gb18030"):
        try:
            text = _strict(data, encoding)
        except LookupError:
            continue
        if text is not None:
            return text
    return data.decode("cp1252", "replace")


_SKIPPED = re.compile(
    r"<(?:(!--)|(script|style|textarea|title|noframes|iframe|xmp|template|noscript)(?=[\s/>]))", re.IGNORECASE
)


def estimate_visible(text: str) -> int:
    """Return about as many characters as `scan_page` calls visible, rather more, in a tenth of its time.

    Both count what stands outside tags without building a tree, so that they can tell what a parser has lost.
    """
    shown, position = [], 0
    while position >= 0 and (match := _SKIPPED.search(text, position)):
        shown.append(text[position : match.start()])
        position = _behind_skipped(text, match)
    if position >= 0:
        shown.append(text[position:])
    first, *pieces = "".join(shown).split("<")
    behind_tags = (piece[piece.find(">") + 1 :] for piece in pieces)
    return len("".join("".join((first, *behind_tags)).split()))


def _behind_skipped(text: str, match: re.Match[str]) -> int:
    if match[1]:
        found = text.find("-->", match.end())
        return found + 3 if found >= 0 else -1
    closing = re.compile(rf"</{match[2]}", re.IGNORECASE).search(text, match.end())
    return closing.start() if closing else -1


class Scan(NamedTuple):
    """What one pass over a page's text counts."""

    depth: int
    """Nested elements at the deepest place."""
    num_elements: int
    num_attributes: int
    """Attributes of the tag that has most; 0 where none can have too many."""
    longest_text: int
    """Characters of the longest text between two tags."""
    num_visible: int
    """Characters of text outside tags, comments, scripts and the like, spaces and references not counted."""


_TAG = re.compile(r"<(?:(?P<comment>!--)|(?P<other>[!?])|(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*))")
_TAG_END = re.compile(r"(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>")
_ATTRIBUTE = re.compile(r"[^\s=>/]++(?:\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'|[^\s>]*+))?+")
_REFERENCE = re.compile(r"&#?\w{1,32};?")
_RAW_TEXT = frozenset(str.split("script style textarea title noframes iframe xmp template noscript"))
_VOID = frozenset(
    str.split("area base br col embed hr img input link meta param source track wbr basefont bgsound frame keygen")
)
_ENDS_PARAGRAPH = (
    *("div", "ul", "ol", "dl", "table", "section", "article", "header", "footer", "main", "aside", "nav", "form", "blockquote"),
    *("p", "pre", "hr", "h1", "h2", "h3", "h4", "h5", "h6"),
)
_CLOSED_BY = {
    "li": {"li", "p"},
    "dt": {"dt", "dd", "p"},
    "dd": {"dt", "dd", "p"},
    "tr": {"tr", "td", "th", "p"},
    "td": {"td", "th", "p"},
    "th": {"td", "th", "p"},
    "tbody": {"thead", "tbody", "tr", "td", "th"},
    "tfoot": {"thead", "tbody", "tr", "td", "th"},
    "option": {"option"},
    "optgroup": {"option", "optgroup"},
    "rt": {"rt", "rp"},
    "rp": {"rt", "rp"},
    **{name: {"p"} for name in _ENDS_PARAGRAPH},
}
"""Elements that the opening tag of another one ends, where their own closing tag is left out."""


def scan_page(text: str) -> Scan:
    """Count what decides whether and how a page is parsed; linear in its length, whatever it holds."""
    counts = _Counts()
    position = 0
    while match := _TAG.search(text, position):
        counts.add_text(text[position : match.start()])
        position = _behind_markup(text, match, counts)
        if position < 0:
            return counts.result()  # the rest is inside markup that is never closed
    counts.add_text(text[position:])
    return counts.result()


def _behind_markup(text: str, match: re.Match[str], counts: _Counts) -> int:
    """Return the position behind a tag or comment, and behind what a script holds; -1 where it does not end."""
    if match["comment"] or match["other"]:
        end = "-->" if match["comment"] else ">"
        found = text.find(end, match.end())
        return found + len(end) if found >= 0 else -1
    tag_end = _TAG_END.match(text, match.end())
    if tag_end is None:
        return -1
    name = match["name"].lower()
    if match["close"]:
        counts.close(name)
        return tag_end.end()
    counts.open(name, tag_end[0])
    if name not in _RAW_TEXT:
        return tag_end.end()
    closing = re.compile(rf"</{re.escape(name)}", re.IGNORECASE).search(text, tag_end.end())
    return closing.start() if closing else -1


class _Counts:
    def __init__(self) -> None:
        self._stack: list[str] = []
        self._opened: dict[str, int] = {}
        self._depth = self._elements = self._attributes = self._longest = self._visible = 0

    def add_text(self, text: str) -> None:
        self._longest = max(self._longest, len(text))
        if "&" in text:
            text = _REFERENCE.sub("", text)
        self._visible += len("".join(text.split()))

    def open(self, name: str, rest: str) -> None:
        self._elements += 1
        if len(rest) > 2 * MAX_ATTRIBUTES:
            self._attributes = max(self._attributes, len(_ATTRIBUTE.findall(rest)))
        closed = _CLOSED_BY.get(name, ())
        while self._stack and self._stack[-1] in closed:
            self._pop()
        if name not in _VOID:
            self._stack.append(name)
            self._opened[name] = self._opened.get(name, 0) + 1
            self._depth = max(self._depth, len(self._stack))

    def close(self, name: str) -> None:
        if self._opened.get(name):
            while self._pop() != name:
                pass

    def _pop(self) -> str:
        name = self._stack.pop()
        self._opened[name] -= 1
        return name

    def result(self) -> Scan:
        return Scan(self._depth, self._elements, self._attributes, self._longest, self._visible)

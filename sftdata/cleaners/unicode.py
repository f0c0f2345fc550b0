"""Repair the characters of a text: normal form, line ends, control and zero-width characters, mojibake."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from sftdata.registry import cleaner

_ASCII_SUSPECT = re.compile("[\x00-\x08\x0b-\x1f\x7f]")

_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\u206a-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""What a clean text does not hold; the joiners U+200C and U+200D are among them and judged one by one."""

_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029\x0b\x0c]")

_EMOJI_TAGS = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")
"""The flags of England, Scotland and Wales: the one use of tag characters that is not hidden text (UTS #51)."""

_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\U000e0000-\U000e007f]"
)
"""Control, zero-width, bidirectional-override and tag characters, soft hyphen, byte order mark; tab and newline stay."""

_JOINER = re.compile("[\u200c\u200d]")

_JOINING = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u0e80-\u0fff\u1000-\u109f\u1780-\u18af\ua840-\ua87f\ufb50-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00010fff\U00011000-\U000119ff]"
)
"""Scripts in which a joiner changes the letters beside it: Arabic, Syriac, the Indic scripts, Khmer, Mongolian."""

_EMOJI = re.compile("[\u00a9\u00ae\u203c-\u3299\ufe0f\U0001f000-\U0001faff]")

_SURROGATE = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")

_MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
)
"""A UTF-8 lead byte and a continuation byte, both read as Latin-1 or Windows-1252."""

_MOJIBAKE_RUN = re.compile(
    "[\u0080-\u00ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026"
    "\u2030\u2039\u203a\u20ac\u2122]{2,}"
)
"""A run of characters that are all bytes beyond ASCII read as Windows-1252 (or as Latin-1 where that has none)."""

_MOJIBAKE_CONTINUED = re.compile(
    "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2020\u2021\u2030\u20ac\u2122]"
)
"""Continuation bytes that do not read as quotes, dashes or dots, which may follow any letter."""

_LIKELY = re.compile("[\u00a0-\u017f\u0386-\u044f]")
"""What a single two-byte character must be to be believed: Latin, Greek or Cyrillic."""

_UNDEFINED_1252 = b"\x81\x8d\x8f\x90\x9d"

_WINDOWS_1252 = {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in _UNDEFINED_1252}


@cleaner
def unicode(text: str, *, form: Literal["NFC", "NFKC", "none"] = "NFC", mojibake: bool = True) -> str:
    """Repair characters: NFC, line ends, control and zero-width characters, lone surrogates, mojibake.

    Full-width punctuation and digits stay as they are unless `form` is NFKC. `\\r\\n`, `\\r` and the Unicode line and
    paragraph separators become `\\n`. Zero-width joiners stay where they join: in emoji sequences and in Arabic and Indic
    words. `mojibake` repairs UTF-8 that was read as Latin-1 or Windows-1252, only where the bytes prove it. A text that
    needs nothing comes back as the same string.
    """
    if text.isascii() and (text.isprintable() or not _ASCII_SUSPECT.search(text)):
        return text
    cleaned = text
    if mojibake and _MOJIBAKE.search(cleaned):
        cleaned = _MOJIBAKE_RUN.sub(_repaired, cleaned)
    if not cleaned.isprintable() and _SUSPECT.search(cleaned):
        cleaned = _without_suspects(cleaned)
    if form != "none" and not unicodedata.is_normalized(form, cleaned):
        cleaned = unicodedata.normalize(form, cleaned)
    return text if cleaned == text else cleaned


def _without_suspects(text: str) -> str:
    text = _SURROGATE.sub(_joined_surrogates, _LINE_END.sub("\n", text))
    flags = _EMOJI_TAGS.findall(text)
    if not flags:
        return _JOINER.sub(_kept_joiner, _REMOVED.sub("", text))
    pieces = [_JOINER.sub(_kept_joiner, _REMOVED.sub("", piece)) for piece in _EMOJI_TAGS.split(text)]
    return pieces[0] + "".join(flag + piece for flag, piece in zip(flags, pieces[1:], strict=True))


def _joined_surrogates(match: re.Match[str]) -> str:
    """Return the character of a surrogate pair (JSON written twice), or U+FFFD for half of one."""
    if len(match[0]) == 1:
        return "\ufffd"
    return match[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _kept_joiner(match: re.Match[str]) -> str:
    """Return a joiner that stands between two characters it can join, else nothing."""
    text, place = match.string, match.start()
    before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
    joins_letters = _JOINING.match(before) and (_JOINING.match(after) or match[0] == "\u200d" or not after.isspace())
    joins_emoji = match[0] == "\u200d" and _EMOJI.match(before) and _EMOJI.match(after)
    return match[0] if after and (joins_letters or joins_emoji) else ""


def _repaired(match: re.Match[str]) -> str:
    """Return the text of a run of misread bytes if that is certain, else the run as it is.

    Certain: the run is valid UTF-8 to its last byte, and it is nothing that a writer of Latin script could mean, as `qué”—`
    (a letter, then quotes and dashes) and `IRMÃ»` (a capital in a word of capitals) are, which are valid UTF-8 by chance.
    """
    run = match[0]
    try:
        repaired = bytes(_WINDOWS_1252.get(char, ord(char)) for char in run).decode("utf-8")
    except ValueError:
        return run
    if len(repaired) >= len(run) or not _MOJIBAKE_CONTINUED.search(run):
        return run
    if len(repaired) == 1 and len(run) == 2 and (match.string[: match.start()][-1:].isupper() or not _LIKELY.match(repaired)):
        return run
    return repaired

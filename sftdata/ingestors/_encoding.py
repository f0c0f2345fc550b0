"""Bytes to text: streaming decoders that keep undecodable bytes, and the test that finds a file's encoding.

A byte that is no text in the encoding becomes one of U+DC80 … U+DCFF (PEP 383), which no valid text can hold: the record that
holds it is found by `undecodable`, and `original_bytes` gives back what the file has there.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import BinaryIO

from sftdata.errors import DamagedInputError, RecipeError
from sftdata.sources import InputFile

BLOCK = 1 << 17
"""Bytes read at a time."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: it begins with the same two bytes
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDENED = {"gb2312": "gb18030", "gbk": "gb18030", "ascii": "utf-8", "utf-8-sig": "utf-8"}
"""Codecs replaced by one that reads all of their text and what is commonly labelled so."""
_VALID_PER_ERROR = 10
"""Valid sequences per broken one from which a text is taken to be in the encoding and damaged, not in another one."""
_ESCAPED = re.compile("[\udc80-\udcff]+")


def text_encoding(name: str) -> str:
    """Return the Python codec for an encoding's name; gb2312 and gbk are widened to gb18030. Raises RecipeError."""
    try:
        "".encode(name)  # refuses codecs that are not of text, such as base64
        codec = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise RecipeError(f"unknown text encoding {name!r}; for example utf-8, gb18030, big5, utf-16, cp1252") from error
    return _WIDENED.get(codec, codec)


def marked_encoding(head: bytes) -> str | None:
    """Return the encoding that a byte order mark at the beginning names, else None."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)


def stream_encoding(file: InputFile) -> str | None:
    """Return the encoding that the file's byte order mark names, else None."""
    with file.open() as stream:
        return marked_encoding(stream.read(4))


def decode_stream(stream: BinaryIO, encoding: str, *, begins: bool = True) -> Iterator[str]:
    """Yield the stream's text in pieces of at most a few MB, without its byte order mark.

    A mark wins over `encoding`; where the stream is a later piece of a file (`begins` False) none is looked for. Undecodable
    bytes become U+DC80 … U+DCFF.
    """
    blocks = _blocks(stream)
    head = next(blocks, b"")
    encoding = (marked_encoding(head) if begins else None) or encoding
    if encoding == "utf-8" and begins:
        head = head.removeprefix(codecs.BOM_UTF8)
    decoder = codecs.getincrementaldecoder(encoding)("sftdata_escape" if encoding.startswith("utf-") else "surrogateescape")
    for block in chain((head,), blocks):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def utf8_blocks(stream: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the stream recoded to UTF-8, without its byte order mark; undecodable bytes become bytes that are not UTF-8.

    A UTF-8 stream passes through as it is.
    """
    if encoding != "utf-8":
        yield from (text.encode("utf-8", "surrogatepass") for text in decode_stream(stream, encoding))
        return
    blocks = _blocks(stream)
    yield next(blocks, b"").removeprefix(codecs.BOM_UTF8)
    yield from blocks


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(BLOCK):
        yield block


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Escape every byte of a broken sequence: in UTF-16 and UTF-32 the bytes below 0x80 too, which surrogateescape refuses."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + max(byte, 0x80)) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("sftdata_escape", _escape)


def undecodable(text: str) -> bool:
    """Say whether `text` holds bytes that could not be decoded."""
    if text.isascii():
        return False
    try:
        text.encode("utf-16-le")  # three times as fast as to UTF-8
    except UnicodeEncodeError:
        return True
    return False


def original_bytes(text: str, encoding: str) -> bytes:
    """Return the bytes that `decode_stream` made `text` of; of damaged UTF-16 and UTF-32 an approximation."""
    try:
        return text.encode(encoding, "surrogateescape")
    except UnicodeError:
        return text.encode("utf-8", "surrogateescape")


def detect_encoding(file: InputFile) -> str:
    """Return the encoding of a file: its byte order mark, else what the whole of its bytes proves.

    UTF-8 where all bytes are UTF-8, or where at least ten sequences are valid for each broken one (a damaged UTF-8 file);
    else GB18030 where all bytes are; else cp1252, which reads nearly anything.
    """
    marked = stream_encoding(file)
    if marked is not None:
        return marked
    if _is_strict(file, "utf-8") or _is_mostly_utf8(file):
        return "utf-8"
    return "gb18030" if _is_strict(file, "gb18030") else "cp1252"


def _is_strict(file: InputFile, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    with file.open() as stream, suppress(DamagedInputError):  # what comes before the damage says which encoding it is
        try:
            while block := stream.read(BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _is_mostly_utf8(file: InputFile) -> bool:
    num_valid = num_broken = 0
    with file.open() as stream, suppress(DamagedInputError):
        for text in decode_stream(stream, "utf-8"):
            counts = count_sequences(text)
            num_valid, num_broken = num_valid + counts[0], num_broken + counts[1]
    return num_valid >= _VALID_PER_ERROR * num_broken


def count_sequences(text: str) -> tuple[int, int]:
    """Return the number of decoded non-ASCII characters and of undecodable runs in `text`."""
    runs = _ESCAPED.findall(text)
    num_escaped = sum(map(len, runs))
    num_ascii = len(text.encode("ascii", "ignore"))
    return len(text) - num_ascii - num_escaped, len(runs)


def few_broken(text: str) -> bool:
    """Say whether decoded text has at least ten valid sequences for each broken one."""
    num_valid, num_broken = count_sequences(text)
    return num_valid >= _VALID_PER_ERROR * num_broken

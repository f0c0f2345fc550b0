"""JSON Lines, and JSON arrays read element by element."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count, repeat
from typing import Any

import numpy as np

from sftdata.errors import RecipeError
from sftdata.ingestors._encoding import BLOCK, original_bytes, stream_encoding, text_encoding, utf8_blocks
from sftdata.ingestors._json_keys import MAX_BYTES, read_together
from sftdata.ingestors._json_paths import picked
from sftdata.ingestors._json_text import ArrayBroken, ArrayText, BrokenJson, parse_record
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.schemas import QUARANTINE_BYTES
from sftdata.sources import InputFile, Piece, bare_suffix

PIECE_BYTES = 4 << 20
"""A file of JSON Lines is cut at the first line feed after each so many bytes, unless it is told: whatever the workers."""

LINE_FEED = 10
BLANKS = tuple(b" \t\n\r\v\f")


def line_pieces(file: InputFile, *, encoding: str = "utf-8", piece_mib: int | None = None, **_: Any) -> list[Piece]:
    """Return the pieces of a large file of JSON Lines; none for a small, compressed or recoded file and for an array.

    Raises RecipeError for pieces of no size.
    """
    if piece_mib is not None and piece_mib < 1:
        raise RecipeError(f"jsonl: piece_mib: {piece_mib}; a piece has at least 1 MiB")
    size = piece_mib << 20 if piece_mib else PIECE_BYTES
    plain = bare_suffix(file.name) == file.path.suffix.lower() and file.path.stat().st_size >= 2 * size
    codec = stream_encoding(file)
    if not plain or codec is not None or text_encoding(encoding) != "utf-8" or _is_array(file, "utf-8"):
        return []
    pieces = []
    start = num_records = num_lines = 0
    with file.open() as stream:
        while data := stream.read(size):
            data += stream.readline()
            pieces.append(Piece(start, len(data), num_records, num_lines))
            start += len(data)
            lines, blank = _count_lines(data)
            num_lines += lines
            num_records += lines - blank
    return pieces


def _count_lines(data: bytes) -> tuple[int, int]:
    """Return how many lines end in `data`, and how many of these are blank."""
    characters = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(characters == LINE_FEED)
    begins = characters[np.append(0, ends[:-1] + 1)] if len(ends) else characters[:0]
    if np.isin(begins, BLANKS).any():
        return len(ends), sum(not line.strip() for line in data.split(b"\n")[:-1])
    return len(ends), 0


@ingestor(suffixes=(".jsonl", ".json", ".ndjson"), libraries=("orjson",), pieces=line_pieces)
def jsonl(
    file: InputFile, *, encoding: str = "utf-8", fields: dict[str, str] | None = None, piece_mib: int | None = None
) -> Iterator[Record | Bad]:
    """Read JSON Lines, or a JSON array element by element; a record is an object or a bare list of messages.

    Lines end at a line feed alone (U+2028 inside a string stays); blank lines are no records. A file whose first byte is `[` is
    an array, unless its first line is a whole list that another line follows, or its only line is one dialogue. A byte order
    mark wins over `encoding`. A record is bad for its syntax, bytes outside the encoding, duplicate keys, NaN, lone surrogates,
    nesting past 256, or more than 64 MiB. Where an array's brackets do not match, the rest of the file is one bad record.
    `fields` takes fields from inside a record, by paths ({question: conversations[0].value}), instead of the record's own.
    `piece_mib`, by default 4, is the size of the pieces that a large file is read in, by tasks side by side.
    """
    return picked(_records(file, encoding), fields)


def _records(file: InputFile, encoding: str) -> Iterator[Record | Bad]:
    if file.piece:
        with file.open() as stream:
            yield from _line_records(iter(partial(stream.read, BLOCK), b""), "utf-8", file.piece)
        return
    codec = stream_encoding(file) or text_encoding(encoding)
    is_array = _is_array(file, codec)
    with file.open() as stream:
        blocks = utf8_blocks(stream, codec)
        yield from _array_records(blocks, codec) if is_array else _line_records(blocks, codec)


def _line_records(blocks: Iterator[bytes], codec: str, piece: Piece | None = None) -> Iterator[Record | Bad]:
    number, line = (piece.first_record, piece.first_line) if piece else (0, 0)
    for text, lines in _whole_lines(blocks):
        for some in read_together(text, lines):
            if isinstance(some, list):
                # Record(…) for each, without a step of the interpreter
                yield from map(tuple.__new__, repeat(Record), zip(map(str, count(number)), some, strict=False))
                number += len(some)
                line += len(some)
                continue
            line += 1
            record = _record(some, number, line, codec)
            if record is not None:
                yield record
                number += 1


def _record(raw: bytes, number: int, line: int, codec: str) -> Record | Bad | None:
    """Return the record that a line holds; None for a blank one."""
    try:
        return Record(str(number), parse_record(raw))
    except BrokenJson as error:
        if not raw.strip():
            return None
        place = f"line {line}, column {error.column}: {error.message}"
        return Bad(str(number), error.reason, place, _quarantined(raw, codec))


def _whole_lines(blocks: Iterator[bytes]) -> Iterator[tuple[memoryview, list[bytes]]]:
    """Yield text that ends before a line feed or at the end, and its lines; of a line past the limit only what proves it."""
    held: list[bytes] = []
    num_held = 0
    for block in blocks:
        if b"\n" in block:
            text = b"".join((*held, block)) if num_held else block
            lines = text.split(b"\n")
            held = [lines.pop()]
            num_held = len(held[0])
            yield memoryview(text)[: len(text) - num_held - 1], lines
        elif num_held <= MAX_BYTES:
            held.append(block)
            num_held += len(block)
    last = b"".join(held)
    yield memoryview(last), [last]


def _array_records(blocks: Iterator[bytes], codec: str) -> Iterator[Record | Bad]:
    number = 0
    try:
        for element in ArrayText(blocks).elements():
            try:
                yield Record(str(number), parse_record(element.raw))
            except BrokenJson as error:
                line = element.line + error.line - 1
                place = f"line {line}, column {error.column}: {error.message}"
                yield Bad(str(number), error.reason, place, _quarantined(element.raw, codec))
            number += 1
    except ArrayBroken as error:
        place = f"line {error.line}: {error}; the rest of the file is not read"
        yield Bad(str(number), error.reason, place, _quarantined(error.raw, codec))


def _quarantined(raw: bytes, codec: str) -> bytes:
    head = raw[:QUARANTINE_BYTES]
    return head if codec == "utf-8" else original_bytes(head.decode("utf-8", "surrogatepass"), codec)


def _is_array(file: InputFile, codec: str) -> bool:
    """Say whether the file is one JSON array, not JSON Lines of lists."""
    with file.open() as stream:
        head = b""
        for block in utf8_blocks(stream, codec):
            head = (head + block).lstrip()
            if not head:
                continue
            if not head.startswith(b"["):
                return False
            first, _, rest = head.partition(b"\n")
            if rest.strip():
                # Inside an array, a line that ends in a bracket is followed by a comma or a closing bracket.
                return not first.rstrip().endswith(b"]") or rest.lstrip()[:1] in (b",", b"]")
            if len(first) > MAX_BYTES:
                return True
    return head.startswith(b"[") and not _is_dialogue(head)


def _is_dialogue(line: bytes) -> bool:
    """Say whether a list is one dialogue: its first element is a message, a role or speaker with a text."""
    try:
        element = next(ArrayText(iter((line,))).elements())
        first = parse_record(element.raw)
    except (ArrayBroken, BrokenJson, StopIteration):
        return False
    return bool(first.keys() & {"role", "from"} and first.keys() & {"content", "value"})

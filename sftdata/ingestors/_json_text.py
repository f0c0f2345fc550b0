"""JSON text by hand, where a parser cannot help: limits before parsing, duplicate keys, and the elements of a long array."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from sftdata.ingestors._json_keys import MAX_BYTES, MAX_DEPTH, has_long_number, num_written_keys, survey

# Everything up to the next bracket outside strings, and that bracket.
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{}]', re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BARE = re.compile(rb'[^\s,"\[\]{}]++')
_SPACE = re.compile(rb"[ \t\r\n]*+")
_CLOSER = {b"["[0]: b"]"[0], b"{"[0]: b"}"[0]}


class BrokenJson(Exception):
    """A record that is refused: the reason's code, what is wrong, and where (line and column from 1, relative)."""

    def __init__(self, reason: str, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.reason, self.message, self.line, self.column = reason, message, line, column


def parse_record(raw: bytes) -> dict[str, Any]:
    """Return the fields of a JSON record; a bare list of messages becomes the field `messages`.

    Stricter than RFC 8259 asks: no duplicate keys, NaN, lone surrogates, nesting past 256. Integers of any size survive.
    Raises BrokenJson.
    """
    if len(raw) > MAX_BYTES:
        raise BrokenJson("too_large", f"more than {MAX_BYTES:,} bytes")
    try:
        value = orjson.loads(raw)  # by itself refuses nesting past 1,024
    except orjson.JSONDecodeError as error:
        value = _parse_after(error, raw)
    else:
        found = survey([value])
        if found.too_deep:
            raise BrokenJson("json_limits", f"nested deeper than {MAX_DEPTH}")
        # Of two equal keys orjson keeps the last, and it makes floats of integers past 64 bits: neither may pass unseen.
        if found.num_keys < num_written_keys(raw) or (found.floats and has_long_number(raw)):
            value = _parse_strictly(raw)
    if type(value) is dict:
        return value
    if type(value) is list and all(type(item) is dict for item in value):
        return {"messages": value}
    raise BrokenJson("json_object", "neither an object nor a list of messages")


def _check_depth(raw: bytes) -> None:
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    depth = position = 0
    while match := _TO_BRACKET.match(raw, position):
        position = match.end()
        depth += 1 if raw[position - 1] in _CLOSER else -1
        if depth > MAX_DEPTH:
            raise BrokenJson("json_limits", f"nested deeper than {MAX_DEPTH}")


def _parse_after(error: orjson.JSONDecodeError, raw: bytes) -> Any:
    """Return the value where only orjson's number range was in the way; else raise BrokenJson with the place."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as broken:
        line, column = _line_and_column(raw, broken.start)
        raise BrokenJson("encoding", "bytes that are not UTF-8", line, column) from error
    _check_depth(raw)
    if error.msg.startswith("number is infinity"):
        return _parse_strictly(raw)
    raise BrokenJson("json_syntax", error.msg, error.lineno, error.colno) from error


def _line_and_column(raw: bytes, position: int) -> tuple[int, int]:
    return raw.count(b"\n", 0, position) + 1, position - raw.rfind(b"\n", 0, position)


def _parse_strictly(raw: bytes) -> Any:
    _check_depth(raw)
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except json.JSONDecodeError as error:
        raise BrokenJson("json_syntax", error.msg, error.lineno, error.colno) from error
    except ValueError as error:  # an integer past the interpreter's limit on digits
        raise BrokenJson("json_limits", "an integer of more than 4,300 digits") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise BrokenJson("json_syntax", f"duplicate key {double!r}")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise BrokenJson("json_syntax", f"{text[:20]} is outside the range of numbers")
    return value


class Element(NamedTuple):
    """One element of an array."""

    raw: bytes
    line: int
    """The number of the line on which it begins, from 1."""


class ArrayBroken(Exception):
    """The array cannot be read on: the reason's code, what is wrong, the line from 1, and the text from there."""

    def __init__(self, reason: str, message: str, line: int, raw: bytes) -> None:
        super().__init__(message)
        self.reason, self.message, self.line, self.raw = reason, message, line, raw


class ArrayText:
    """A JSON array read element by element from a stream of bytes; holds one element and a block."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._data = blocks, b""
        self._position = 0  # up to here the data is read
        self._start = 0  # where the element that is being read begins; what lies before it may be dropped
        self._line, self._counted = 1, 0  # the number of the line at the position `_counted`

    def elements(self) -> Iterator[Element]:
        """Yield the array's elements; what is between their borders is not checked. Raises ArrayBroken."""
        self._expect(b"[")
        self._position += 1
        if self._peek() == b"]":
            self._position += 1
        else:
            yield from self._filled_elements()
        if self._peek():
            raise self._broken("text after the end of the array")

    def _filled_elements(self) -> Iterator[Element]:
        while True:
            yield self._element()
            closing = self._expect(b",]") == b"]"
            self._position += 1
            if closing:
                return

    def _element(self) -> Element:
        bracketed = self._peek() in (b"[", b"{")
        self._line += self._data.count(b"\n", self._counted, self._position)
        self._start = self._counted = self._position
        end = self._bracketed() if bracketed else self._scalar()
        self._position = end
        return Element(self._data[self._start : end], self._line)

    def _bracketed(self) -> int:
        """Return where the element ends that begins with a bracket."""
        expected = bytearray()
        position = self._start
        while True:
            match = _TO_BRACKET.match(self._data, position)
            if match is None:
                position -= self._start
                if not self._more():
                    raise self._broken("the array ends inside an element")
                continue  # the element now begins the data
            position = match.end()
            bracket = self._data[position - 1]
            if bracket in _CLOSER:
                expected.append(_CLOSER[bracket])
            elif expected.pop() != bracket:
                raise self._broken("brackets that do not match")
            if not expected:
                return position

    def _scalar(self) -> int:
        pattern = _STRING if self._peek() == b'"' else _BARE
        while (match := pattern.match(self._data, self._start)) is None or match.end() == len(self._data):
            if match is None and pattern is _BARE and self._start < len(self._data):
                return self._start  # nothing before a comma or a bracket: an empty element
            if not self._more():
                raise self._broken("the array ends inside an element")
        return match.end()

    def _expect(self, allowed: bytes) -> bytes:
        found = self._peek()
        if not found:
            raise self._broken("the array is not closed")
        if found not in allowed:
            raise self._broken("expected " + " or ".join(allowed.decode()))
        return found

    def _peek(self) -> bytes:
        """Return the next byte that is no space, b"" at the end."""
        while True:
            match = _SPACE.match(self._data, self._position)
            self._start = self._position = match.end() if match else self._position
            if self._position < len(self._data):
                return self._data[self._position : self._position + 1]
            if not self._more():
                return b""

    def _more(self) -> bool:
        """Drop what was read and read at least as much again as is held; False at the end.

        Doubling keeps what is scanned twice in proportion. Afterwards the element that is being read begins the data.
        """
        self._line += self._data.count(b"\n", self._counted, self._start)
        pieces = [self._data[self._start :]]
        self._position -= self._start
        self._start = self._counted = 0
        held, size = len(pieces[0]), 0
        if held > MAX_BYTES:
            raise self._broken(f"an element of more than {MAX_BYTES:,} bytes", "too_large")
        for block in self._blocks:
            pieces.append(block)
            size += len(block)
            if size >= held:
                break
        self._data = b"".join(pieces)
        return size > 0

    def _broken(self, message: str, reason: str = "json_syntax") -> ArrayBroken:
        line = self._line + self._data.count(b"\n", self._counted, self._start)
        return ArrayBroken(reason, message, line, self._data[self._start :])

"""What orjson lets pass unseen, told for many records at once: keys that stand twice, integers past 64 bits, deep nesting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

MAX_BYTES = 64 << 20
"""Bytes of one record."""
MAX_DEPTH = 256
"""Nested objects and arrays in a record; a tenth of what exhausts the stack of readers further down."""

_COLON, _QUOTE, _BACKSLASH, _BRACKET = b':"\\['
_SPACE = np.zeros(256, dtype=bool)
_SPACE[list(b" \t\r\n")] = True
_MAX_SPACES = 8
"""Spaces between a key and its colon past which the colon counts as a key's without a look at what stands before them."""

_LONG_NUMBER = re.compile(rb"(?<![.\d])\d{20}|-\d{19}")
"""What an integer past 64 bits holds."""
_STRIDE = 9
"""Every run of 19 digits covers two bytes in a row of those that lie so far apart."""
_HIGH_HALVES, _OF_DIGITS = np.uint64(0xF0F0F0F0F0F0F0F0), np.uint64(0x3030303030303030)
"""The high halves of eight bytes, and what they are in eight digits."""
_GROUP = 64
"""Lines that are read together; alone where any of them is out of the ordinary."""


def num_written_keys(raw: bytes) -> int:
    r"""Return how many keys a record may write: a bound from above, exact but where `\\\":` stands in a string.

    A record with fewer keys may hide one behind another of its name.
    """
    plain = raw.count(b'":')
    return plain if plain == raw.count(b":") else len(_key_ends(np.frombuffer(raw, dtype=np.uint8)))


def _key_ends(data: Bytes) -> Places:
    before = (data == _COLON).nonzero()[0] - 1
    if len(before) and before[0] < 2:
        before = before[before >= 2]  # earlier no key can end: it takes up two bytes, and a bracket
    quoted = data.take(before) == _QUOTE
    ends: Places = before[quoted]
    if len(ends) < len(before):
        ends = np.union1d(ends, _far_ends(data, before[~quoted]))
    escaped = data.take(ends - 1) == _BACKSLASH
    if escaped.any():
        escaped &= data.take(ends - 2) != _BACKSLASH
        ends = ends[~escaped]
    return ends


def _far_ends(data: Bytes, before: Places) -> Places:
    """Return where keys end whose colon follows after space; `before` are the positions before colons."""
    before = before[_SPACE[data[before]]]
    for _ in range(_MAX_SPACES):
        spaced = _SPACE[data[before]]
        if not spaced.any():
            break
        before = before - spaced
        before = before[before >= 2]
    ends: Places = before[(data[before] == _QUOTE) | _SPACE[data[before]]]
    return ends


def has_long_number(raw: bytes) -> bool:
    """Say whether a record may hold an integer past 64 bits."""
    return _LONG_NUMBER.search(raw) is not None


class Survey(NamedTuple):
    """What JSON values hold, at all depths."""

    num_keys: int
    floats: bool
    too_deep: bool
    """Some value is nested deeper than `MAX_DEPTH`; the rest is then unknown."""


def survey(values: Sequence[Any]) -> Survey:
    """Return what some values hold. Goes through all of them level by level, most of it without a step of the interpreter."""
    num_keys, floats = 0, False
    for _ in range(MAX_DEPTH + 1):
        kinds = {*map(type, values)}
        floats = floats or float in kinds
        lists = [value for value in values if type(value) is list] if list in kinds else []
        objects = values if kinds == {dict} else [value for value in values if type(value) is dict] if dict in kinds else []
        if not (lists or objects):
            return Survey(num_keys, floats, False)
        num_keys += sum(map(len, objects))
        values = [*chain.from_iterable(map(dict.values, objects)), *chain.from_iterable(lists)]
    return Survey(num_keys, floats, True)


def read_together(text: memoryview, lines: list[bytes]) -> Iterator[list[dict[str, Any]] | bytes]:
    """Yield the records of lines in lists, and each line that has to be read alone, in order.

    A list holds objects in which nothing is hidden. `text`: the lines joined by line feeds.
    """
    data = np.frombuffer(text, dtype=np.uint8)
    groups = [lines[start : start + _GROUP] for start in range(0, len(lines), _GROUP)]
    borders = list(accumulate(sum(map(len, group)) + len(group) for group in groups))
    num_keys = np.diff(_key_ends(data).searchsorted(borders), prepend=0).tolist()
    odd = _may_be_odd(data)
    for group, max_keys in zip(groups, num_keys, strict=True):
        values = _read_objects(group, max_keys, odd)
        if values is None:
            yield from group
        else:
            yield values


def _may_be_odd(data: Bytes) -> bool:
    """Say whether a text may nest arrays past `MAX_DEPTH`, or hold 19 digits in a row."""
    if np.count_nonzero(data == _BRACKET) > MAX_DEPTH:
        return True
    words = data[: len(data) // 8 * 8].view(np.uint64)
    if not ((words & _HIGH_HALVES) == _OF_DIGITS).any():  # 15 digits in a row fill one of them
        return False
    digits = data[::_STRIDE] - np.uint8(ord("0")) < 10
    return bool((digits[:-1] & digits[1:]).any())


def _read_objects(lines: list[bytes], max_keys: int, odd: bool) -> list[dict[str, Any]] | None:
    """Return the objects that lines hold; None where any may be none, or hide something."""
    try:
        values = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        return None
    if {*map(type, values)} != {dict} or max(map(len, lines)) > MAX_BYTES:
        return None
    if not odd and _least_keys(values) == max_keys:
        return values
    found = survey(values)
    if found.too_deep or found.num_keys < max_keys:
        return None
    return None if found.floats and any(map(has_long_number, lines)) else values


def _least_keys(objects: list[dict[str, Any]]) -> int:
    """Return how many keys objects have at least: those in the lists of objects too, in the fields where the first has one."""
    num_keys = sum(map(len, objects))
    for name, value in objects[0].items():
        if type(value) is list:
            lists = [found for item in objects if type(found := item.get(name)) is list]
            inner = [*chain.from_iterable(lists)]
            if {*map(type, inner)} == {dict}:
                num_keys += sum(map(len, inner))
    return num_keys

"""Text that knows where it came from: what a template does to a record's texts is followed character by character.

A `Traced` string is equal to the plain string that a template would get, so that a template cannot tell them apart. Whatever
is cut, trimmed, split, joined or added to stays traced: `runs` says which of its characters are which characters of which
text. What cannot be followed (a text put into upper case) stays marked as changed. The proof in `proof.py` checks the outcome
against the texts, and against a render of plain strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, SupportsIndex

UNKNOWN = -1
"""In place of the number of a run's text."""
CHANGED = -1
"""In place of a run's first character: made from the text, but not as it stands there."""
ESCAPED = -2
"""Likewise: the text as JSON writes it between quotes."""

_BORDER = re.compile("Z+")


class Run(NamedTuple):
    """Characters of a traced string that came from one of the record's texts; empty where a text is that has none."""

    start: int
    end: int
    leaf: int
    """The number of the text, or `UNKNOWN` where several may have a part in it."""
    first: int
    """The first of them in the text, or `CHANGED` or `ESCAPED`."""


Runs = tuple[Run, ...]


class Traced(str):
    """A string with the runs of its characters that came from the record."""

    __slots__ = ("_runs",)
    _runs: Runs

    def __new__(cls, text: str, runs: Runs | None = None) -> Traced:
        """Return a traced string; without runs all of it counts as changed."""
        made = super().__new__(cls, text)
        made._runs = (Run(0, len(made), UNKNOWN, CHANGED),) if runs is None else runs
        return made

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __getitem__(self, index: SupportsIndex | slice) -> str:
        if not isinstance(index, slice):
            position = range(len(self))[index]
            return cut(self, position, position + 1)
        start, stop, step = index.indices(len(self))
        return cut(self, start, max(start, stop)) if step == 1 else changed(str.__getitem__(self, index), self)

    def __iter__(self) -> Iterator[str]:
        return (cut(self, position, position + 1) for position in range(len(self)))

    def __mul__(self, times: SupportsIndex) -> str:
        return concat([self] * int(times))

    __rmul__ = __mul__

    def lstrip(self, characters: str | None = None, /) -> str:
        """As of str."""
        return cut(self, len(self) - len(str.lstrip(self, characters)), len(self))

    def rstrip(self, characters: str | None = None, /) -> str:
        """As of str."""
        return cut(self, 0, len(str.rstrip(self, characters)))

    def strip(self, characters: str | None = None, /) -> str:
        """As of str."""
        end = len(str.rstrip(self, characters))
        return cut(self, min(end, len(self) - len(str.lstrip(self, characters))), end)

    def removeprefix(self, prefix: str, /) -> str:
        """As of str."""
        return cut(self, len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        """As of str."""
        return cut(self, 0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of str."""
        return _pieces(self, str.split(self, sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        """As of str."""
        return _pieces(self, str.rsplit(self, sep, maxsplit), len(sep or ""))

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        """As of str."""
        before, found, after = _pieces(self, str.partition(self, sep), 0)
        return before, found, after

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        """As of str."""
        before, found, after = _pieces(self, str.rpartition(self, sep), 0)
        return before, found, after

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As of str."""
        lines = _pieces(self, str.splitlines(self, True), 0)
        return lines if keepends else [cut(line, 0, len(str.splitlines(line)[0])) for line in lines]

    def join(self, texts: Iterable[str], /) -> str:
        """As of str."""
        return join(self, texts)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """As of str."""
        if not old:
            return changed(str.replace(self, old, new, count), (self, new))
        return join(new, self.split(old, count))


def _lossy(name: str) -> Callable[..., str]:
    def method(text: Traced, *args: Any, **options: Any) -> str:
        made: str = getattr(str, name)(text, *args, **options)
        return text if made == text else changed(made, (text, args))

    method.__name__ = name
    method.__doc__ = "As of str; what it changes is no longer followed."
    return method


_LOSSY = ("capitalize", "casefold", "center", "expandtabs", "ljust", "lower", "rjust", "swapcase", "title", "upper", "zfill")
for _name in _LOSSY:
    setattr(Traced, _name, _lossy(_name))


def trace(text: str, leaf: int) -> Traced:
    """Return a text of the record as a traced string."""
    return Traced(text, (Run(0, len(text), leaf, 0),))


def runs_of(text: str) -> Runs:
    """Return the runs of a string; a plain string has none."""
    return text._runs if isinstance(text, Traced) else ()


def cut(text: str, start: int, stop: int) -> str:
    """Return text[start:stop] with its runs; a text that nothing is left of keeps an empty run, to say where it would be."""
    if start == 0 and stop == len(text):
        return text
    runs = []
    for low, high, leaf, first in runs_of(text):
        begin, end = max(low, start), min(high, stop)
        if begin < end or (begin == end and low == high):
            part = first + begin - low if first >= 0 else first
            if first == ESCAPED and end - begin < high - low:
                part = CHANGED
            runs.append(Run(begin - start, end - start, leaf, part))
    if not runs and start == stop:
        runs = [Run(0, 0, run.leaf, run.first) for run in runs_of(text) if run.start <= start <= run.end][:1]
    return Traced(str.__getitem__(text, slice(start, stop)), tuple(runs)) if runs else str.__getitem__(text, slice(start, stop))


def _pieces(text: Traced, pieces: Sequence[str], gap: int) -> list[str]:
    """Return the pieces that a text was split into, in order, with their runs; `gap`: the length of what parted them."""
    cuts = []
    position = 0
    for piece in pieces:
        position = str.find(text, piece, position)
        cuts.append(cut(text, position, position + len(piece)))
        position += len(piece) + gap
    return cuts


def concat(parts: Iterable[str]) -> str:
    """Return the parts as one text, traced where one of them is."""
    parts = list(parts)
    text = "".join(parts)
    if not any(type(part) is Traced for part in parts):
        return text
    runs: list[Run] = []
    position = 0
    for part in parts:
        for start, end, leaf, first in runs_of(part):
            run = Run(position + start, position + end, leaf, first)
            before = runs[-1] if runs else None
            if before and (before.end, before.leaf) == run[::2] and 0 <= before.first == first - (before.end - before.start):
                runs[-1] = before._replace(end=run.end)
            else:
                runs.append(run)
        position += len(part)
    return Traced(text, tuple(runs))


def join(separator: str, texts: Iterable[str]) -> str:
    """Return the texts as one, with a separator between them."""
    parts: list[str] = []
    for text in texts:
        parts += (separator, text)
    return concat(parts[1:])


def changed(made: str, given: Any) -> str:
    """Return a text that was made of some values: one made of traced ones could not be followed."""
    leaves = {run.leaf for text in _texts(given) for run in runs_of(text)}
    if not made or not leaves:
        return made
    return Traced(made, (Run(0, len(made), leaves.pop() if len(leaves) == 1 else UNKNOWN, CHANGED),))


def to_json(value: Any, options: dict[str, Any]) -> str:
    """Return a value as JSON text, its traced strings with their runs. `options` are those of json.dumps."""
    texts = list(_texts(value))
    if not any(type(text) is Traced for text in texts):
        return json.dumps(value, **options)
    strings: list[Traced] = []
    longest = max((len(found) for text in texts for found in _BORDER.findall(text)), default=0)
    border = "Z" * (longest + 1)
    skeleton = _skeleton(value, strings, border, options.get("sort_keys", False))
    parts = re.split(rf"{border}(\d+){border}", json.dumps(skeleton, **{**options, "sort_keys": False}))
    ascii_only = options.get("ensure_ascii", True)
    parts[1::2] = [_escaped(strings[int(number)], ascii_only) for number in parts[1::2]]
    return concat(parts)


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings of a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _skeleton(value: Any, strings: list[Traced], border: str, sort_keys: bool) -> Any:
    """Return a value with a number between borders for every traced string, which are appended to `strings`."""
    if isinstance(value, Traced):
        strings.append(value)
        return f"{border}{len(strings) - 1}{border}"
    if isinstance(value, dict):
        items = sorted(value.items()) if sort_keys else value.items()
        return {_skeleton(key, strings, border, sort_keys): _skeleton(item, strings, border, sort_keys) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_skeleton(item, strings, border, sort_keys) for item in value]
    return value


def _escaped(text: Traced, ascii_only: bool) -> str:
    """Return a traced string as JSON writes it, without its quotes."""
    parts: list[str] = []
    position = 0
    for start, end, leaf, first in text._runs:
        parts.append(_quoted(str.__getitem__(text, slice(position, start)), ascii_only))
        plain = str.__getitem__(text, slice(start, end))
        written = _quoted(plain, ascii_only)
        kept = first if first == CHANGED or written == plain else ESCAPED
        parts.append(Traced(written, (Run(0, len(written), leaf, kept),)))
        position = end
    parts.append(_quoted(str.__getitem__(text, slice(position, len(text))), ascii_only))
    return concat(parts)


def _quoted(text: str, ascii_only: bool) -> str:
    return json.dumps(text, ensure_ascii=ascii_only)[1:-1]

"""`where`: simple comparisons of a row's columns with values, read once and asked of every row."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from sftdata.errors import DataError, RecipeError, suggest

_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[^\W\d][\w.]*)|(?P<name>"(?:[^"]|"")+"|`[^`]+`)|(?P<text>'(?:[^']|'')*')"""
    r"""|(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<mark><=|>=|<>|!=|=|<|>|\(|\)|,))"""
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CURE = "write comparisons joined by and: score >= 3 and lang in ('zh', 'en') and body is not null"


class Comparison(NamedTuple):
    """One comparison: `operator` is one of = != < <= > >=, `in`, `not in`, `is null`, `is not null`."""

    column: str
    operator: str
    values: tuple[Any, ...]


class Where:
    """Comparisons that must all hold; a comparison with NULL never does, as in SQL."""

    def __init__(self, text: str) -> None:
        """Raises RecipeError for what is no list of simple comparisons."""
        self.comparisons = tuple(_Reader(text).comparisons())

    def holds(self, fields: dict[str, Any]) -> bool:
        """Say whether a row is wanted."""
        return all(_holds(comparison, fields[comparison.column]) for comparison in self.comparisons)


class Selection(NamedTuple):
    """Which rows of a table are wanted, and which of their columns; None: all."""

    columns: list[str] | None = None
    where: Where | None = None

    def check(self, place: str, table: str, columns: Collection[str]) -> None:
        """Raise DataError for a column that the table does not have."""
        named = {comparison.column: "where: " for comparison in self.where.comparisons} if self.where else {}
        for name, option in (named | dict.fromkeys(self.columns or (), "")).items():
            if name not in columns:
                raise DataError(f"{place}: {option}table {table!r} has no column {name!r}{suggest(name, columns)}")

    def apply(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Return the wanted columns of a row, None for a row that is not wanted."""
        if self.where is not None and not self.where.holds(fields):
            return None
        return fields if self.columns is None else {column: fields[column] for column in self.columns}


def _holds(comparison: Comparison, value: Any) -> bool:
    if comparison.operator in ("is null", "is not null"):
        return (value is None) == (comparison.operator == "is null")
    if value is None:
        return False
    if comparison.operator in ("in", "not in"):
        return any(_compared("=", value, other) for other in comparison.values) == (comparison.operator == "in")
    return _compared(comparison.operator, value, comparison.values[0])


def _compared(name: str, value: Any, other: Any) -> bool:
    """Compare as numbers where the comparison names a number or a truth value, else as texts."""
    if isinstance(other, str):
        return _COMPARE[name](_text(value), other)
    number = _number(value)
    return number is not None and _COMPARE[name](number, _number(other))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: Any) -> Decimal | None:
    try:
        number = Decimal(str(int(value)) if isinstance(value, bool) else str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


class _Reader:
    """Reads the comparisons of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        position, length = 0, len(text.rstrip())
        while position < length:
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._wrong(text[position:].strip())
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def comparisons(self) -> list[Comparison]:
        """Return the comparisons of the whole text."""
        found = [self._comparison()]
        while self._takes("and"):
            found.append(self._comparison())
        if self._tokens:
            raise self._wrong(self._tokens[0][1])
        return found

    def _comparison(self) -> Comparison:
        kind, text = self._next()
        if kind not in ("word", "name"):
            raise self._wrong(text)
        column = text if kind == "word" else text[1:-1].replace('""', '"')
        if self._takes("is"):
            negated = self._takes("not")
            self._expect("null")
            return Comparison(column, "is not null" if negated else "is null", ())
        negated = self._takes("not")
        if negated or (self._tokens and self._tokens[0][1].lower() == "in"):
            self._expect("in")
            return Comparison(column, "not in" if negated else "in", self._list())
        mark = self._next()[1]
        if mark not in _COMPARE:
            raise self._wrong(mark)
        return Comparison(column, mark, (self._value(),))

    def _list(self) -> tuple[Any, ...]:
        self._expect("(")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        self._expect(")")
        return tuple(values)

    def _value(self) -> Any:
        kind, text = self._next()
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            return Decimal(text)
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise self._wrong(text)

    def _next(self) -> tuple[str, str]:
        if not self._tokens:
            raise self._wrong("the end")
        return self._tokens.pop(0)

    def _takes(self, text: str) -> bool:
        if self._tokens and self._tokens[0][0] in ("word", "mark") and self._tokens[0][1].lower() == text:
            self._tokens.pop(0)
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            raise self._wrong(self._tokens[0][1] if self._tokens else "the end")

    def _wrong(self, found: str) -> RecipeError:
        return RecipeError(f"where {self._text!r}: cannot be read at {found!r}; {_CURE}")

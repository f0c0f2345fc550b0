"""Values of SQL dumps that are more than a literal: the few functions, casts and joints by which dumps write what it cannot."""

from __future__ import annotations

import re
from typing import Any

from sftdata.ingestors._sql_text import DOLLAR_QUOTED, MAX_CHARS, Name, patterns
from sftdata.ingestors._sql_values import code_point, literal

_UNISTR_ESCAPE = re.compile(r"\\(?:\\|u?([0-9A-Fa-f]{4})|\+([0-9A-Fa-f]{6})|U([0-9A-Fa-f]{8}))")


class Unreadable(Exception):
    """What stands at `position` is no value that a dump may hold."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class CutOff(Exception):
    """The text ends inside the row."""


_PIECE = re.compile(r"\s++|--[^\n]*+\n|/\*(?s:.*?)\*/")
_CALL = re.compile(r"([^\W\d]\w*+)\s*+\(")
_CAST_TYPE = re.compile(r"""(?P<type>[^\W\d"][\w ."]*+(?:\([\d, ]*+\))?+(?:\[\])*+)""")
_TYPED = re.compile(r"(?i:date|time|timestamp|timestamptz)\s++(?=')")
_BINARY = re.compile(r"(?i:x'|b'|0[xb]|_binary)")
_DOLLAR = re.compile(DOLLAR_QUOTED)
_CUT_WORD = r"[\w.+-]*+\s*+\Z|[xXbB]'[0-9A-Fa-f]*+\Z"
_OPEN: dict[Name, re.Pattern[str]] = {
    "mysql": re.compile(rf"""(?:_\w++\s*+|[nN])?['"]|{_CUT_WORD}"""),
    "postgresql": re.compile(rf"[eEnN]?'|\$(?:[^\W\d]\w*+)?(?:\$|\Z)|{_CUT_WORD}"),
    "sqlite": re.compile(rf"'|{_CUT_WORD}"),
}
"""What stands where no whole value does, if only the end of the text is missing."""
_MAX_NESTING = 32


class RowText:
    """One row that is not all literals, read value by value: functions, casts, joined strings, comments inside."""

    def __init__(self, text: str, position: int, dialect: Name, encoding: str) -> None:
        self.text, self.position = text, position
        self._dialect, self._encoding = dialect, encoding
        self._depth = self._calls = 0
        self._is_binary = False

    def values(self) -> list[Any]:
        """Return the row's values; `position` is then behind it. Raises Unreadable, or CutOff."""
        self._take("(")
        values = [self._value()]
        while self._at(","):
            self.position += 1
            values.append(self._value())
        self._take(")")
        return values

    def _at(self, mark: str) -> bool:
        """Say whether `mark` comes next, after space and comments."""
        while piece := _PIECE.match(self.text, self.position):
            self.position = piece.end()
        if self.position + len(mark) > len(self.text) or self.text.startswith(("--", "/*"), self.position):
            raise CutOff
        return self.text.startswith(mark, self.position)

    def _take(self, mark: str) -> None:
        if not self._at(mark):
            raise Unreadable(f"expected {mark!r}", self.position)
        self.position += len(mark)

    def _value(self) -> Any:
        value = self._cast(self._term())
        while self._at("|"):
            self._take("||")
            self._whole(value)
            self._calls += 1
            right = self._whole(self._cast(self._term()))
            self._calls -= 1
            value = None if value is None or right is None else f"{value}{right}"  # as in SQL
        return value

    def _whole(self, value: Any) -> Any:
        """Return what may be joined: each server writes truth values, fractions and bytes in its own way."""
        if isinstance(value, bool | float) or self._is_binary or self._dialect == "mysql":
            raise Unreadable("this joint of values is not evaluated", self.position)
        return value

    def _cast(self, value: Any) -> Any:
        while self._at(":"):
            self._take("::")
            self._type()
        return value

    def _type(self) -> None:
        self._at("")
        match = _CAST_TYPE.match(self.text, self.position)
        if match is None or match.end() == len(self.text):
            raise CutOff if match or self.position == len(self.text) else Unreadable("expected a type", self.position)
        self.position = match.end()

    def _term(self) -> Any:
        self._is_binary = False
        self._at("")
        if typed := _TYPED.match(self.text, self.position):
            self.position = typed.end()
        if call := _CALL.match(self.text, self.position):
            return self._function(call)
        if self._at("("):
            return self._nested()
        match = _DOLLAR.match(self.text, self.position) if self._dialect == "postgresql" else None
        if match is not None:
            self.position = match.end()
            return match[0][len(match["tag"]) : -len(match["tag"])]
        match = patterns(self._dialect).literal.match(self.text, self.position)
        if match is None:
            raise CutOff if self._may_be_cut() else Unreadable("not a value that a dump may hold", self.position)
        if match.end() == len(self.text):
            raise CutOff
        self.position = match.end()
        self._is_binary = _BINARY.match(match[0]) is not None
        if self._calls and self._is_binary:
            raise Unreadable("binary strings are not evaluated", self.position)
        return literal(match[0], self._dialect, self._encoding)

    def _may_be_cut(self) -> bool:
        """Say whether more text could make a value of what stands here: an open string, or a word up to the end."""
        return _OPEN[self._dialect].match(self.text, self.position) is not None

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise Unreadable(f"nested deeper than {_MAX_NESTING}", self.position)

    def _nested(self) -> Any:
        self._take("(")
        self._deeper()
        value = self._value()
        self._take(")")
        self._depth -= 1
        return value

    def _function(self, call: re.Match[str]) -> Any:
        name = call[1].lower()
        if name not in ("replace", "char", "unistr", "unhex", "cast"):
            raise Unreadable(f"{call[1]}() is not evaluated", self.position)
        self.position = call.end() - 1
        self._deeper()
        if name == "cast":
            value = self._cast_call()
            self._depth -= 1
            return value
        self._calls += 1
        arguments = self.values()
        self._calls -= 1
        self._depth -= 1
        try:
            return _call(name, arguments)
        except (TypeError, ValueError, OverflowError) as error:
            raise Unreadable(f"{call[1]}() cannot be evaluated: {error}", self.position) from error

    def _cast_call(self) -> Any:
        self._take("(")
        if self._at("x'") or self._at("X'"):
            raise Unreadable("a cast of a binary string is not evaluated", self.position)
        value = self._value()
        self._take("AS" if self._at("AS") else "as")
        self._type()
        self._take(")")
        return value


def _call(name: str, arguments: list[Any]) -> str | None:
    """Evaluate one of the functions that dumps use; those with a NULL are NULL."""
    if None in arguments:
        return None
    if name == "char":
        return "".join(map(chr, arguments))
    if name == "replace":
        if any(isinstance(argument, bool | float) for argument in arguments):
            raise TypeError("of fractions and truth values")
        text, old, new = map(str, arguments)
        if old and len(text) + text.count(old) * len(new) > MAX_CHARS:
            raise ValueError("the result is too long")
        return text.replace(old, new) if old else text
    (text,) = arguments
    return bytes.fromhex(text).hex() if name == "unhex" else _unistr(text)


def _unistr(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        digits = match[1] or match[2] or match[3]
        return code_point(digits) if digits else "\\"

    plain = _UNISTR_ESCAPE.sub(character, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

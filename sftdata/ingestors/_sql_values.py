"""SQL literals to JSON values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from sftdata.ingestors._sql_text import Name

_WORDS = {"null": None, "true": True, "false": False}
_MYSQL_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}
_MYSQL_ESCAPE = {quote: re.compile(rf"\\(.)|{quote}{quote}", re.DOTALL) for quote in ("'", '"')}
_POSTGRESQL_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_POSTGRESQL_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|''", re.DOTALL)
_COPY_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9A-Fa-f]{1,2}|.)", re.DOTALL)
MAX_DIGITS = 4300
"""Digits from which an integer stays text: the interpreter refuses longer ones."""


def number(text: str, *, is_double: bool = False) -> int | float | str:
    """Return a number exactly: an int, a float where it has the same value, else the text as it is written.

    `is_double`: what is no integer is a float, and written with all its digits.
    """
    digits = text.lstrip("+-")
    if digits.isdecimal():
        return int(text) if len(digits) < MAX_DIGITS else text
    value = float(text)
    try:
        return value if value - value == 0 and (is_double or Decimal(repr(value)) == Decimal(text)) else text
    except InvalidOperation:  # an exponent of 19 digits
        return text


def literals(tokens: Sequence[str], dialect: Name, encoding: str) -> list[Any]:
    """Return the JSON values of literals; strings without escapes, the most of a dump, by the short way."""
    return [
        token[1:-1]
        if token[0] == "'" and "\\" not in token and token.find("'", 1, -1) < 0
        else literal(token, dialect, encoding)
        for token in tokens
    ]


def literal(token: str, dialect: Name, encoding: str) -> Any:
    """Return the JSON value of one literal; binary strings become their bytes in hexadecimal digits."""
    first = token[0]
    if first == "'" or (first == '"' and dialect == "mysql"):
        return _text(token, dialect)
    if first in "0123456789+-." and token[1:2] not in ("x", "X", "b"):
        return number(token, is_double=dialect == "sqlite")
    word = token.lower()
    if word in _WORDS:
        return _WORDS[word]
    return _prefixed(token, dialect, encoding)


def _text(token: str, dialect: Name) -> str:
    quote, body = token[0], token[1:-1]
    if dialect == "mysql" and "\\" in body:
        return _MYSQL_ESCAPE[quote].sub(_mysql_character, body) if quote * 2 in body else _unescape_mysql(body)
    return body.replace(quote * 2, quote) if quote in body else body


def _unescape_mysql(body: str) -> str:
    """Undo the backslash escapes of a text without doubled quotes: what stands between backslashes is copied in one go."""
    first, *rest = body.split("\\")
    parts = [first]
    after_backslash = False
    for part in rest:
        if after_backslash:
            parts.append(part)
            after_backslash = False
        elif part:
            parts += (_MYSQL_ESCAPES.get(part[0], part[0]), part[1:])
        else:
            parts.append("\\")
            after_backslash = True
    return "".join(parts)


def _mysql_character(match: re.Match[str]) -> str:
    character = match[1]
    return match[0][0] if character is None else _MYSQL_ESCAPES.get(character, character)


def _prefixed(token: str, dialect: Name, encoding: str) -> Any:
    prefix, quote, rest = token.partition("'")
    prefix = prefix.strip().lower()
    if not quote:  # 0x… and 0b…
        if dialect == "sqlite":
            return int.from_bytes(int(token, 16).to_bytes(9, "big")[-8:], "big", signed=True) if len(token) < 19 else token
        return token[2:].lower() if token[1] in "xX" else int(token[2:], 2)
    if prefix == "x":
        return rest[:-1].lower()
    if prefix == "b":
        return int(rest[:-1] or "0", 2) if dialect == "mysql" else rest[:-1]
    if prefix == "e":
        return _unescape(rest[:-1], _POSTGRESQL_ESCAPE)
    text = _text(quote + rest, dialect)
    return text.encode(encoding, "surrogateescape").hex() if prefix == "_binary" else text


def copy_value(cell: str) -> str | None:
    r"""Return the text of a cell of COPY … FROM stdin; `\N` is None."""
    if "\\" not in cell:
        return cell
    return None if cell == "\\N" else _unescape(cell, _COPY_ESCAPE)


def _unescape(text: str, escape: re.Pattern[str]) -> str:
    """Undo backslash escapes; bytes that they give by number are read as UTF-8."""
    plain = escape.sub(_postgresql_character, text)
    try:
        return plain.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # halves of a character beyond U+FFFF, which belong together
        return plain.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _postgresql_character(match: re.Match[str]) -> str:
    code = match[1]
    if code is None:
        return "'"
    if code[0] in "01234567":
        return _byte(int(code, 8) & 0xFF)
    if len(code) == 1:
        return _POSTGRESQL_ESCAPES.get(code, code)
    return _byte(int(code[1:], 16)) if code[0] == "x" else code_point(code[1:])


def _byte(value: int) -> str:
    return chr(value) if value < 0x80 else chr(0xDC00 + value)


def code_point(digits: str) -> str:
    """Return the character that has a number in hexadecimal digits; without one, what a byte that is none decodes to."""
    value = int(digits, 16)
    return chr(value) if value <= 0x10FFFF else "\udcff"

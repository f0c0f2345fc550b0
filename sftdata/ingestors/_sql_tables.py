"""What a dump's CREATE TABLE says: the names of the columns, and their types, by which COPY text becomes numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sftdata.ingestors._sql_text import IDENTIFIER, QUALIFIED, Name, patterns
from sftdata.ingestors._sql_values import number

_CREATE_TABLE = re.compile(
    rf"CREATE\s+(?:(?:GLOBAL|LOCAL|TEMP|TEMPORARY|UNLOGGED|FOREIGN|OR\s+REPLACE)\s+)*TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?({QUALIFIED})",
    re.IGNORECASE,
)
_CONSTRAINTS = {"constraint", "primary", "unique", "foreign", "check", "exclude", "like"}
_MYSQL_KEYS = {"key", "index", "fulltext", "spatial", "period"}
_MAIN_SCHEMAS = {"public", "main"}
"""Schemas that a table's label leaves out."""


class Table(NamedTuple):
    """A table that the dump creates: its columns and their types, in order."""

    columns: list[str]
    types: list[str]


def bare(identifier: str) -> str:
    """Return an identifier without its quotes; bytes in it that are no text as digits, `\\xff`."""
    identifier = identifier.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    quote = identifier[0]
    if quote == "[":
        return identifier[1:-1]
    return identifier[1:-1].replace(quote * 2, quote) if quote in '"`' else identifier


def label(qualified: str) -> str:
    """Return a table's name as ids show it: `posts`, or `archive.posts` for a schema other than the dump's main one."""
    parts = [bare(part[0]) for part in re.finditer(IDENTIFIER, qualified)]
    return parts[-1] if len(parts) == 1 or parts[-2] in _MAIN_SCHEMAS else ".".join(parts[-2:])


def column_list(text: str) -> list[str]:
    """Return the names in a list of columns such as `(a, "b c")`."""
    return [bare(part[0]) for part in re.finditer(IDENTIFIER, text)]


def read_create_table(statement: str, dialect: Name) -> tuple[str, Table] | None:
    """Return the label and the columns of a CREATE TABLE statement; None for any other statement.

    sqlparse splits it; strings, which sqlparse reads the MySQL way in every dialect, are emptied before. Raises NeverClosed.
    """
    head = _CREATE_TABLE.match(statement)
    if head is None:
        return None
    definitions = list(_definitions(patterns(dialect).string.sub("''", statement)[head.end() :]))
    skipped = _CONSTRAINTS | _MYSQL_KEYS if dialect == "mysql" else _CONSTRAINTS
    columns = [words for words in definitions if words and words[0].split()[0].lower() not in skipped]
    return label(head[1]), Table([bare(words[0]) for words in columns], [" ".join(words[1:3]).lower() for words in columns])


class NeverClosed(Exception):
    """A CREATE TABLE whose parentheses never close: it has swallowed the statements behind it."""


def _definitions(body: str) -> Iterator[list[str]]:
    """Yield the words of each definition between the outer parentheses; none for a statement of over 10,000 tokens.

    Raises NeverClosed.
    """
    import sqlparse
    from sqlparse.exceptions import SQLParseError

    try:
        parsed = sqlparse.parse(body)
    except SQLParseError:
        if body.count("(") > body.count(")"):
            raise NeverClosed from None
        return
    depth = 0
    words: list[str] = []
    texts: Iterator[str] = (token.value for statement in parsed for token in statement.flatten())  # type: ignore[no-untyped-call]
    for text in texts:
        depth += (text == "(") - (text == ")")
        if depth == 0 and text == ")":
            yield words
            return
        if depth == 1 and text == ",":
            yield words
            words = []
        elif depth == 1 and text not in "()" and text.strip() and not text.startswith(("--", "/*")):
            words.append(text)
    if depth > 0:
        raise NeverClosed


BINARY = {"tinyblob", "blob", "mediumblob", "longblob", "binary", "varbinary", "bytea"}
"""Types of binary columns, in which dumps write bytes as plain strings."""


def binary_places(table: Table | None, names: list[str]) -> tuple[int, ...]:
    """Return which of the named columns are binary, as far as CREATE TABLE said it."""
    kinds = dict(zip(table.columns, table.types, strict=True)) if table is not None else {}
    return tuple(place for place, name in enumerate(names) if re.split(r"[\s(]", kinds.get(name, ""))[0] in BINARY)


def copy_converter(kind: str) -> Callable[[str], Any] | None:
    """Return what turns the COPY text of a column of this type into a JSON value; None where it stays text."""
    first = re.split(r"[\s(]", kind, maxsplit=1)[0]
    if first in {"smallint", "integer", "int", "bigint", "int2", "int4", "int8", "serial", "bigserial", "smallserial", "oid"}:
        return _number_or_text
    if first in {"real", "double", "numeric", "decimal", "float", "float4", "float8"}:
        return _number_or_text
    if first in BINARY:
        return lambda text: text.removeprefix("\\x").lower()
    return _BOOLEANS.get if first in {"boolean", "bool"} else None


_BOOLEANS = {"t": True, "f": False}
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def _number_or_text(text: str) -> int | float | str:
    return number(text) if _NUMBER.fullmatch(text) else text  # NaN and Infinity are no JSON

"""Texts from plain files, for learning or measuring a tokenizer without a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from sftdata.errors import DataError


def read_texts(paths: Sequence[Path], field: str) -> Iterator[str]:
    """Yield the texts of files: of `.jsonl` files the text in `field` of every record, of all others every line.

    Files are UTF-8; the end of a line is part of it. Raises DataError with file and line.
    """
    for path in paths:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _text(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number, field)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _text(line: bytes, path: Path, number: int, field: str) -> str:
    place = f"{path}:{number}"
    try:
        if path.suffix != ".jsonl":
            return line.decode("utf-8")
        record = orjson.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8: {error.reason}; convert the file, or read it through a recipe") from error
    except orjson.JSONDecodeError as error:
        raise DataError(f"{place}: is no JSON: {error}") from error
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{place}: has no text in the field {field!r}; name another with --field")
    return text

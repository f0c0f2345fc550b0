"""JSON files that hold their own hash: a byte that changed is noticed when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from sftdata.errors import DamagedError


def sealed(value: Mapping[str, Any]) -> bytes:
    """Return JSON bytes of `value` whose last key `xxh3` is the hash of the rest."""
    body = {key: item for key, item in value.items() if key != "xxh3"}
    digest = xxhash.xxh3_128(_json_bytes(body)).hexdigest()
    return _json_bytes({**body, "xxh3": digest})


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON file written by `sealed`; raises DamagedError where a byte of it changed."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing") from error
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read: {error}") from error
    return unseal(data, str(path))


def unseal(data: bytes, place: str) -> dict[str, Any]:
    """Return the value of sealed JSON bytes that lie at `place`; raises DamagedError where a byte of them changed."""
    try:
        value = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise DamagedError(f"{place}: cannot be read: {error}") from error
    if not isinstance(value, dict) or not _is_sealed(data):
        raise DamagedError(f"{place}: does not match its own checksum")
    return value


def _is_sealed(data: bytes) -> bool:
    """Say whether JSON bytes end in the hash of the bytes that they are without it."""
    if data.startswith(b'{\n "xxh3": '):
        return data == sealed({})
    body, mark, seal = data.rpartition(b',\n "xxh3": ')
    digest = xxhash.xxh3_128_hexdigest(body + b"\n}\n").encode("ascii")
    return bool(mark) and seal == b'"' + digest + b'"\n}\n'

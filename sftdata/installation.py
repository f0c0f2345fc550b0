"""What must be the same on every machine that shares a build: fingerprints are made on one, results on all."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import xxhash

from sftdata.errors import WorkerError
from sftdata.work import fingerprint, library_version

LIBRARIES = (
    "beautifulsoup4",
    "fastokens",
    "jinja2",
    "lxml",
    "numpy",
    "orjson",
    "pandas",
    "pyarrow",
    "resiliparse",
    "sentencepiece",
    "sqlparse",
    "tokenizers",
    "trafilatura",
    "xxhash",
)
"""Distributions that results can depend on."""


@cache
def installation() -> dict[str, str]:
    """Return Python's version, a digest of the source of this package, and the versions of the libraries under it."""
    package = Path(__file__).parent
    sources = {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(package.rglob("*.py"))}
    code = fingerprint({name: xxhash.xxh3_128_hexdigest(data) for name, data in sources.items()})
    versions = {name: library_version(name) for name in LIBRARIES}
    return {"Python": ".".join(platform.python_version_tuple()[:2]), "the code of sftdata": code, **versions}


def check_installation(expected: dict[str, str]) -> None:
    """Raise WorkerError where this machine's installation is not the one that planned the tasks."""
    here = installation()
    differing = [name for name in {**expected, **here} if expected.get(name) != here.get(name)]
    if differing:
        shown = ", ".join(f"{name} {here.get(name)} (planned with {expected.get(name)})" for name in differing)
        raise WorkerError(f"{platform.node()}: {shown}; install the same on every machine")

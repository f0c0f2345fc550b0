"""Publishing a finished build to an object store: files first, under a generation of their own, the manifest last.

An object store has no rename of a folder. The manifest is one object, written in one go, and its own hash names the generation
that its files lie under: a reader sees the old build or the new one, and a publication that was killed changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sftdata.errors import DamagedError
from sftdata.mirroring import MANIFEST, UNLISTED
from sftdata.remote import Store, in_threads
from sftdata.run_record import damaged_record
from sftdata.shards import open_shards


class Published(NamedTuple):
    """What a publication did."""

    url: str
    generation: str
    num_files: int
    num_uploaded: int
    """Files that were not there yet."""
    removed: list[str]
    """Generations that were removed."""


def publish(shards: str | Path, url: str, *, prune: bool = False) -> Published:
    """Copy a build to a URL, where `open_shards` and `verify` find it; with `prune` remove what was published there before.

    Files that lie there in full are not copied again. Raises DamagedError for a build that is damaged, DataError where the
    store refuses.
    """
    opened = open_shards(shards)
    damaged = [*opened.damaged_files(), *damaged_record(opened.folder)]
    if damaged:
        raise DamagedError(f"{opened.folder}: {damaged[0]} is missing or damaged; `sftdata repair {opened.folder}` first")
    store = Store.at(url)
    generation: str = opened.manifest["xxh3"]
    names = [*(entry["path"] for entry in opened.manifest["files"]), *UNLISTED]

    def upload(name: str) -> bool:
        path = opened.folder / name
        missing = store.size(f"{generation}/{name}") != path.stat().st_size
        if missing:
            store.upload(path, f"{generation}/{name}")
        return missing

    num_uploaded = sum(in_threads(upload, names))
    store.write(MANIFEST, (opened.folder / MANIFEST).read_bytes())
    others = {name.partition("/")[0] for name in store.list()} - {generation, MANIFEST} if prune else set()
    removed = sorted(name for name in others if _is_generation(name))
    for name in removed:
        store.remove(name)
    return Published(store.url, generation, len(names), num_uploaded, removed)


def _is_generation(name: str) -> bool:
    return len(name) == 32 and set(name) <= set("0123456789abcdef")

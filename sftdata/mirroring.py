"""Reading a published build: its files are copied to this machine, since shards are mapped into memory.

The manifest at the URL names the generation, a folder beside it called by the manifest's own hash, under which the files lie.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sftdata import storage
from sftdata.errors import DamagedError, DataError
from sftdata.remote import Store, in_threads
from sftdata.sealing import unseal

MANIFEST = "manifest.json"
UNLISTED = (".sftdata/run.json", "report.html")
"""Files of a build that its manifest does not list."""


def cache_folder() -> Path:
    """Return where copies of published builds are kept: SFTDATA_CACHE, else `sftdata` in the user's cache."""
    chosen = os.environ.get("SFTDATA_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sftdata"


def mirror(url: str) -> Path:
    """Return a folder of this machine that holds the build at a URL, copied where it is not there yet.

    Every file is compared with its checksum when it is copied. Raises DataError where there is no build, DamagedError for a
    file that is missing or damaged.
    """
    store = Store.at(url)
    data, manifest = _manifest(store)
    home = cache_folder() / str(manifest["xxh3"])
    with storage.lock(home):
        storage.recover(home)
        if not (home / MANIFEST).is_file():
            storage.remove_staged(home)
            with storage.staged(home, "copy") as folder:
                _copy(store, manifest, folder)
                damaged = [entry["path"] for entry in manifest["files"] if not _is_whole(folder, entry)]
                if damaged:
                    raise DamagedError(f"{url}: {damaged[0]} is missing or damaged; publish the build again")
                storage.write_bytes(folder / MANIFEST, data)
    return home


@contextmanager
def copied(url: str) -> Iterator[Path]:
    """Give a copy of the build at a URL as it is, damage included, in a temporary folder."""
    store = Store.at(url)
    data, manifest = _manifest(store)
    with tempfile.TemporaryDirectory(prefix="sftdata-") as name:
        folder = Path(name)
        _copy(store, manifest, folder)
        storage.write_bytes(folder / MANIFEST, data, durable=False)
        yield folder


def _manifest(store: Store) -> tuple[bytes, dict[str, Any]]:
    if store.size(MANIFEST) is None:
        raise DataError(f"{store.url}: holds no published build (no {MANIFEST})")
    data = store.read(MANIFEST)
    return data, unseal(data, f"{store.url}/{MANIFEST}")


def _copy(store: Store, manifest: dict[str, Any], folder: Path) -> None:
    """Copy all files of a generation that are there."""
    names = [entry["path"] for entry in manifest["files"]]
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DamagedError(f"{store.url}: {name}: leads out of the folder")

    def copy(name: str) -> None:
        if store.size(f"{manifest['xxh3']}/{name}") is not None:
            store.download(f"{manifest['xxh3']}/{name}", folder / name)

    in_threads(copy, [*names, *UNLISTED])


def _is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    path = folder / entry["path"]
    return storage.has_digest(path, entry["bytes"], entry["xxh3"])

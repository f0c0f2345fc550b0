"""Objects behind URLs: `s3://`, `file://` and whatever else fsspec knows. The only module that imports fsspec.

A build works on paths: it maps files, seeks in them and renames folders. What lies behind a URL is therefore copied: inputs
into the work folder, finished builds to the store and back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from sftdata import storage
from sftdata.errors import DataError, SftdataError
from sftdata.work import fingerprint

T = TypeVar("T")

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
GLOB = re.compile(r"[*?\[]")

NUM_THREADS = 8
"""Objects that are copied at once."""

CHUNK = 8 << 20

INDEX = ".index.json"
"""Beside copied inputs: what each object was when it was copied. Hidden, so that it is no input."""

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Scheme → the extra of this package that it needs; `file` and `memory` need fsspec alone, which is in all of them."""


def is_url(place: object) -> bool:
    """Say whether a place is a URL rather than a path."""
    return isinstance(place, str) and URL.match(place) is not None


@dataclass(frozen=True)
class Store:
    """The folder behind a URL. Every method raises DataError, with the URL, for what the store refuses."""

    url: str
    filesystem: Any
    root: str
    """The path that the filesystem knows the folder by."""

    @classmethod
    def at(cls, url: str) -> Store:
        """Connect to the store of a URL. Raises SftdataError where its library is not installed."""
        scheme = url.partition("://")[0]
        extra = EXTRAS.get(scheme, "s3")
        try:
            import fsspec

            with _named(url):
                filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise SftdataError(f"{url}: needs {error.name or scheme}; run: pip install 'sftdata[{extra}]'") from error
        except ValueError as error:
            raise SftdataError(f"{url}: {error}") from error
        return cls(url.rstrip("/"), filesystem, root.rstrip("/"))

    def list(self) -> dict[str, tuple[int, str]]:
        """Return size and version of every object at or below the URL, by its path below it; "" is the object itself."""
        with _named(self.url):
            if GLOB.search(self.root):
                found = self.filesystem.glob(self.root, detail=True)
            else:
                found = self.filesystem.find(self.root, detail=True)
        anchor = self.anchor
        files = {path: entry for path, entry in found.items() if entry["type"] == "file"}
        return {path.removeprefix(anchor).lstrip("/"): (int(info["size"]), _version(info)) for path, info in files.items()}

    @property
    def anchor(self) -> str:
        """The part of the path before the first folder with a wildcard: what names are relative to."""
        whole = self.root.split("/")
        plain = next((number for number, part in enumerate(whole) if GLOB.search(part)), len(whole))
        return "/".join(whole[:plain])

    def size(self, name: str) -> int | None:
        """Return the bytes of an object below the URL, or None where there is none."""
        with _named(self._url_of(name)):
            try:
                return int(self.filesystem.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes:
        """Return the bytes of a small object."""
        with _named(self._url_of(name)):
            data: bytes = self.filesystem.cat_file(self._path(name))
            return data

    def write(self, name: str, data: bytes) -> None:
        """Write a small object: readers see the old one or the new one."""
        with _named(self._url_of(name)):
            self.filesystem.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self.filesystem.pipe_file(self._path(name), data)

    def upload(self, path: Path, name: str) -> None:
        """Copy a file to an object."""
        with _named(self._url_of(name)):
            self.filesystem.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self.filesystem.put_file(str(path), self._path(name))

    def download(self, name: str, path: Path) -> None:
        """Copy an object to a file, which appears when it is complete."""
        storage.make_folder(path.parent)
        with (
            _named(self._url_of(name)),
            self.filesystem.open(self._path(name), "rb") as old,
            storage.create(path, durable=False) as new,
        ):
            while chunk := old.read(CHUNK):
                new.write(chunk)

    def remove(self, name: str) -> None:
        """Remove a folder of objects."""
        with _named(self._url_of(name)):
            self.filesystem.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self.anchor}/{name}" if name else self.root

    def _url_of(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn what a store or the network raises into an error that names the URL. ImportError and ValueError pass."""
    try:
        yield
    except (SftdataError, ImportError, ValueError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{url}: no such object") from error
    except Exception as error:  # each store has its own classes, and botocore's share no other base
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{url}: {why}") from error


def _version(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in ("ETag", "etag", "mtime", "LastModified", "created") if info.get(key)), ""))


def in_threads(function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Return the results of a function for items, in order, computed by a few threads."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(function, items))


def copy_inputs(url: str, folder: Path) -> Path:
    """Copy the objects that a source's URL names beneath a folder, and return the path that stands for the URL.

    A URL names one object, all below a prefix, or those that match a glob. An object is copied again only where its size or
    version changed. Raises DataError where there is none, or the store cannot be reached.
    """
    store = Store.at(url)
    home = storage.make_folder(folder / fingerprint(store.url))
    objects = store.list()
    if not objects:
        raise DataError(f"{url}: no such object, and none below it")
    before = _read_index(home / INDEX)
    single = store.root.rpartition("/")[2] if list(objects) == [""] else None

    def local(name: str) -> Path:
        path = home / (name or str(single))
        if not path.resolve().is_relative_to(home.resolve()) or path.name == INDEX:
            raise DataError(f"{store.url}/{name}: the object's name leads out of its folder; rename it")
        return path

    def copy(name: str) -> None:
        path = local(name)
        same = before.get(name) == [*objects[name]] and path.is_file() and path.stat().st_size == objects[name][0]
        if not same:
            store.download(name, path)

    in_threads(copy, list(objects))
    for name in before.keys() - objects.keys():
        storage.remove_tree(local(name))
    storage.write_bytes(home / INDEX, orjson.dumps(objects), durable=False)
    if single is not None:
        return home / single
    return home / store.root.removeprefix(store.anchor).lstrip("/")


def _read_index(path: Path) -> dict[str, list[Any]]:
    try:
        index: dict[str, list[Any]] = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # all is copied again
    return index

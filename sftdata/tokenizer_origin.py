"""Where a recipe's tokenizer and chat template come from, and all that they depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sftdata import storage
from sftdata.recipe_loader import Loaded
from sftdata.templates import TOKENIZER_DEFAULT, built_in_names
from sftdata.templates.built_in import FOLDER
from sftdata.tokenizers.files import FILES, locate
from sftdata.work import ENTRY, Read, code_fingerprint, fingerprint, library_version

MAX_CHECKED_PARTS = 32
"""Parts on whose texts a given tokenizer is checked; a learned one reads all."""


class ChatTemplate(NamedTuple):
    """A recipe's chat template."""

    name: str
    """As `load_template` takes it: a known name, or a path of this machine."""
    identity: str
    """The digest of its file, or its name."""
    reads: tuple[Read, ...]
    """Its file, where that lies outside of the package."""


def tokenizer_origin(loaded: Loaded) -> tuple[dict[str, Any], dict[str, Any], list[Read]]:
    """Return what the tokenizer's task is asked to do, what its result depends on, the data aside, and which files it reads."""
    recipe = loaded.recipe
    options = recipe.tokenizer
    template = chat_template(loaded)
    spec: dict[str, Any] = {"path": None, "train": None, "extend": None, "template": template.name}
    depends_on: dict[str, Any] = {
        "template": template.identity,
        "code of the tokenizer": code_fingerprint("sftdata.tokenizer_making"),
        "libraries": {name: library_version(name) for name in ("tokenizers", "fastokens", "sentencepiece")},
    }
    reads = list(template.reads)
    if options.path is not None:
        path = locate(options.path, loaded.folder)
        spec["path"] = str(path)
        found = _reads(path)
        depends_on["tokenizer files"] = {Path(read.path).name: read.digest for read in found}
        reads += found
    if options.train is not None:
        spec["train"] = depends_on["train"] = options.train.model_dump()
        depends_on["split"] = [recipe.split.model_dump(), recipe.seed]
    if options.extend is not None:
        pieces = loaded.resolve(options.extend.pieces)
        spec["extend"] = {**options.extend.model_dump(), "pieces": str(pieces)}
        depends_on["extend"] = [options.extend.add_parts, storage.file_digest(pieces) if pieces.is_file() else None]
    return spec, depends_on, reads


def parts_to_read(loaded: Loaded, num_parts: int) -> range:
    """Return the parts whose texts the tokenizer's task reads: all to learn, else at most some that lie evenly among them."""
    step = 1 if loaded.recipe.tokenizer.train is not None else -(-num_parts // MAX_CHECKED_PARTS)
    return range(0, num_parts, max(step, 1))


def chat_template(loaded: Loaded) -> ChatTemplate:
    """Return the chat template of a recipe."""
    name = loaded.recipe.tokenizer.chat_template
    if name == TOKENIZER_DEFAULT:
        return ChatTemplate(name, name, ())
    built_in = name in built_in_names()
    path = FOLDER / f"{name}.yaml" if built_in else loaded.resolve(name)
    identity = storage.file_digest(path) if path.is_file() else name
    return ChatTemplate(name, identity, ()) if built_in else ChatTemplate(str(path), identity, (Read.whole(path, identity),))


def _reads(path: Path) -> list[Read]:
    """Return the files of a tokenizer by name; nothing where there is none, which reading it will say."""
    beside = path if path.is_dir() else path.parent
    files = {*(beside / name for name in FILES), path}
    return [Read.whole(file, storage.file_digest(file)) for file in sorted(files) if file.is_file()]


def folder_digest(entry: Path) -> str:
    """Return one digest of the bytes and names of the files that a task made; what it said of them is not among them."""
    files = [path for path in sorted(entry.iterdir()) if path.is_file() and path.name != ENTRY]
    return fingerprint({path.name: storage.file_digest(path) for path in files})

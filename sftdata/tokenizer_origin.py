"""Where a recipe's tokenizer and chat template come from, and all that they depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sftdata import storage
from sftdata.recipe_loader import Loaded
from sftdata.templates import TOKENIZER_DEFAULT, built_in_names
from sftdata.templates.built_in import FOLDER
from sftdata.tokenizers.files import FILES, locate
from sftdata.work import code_fingerprint, library_version

MAX_CHECKED_PARTS = 32
"""Parts on whose texts a given tokenizer is checked; a learned one reads all."""


def tokenizer_origin(loaded: Loaded) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the tokenizer's task is asked to do, and what its result depends on, the texts of the data aside."""
    recipe = loaded.recipe
    options = recipe.tokenizer
    spec: dict[str, Any] = {"path": None, "train": None, "extend": None, "template": chat_template(loaded)}
    depends_on: dict[str, Any] = {
        "template": chat_template_identity(loaded),
        "code of the tokenizer": code_fingerprint("sftdata.tokenizer_making"),
        "libraries": {name: library_version(name) for name in ("tokenizers", "fastokens", "sentencepiece")},
    }
    if options.path is not None:
        path = locate(options.path, loaded.folder)
        spec["path"] = str(path)
        depends_on["tokenizer files"] = _digests(path)
    if options.train is not None:
        spec["train"] = depends_on["train"] = options.train.model_dump()
        depends_on["split"] = [recipe.split.model_dump(), recipe.seed]
    if options.extend is not None:
        pieces = loaded.resolve(options.extend.pieces)
        spec["extend"] = {**options.extend.model_dump(), "pieces": str(pieces)}
        depends_on["extend"] = [options.extend.add_parts, storage.file_digest(pieces) if pieces.is_file() else None]
    return spec, depends_on


def parts_to_read(loaded: Loaded, num_parts: int) -> range:
    """Return the parts whose texts the tokenizer's task reads: all to learn, else at most some that lie evenly among them."""
    step = 1 if loaded.recipe.tokenizer.train is not None else -(-num_parts // MAX_CHECKED_PARTS)
    return range(0, num_parts, max(step, 1))


def chat_template(loaded: Loaded) -> str:
    """Return the chat template as `load_template` takes it."""
    name = loaded.recipe.tokenizer.chat_template
    return name if name in (TOKENIZER_DEFAULT, *built_in_names()) else str(loaded.resolve(name))


def chat_template_identity(loaded: Loaded) -> Any:
    """Return what identifies the chat template: the digest of its file, or its name."""
    name = loaded.recipe.tokenizer.chat_template
    if name == TOKENIZER_DEFAULT:
        return name
    path = FOLDER / f"{name}.yaml" if name in built_in_names() else loaded.resolve(name)
    return storage.file_digest(path) if path.is_file() else name


def _digests(path: Path) -> dict[str, str]:
    """Return the digests of the files of a tokenizer by name; nothing where there is none, which reading it will say."""
    beside = path if path.is_dir() else path.parent
    files = {*(beside / name for name in FILES), path}
    return {file.name: storage.file_digest(file) for file in sorted(files) if file.is_file()}

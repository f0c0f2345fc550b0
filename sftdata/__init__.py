"""sftdata: from raw files to training data that can be trusted, and to a model trained on it.

    import sftdata

    result = sftdata.build("recipes/zhenhuan.yaml")
    shards = sftdata.open_shards(result.folder)

Importing the package imports none of the heavy libraries; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sftdata.errors import (
    ConservationError,
    DamagedError,
    DamagedInputError,
    DataError,
    LockedError,
    RecipeError,
    SftdataError,
    StorageError,
    TemplateError,
    TokenizerError,
    TrainingError,
    WorkerError,
)

if TYPE_CHECKING:
    from sftdata.ingesting import ingest
    from sftdata.pipeline import build
    from sftdata.recipe_loader import load_recipe
    from sftdata.records import Drop
    from sftdata.registry import cleaner, formatter, ingestor
    from sftdata.shards import open_shards
    from sftdata.training import train
    from sftdata.views.inspect import inspect
    from sftdata.views.verify import verify
    from sftdata.views.why import why

__version__ = "0.1.0"

_HOMES = {
    "build": "sftdata.pipeline",
    "ingest": "sftdata.ingesting",
    "load_recipe": "sftdata.recipe_loader",
    "open_shards": "sftdata.shards",
    "inspect": "sftdata.views.inspect",
    "verify": "sftdata.views.verify",
    "why": "sftdata.views.why",
    "train": "sftdata.training",
    "ingestor": "sftdata.registry",
    "cleaner": "sftdata.registry",
    "formatter": "sftdata.registry",
    "Drop": "sftdata.records",
}

__all__ = [
    "ConservationError",
    "DamagedError",
    "DamagedInputError",
    "DataError",
    "Drop",
    "LockedError",
    "RecipeError",
    "SftdataError",
    "StorageError",
    "TemplateError",
    "TokenizerError",
    "TrainingError",
    "WorkerError",
    "build",
    "cleaner",
    "formatter",
    "ingest",
    "ingestor",
    "inspect",
    "load_recipe",
    "open_shards",
    "train",
    "verify",
    "why",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sftdata' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

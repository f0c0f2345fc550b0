"""Exporters: a build's data in the form that another program reads, with a configuration that fits; one file a consumer."""

from __future__ import annotations

from collections.abc import Callable

from sftdata.exporters._job import Job, Outcome
from sftdata.exporters.axolotl import export_axolotl
from sftdata.exporters.jsonl import export_jsonl
from sftdata.exporters.llamafactory import export_llamafactory
from sftdata.exporters.megatron import export_megatron
from sftdata.exporters.parquet import export_parquet
from sftdata.exporters.trl import export_trl

EXPORTERS: dict[str, Callable[[Job], Outcome]] = {
    "axolotl": export_axolotl,
    "jsonl": export_jsonl,
    "llamafactory": export_llamafactory,
    "megatron": export_megatron,
    "parquet": export_parquet,
    "trl": export_trl,
}
"""Consumer → the function that fills an empty folder for it."""

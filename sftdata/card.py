"""The dataset card: README.md of a build, with the front matter that `datasets` and the hub read."""

from __future__ import annotations

import html
from typing import Any

import yaml


def dataset_card(manifest: dict[str, Any]) -> str:
    """Return the card as Markdown. The front matter tells `load_dataset` which files belong to which split."""
    front = yaml.safe_dump(_front_matter(manifest), allow_unicode=True, sort_keys=False)
    sections = [_rows(manifest), _funnel(manifest), _provenance(manifest), _columns(manifest)]
    return f"---\n{front}---\n\n# {manifest['name']}\n\nToken shards built by sftdata.\n\n" + "\n".join(sections)


def _front_matter(manifest: dict[str, Any]) -> dict[str, Any]:
    licences = sorted({source["licence"] for source in manifest["sources"].values() if source["licence"]})
    filled = [name for name, split in manifest["splits"].items() if split["rows"]]  # load_dataset opens no empty split
    files = [{"split": name, "path": f"{name}/*.arrow"} for name in filled or manifest["splits"]]
    front: dict[str, Any] = {"pretty_name": manifest["name"]}
    if licences:
        front["license"] = licences[0].lower() if len(licences) == 1 else [licence.lower() for licence in licences]
    return {**front, "configs": [{"config_name": "default", "data_files": files}]}


def table(header: list[str], rows: list[list[Any]]) -> str:
    """Return a Markdown table; integers get thousands separators, and text from a recipe cannot break out of its cell."""
    lines = [header, ["---"] * len(header), *rows]
    texts = [[f"{cell:,}" if isinstance(cell, int) else _cell(str(cell)) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in texts)


def _cell(text: str) -> str:
    return " ".join(html.escape(text, quote=False).split()).replace("|", "\\|")


def _rows(manifest: dict[str, Any]) -> str:
    rows = [
        [name, split["samples"], split["rows"], split["tokens"], split["trained_tokens"], f"{split['packing']['fill']:.1%}"]
        for name, split in manifest["splits"].items()
    ]
    return "## Splits\n\n" + table(["Split", "Samples", "Rows", "Tokens", "Trained tokens", "Fill"], rows)


def _funnel(manifest: dict[str, Any]) -> str:
    counts = manifest["counts"]
    rows = [
        [stage, found.get("records", found.get("rows", 0)), found["kept"], found["dropped"], found["quarantined"]]
        for stage, found in counts.items()
        if stage != "gather"
    ]
    return "## From records to samples\n\n" + table(["Stage", "In", "Kept", "Dropped", "Quarantined"], rows)


def _provenance(manifest: dict[str, Any]) -> str:
    rows = [
        [name, source["category"], source["licence"] or "not stated", len(source["files"]), source["prepare"].get("records", 0),
         source["tokenize"].get("kept", 0)]
        for name, source in manifest["sources"].items()
    ]  # fmt: skip
    return "## Sources\n\n" + table(["Source", "Category", "Licence", "Files", "Records", "Tokenized"], rows)


COLUMN_HELP = {
    "input_ids": "token ids, never padded",
    "labels": "the ids that are trained, unshifted; -100 elsewhere, and on the first token of every document",
    "attention_mask": "ones",
    "seq_lengths": "tokens of each document in the row: attention and positions start anew at each",
    "loss_weights": "factor on the loss of each token",
}


def _columns(manifest: dict[str, Any]) -> str:
    columns = next(iter(manifest["splits"].values()))["columns"]
    note = (
        "Every dropped, edited and quarantined record is in `.sftdata/ledger.parquet`, the origin of every token in "
        "`.sftdata/lineage.parquet`; checksums of all files are in `manifest.json`.\n"
    )
    return "## Columns\n\n" + table(["Column", "Holds"], [[name, COLUMN_HELP[name]] for name in columns]) + "\n" + note

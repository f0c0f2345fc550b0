"""The report: where every record and token of a build went, as one HTML page that needs nothing from the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftdata import storage
from sftdata.run_record import REPORT_FILE
from sftdata.shards import open_shards

TEMPLATE = Path(__file__).with_name("report.html.jinja")
STAGES = ("prepare", "resolve", "tokenize", "plan")
ACTIONS = ("quarantine", "drop", "drop_turn", "edit", "cut", "mask", "weight", "flag")


def report_page(manifest: dict[str, Any]) -> str:
    """Return the report of a build as one HTML page, from its manifest alone."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["share"] = lambda part, whole: f"{100 * part / whole if whole else 0:.2f}%"
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page: str = template.render(
        **{name: manifest[name] for name in ("name", "fingerprint", "seed", "sequence_len", "chat_template", "tokenizer")},
        figures=list(_figures(manifest)),
        funnel=list(_funnel(manifest)),
        reasons=list(_reasons(manifest)),
        sources=list(_sources(manifest)),
        splits=[{"name": name, **split} for name, split in manifest["splits"].items()],
        buckets=manifest["splits"]["train"]["bucket_rows"],
    )
    return page


def write_report(shards: str | Path, out: Path | None) -> tuple[dict[str, Any], Path]:
    """Return a build's manifest and where its report lies; with `out`, write the page there anew."""
    opened = open_shards(shards)
    if out is None:
        return opened.manifest, opened.folder / REPORT_FILE
    storage.make_folder(out.parent)
    storage.write_bytes(out, report_page(opened.manifest).encode("utf-8"))
    return opened.manifest, out


def funnel_lines(manifest: dict[str, Any]) -> list[str]:
    """Return the funnel and the reasons as lines of text."""
    lines = [f"{'stage':<10} {'in':>12} {'kept':>12} {'dropped':>12} {'quarantined':>12}"]
    for stage in _funnel(manifest):
        numbers = [stage[name] for name in ("num_in", "kept", "dropped", "quarantined")]
        lines.append(f"{stage['name']:<10} " + " ".join(f"{number:>12,}" for number in numbers))
    lines.extend(f"{row['count']:>12,}  {row['action']}: {row['reason']} ({row['stage']})" for row in _reasons(manifest))
    for name, split in manifest["splits"].items():
        lines.append(
            f"{name}: {split['samples']:,} samples in {split['rows']:,} rows, {split['tokens']:,} tokens, "
            f"{split['trained_tokens']:,} trained, {split['packing']['fill']:.1%} full"
        )
    return lines


def _figures(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    splits = manifest["splits"].values()
    yield "records read", f"{manifest['counts']['prepare'].get('records', 0):,}"
    yield "samples kept", f"{manifest['counts']['plan']['kept']:,}"
    yield "rows", f"{sum(split['rows'] for split in splits):,}"
    yield "tokens", f"{sum(split['tokens'] for split in splits):,}"
    yield "trained tokens", f"{sum(split['trained_tokens'] for split in splits):,}"


def _funnel(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for stage in STAGES:
        counts = manifest["counts"][stage]
        num_in = counts.get("records", counts.get("rows", 0))
        yield {"name": stage, "num_in": num_in, **{name: counts[name] for name in ("kept", "dropped", "quarantined")}}


def _reasons(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every `action:reason` that was counted, the most serious actions first, then by number."""
    for action in ACTIONS:
        found = [
            (count, stage, name.partition(":")[2])
            for stage in STAGES
            for name, count in manifest["counts"][stage].items()
            if count and name.partition(":")[0] == action
        ]
        for count, stage, reason in sorted(found, key=lambda row: (-row[0], row[1:])):
            yield {"action": action, "stage": stage, "reason": ": ".join(_parts(reason)), "count": count}


def _parts(reason: str) -> list[str]:
    """Return (step, reason) of a count's name; the step's own name may be `module:function`."""
    step, _, reason = reason.rpartition(":")
    return [step, reason] if step else [reason]


def _sources(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, source in manifest["sources"].items():
        prepared, tokenized = source["prepare"], source["tokenize"]
        yield {
            "name": name,
            "category": source["category"],
            "licence": source["licence"],
            "num_files": len(source["files"]),
            "records": prepared.get("records", 0),
            "dropped": prepared.get("dropped", 0),
            "quarantined": prepared.get("quarantined", 0) + tokenized.get("quarantined", 0),
            "tokenized": tokenized.get("kept", 0),
            "tokens": tokenized.get("tokens", 0),
        }

"""The report: where every record and token of a build went, as one HTML page that needs nothing from the network.

It is made from the manifest, the ledger, the lineage's integers and the record of the run, never from the tokens themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sftdata import storage
from sftdata.errors import DamagedError
from sftdata.mask_lint import findings
from sftdata.run_record import REPORT_FILE, RUN_FILE
from sftdata.sealing import read_sealed
from sftdata.shards import Shards, open_shards
from sftdata.views import figures
from sftdata.views.composition import Composition, fill_curve, read_composition
from sftdata.views.page import fill_page
from sftdata.views.reasons import SEVERITY, Ledger, read_ledger, reasons

STAGES = ("prepare", "resolve", "tokenize", "plan")
MAX_REASONS = 200
"""Reasons and rules that the page lists."""


def report_page(shards: Shards, run: Mapping[str, Any]) -> str:
    """Return the report of a build as one HTML page. run: the content of its run.json. Raises DamagedError."""
    manifest = shards.manifest
    ledger = read_ledger(shards)
    composition = read_composition(shards)
    all_reasons = reasons(ledger)
    funnel = list(_funnel(manifest))
    return fill_page(
        "report.html.jinja",
        manifest=manifest,
        run=run,
        headline=list(_headline(manifest)),
        findings=list(findings(manifest)),
        funnel=[{**stage, "reasons": [row for row in all_reasons if row.stage == stage["name"]]} for stage in funnel],
        num_read=funnel[0]["num_in"],
        most=max((row.num_lines for row in all_reasons), default=0),
        num_other=ledger.num_other,
        max_reasons=MAX_REASONS,
        sources=list(_sources(manifest, composition)),
        mixture=list(_mixture(manifest)),
        splits=[{"name": name, **split} for name, split in manifest["splits"].items()],
        rules=list(_rules(ledger)),
        figures=_figures(manifest, composition),
        seconds=_seconds(run),
    )


def write_report(shards: str | Path, out: Path | None) -> tuple[dict[str, Any], Path]:
    """Return a build's manifest and where its report lies; with `out`, write the page there anew. Raises DamagedError."""
    opened = open_shards(shards)
    if out is None:
        return opened.manifest, opened.folder / REPORT_FILE
    page = report_page(opened, read_sealed(opened.folder / RUN_FILE))
    storage.make_folder(out.parent)
    storage.write_bytes(out, page.encode("utf-8"))
    return opened.manifest, out


def funnel_lines(manifest: dict[str, Any]) -> list[str]:
    """Return the funnel, the reasons and what the mask lint found as lines of text."""
    lines = [f"{'stage':<10} {'in':>12} {'kept':>12} {'dropped':>12} {'quarantined':>12}"]
    for stage in _funnel(manifest):
        numbers = [stage[name] for name in ("num_in", "kept", "dropped", "quarantined")]
        lines.append(f"{stage['name']:<10} " + " ".join(f"{number:>12,}" for number in numbers))
    lines.extend(f"{row['count']:>12,}  {row['action']}: {row['reason']} ({row['stage']})" for row in _counted(manifest))
    for name, split in manifest["splits"].items():
        lines.append(
            f"{name}: {split['samples']:,} samples in {split['rows']:,} rows, {split['tokens']:,} tokens, "
            f"{split['trained_tokens']:,} trained, {split['packing']['fill']:.1%} full"
        )
    return [*lines, *_shares(manifest), *findings(manifest)]


def _shares(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each source that asks for a share of the training rows."""
    mixture = manifest["splits"]["train"]["mixture"]
    unit = mixture["by"].replace("_", " ")
    for name, source in mixture["sources"].items():
        if "asked" in source:
            shares = f"{source['asked']:.2%} of the {unit} asked, {source['realised']:.2%} realised"
            yield f"{name}: {shares}, {source['epochs']:.2f} epochs"


def _headline(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    splits = manifest["splits"].values()
    tokens, trained = (sum(split[name] for split in splits) for name in ("tokens", "trained_tokens"))
    yield "records read", f"{manifest['counts']['prepare'].get('records', 0):,}"
    yield "samples kept", f"{manifest['counts']['plan']['kept']:,}"
    yield "rows", f"{sum(split['rows'] for split in splits):,}"
    yield "tokens", f"{tokens:,}"
    yield "of them trained", f"{100 * trained / tokens if tokens else 0:.1f} %"


def _funnel(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for stage in STAGES:
        counts = manifest["counts"][stage]
        num_in = counts.get("records", counts.get("rows", 0))
        yield {"name": stage, "num_in": num_in, **{name: counts[name] for name in ("kept", "dropped", "quarantined")}}


def _counted(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every `action:reason` that was counted, the most serious actions first, then by number."""
    for action in SEVERITY:
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


def _sources(manifest: dict[str, Any], composition: Composition) -> Iterator[dict[str, Any]]:
    for name, source in manifest["sources"].items():
        prepared, tokenized = Counter(source["prepare"]), Counter(source["tokenize"])
        yield {
            "name": name,
            "category": source["category"],
            "licence": source["licence"],
            "num_files": len(source["files"]),
            "records": prepared["records"],
            "dropped": prepared["dropped"] + tokenized["dropped"],
            "quarantined": prepared["quarantined"] + tokenized["quarantined"],
            "tokenized": tokenized["kept"],
            "tokens": tokenized["tokens"],
            "in_train": composition.tokens["train", name],
            "in_validation": composition.tokens["validation", name],
            "control": {key: tokenized[key] for key in ("control_rows", "control_tokens", "marker_rows", "markers")},
            "lint": source["mask_lint"],
        }


class _Share(NamedTuple):
    """A source's part of the training split."""

    name: str
    colour: str
    num_samples: int
    num_tokens: int
    num_trained: int
    epochs: float
    realised: float
    """Its share, counted in what the mixture counts."""
    asked: float | None
    """The share that the recipe asks for; None where it asks for none."""


def _mixture(manifest: dict[str, Any]) -> Iterator[_Share]:
    """Yield the sources, the one with most tokens first: the order of their colours."""
    sources = manifest["splits"]["train"]["mixture"]["sources"]
    largest_first = sorted(sources.items(), key=lambda item: (-item[1]["tokens"], item[0]))
    for number, (name, found) in enumerate(largest_first):
        sizes = (found["samples"], found["tokens"], found["trained_tokens"], found["epochs"], found["realised"])
        yield _Share(name, figures.category_colour(number), *sizes, found.get("asked"))


class _Rule(NamedTuple):
    """A cleaner's rule."""

    step: str
    rule: str
    reason: str
    action: str
    num_hits: int
    example: str


def _rules(ledger: Ledger) -> Iterator[_Rule]:
    """Yield the rules of the cleaners that found something, by number; those of duplicates tell nothing new."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    examples: dict[tuple[str, str, str, str], str] = {}
    for kind, count in ledger.counts.items():
        if kind.rule and kind.stage == "prepare":
            key = (kind.step, kind.rule, kind.reason, kind.action)
            counts[key] += count
            examples.setdefault(key, ledger.samples[kind][0].evidence)
    for key, count in counts.most_common(MAX_REASONS):
        yield _Rule(*key, count, examples[key])


def _figures(manifest: dict[str, Any], composition: Composition) -> dict[str, str]:
    """Return the figures that say something of this build, by name."""
    drawn = {}
    lengths = {name: source["lengths"] for name, source in manifest["sources"].items()}
    limit = manifest["sequence_len"]
    if any(lengths.values()):
        drawn["lengths"] = figures.length_figure(lengths, limit)
    if limit and composition.row_tokens.get("train"):
        curves = {split: fill_curve(counts, limit) for split, counts in composition.row_tokens.items() if counts}
        drawn["fill"] = figures.fill_figure(curves)
    num_buckets = len(manifest["splits"]["train"]["bucket_rows"])
    if num_buckets > 1 and composition.bucket_tokens:
        names = [share.name for share in _mixture(manifest)]
        drawn["buckets"] = figures.bucket_figure([composition.bucket_tokens[name] for name in names])
    return drawn


def _seconds(run: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the seconds of every stage and of all that is no stage. Raises DamagedError for a record of another kind."""
    try:
        stages = [(name, float(value)) for name, value in run["stage_seconds"].items()]
        return [*stages, ("the rest", max(float(run["seconds"]) - sum(value for _, value in stages), 0.0))]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{RUN_FILE}: is no record of a build") from error

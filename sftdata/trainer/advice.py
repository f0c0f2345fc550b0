"""What experience says of a run before it is paid for. Advice is said, never enforced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftdata.shards import Shards
from sftdata.trainer.plan import RunPlan, SplitFacts
from sftdata.trainer.settings import TrainSettings

MIN_BYTES_FULL = 10_000_000
"""Text below which full fine-tuning is said to overfit; adapters do with less."""
BYTES_A_TOKEN = 4
"""Of English with a vocabulary of 32,000 or more; Chinese has about 3."""
MAX_SOURCE_SHARE = 0.8
MAX_EPOCHS = 10
MIN_STEPS = 30


def advice(shards: Shards, facts: SplitFacts, plan: RunPlan, settings: TrainSettings) -> list[str]:
    """Return lines that begin with `advice:`; none where there is nothing to say."""
    found: list[str] = []
    num_bytes = facts.num_tokens * BYTES_A_TOKEN
    if settings.fine_tunes and settings.adapter is None and num_bytes < MIN_BYTES_FULL:
        found.append(
            f"about {num_bytes / 1e6:,.2g} MB of text; for full fine-tuning 10 MB are the least that is advised, adapter: lora "
            "does with less"
        )
    source, share = dominant_source(shards.manifest)
    if share > MAX_SOURCE_SHARE:
        found.append(f"{share:.0%} of the tokens come from {source!r}; varied data generalises better (mix: weighted)")
    if plan.num_epochs > MAX_EPOCHS:
        found.append(f"every row is trained {plan.num_epochs:,.1f} times; watch the validation loss, or lower max_steps")
    if plan.num_steps < MIN_STEPS:
        found.append(f"only {plan.num_steps} steps of {plan.rows_per_step} rows; smaller batches make more of them")
    return [f"advice: {line}" for line in found]


def dominant_source(manifest: Mapping[str, Any]) -> tuple[str, float]:
    """Return the source with most tokens and its share; ("", 0) where there is one source or the counts are absent."""
    sources = dict(manifest.get("sources") or {})
    counts = {name: int(entry.get("tokenize", {}).get("tokens", 0)) for name, entry in sources.items()}
    total = sum(counts.values())
    if len(counts) < 2 or not total:
        return "", 0.0
    name = max(counts, key=lambda source: counts[source])
    return name, counts[name] / total

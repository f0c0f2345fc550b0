"""Padding, packing, concatenation and best fit on the same instructions: as many steps, about as many trained tokens in each.

    python benchmarks/alpaca_modes.py [--recipe recipes/alpaca-modes.yaml] [--epochs 3] [--seeds 3] [--out modes]

Builds the recipe once a mode, trains each as long as it takes to see the trained tokens of `--epochs` epochs of padding, and
prints the validation loss, whose rows are the same and unpacked in every mode. Writes `modes.json` and `modes.svg`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from sftdata import build, open_shards, storage
from sftdata.training import train

MODES = ("padding", "packed", "concat", "best_fit")
COLOURS = {"padding": "#2a6fbb", "packed": "#d1602b", "concat": "#4a9a4a", "best_fit": "#8a5ab5"}


def trained_tokens(shards: Path) -> tuple[int, int]:
    """Return rows and trained tokens of the train split."""
    counts = open_shards(shards).manifest["splits"]["train"]
    return counts["rows"], counts["trained_tokens"]


def compare(recipe: Path, folder: Path, epochs: float, num_seeds: int) -> list[dict[str, object]]:
    """Build and train every mode; returns one row a mode."""
    results: list[dict[str, object]] = []
    budget = 0.0
    for mode in MODES:
        shards = folder / "shards" / mode
        build(recipe, out=shards, work_dir=folder / "work", overrides=[f"pack.strategy={mode}", "pack.validation=padding"])
        rows, trained = trained_tokens(shards)
        budget = budget or epochs * trained
        # The rows of a step are scaled so that every mode makes the same number of steps with as many trained tokens in each.
        per_row = trained / rows
        if mode == "padding":
            size = 16
            steps = round(budget / (size * per_row))
            wanted = size * per_row
        size = max(1, round(wanted / per_row))
        curves, losses = [], []
        for seed in range(num_seeds):
            out = folder / "models" / f"{mode}-{seed}"
            overrides = [f"max_steps={steps}", f"micro_batch_size={size}", f"seed={seed}", "report_to=none"]
            result = train(shards, out=out, overrides=overrides)
            losses.append(float(result.validation_loss or 0.0))
            curves.append(json.loads(result.curves.read_text("utf-8")))
        results.append(
            {"mode": mode, "rows": rows, "trained": trained, "steps": steps, "rows_a_step": size,
             "seen": round(steps * size * per_row), "losses": losses, "curve": curves[0]}
        )
    return results


def table(results: list[dict[str, object]]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| Mode | Rows | Rows a step | Trained tokens seen | Validation loss | Spread |", "|" + " --- |" * 6]
    for row in results:
        losses: list[float] = row["losses"]  # type: ignore[assignment]
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        lines.append(
            f"| {row['mode']} | {row['rows']:,} | {row['rows_a_step']} | {row['seen']:,} | {statistics.fmean(losses):.3f} | "
            f"{spread:.3f} |"
        )
    return "\n".join(lines)


def plot(results: list[dict[str, object]]) -> str:
    """Return the validation losses by step as an SVG."""
    lines = {
        str(row["mode"]): [(p["step"], p["validation_loss"]) for p in row["curve"] if p["validation_loss"]]  # type: ignore
        for row in results
    }
    steps = max(step for line in lines.values() for step, _ in line)
    low = min(loss for line in lines.values() for _, loss in line)
    high = max(loss for line in lines.values() for _, loss in line)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360"><rect width="640" height="360" fill="#ffffff"/>']
    for number, (mode, line) in enumerate(lines.items()):
        points = " ".join(f"{50 + 560 * s / steps:.1f},{40 + 280 * (high - v) / (high - low):.1f}" for s, v in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[mode]}" stroke-width="2"/>')
        label = f"{mode} {line[-1][1]:.3f}"
        parts.append(f'<text x="{60 + 140 * number}" y="24" font-size="13" fill="{COLOURS[mode]}">{label}</text>')
    ends = ((high, 44), (low, 324))
    parts += [f'<text x="6" y="{place}" font-size="11" fill="#333a42">{value:.2f}</text>' for value, place in ends]
    return "".join(parts) + "</svg>\n"


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).resolve().parents[1] / "recipes" / "alpaca-modes.yaml")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("modes"))
    arguments = parser.parse_args()
    results = compare(arguments.recipe, arguments.out, arguments.epochs, arguments.seeds)
    storage.write_json(arguments.out / "modes.json", results)
    storage.write_bytes(arguments.out / "modes.svg", plot(results).encode("utf-8"))
    print(table(results))


if __name__ == "__main__":
    main()

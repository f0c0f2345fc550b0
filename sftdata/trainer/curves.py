"""Learning curves: the numbers, and a picture of them."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from sftdata import storage

TRAIN, VALIDATION = "train_loss", "validation_loss"
COLOURS = {TRAIN: "#2a6fbb", VALIDATION: "#d1602b"}
NAMES = {TRAIN: "training", VALIDATION: "validation"}
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 76, 48
"""Margins of the SVG in pixels."""


@dataclass
class Curve:
    """Losses by step; either may be missing at a step."""

    points: dict[int, dict[str, float]] = field(default_factory=dict)

    def add(self, step: int, **losses: float) -> None:
        """Add a `train_loss` or a `validation_loss` at a step."""
        self.points.setdefault(step, {}).update(losses)

    def rows(self) -> list[dict[str, float | None]]:
        """Return one {"step", "train_loss", "validation_loss"} a step, in order; null where nothing was measured."""
        return [
            {"step": step, TRAIN: losses.get(TRAIN), VALIDATION: losses.get(VALIDATION)}
            for step, losses in sorted(self.points.items())
        ]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, float | None]]) -> Curve:
        """Return the curve whose `rows` these are."""
        curve = cls()
        for row in rows:
            losses = {name: row[name] for name in (TRAIN, VALIDATION)}
            curve.add(int(row["step"] or 0), **{name: loss for name, loss in losses.items() if loss is not None})
        return curve

    def line(self, name: str) -> list[tuple[int, float]]:
        """Return the (step, loss) points of one of the two curves."""
        return [(step, losses[name]) for step, losses in sorted(self.points.items()) if name in losses]

    def last(self, name: str) -> float | None:
        """Return the last loss of a curve, or None for an empty one."""
        line = self.line(name)
        return line[-1][1] if line else None


def write_curves(folder: Path, curve: Curve, title: str) -> Path:
    """Write `curves.json`, `curves.svg` and, where matplotlib is installed, `curves.png`; return the best picture's path."""
    storage.write_json(folder / "curves.json", curve.rows())
    storage.write_bytes(folder / "curves.svg", svg(curve, title).encode("utf-8"))
    if importlib.util.find_spec("matplotlib") is None:
        return folder / "curves.svg"
    storage.write_bytes(folder / "curves.png", png(curve, title))
    return folder / "curves.png"


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Return round numbers from at or below `low` to at or above `high`: steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def svg(curve: Curve, title: str) -> str:
    """Draw the curves as an SVG with real text, readable on light and dark pages."""
    losses = [loss for name in NAMES for _, loss in curve.line(name)]
    y_ticks = ticks(min(losses), max(losses))
    x_ticks = [tick for tick in ticks(0, max(curve.points)) if tick == int(tick)]
    x_last, y_low, y_high = max(max(curve.points), 1), y_ticks[0], y_ticks[-1]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / x_last

    def y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (y_high - loss) / (y_high - y_low)

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', _text(LEFT, 26, title, "start", "bold 15px")]
    for tick in y_ticks:
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#e3e6ea"/>')
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}", "end"))
    parts += [_text(x(tick), HEIGHT - BOTTOM + 20, f"{tick:,.0f}", "middle") for tick in x_ticks if tick <= x_last]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "step", "middle"))
    parts.append(_text(LEFT - 8, TOP - 12, "loss", "end"))
    for number, name in enumerate(name for name in NAMES if curve.line(name)):
        line = curve.line(name)
        path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in line)
        place = LEFT + 220 * number
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="2.5" fill="{COLOURS[name]}"/>' for step, loss in line]
        parts.append(f'<path d="M{place} 46h18" stroke="{COLOURS[name]}" stroke-width="3"/>')
        parts.append(_text(place + 24, 50, f"{NAMES[name]}, {line[-1][1]:.3f} at the end", "start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>\n"


def _text(x: float, y: float, text: str, anchor: str, font: str = "12px") -> str:
    style = f"font:{font} system-ui,'Noto Sans CJK SC',sans-serif"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}" fill="#333a42">{escape(text)}</text>'


def png(curve: Curve, title: str) -> bytes:
    """Draw the curves with matplotlib, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    axes: Any = figure.add_subplot()
    for name in NAMES:
        line = curve.line(name)
        if line:
            steps, losses = zip(*line, strict=True)
            axes.plot(steps, losses, marker=".", color=COLOURS[name], label=f"{NAMES[name]}, {losses[-1]:.3f} at the end")
    # The font that matplotlib brings has no Chinese; a missing glyph would be a box and a warning.
    axes.set(xlabel="step", ylabel="loss", title=title if title.isascii() else "learning curves")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()

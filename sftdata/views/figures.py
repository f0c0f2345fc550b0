"""The report's figures: matplotlib's SVG, made to live inside a page.

Colours become the page's own variables, so that they follow its light and dark scheme; text stays text and takes the page's
fonts, which know more scripts than matplotlib's.
"""

from __future__ import annotations

import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from sftdata.mask_lint import next_edge

WIDTH = 7.2
"""Inches. A page's column is about a fifth wider, and enlarges a figure by as much."""
MAX_PANELS = 12
"""Sources that get a histogram of their own."""
MAX_NAME = 24
"""Characters of a source's name that a figure shows."""
MIN_HEIGHT = 0.03
"""Height of the lowest bar as a share of the highest: a single long sample is still seen."""
NUM_COLOURS = 6
"""Colours for sources; what is beyond them is grey."""

COLOURS = {
    "#000101": "var(--ink)",
    "#000102": "var(--soft)",
    "#000103": "var(--line)",
    "#000104": "var(--trained)",
    "#000105": "var(--dropped)",
    "#000106": "var(--context)",
    **{f"#0002{number:02x}": f"var(--category-{number})" for number in range(NUM_COLOURS)},
}
"""Placeholders that no figure uses by chance → the page's variables."""
INK, SOFT, LINE, TRAINED, DROPPED, REST, *CATEGORIES = COLOURS

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sftdata",
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.dpi": 100,
}


@contextmanager
def _figure(height: float, left: float = 0.62, **subplots: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (figure, axes) in the report's style. height and left margin in inches: to find them takes as long as to draw."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it speaks of fonts, which the page replaces
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser has the glyph
        figure = Figure(figsize=(WIDTH, height))
        across = {"left": left / WIDTH, "right": 1 - 0.2 / WIDTH}
        down = {"bottom": 0.44 / height, "top": 1 - 0.08 / height, "hspace": 0.12}
        yield figure, figure.subplots(gridspec_kw=across | down, **subplots)


def _svg(figure: Any, label: str) -> str:
    """Return a figure as an SVG element with the colours and fonts of the page around it. label: what it shows, in words."""
    out = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    used = set(re.findall(r"#(\w+)", text))
    text = re.sub(r' id="([\w.]+)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)  # it would style the whole page
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = re.sub("#0000?[0-9a-f]+", lambda match: COLOURS.get(match[0], match[0]), text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="LABEL">', text, count=1)
    return text.replace("LABEL", label, 1)


def length_figure(lengths: Mapping[str, Mapping[str, int]], sequence_len: int | None) -> str:
    """Return the histogram of sample lengths of every source, one below the other, with the cut at `sequence_len`.

    lengths: source → lower edge of a length bin → samples. Past `MAX_PANELS` sources, the smallest are one panel.
    """
    panels = _panels(lengths)
    edges = [edge for bins in panels.values() for edge in bins]
    low, high = max(min(edges), 1), max([next_edge(max(edges)), sequence_len or 1])
    names = [_short(name) for name in panels]
    space = 0.25 + 0.075 * max(map(_num_columns, names))
    with _figure(0.4 * len(panels) + 0.52, space, nrows=len(panels), squeeze=False) as (figure, axes):
        for axis, name, bins in zip(axes[:, 0], names, panels.values(), strict=True):
            edges = sorted(bins)
            left = np.log2(np.maximum(edges, 0.7))
            width = np.log2([next_edge(edge) for edge in edges]) - left
            over = np.array(edges) >= (sequence_len or np.inf)
            counts = np.array([bins[edge] for edge in edges], dtype=np.float64)
            counts = np.maximum(counts, MIN_HEIGHT * counts.max())
            axis.bar(left, counts, width, align="edge", color=np.where(over, DROPPED, TRAINED))
            axis.set(xlim=(np.log2(low) - 0.1, np.log2(high) + 0.1), xticks=[], yticks=[])
            axis.set_ylabel(name, rotation=0, ha="right", va="center", color=INK)
            if sequence_len:
                axis.axvline(np.log2(sequence_len), color=DROPPED, linewidth=1, linestyle=(0, (3, 2)))
        ticks = _powers(low, high)
        axes[-1, 0].set_xticks(np.log2(ticks), [f"{tick:,}" for tick in ticks])
        axes[-1, 0].set_xlabel("tokens of a sample")
        return _svg(figure, "Histogram of sample lengths in tokens by source")


def _panels(lengths: Mapping[str, Mapping[str, int]]) -> dict[str, dict[int, int]]:
    """Return the bins of every panel, sources in their order."""
    filled = {name: {int(edge): count for edge, count in bins.items()} for name, bins in lengths.items() if bins}
    if len(filled) <= MAX_PANELS:
        return filled
    largest = sorted(filled, key=lambda name: -sum(filled[name].values()))[: MAX_PANELS - 1]
    panels = {name: filled[name] for name in filled if name in largest}
    others = [bins for name, bins in filled.items() if name not in largest]
    edges = sorted({edge for bins in others for edge in bins})
    return {**panels, f"{len(others)} others": {edge: sum(bins.get(edge, 0) for bins in others) for edge in edges}}


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"


def _num_columns(text: str) -> int:
    """Return how many columns a text takes, a Chinese character two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _powers(low: int, high: int) -> list[int]:
    """Return up to ten powers of two from low to high."""
    first, last = low.bit_length() - 1, high.bit_length()
    step = max(1, -(-(last - first) // 10))
    return [1 << power for power in range(first, last, step) if low <= 1 << power <= high]


def fill_figure(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Return how full the rows of every split are, from the fullest to the emptiest. curves: split → (share of rows, fill)."""
    with _figure(1.9) as (figure, axis):
        for (name, (share, fill)), colour in zip(curves.items(), (TRAINED, DROPPED), strict=False):
            axis.plot(share, fill, color=colour, linewidth=1.6, label=name, drawstyle="steps-mid")
        first_share, first_fill = next(iter(curves.values()))
        axis.fill_between(first_share, first_fill, color=TRAINED, alpha=0.14, linewidth=0, step="mid")
        axis.set(xlim=(0, 1), ylim=(0, 1.04), xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.25, 0.5, 0.75, 1])
        axis.xaxis.set_major_formatter("{x:.0%}")
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.grid(axis="y", color=LINE, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_xlabel("rows, the fullest first")
        axis.set_ylabel("filled")
        return _svg(figure, "How full the rows are, from the fullest to the emptiest")


MAX_BARS = 200
"""Bars of a figure: of thousands none could be seen, and drawing them would take longer than the build."""


def bucket_figure(tokens: Sequence[npt.NDArray[np.int64]]) -> str:
    """Return the share of every source in the tokens of each bucket. tokens: for each source, (buckets,).

    Of more than `MAX_BARS` buckets neighbours share a bar. The caller's legend names the sources, in this order, in the colours
    of `category_colour`.
    """
    num_buckets = len(tokens[0])
    together = -(-num_buckets // MAX_BARS)
    counts = np.add.reduceat(np.array(tokens, dtype=np.float64), np.arange(0, num_buckets, together), axis=1)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    bottom = np.cumsum(shares, axis=0) - shares
    with _figure(1.9) as (figure, axis):
        place = np.arange(shares.shape[1])
        for number, share in enumerate(shares):
            colour = CATEGORIES[number] if number < NUM_COLOURS else REST
            axis.bar(place, share, 0.86, bottom[number], color=colour)
        axis.set(xlim=(-0.6, len(place) - 0.4), ylim=(0, 1), yticks=[0, 0.5, 1])
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("buckets, in the order of training" + (f", {together} to a bar" if together > 1 else ""))
        axis.set_ylabel("share of tokens")
        return _svg(figure, "Share of every source in the tokens of each bucket")


def category_colour(number: int) -> str:
    """Return the colour of a source, as CSS."""
    return COLOURS[CATEGORIES[number]] if number < NUM_COLOURS else COLOURS[REST]

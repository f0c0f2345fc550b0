"""Decide how often each row is trained, so that every source has its share: integers in, integers out.

A source asks for a share of the whole by its weight, or for so many epochs of its rows. Shares are counted in tokens, trained
tokens or rows. Exact fractions, no floating point: the same rows are chosen on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from sftdata import columns
from sftdata.columns import Int64, Integers
from sftdata.errors import DataError


@dataclass(frozen=True)
class Ask:
    """What one source asks for: a share of the whole by `weight`, repeated `max_epochs` times at most; or `epochs`."""

    name: str
    weight: float | None = None
    epochs: float | None = None
    max_epochs: int | None = None


@dataclass(frozen=True)
class Target:
    """How much of one source is trained, in the unit that shares are counted in, and the share that it asked for."""

    amount: Fraction
    asked: Fraction


MAX_COPIES = 65_000
"""Copies of one row: the plan numbers them in two bytes."""


def targets(asks: Sequence[Ask], sizes: Sequence[int], *, budget: int | None, stop: str, unit: str) -> list[Target]:
    """Return how much of each source is trained.

    sizes: of the sources in `unit`, all their rows once. With a `budget`, in the same unit, the whole is that large: what a
    source at its `max_epochs` cannot give the others give, in proportion to their weights. Without, `stop` decides: at
    `first_exhausted` the whole ends where the first source by weight has been trained `max_epochs` times, once where it says
    nothing; at `all_exhausted` where each has been trained once, smaller ones repeated up to their `max_epochs`.

    Raises DataError for a source by weight that is empty, and for a budget that cannot be met.
    """
    fixed = {place: _exact(ask.epochs) * sizes[place] for place, ask in enumerate(asks) if ask.epochs is not None}
    weights = {place: _exact(ask.weight) for place, ask in enumerate(asks) if place not in fixed}
    for place in weights:
        if not sizes[place]:
            raise DataError(f"mix: source {asks[place].name!r} has a weight but no {unit} to train; remove it from the recipe")
    caps = {place: Fraction(sizes[place] * cap) for place in weights if (cap := asks[place].max_epochs) is not None}
    per_weight = {place: sizes[place] / weight for place, weight in weights.items()}
    if not weights:
        level = Fraction(0)
    elif budget is not None:
        level = (budget - sum(fixed.values(), Fraction(0))) / sum(weights.values(), Fraction(0))
    elif stop == "first_exhausted":
        level = min(each * (asks[place].max_epochs or 1) for place, each in per_weight.items())
    else:
        level = max(per_weight.values())
    ideal = {place: level * weight for place, weight in weights.items()}
    if budget is not None:
        amounts = _fill(budget, sum(ideal.values(), Fraction(0)), weights, caps, unit=unit)
    else:
        amounts = {place: min(amount, caps.get(place, amount)) for place, amount in ideal.items()}
    whole = sum([*ideal.values(), *fixed.values()], Fraction(0)) or Fraction(1)
    asked, amounts = {**ideal, **fixed}, {**amounts, **fixed}
    for place, ask in enumerate(asks):
        if amounts[place] > MAX_COPIES * sizes[place]:
            raise DataError(f"mix: source {ask.name!r} would be trained more than {MAX_COPIES:,} times; give it max_epochs")
    return [Target(amounts[place], asked[place] / whole) for place in range(len(asks))]


def _exact(number: float | None) -> Fraction:
    """Return the number as it was written; a weight that is not given is 1."""
    return Fraction(1) if number is None else Fraction(str(number))


def _fill(
    budget: int, left: Fraction, weights: dict[int, Fraction], caps: dict[int, Fraction], *, unit: str
) -> dict[int, Fraction]:
    """Share what is left of the budget by weight; what a source cannot give for its cap goes to the others."""
    if left <= 0:
        raise DataError(f"mix.budget: {budget:,} {unit} are less than the sources with epochs take; change one of them")
    amounts: dict[int, Fraction] = {}
    while weights:
        total = sum(weights.values())
        full = {place for place, weight in weights.items() if place in caps and left * weight / total >= caps[place]}
        if not full:
            return {**amounts, **{place: left * weight / total for place, weight in weights.items()}}
        for place in full:
            amounts[place] = caps[place]
            left -= caps[place]
        weights = {place: weight for place, weight in weights.items() if place not in full}
    if left:
        raise DataError(f"mix.budget: {budget:,} {unit}, but max_epochs allows only {int(budget - left):,}; change one of them")
    return amounts


def choose_copies(amounts: Sequence[Fraction], source: Integers, size: Int64, order: Integers) -> npt.NDArray[np.int32]:
    """Return how often each row is trained, (n,): each source's amount and the sum of all are met within one row.

    source, size: (n,) the source of each row and what it counts for. order: (n,) the rows in the order in which they are taken.
    A source is trained whole as often as its amount allows; the rest is the first rows in `order`, one more or one less
    of them, whichever brings the sum over the sources nearer to what was asked.
    """
    num_copies = columns.zeros(len(source), np.int32)
    by_source = columns.take(order, columns.group(len(order), lambda rows: source[order[rows]], len(amounts)))
    ends = np.cumsum(columns.counts(source, len(amounts))).tolist()
    over = Fraction(0)
    first = 0
    for amount, end in zip(amounts, ends, strict=True):
        rows = by_source[first:end]
        taken = columns.offsets(columns.take(size, rows))
        total = int(taken[-1])
        times, rest = divmod(amount, total) if total else (0, Fraction(0))
        num_more = int(np.searchsorted(taken[1:], int(rest), side="right"))
        below = int(taken[num_more]) - rest
        if below:
            above = int(taken[num_more + 1]) - rest
            num_more, below = (num_more + 1, above) if abs(over + above) < abs(over + below) else (num_more, below)
        over += below
        for some in columns.blocks(len(rows)):
            num_copies[rows[some]] = times
        for some in columns.blocks(num_more):
            num_copies[rows[some]] += 1
        first = end
    return num_copies

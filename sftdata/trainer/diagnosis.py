"""What the learning curves say, in words: underfit, overfit with its turning point, good fit, spike, plateau.

The rules are those that textbooks teach: a model underfits where its loss stays flat or is still falling at the end; it
overfits where validation turns up while training falls on; it fits well where both have become level and lie close together.
What counts as flat, level or close are the constants below: shares of the fall that the run made, so that they mean the same
for any loss.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

from sftdata.trainer.curves import TRAIN, VALIDATION, Curve

Line = Sequence[tuple[int, float]]
"""(step, loss) points in order of steps."""

FLAT = 0.03
"""A run whose loss fell by less than this share of its first loss learnt next to nothing."""
STILL_FALLING = 0.05
"""Share of the whole fall that the last quarter of a run may still make and be level. An exponential fall makes 6 % there when
it has run for three of its time constants, 2 % when for five."""
TURNED_UP = 0.02
"""Share of the whole fall, or of the lowest loss, by which validation must rise above its lowest point to have turned."""
CLOSE = 0.15
"""Share of the validation loss by which it may lie above the training loss."""
SPIKE = 1.3
"""Times the median of the points before it that makes a point a spike, if it also stands out of their noise."""
SPIKE_NOISE = 6.0
"""Times the usual change from point to point that a spike stands out by."""
PLATEAU = 0.25
"""Share of a run that makes a stretch without a fall a plateau."""
LEVEL = 0.01
"""Share of the whole fall that a plateau may fall by."""
NUM_BEFORE = 5
"""Points before a spike that it is compared with."""
MIN_POINTS = 4


def diagnose(curve: Curve) -> list[str]:
    """Return sentences that begin with what they find: `underfit`, `overfit`, `good fit`, `spike`, `plateau` or `too short`."""
    train, validation = curve.line(TRAIN), curve.line(VALIDATION)
    if len(train) < MIN_POINTS:
        return [f"too short: {len(train)} points of the training loss say nothing about its course"]
    watched = validation if len(validation) >= 2 * MIN_POINTS else smooth(train)
    return [verdict(train, validation), *spikes(train), *plateau(watched)]


def verdict(train: Line, validation: Line) -> str:
    """Return whether the model under-, over- or well fits; by the training loss alone where validation has too few points."""
    smoothed = smooth(train)
    judged = validation if len(validation) >= MIN_POINTS else smoothed
    first, (end, last) = judged[0][1], judged[-1]
    best_step, best = min(judged, key=lambda point: (point[1], point[0]))
    fall = first - best
    if fall < FLAT * abs(first):
        cure = "raise learning_rate, or check what is trained"
        return f"underfit: the loss is flat, {first:.3f} at first and {last:.3f} at the end; {cure}"
    if last - best > TURNED_UP * max(fall, best):
        fell_on = judged is validation and smoothed[-1][1] <= _at(smoothed, best_step)
        return _turned(fell_on, best_step, best, judged[-1])
    late = _at(judged, end * 3 / 4) - last
    if late > STILL_FALLING * fall:
        cure = "train longer, or raise learning_rate"
        return f"underfit: the loss was still falling at the end, by {late:.3f} in the last quarter; {cure}"
    if judged is not validation:
        return f"good fit of the training rows: level at {last:.3f}; only validation tells whether it holds for others"
    gap = last - smoothed[-1][1]
    if gap > CLOSE * last:
        cure = "more data, fewer epochs, dropout or weight_decay help"
        return f"overfit: validation is level at {last:.3f}, but {gap:.3f} above training; {cure}"
    return f"good fit: both losses are level, validation at {last:.3f}, {gap:+.3f} from training"


def _turned(fell_on: bool, best_step: int, best: float, end: tuple[int, float]) -> str:
    """Return what a loss that ends above its lowest point means; `fell_on`: training fell on while validation rose."""
    course = f"after step {best_step:,}, from {best:.3f} to {end[1]:.3f} at step {end[0]:,}"
    if fell_on:
        cure = f"stop at step {best_step:,} (load_best_model_at_end: true keeps that model)"
        return f"overfit: validation turned up {course}, while training fell on; {cure}"
    return f"underfit: the loss rose again {course}; the run diverges: lower learning_rate"


def spikes(train: Line) -> list[str]:
    """Return a sentence on the largest jump of the training loss, if there is one, and whether it was made good."""
    losses = [loss for _, loss in train]
    noise = statistics.median(abs(after - before) for before, after in pairwise(losses))
    found: list[tuple[float, int]] = []
    for place in range(NUM_BEFORE, len(losses)):
        usual = statistics.median(losses[place - NUM_BEFORE : place])
        if losses[place] > SPIKE * usual and losses[place] - usual > SPIKE_NOISE * noise:
            found.append((losses[place] - usual, place))
    if not found:
        return []
    height, place = max(found)
    usual = losses[place] - height
    course = "made good later" if min(losses[place:]) <= usual else "not made good"
    cure = "warm up longer, lower learning_rate or max_grad_norm, or look at the rows of that step"
    jump = f"at step {train[place][0]:,} the training loss jumped from {usual:.3f} to {losses[place]:.3f}, {course}"
    return [f"spike: {jump}; {cure}"]


def plateau(line: Line) -> list[str]:
    """Return a sentence on the longest stretch in which the loss did not fall, if it is long."""
    fall = line[0][1] - min(loss for _, loss in line)
    last_step = line[-1][0]
    longest = (0, 0, 0.0)
    for place, (start, loss) in enumerate(line):
        end = start
        for step, later in line[place + 1 :]:
            if abs(loss - later) > LEVEL * fall:
                break
            end = step
        longest = max(longest, (end - start, start, loss))
    length, start, loss = longest
    if fall < FLAT * abs(line[0][1]) or length < PLATEAU * last_step:
        return []
    until = "to the end" if start + length == last_step else f"to step {start + length:,}"
    cure = "a shorter run or another schedule would do as well"
    return [f"plateau: from step {start:,} {until} the loss stayed at {loss:.3f}; {cure}"]


def smooth(line: Line) -> list[tuple[int, float]]:
    """Return the line as means over a twentieth of it; its first point, the loss before any training, stays as it is."""
    half = max(len(line) // 40, int(len(line) >= 2 * MIN_POINTS))
    losses = [loss for _, loss in line]
    smoothed = [line[0]]
    for place in range(1, len(line)):
        smoothed.append((line[place][0], statistics.fmean(losses[max(place - half, 1) : place + half + 1])))
    return smoothed


def _at(line: Line, step: float) -> float:
    """Return the loss at the last point at or before a step."""
    return [loss for place, loss in line if place <= step][-1] if line[0][0] <= step else line[0][1]

"""What the curves say: each shape that the rules know, made on purpose, and curves of real runs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest
from build_support import needs_shared

from sftdata.trainer.curves import Curve
from sftdata.trainer.diagnosis import diagnose

Shape = Callable[[float], float]
"""Share of the run (0 to 1) → loss."""


def drawn(train: Shape, validation: Shape | None = None, *, noise: float = 0.0, num_points: int = 51) -> Curve:
    """Return a curve of 1,000 steps; the noise of the training loss is the same every time."""
    random_numbers, curve = random.Random(3), Curve()
    for point in range(num_points):
        share = point / (num_points - 1)
        curve.add(round(1000 * share), train_loss=train(share) + random_numbers.gauss(0, noise) * (point > 0))
        if validation is not None and point % 5 == 0:
            curve.add(round(1000 * share), validation_loss=validation(share))
    return curve


def decay(low: float, high: float, speed: float) -> Shape:
    return lambda share: low + (high - low) * math.exp(-speed * share)


def found(curve: Curve) -> list[str]:
    sentences = diagnose(curve)
    assert all("\n" not in sentence for sentence in sentences)
    return [sentence.split(":")[0].split(" of ")[0] for sentence in sentences]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.06])
@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        (decay(1.5, 4, 8), decay(1.6, 4, 8), "good fit"),
        (decay(1.5, 4, 8), None, "good fit"),
        (decay(1.5, 4, 2), decay(1.6, 4, 2), "underfit"),
        (lambda share: 4 - share, lambda share: 4 - share, "underfit"),
        (lambda share: 4.0, lambda share: 4.0, "underfit"),
        (decay(0.5, 4, 4), lambda share: 2 + 2 * math.exp(-8 * share) + share, "overfit"),
        (decay(0.8, 4, 8), decay(2.0, 4, 8), "overfit"),
        (lambda share: 2 + 2 * math.exp(-8 * share) + 2 * share**2, lambda share: 2.2 + 2 * share, "underfit"),
    ],
)
def test_shapes_are_called_by_their_names(train: Shape, validation: Shape | None, expected: str, noise: float) -> None:
    assert found(drawn(train, validation, noise=noise))[0] == expected


def test_overfit_names_its_turning_point_as_the_place_to_stop() -> None:
    curve = drawn(decay(0.5, 4, 4), lambda share: 2 + 4 * (share - 0.4) ** 2)
    (sentence,) = (sentence for sentence in diagnose(curve) if sentence.startswith("overfit"))
    assert "turned up after step 400" in sentence and "stop at step 400" in sentence


def test_underfit_says_whether_flat_falling_or_diverging() -> None:
    assert "is flat" in diagnose(drawn(lambda share: 4.0))[0]
    assert "still falling at the end" in diagnose(drawn(lambda share: 4 - share))[0]
    assert "diverges" in diagnose(drawn(lambda share: 2 + 2 * abs(share - 0.5), lambda share: 2 + 2 * abs(share - 0.5)))[0]


@pytest.mark.parametrize(("height", "back", "words"), [(3.0, True, "made good later"), (3.0, False, "not made good")])
def test_spike_is_named_with_its_step(height: float, back: bool, words: str) -> None:
    smooth = decay(1.5, 4, 6)
    curve = drawn(lambda share: smooth(share) + height * (abs(share - 0.6) < 0.001 or (not back and share > 0.6)), noise=0.02)
    (sentence,) = (sentence for sentence in diagnose(curve) if sentence.startswith("spike"))
    assert words in sentence and "at step 600" in sentence


def test_noise_is_no_spike_and_the_first_fall_no_plateau() -> None:
    for seed_noise in (0.02, 0.05, 0.1):
        assert "spike" not in found(drawn(decay(1.5, 4, 6), decay(1.6, 4, 6), noise=seed_noise))
    assert "plateau" not in found(drawn(lambda share: 4 - 2 * share, lambda share: 4 - 2 * share))


def test_plateau_names_where_it_begins_and_ends() -> None:
    stairs: Shape = lambda share: 4 - 2 * min(share / 0.3, 1) - 1.5 * max(0.0, (share - 0.8) / 0.2)  # noqa: E731
    (sentence,) = (sentence for sentence in diagnose(drawn(stairs, stairs)) if sentence.startswith("plateau"))
    assert "from step 300 to step 800" in sentence
    level = diagnose(drawn(decay(1.5, 4, 20), decay(1.6, 4, 20)))
    assert level[0].startswith("good fit")
    assert any("to the end" in sentence for sentence in level if sentence.startswith("plateau"))


def test_too_few_points_are_no_ground_for_a_verdict() -> None:
    assert found(drawn(decay(1.5, 4, 8), num_points=3)) == ["too short"]


def test_batches_of_the_guide_are_counted_alike() -> None:
    from train_fixture import tiny_settings

    from sftdata.trainer.plan import plan_run

    expected = json.loads(needs_shared("parity/requirements_004/expected.json").read_text("utf-8"))
    batches, accumulation = expected["batch_example"], expected["grad_accum_example"]
    found = plan_run(batches["rows"], tiny_settings(micro_batch_size=batches["batch_size"], num_epochs=batches["epochs"]))
    assert (found.steps_per_epoch, found.num_steps) == (batches["batches_per_epoch"], batches["total_batches"])
    split = tiny_settings(
        micro_batch_size=accumulation["micro_batch"], gradient_accumulation_steps=accumulation["accumulation_steps"]
    )
    assert split.rows_per_step == accumulation["target_batch"]

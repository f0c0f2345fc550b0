"""A cleaner from outside the project, for the tests of marks."""

from __future__ import annotations

from sftdata.records import Mark
from sftdata.registry import cleaner


@cleaner
def half_of_weak_answers(text: str) -> str | Mark:
    """Halve the weight of weak answers, and mask those that say so."""
    if "weak" in text:
        return Mark("weight", 0.5, "weak")
    return Mark("mask_loss", 0, "masked") if "masked" in text else text

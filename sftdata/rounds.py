"""Rounds of a dialogue: what is asked, and all that is said to answer it, up to the next question.

Where a turn has to go, its round goes: what is left begins with a question and ends with an answer as before, no tool result
stands without its call, and no user speaks twice in a row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def round_of(roles: Sequence[str], turn: int) -> set[int]:
    """Return the numbers of the turns in the round of a turn; a system prompt is a round of its own."""
    if roles[turn] == "system":
        return {turn}
    numbers = _round_numbers(roles)
    return {other for other, number in enumerate(numbers) if number == numbers[turn] and roles[other] != "system"}


def has_answer(roles: Sequence[str], without: Collection[int]) -> bool:
    """Return whether an assistant speaks in the turns that are left."""
    return any(role == "assistant" and turn not in without for turn, role in enumerate(roles))


def _round_numbers(roles: Sequence[str]) -> list[int]:
    """Return the round of each turn: a new one begins where a user speaks after somebody else."""
    numbers = []
    number, before = 0, "user"
    for role in roles:
        if role == "user" and before != "user":
            number += 1
        if role != "system":
            before = role
        numbers.append(number)
    return numbers

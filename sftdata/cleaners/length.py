"""Drop samples whose texts are shorter or longer than wanted."""

from __future__ import annotations

import pyarrow as pa

from sftdata.cleaners._rules import ROLES
from sftdata.errors import RecipeError, suggest
from sftdata.records import Drop
from sftdata.registry import cleaner

ANSWER_ROLES = ("assistant", "target", "text")
"""A prompt may be as short as it likes; what is trained is the answer."""

EVIDENCE_CHARS = 80


def _no_files(*, min_chars: int = 0, max_chars: int | None = None, roles: list[str] | None = None) -> tuple[str, ...]:
    """Refuse limits that no text can meet when the recipe is read; the step reads no files."""
    _check(min_chars, max_chars, roles)
    return ()


@cleaner(batched=True, assets=_no_files)
def length(
    spans: pa.Table, *, min_chars: int = 0, max_chars: int | None = None, roles: list[str] | None = None
) -> list[str | Drop]:
    """Drop samples with a text of fewer than `min_chars` or more than `max_chars` characters.

    Characters are Unicode code points after the blanks at both ends are stripped: 起来吧。 counts 4. `roles` are the roles
    whose texts are measured; by default assistant, target and text, because a short prompt (好。) is a good prompt. Each
    span is measured by itself. Reasons: `too_short`, `too_long`; the evidence is the beginning of the text.

    Raises RecipeError for negative or crossed limits and for an unknown role.
    """
    _check(min_chars, max_chars, roles)
    measured = frozenset(ANSWER_ROLES if roles is None else roles)
    answers: list[str | Drop] = []
    for text, role in zip(spans["text"].to_pylist(), spans["role"].to_pylist(), strict=True):
        answers.append(_measure(text, min_chars, max_chars) if role in measured else text)
    return answers


def _measure(text: str, min_chars: int, max_chars: int | None) -> str | Drop:
    num_chars = len(text.strip())
    if num_chars < min_chars:
        return Drop("too_short", f"min_chars={min_chars}", text.strip()[:EVIDENCE_CHARS])
    if max_chars is not None and num_chars > max_chars:
        return Drop("too_long", f"max_chars={max_chars}", text.strip()[:EVIDENCE_CHARS])
    return text


def _check(min_chars: int, max_chars: int | None, roles: list[str] | None) -> None:
    if min_chars < 0:
        raise RecipeError(f"length: min_chars must be 0 or more, not {min_chars}")
    if max_chars is not None and max_chars < max(min_chars, 1):
        raise RecipeError(f"length: max_chars {max_chars} is below min_chars {min_chars}: no text could pass; raise max_chars")
    for role in roles or ():
        if role not in ROLES:
            raise RecipeError(f"length: unknown role {role!r}{suggest(role, ROLES)}")

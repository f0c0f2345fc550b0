"""What cleaners that look at single texts share: which roles they look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa

from sftdata.cleaners._rules import ROLES
from sftdata.errors import RecipeError, suggest
from sftdata.records import Drop, Edit, Mark

Answer = str | None | Drop | Edit | Mark

ANSWER_ROLES = ("assistant", "target", "text")
"""What is trained: a prompt may be as odd as users are."""

EVIDENCE_CHARS = 80


def check_roles(step: str, roles: Iterable[str] | None) -> None:
    """Raise RecipeError for a role that no formatter gives."""
    for role in roles or ():
        if role not in ROLES:
            raise RecipeError(f"{step}: unknown role {role!r}{suggest(role, ROLES)}")


def answer_each(spans: pa.Table, roles: Iterable[str] | None, judge: Callable[[str], Answer]) -> list[Answer]:
    """Return the judgement of every span whose role is among `roles`, by default those that are trained; others stay."""
    wanted = frozenset(ANSWER_ROLES if roles is None else roles)
    texts, span_roles = spans["text"].to_pylist(), spans["role"].to_pylist()
    return [judge(text) if role in wanted else text for text, role in zip(texts, span_roles, strict=True)]


def beginning(text: str) -> str:
    """Return the beginning of a text, as evidence."""
    return text.strip()[:EVIDENCE_CHARS]

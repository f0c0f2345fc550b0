"""Find what a language model says of itself: identity, refusals, cutoffs, share artifacts, template leaks, boilerplate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from sftdata.cleaners._fold import Table, fold
from sftdata.cleaners._matching import Hit, Matcher, build_matcher
from sftdata.cleaners._packs import load_packs, pack_files
from sftdata.cleaners._rules import ACTIONS, CATEGORIES, ROLES, Pack, Request
from sftdata.cleaners._text import Text
from sftdata.errors import RecipeError, suggest
from sftdata.records import Drop, Edit, Mark
from sftdata.registry import cleaner

Answer = str | None | Drop | Edit | Mark

Stamped = tuple[tuple[Path, int, int], ...]
"""Files with time of change and size."""

DEFAULT_PACKS = ("en", "zh")
TRAINED_ROLES = ("assistant", "target", "text")
"""Roles whose text a model learns to say; what a user asks is never slop."""

PROMPT_ROLES = ("user", "source")
MAX_EVIDENCE_CHARS = 200


def _rule_packs(
    *,
    packs: list[str] | tuple[str, ...] = DEFAULT_PACKS,
    extra_packs: list[str] | tuple[str, ...] = (),
    **options: Any,
) -> tuple[str, ...]:
    """Return the pack files that the step reads, after checking that they and the options that name rules are right."""
    files = pack_files(packs, extra_packs)
    actions, disabled = options.get("actions", {}), options.get("disable", ())
    if extra_packs or actions or disabled:  # the built-in packs alone need no check, and reading them takes half a second
        _check_names(_packs(_stamped(files)), actions, disabled)
    return tuple(map(str, files))


@cleaner(batched=True, libraries=("ahocorasick-rs", "numpy"), assets=_rule_packs, path_options=("extra_packs",))
def slop(
    spans: pa.Table,
    *,
    packs: list[str] = list(DEFAULT_PACKS),  # noqa: B006
    roles: list[str] = list(TRAINED_ROLES),  # noqa: B006
    extra_packs: list[str] = [],  # noqa: B006
    actions: dict[str, str] = {},  # noqa: B006
    disable: list[str] = [],  # noqa: B006
) -> list[Answer]:
    """Drop, cut or mark answers in which a model speaks as an AI, refuses, states its cutoff or leaks its template.

    `packs` names built-in rule packs, `extra_packs` paths of your own; `roles` are checked; `actions` overrides the action of
    a category; `disable` switches off rules by id or category. Code and quotations are skipped, and so is what the prompt
    asks for (a translation of the phrase, a robot's part). One answer a span: the strongest action that fired, in the order
    of `_rules.ACTIONS`; a span in which nothing fired comes back as the same string.

    Raises RecipeError for a pack that is wrong, and for an unknown role, rule, category or action.
    """
    for role in roles:
        if role not in ROLES:
            raise RecipeError(f"slop: unknown role {role!r}{suggest(role, ROLES)}")
    matcher = _matcher(_stamped(pack_files(packs, extra_packs)), tuple(sorted(actions.items())), tuple(disable))
    texts: list[str] = spans["text"].to_pylist()
    span_roles: list[str] = spans["role"].to_pylist()
    answers: list[Answer] = list(texts)
    wanted = frozenset(roles)
    checked = [index for index, role in enumerate(span_roles) if role in wanted]
    prompts: _Prompts | None = None
    for position, text, hits in matcher.scan([texts[index] for index in checked]):
        index = checked[position]
        hits = [hit for hit in hits if not hit.rule.roles or span_roles[index] in hit.rule.roles]
        if hits and matcher.requests:
            prompts = prompts or _Prompts(spans, span_roles, texts)
            exempt = _exempt_categories(matcher.requests, prompts.before(index), text, matcher.table)
            hits = [hit for hit in hits if hit.rule.category not in exempt]
        if hits:
            answers[index] = _answer(text, hits)
    return answers


class _Prompts:
    """What the user said before a span, by record and turn."""

    def __init__(self, spans: pa.Table, roles: list[str], texts: list[str]) -> None:
        self._rows: list[int] = spans["row"].to_pylist()
        self._turns: list[int] = spans["turn"].to_pylist()
        self._said: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for row, turn, role, text in zip(self._rows, self._turns, roles, texts, strict=True):
            if role in PROMPT_ROLES:
                self._said[row][turn].append(text)

    def before(self, index: int) -> str:
        """Return the nearest prompt before the span, or the empty text."""
        said = self._said.get(self._rows[index], {})
        earlier = [turn for turn in said if turn < self._turns[index]]
        return "\n".join(said[max(earlier)]) if earlier else ""


def _exempt_categories(requests: Iterable[Request], prompt: str, answer: Text, table: Table) -> frozenset[str]:
    """Return the categories that the prompt asks for, so that their phrases in the answer are no slop."""
    folded = fold(prompt, table).text
    return frozenset(
        category
        for request in requests
        if all(pattern.search(folded) for pattern in request.every)
        and not (request.unless_answer is not None and request.unless_answer.search(answer.text))
        for category in request.exempts
    )


def _answer(text: Text, hits: list[Hit]) -> Answer:
    """Return the answer of the strongest action, and among equals of the most severe rule."""

    def strength(hit: Hit) -> tuple[int, float, int]:
        return ACTIONS.index(hit.rule.action), -hit.rule.severity, hit.start

    hit = min(hits, key=strength)
    rule, action = hit.rule, hit.rule.action
    told = (rule.category, rule.id, text.raw[hit.start : hit.end][:MAX_EVIDENCE_CHARS])
    if action == "drop_sample":
        return Drop(*told)
    if action == "drop_turn":
        return Drop(*told, turn=True)
    if action == "strip_sentence":
        stripped = _without_sentences(text, [each for each in hits if strength(each)[0] == strength(hit)[0]])
        return Edit(stripped, *told) if stripped else Drop(*told)
    if action == "mask_loss":
        return Mark("mask_loss", 0.0, *told)
    return Mark("weight", rule.weight, *told) if action == "down_weight" else Mark("flag", rule.severity, *told)


def _without_sentences(text: Text, hits: list[Hit]) -> str:
    """Return the raw text without the sentences that hold the hits; empty if nothing else is left."""
    kept, position = [], 0
    for start, end in sorted({text.sentence_span(text.folded_position(hit.start)) for hit in hits}):
        kept.append(text.raw[position:start])
        position = end
    return "".join([*kept, text.raw[position:]]).strip()


def _stamped(files: tuple[Path, ...]) -> Stamped:
    """Return the files with time and size: a pack that was edited is read again."""
    return tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files)


@lru_cache(maxsize=8)
def _packs(stamped: Stamped) -> tuple[Pack, ...]:
    return load_packs(path for path, _, _ in stamped)


@lru_cache(maxsize=8)
def _matcher(stamped: Stamped, actions: tuple[tuple[str, str], ...], disable: tuple[str, ...]) -> Matcher:
    packs = _packs(stamped)
    _check_names(packs, dict(actions), disable)
    return build_matcher(packs, disable, dict(actions))


def _check_names(packs: tuple[Pack, ...], actions: dict[str, str], disable: list[str] | tuple[str, ...]) -> None:
    for category, action in actions.items():
        if category not in CATEGORIES:
            raise RecipeError(f"slop: unknown category {category!r} in actions{suggest(category, CATEGORIES)}")
        if action not in ACTIONS:
            raise RecipeError(f"slop: unknown action {action!r} for {category!r}{suggest(action, ACTIONS)}")
    known = {rule.id for pack in packs for rule in pack.rules} | set(CATEGORIES)
    for name in disable:
        if name not in known:
            raise RecipeError(f"slop: unknown rule {name!r} in disable{suggest(name, known)}")

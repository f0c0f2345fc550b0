"""The control tokens of a tokenizer, and the tokenizer to which their texts are ordinary text.

A control token is an added token that is special, or that looks like markup (`<think>`, `[TOOL_CALLS]`). Other added tokens
(runs of spaces, terms that a vocabulary was extended with) are vocabulary like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

_MARKUP = re.compile(r"<.*>|\[.*\]|\{.*\}", re.DOTALL)


class ControlTokens:
    """The control tokens of a `tokenizer.json`."""

    def __init__(self, value: dict[str, Any]) -> None:
        added = value.get("added_tokens") or []
        tokens = [token for token in added if token.get("special") or _MARKUP.fullmatch(token["content"])]
        self.ids: dict[str, int] = {token["content"]: int(token["id"]) for token in tokens}
        """Text → id of every control token: what content must not forge."""
        self.texts: dict[int, str] = {number: text for text, number in self.ids.items()}
        self.number: dict[str, int] = {text: number for number, text in enumerate(self.ids)}
        """Text → its place among the control tokens."""
        longest_first = sorted(self.ids, key=lambda text: (-len(text), text))
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.unknown: str | None = _unknown_token(value)
        """The text of the token that stands for what the vocabulary lacks; it may come from any text."""


def _unknown_token(value: dict[str, Any]) -> str | None:
    model = value["model"]
    if isinstance(model.get("unk_id"), int):
        return str(model["vocab"][model["unk_id"]][0])
    unknown: str | None = model.get("unk_token")
    return unknown


def escaped_json(value: dict[str, Any], control: ControlTokens, base: int) -> str:
    """Return a `tokenizer.json` in which control token k is written as the character `base + k`, with its id unchanged.

    To it, the texts of the control tokens are ordinary text: they are renamed among the added tokens and in the vocabulary, and
    no merge leads to them. All else is as it was, so that any other text is encoded as before.
    """
    new = {text: chr(base + number) for text, number in control.number.items()}
    added = [{**token, "content": new.get(token["content"], token["content"])} for token in value.get("added_tokens") or []]
    model = dict(value["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {new.get(piece, piece): number for piece, number in vocabulary.items()}
    else:
        model["vocab"] = [[new.get(piece, piece), score] for piece, score in vocabulary]
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [merge for merge in model["merges"] if new.keys().isdisjoint(_merged(merge, prefix))]
    if model.get("unk_token") in new:
        model["unk_token"] = new[model["unk_token"]]
    escaped = {**value, "added_tokens": added, "model": model, "post_processor": None, "truncation": None, "padding": None}
    return orjson.dumps(escaped).decode()


def _merged(merge: str | Sequence[str], prefix: str) -> tuple[str, str, str]:
    """Return the two pieces of a merge and what they make; `prefix` marks pieces that do not begin a word."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second, first + second.removeprefix(prefix)

"""Control tokens in content: finding those that the record's own text has become, and keeping them ordinary text.

A row is clean when none of its control tokens touches content, those aside that its role may use there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.masking import to_bytes
from sftdata.records import InvalidRecord, Span, Turn
from sftdata.rendering import CharSpans, RenderedBatch
from sftdata.templates.proof import Unproven, free_block
from sftdata.templates.render import Template, TrainScope
from sftdata.tokenizers.encoder import Batch, Encoded, Encoder, Row, splice
from sftdata.tokenizers.files import TokenizerFiles

REASONING_AND_TOOL_TOKENS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>",
)  # fmt: skip
"""Tokens that an answer may itself contain, where the tokenizer's own template writes them (Qwen3, GLM, DeepSeek)."""

_BRACKETED = re.compile(r"<\|[^|<>\s]+\|>|<</?\w+>>|</?\w+>|\[/?\w+\]")
_SPEAKER = re.compile(r"(?:#+ )?\w+:\s*\Z")
"""What stands right before a content: `USER: `, `### Response:`."""

MayUse = Callable[[int, int], frozenset[str]]
"""(row, turn) → the control tokens that the turn's content may hold."""


class Found(NamedTuple):
    """A control token, or a template's plain-text marker, in content."""

    turn: int
    token: str


def allowed_control(given: Mapping[str, Sequence[str]] | None, files: TokenizerFiles) -> dict[str, frozenset[str]]:
    """Return the control tokens that content of each role may hold: those given, else the template's own reasoning tokens."""
    if given is not None:
        return {role: frozenset(tokens) for role, tokens in given.items()}
    text = files.chat_template or ""
    own = frozenset(token for token in REASONING_AND_TOOL_TOKENS if token in files.added_tokens and token in text)
    return {"assistant": own} if own else {}


def find_forged(
    encoder: Encoder, rendered: RenderedBatch, batch: Batch, encoded: Encoded, may_use: MayUse
) -> dict[int, list[Found]]:
    """Return, by row, the control tokens that touch content whose role may not use them."""
    content = to_bytes(batch, rendered.content)
    control = encoder.control.positions(encoded.ids)
    if not len(control) or not len(content.row):
        return {}
    starts, ends = encoded.starts[control], encoded.ends[control]
    before = np.searchsorted(content.starts, ends, side="left") - 1
    touching = (before >= 0) & (content.ends[np.maximum(before, 0)] > starts)
    forged: dict[int, list[Found]] = {}
    for token in control[touching].tolist():
        row = int(np.searchsorted(encoded.row_offsets, token, side="right")) - 1
        first, last = np.searchsorted(batch.char_bytes, encoded.starts[token]), np.searchsorted(batch.char_bytes, encoded.ends[token])
        place = slice(int(first - batch.row_chars[row]), int(last - batch.row_chars[row]))
        found = _forged(encoder, rendered, row, place, int(encoded.ids[token]), may_use)
        if found is not None:
            forged.setdefault(row, []).append(found)
    return forged

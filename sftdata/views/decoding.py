"""From tokens back to text, run by run: what is trained, what is context, and what the template's control tokens are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Shards
from sftdata.tokenizers.encoder import Encoder

KINDS = ("context", "trained", "control", "trained control")


class Run(NamedTuple):
    """Neighbouring tokens of one kind."""

    kind: str
    """One of `KINDS`."""
    text: str
    num_tokens: int


class Decoder:
    """Decodes rows of a build with its own tokenizer."""

    def __init__(self, shards: Shards) -> None:
        self._encoder = Encoder(shards.tokenizer_folder, engine="tokenizers")
        self._anchor: list[int] = self._encoder.tokenizer.encode("a", add_special_tokens=False).ids[-1:]

    def text(self, ids: npt.NDArray[np.int32]) -> str:
        """Return the text of tokens, control tokens included."""
        text: str = self._encoder.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return text

    def inner_text(self, ids: npt.NDArray[np.int32]) -> str:
        """Return the text of tokens from the middle of a text: decoders take a space away from where a text begins."""
        before: str = self._encoder.tokenizer.decode(self._anchor, skip_special_tokens=False)
        text: str = self._encoder.tokenizer.decode([*self._anchor, *ids.tolist()], skip_special_tokens=False)
        return text.removeprefix(before)

    def token(self, number: int) -> str:
        """Return a token as the vocabulary writes it."""
        token: str | None = self._encoder.tokenizer.id_to_token(number)
        return f"<{number}>" if token is None else token

    def runs(self, ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> list[Run]:
        """Return the tokens as runs of one kind, control tokens one by one."""
        control = self._encoder.is_control[ids]
        kind = (labels != IGNORE_INDEX).astype(np.int8) + 2 * control
        change = np.flatnonzero((kind[1:] != kind[:-1]) | control[1:]) + 1
        borders = [0, *change.tolist(), len(ids)]
        texts = (self.inner_text if first and not control[first - 1] else self.text for first in borders)
        return [
            Run(KINDS[kind[first]], text(ids[first:end]), end - first)
            for (first, end), text in zip(pairwise(borders), texts, strict=False)
            if first < end
        ]


def as_json(value: Any) -> Any:
    """Return named tuples as objects, deeply, so that JSON names their fields."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: as_json(item) for name, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value

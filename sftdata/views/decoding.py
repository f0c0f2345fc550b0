"""From tokens back to text, run by run: what is trained, what is context, and what the template's control tokens are."""

from __future__ import annotations

import codecs
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
    """Whole characters: one whose bytes are divided between two runs stands in the second."""
    num_tokens: int


class Decoder:
    """Decodes rows of a build with its own tokenizer."""

    def __init__(self, shards: Shards) -> None:
        self._encoder = Encoder(shards.tokenizer_folder, engine="tokenizers")

    def text(self, ids: npt.NDArray[np.int32]) -> str:
        """Return the text of tokens, control tokens included."""
        spelled = self._encoder.spell(ids)
        if spelled is not None:
            return spelled[0].decode("utf-8", "replace")
        text: str = self._encoder.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return text

    def texts(self, ids: npt.NDArray[np.int32]) -> list[str]:
        """Return the text of each token of a row, (n,): a character of several tokens stands whole with the last of them."""
        spelled = self._encoder.spell(ids)
        if spelled is None:
            return self._streamed(ids)
        data, ends = spelled
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        borders = [0, *ends.tolist()]
        texts = [decoder.decode(data[first:end]) for first, end in pairwise(borders)]
        if texts:
            texts[-1] += decoder.decode(b"", final=True)
        return texts

    def _streamed(self, ids: npt.NDArray[np.int32]) -> list[str]:
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        return [stream.step(self._encoder.tokenizer, number) or "" for number in ids.tolist()]

    def token(self, number: int) -> str:
        """Return a token as the vocabulary writes it."""
        token: str | None = self._encoder.tokenizer.id_to_token(number)
        return f"<{number}>" if token is None else token

    def kinds(self, ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int8]:
        """Return the kind of each token as its place in `KINDS`, (n,)."""
        kinds: npt.NDArray[np.int8] = (labels != IGNORE_INDEX).astype(np.int8)
        kinds[self._encoder.is_control[ids]] += 2
        return kinds

    def runs(self, ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> list[Run]:
        """Return the tokens as runs of one kind, control tokens one by one."""
        kind = self.kinds(ids, labels)
        texts = self.texts(ids)
        change = np.flatnonzero((kind[1:] != kind[:-1]) | (kind[1:] >= 2)) + 1
        borders = [0, *change.tolist(), len(ids)]
        return [
            Run(KINDS[kind[first]], "".join(texts[first:end]), end - first)
            for first, end in pairwise(borders)
            if first < end
        ]


def as_json(value: Any) -> Any:
    """Return named tuples as objects, deeply, so that JSON names their fields."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: as_json(item) for name, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value

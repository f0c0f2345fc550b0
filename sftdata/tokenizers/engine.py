"""The fast engine and the proof that it may be used: it must give the ids of `tokenizers`, on this tokenizer and this data.

Asked twice: when the tokenizer is opened, on texts on which engines are known to differ, and while a part is encoded, on its
first texts and on a sample of the others. One difference, and everything that the engine made in the build is made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

NUM_FIRST = 40
"""Texts at the beginning of each of the first parts that both engines encode."""

NUM_FIRST_PARTS = 8
"""So many parts have such a beginning: where every page is a part of its own, all texts would be encoded twice."""

PART_STRIDE = 7919
"""What lies between the numbers of two parts' texts; no multiple of SAMPLE_EVERY, so that other rows are checked in each."""

SAMPLE_EVERY = 997
"""One text in so many of the others that both engines encode."""

CACHE_BYTES = 32 << 20
"""Memory for the texts between two added tokens, such as system prompts, that are not encoded again when they come again."""

NASTY = (
    "", " ", "  two  spaces ", "\n", "\n\n\t x", "a\u0301\u00e9", "你好，世界！", "👩‍👩‍👧 ok", "\u2028\u0085x",
    "0123456789" * 3, "don't 'S  end", "\u00a0nbsp\u3000wide", "哈" * 200, "\x00\x07", "İıſ", "ﬁ½①", "\ufffd",
    "def f(x):\n    return x", "한국어 조합 \u1112\u1161\u11ab", "नमस्ते दुनिया", "مرحبا بالعالم", "𝒳𝒴 𐍈", "a" * 300,
    "<|", "</", "[INST", "<0x41>",
)  # fmt: skip
"""Texts on which engines are known to differ: spaces, combining marks, long runs, rare scripts, pieces of control tokens."""

NUM_PIECES = 300
"""Pieces of the vocabulary, of each kind, whose own text both engines encode in the self-check."""


class EnginesDiffer(Exception):
    """The fast engine gave other ids than `tokenizers` for a text; the error's text quotes it."""


def text_number(part: int, number: int) -> int:
    """Return the number by which a text is checked or not. part: its part's. number: of texts before it in the part."""
    return number if part < NUM_FIRST_PARTS else NUM_FIRST + part * PART_STRIDE + number


def quoted(text: str) -> str:
    """Return the beginning of a text for a message."""
    return repr(text[:60])


class FastEngine:
    """fastokens behind the check that its ids are those of `tokenizers`."""

    name = "fastokens"

    def __init__(self, engine: Any, tokenizer: Any) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._num_ids: int = tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str], first_text: int) -> tuple[Int32, Int64]:
        """Return (ids, row_offsets) of the texts; `first_text` is the `text_number` of the first.

        Which of them are checked depends on that number alone, so that the outcome does not depend on who encodes what. Raises
        EnginesDiffer.
        """
        try:
            ids, row_offsets = _flat(self._engine, texts)
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # a panic of Rust is no Exception
                raise EnginesDiffer(f"{quoted(texts[0])} and those after it, on which it failed ({error})") from error
            raise
        if len(row_offsets) != len(texts) + 1 or row_offsets[-1] != len(ids) or ids.max(initial=0) >= self._num_ids:
            raise EnginesDiffer(f"{quoted(texts[0])} and those after it, for which it gave what are no ids")
        checked = [row for row in range(len(texts)) if _is_checked(first_text + row)]
        different = _first_difference(self._tokenizer, texts, ids, row_offsets, checked)
        if different is not None:
            raise EnginesDiffer(quoted(texts[different]))
        return ids, row_offsets


def _is_checked(number: int) -> bool:
    return number < NUM_FIRST or number % SAMPLE_EVERY == 0


def open_fast_engine(text: str, tokenizer: Any) -> FastEngine | None:
    """Return the fast engine where it loads this tokenizer and gives the same ids on difficult texts, else None.

    text: the `tokenizer.json`. tokenizer: the same, loaded by `tokenizers`.
    """
    try:
        import fastokens
    except ImportError:
        return None
    texts = [*NASTY, *_piece_texts(tokenizer)]
    everything = range(len(texts))
    try:
        engine = fastokens.Tokenizer.from_json_str(text)
        engine.enable_segment_cache(CACHE_BYTES)
        passes = [_flat(engine, texts) for _ in range(2)]  # the second comes from the cache
    except Exception:  # the engine says in many ways that it cannot do this tokenizer; `tokenizers` can
        return None
    same = all(_first_difference(tokenizer, texts, *encoded, everything) is None for encoded in passes)
    return FastEngine(engine, tokenizer) if same else None


def _flat(engine: Any, texts: Sequence[str]) -> tuple[Int32, Int64]:
    ids, row_offsets = engine.encode_batch_flat(list(texts), add_special_tokens=False)
    return np.frombuffer(ids, dtype="<i4"), np.frombuffer(row_offsets, dtype="<i8")


def _first_difference(tokenizer: Any, texts: Sequence[str], ids: Int32, row_offsets: Int64, rows: Iterable[int]) -> int | None:
    """Return the first of the rows whose ids are not those of `tokenizers`."""
    chosen = list(rows)
    encodings = tokenizer.encode_batch_fast([texts[row] for row in chosen], add_special_tokens=False)
    for row, encoding in zip(chosen, encodings, strict=True):
        if ids[row_offsets[row] : row_offsets[row + 1]].tolist() != encoding.ids:
            return row
    return None


def _piece_texts(tokenizer: Any) -> list[str]:
    """Return texts with pieces of the vocabulary as they are spelled: those like `<0x41>`, and a sample of the others."""
    spelled = {number: piece for piece, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    pieces = [spelled[number] for number in sorted(spelled)]
    marked = [piece for piece in pieces if piece.startswith(("<", "["))]
    return [f"a{piece}中" for piece in (*marked[:NUM_PIECES], *pieces[:: max(1, len(pieces) // NUM_PIECES)])]

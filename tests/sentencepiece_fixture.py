"""SentencePiece models learned in process."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

from tokenizing_fixture import CORPUS


@cache  # options are hashable: symbols are one text, separated by commas
def model_bytes(model_type: str, **options: object) -> bytes:
    """Return a `.model` learned from the corpus; identical text in, bytes as a fallback, unless the options say otherwise."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        minloglevel=2,
        num_threads=1,
        **{
            "model_type": model_type, "vocab_size": 460, "byte_fallback": True, "hard_vocab_limit": False,
            "normalization_rule_name": "identity", "remove_extra_whitespaces": False, **options,
        },
    )  # fmt: skip
    return written.getvalue()


def write_model(path: Path, model_type: str = "bpe", **options: object) -> Path:
    """Write a `.model` and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_bytes(model_type, **options))
    return path

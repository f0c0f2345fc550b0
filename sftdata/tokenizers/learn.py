"""Learning a tokenizer from texts, the same for the same texts: byte-level BPE, or unigram with bytes as a fallback."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sftdata.errors import TokenizerError
from sftdata.tokenizers import sentencepiece_model
from sftdata.tokenizers.files import TokenizerFiles

END_OF_TEXT = "<|endoftext|>"
"""The document end of a learned tokenizer, as in GPT-2's vocabulary; a chat template may declare another stop."""

NUM_THREADS = 4
"""Of sentencepiece: its sums, and so its pieces, depend on this number, and must not on the machine."""


def learn(algorithm: str, texts: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str]) -> TokenizerFiles:
    """Learn a tokenizer of at most `vocab_size` entries, the special tokens counted, which get the lowest ids.

    algorithm: `bpe` or `unigram`. Fewer entries come out where the texts hold too little. Any text comes back from its ids.
    Raises TokenizerError where there is no text, and where bytes and characters alone are more than `vocab_size`.
    """
    special = list(dict.fromkeys([END_OF_TEXT, *special_tokens]))
    texts = _some(texts)
    learn_model = {"bpe": _learn_bpe, "unigram": _learn_unigram}[algorithm]
    config = {"eos_token": END_OF_TEXT, "bos_token": None, "pad_token": None, "model_max_length": 1 << 30}
    return TokenizerFiles(learn_model(texts, vocab_size, special), config)


def _some(texts: Iterable[str]) -> Iterable[str]:
    """Return the texts that are not empty. Raises TokenizerError where there is none."""
    found = filter(None, texts)
    first = next(found, None)
    if first is None:
        raise TokenizerError("a tokenizer cannot be learned: there is no text")
    return (text for part in ([first], found) for text in part)


def _learn_bpe(texts: Iterable[str], vocab_size: int, special: Sequence[str]) -> dict[str, Any]:
    """Byte-level BPE (Sennrich et al. 2016, bytes as in GPT-2)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    value: dict[str, Any] = json.loads(tokenizer.to_str())
    return value


def _learn_unigram(texts: Iterable[str], vocab_size: int, special: Sequence[str]) -> dict[str, Any]:
    """Unigram (Kudo 2018) by sentencepiece: no normaliser, no dummy prefix, so that text comes back as it was.

    Texts are cut into lines, since sentencepiece leaves out what is longer than its limit.
    """
    import sentencepiece

    written = io.BytesIO()
    lines = (line for text in texts for line in text.replace("\0", "").splitlines(keepends=True))
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=written,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 30,
            num_threads=NUM_THREADS,
            minloglevel=2,
            required_chars="".join(map(chr, range(33, 127))),
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            control_symbols=list(special),
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TokenizerError(f"a unigram tokenizer of {vocab_size} entries cannot be learned: {reason}") from error
    return sentencepiece_model.to_tokenizer_json(sentencepiece_model.parse_model(written.getvalue(), "what was learned"))

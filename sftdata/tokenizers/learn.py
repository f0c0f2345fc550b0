"""Learning a tokenizer from texts: byte-level BPE (Sennrich et al. 2016, bytes as in GPT-2), the same for the same texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from sftdata.tokenizers.files import TokenizerFiles

END_OF_TEXT = "<|endoftext|>"
"""The document end of a learned tokenizer, as in GPT-2's vocabulary; a chat template may declare another stop."""


def learn_bpe(texts: Iterable[str], *, vocab_size: int, special_tokens: Sequence[str]) -> TokenizerFiles:
    """Learn byte-level BPE of at most `vocab_size` entries, the special tokens counted.

    Special tokens get the lowest ids. Fewer entries come out where the texts hold too few pairs.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([END_OF_TEXT, *special_tokens]))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    config = {"eos_token": END_OF_TEXT, "bos_token": None, "pad_token": None, "model_max_length": 1 << 30}
    return TokenizerFiles(json.loads(tokenizer.to_str()), config)

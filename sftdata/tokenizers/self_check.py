"""The traps of published tokenizers, looked for by encoding: each found one is a line for the manifest, with its cure.

The build itself takes `tokenizer.json` as it is and puts nothing before or after a text, so that none of these changes its rows
unseen. They tell what other programs would do with the same files, and what a conversion or a normaliser has lost.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sftdata.errors import TokenizerError
from sftdata.tokenizers import sentencepiece_model
from sftdata.tokenizers.control import ControlTokens
from sftdata.tokenizers.files import TokenizerFiles

NUM_TEXTS = 1000
"""Texts of the data that the self-check encodes."""

TEXT_CHARACTERS = 2000
"""Characters of each of them."""

MAX_LOSSY = 0.01
"""Share of texts with other ids than SentencePiece's from which on a conversion is refused: it would be another tokenizer."""

PLAIN_CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that take `tokenizer.json` as it is."""

NEIGHBOURS = ("", "x", "É", "中", "7", ".", " ", "\n", "<")
"""Texts beside which a control token must be recognised: in each of them a tokenizer's options may hide it."""


def find_traps(files: TokenizerFiles, tokenizer: Any, folder: Path, texts: Sequence[str]) -> list[str]:
    """Return one line for each trap that the tokenizer holds, with counts over `texts` and the cure.

    files: as they were read. tokenizer: the same, loaded. folder: where they were read, for the class that they name. Raises
    TokenizerError where a `.model` cannot be written as `tokenizer.json` without giving other ids.
    """
    control = ControlTokens(files.tokenizer)
    cut = [text[:TEXT_CHARACTERS] for text in texts]
    plain = [text for text in cut if not control.pattern.search(text)]
    ids = [row.ids for row in tokenizer.encode_batch_fast(plain, add_special_tokens=False)]
    found = [
        _added_bos(files, tokenizer),
        _unrecognised(tokenizer, control),
        _other_than_sentencepiece(files, plain, ids),
        _wrong_class(files, folder, tokenizer, plain, ids),
        _not_written_back(tokenizer, plain, ids),
    ]
    return [line for line in found if line]


def hidden_text(tokenizer: Any, token: str, number: int | None, neighbours: Sequence[str] = NEIGHBOURS) -> str | None:
    """Return a text in which the tokenizer does not recognise a control token, or None where it does so everywhere."""
    texts = [f"{before}{token}{after}" for before in neighbours for after in neighbours] + [token * 2]
    rows = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for text, row in zip(texts, rows, strict=True):
        if number is None or row.ids.count(number) != text.count(token):
            return text
    return None


def added_around(tokenizer: Any) -> list[str]:
    """Return the tokens that the tokenizer itself puts around every text when it is asked for special tokens."""
    return [tokenizer.id_to_token(number) for number in tokenizer.encode("", add_special_tokens=True).ids]


def _added_bos(files: TokenizerFiles, tokenizer: Any) -> str | None:
    bos = files.special("bos_token")
    if bos is None or bos not in added_around(tokenizer) or files.config.get("add_bos_token"):
        return None
    return (
        f"the tokenizer puts {bos} before every text although add_bos_token does not say so; the rows hold only what the "
        "template writes, and a program that believes the flag and adds it has it twice: pass add_special_tokens=False"
    )


def _unrecognised(tokenizer: Any, control: ControlTokens) -> str | None:
    hidden = {token: hidden_text(tokenizer, token, number, ("", "x")) for token, number in control.ids.items()}
    tokens = [token for token, text in hidden.items() if text is not None]
    if not tokens:
        return None
    return (
        f"{_some(tokens)}: not recognised beside other text, as in {hidden[tokens[0]]!r}; where they must be control tokens, "
        "set normalized and single_word to false for them in tokenizer.json"
    )


def _other_than_sentencepiece(files: TokenizerFiles, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> str | None:
    if files.sentencepiece is None:
        return None
    reference = sentencepiece_model.open_library(files.sentencepiece).encode(list(texts))
    different = [text for text, given, wanted in zip(texts, ids, reference, strict=True) if list(given) != wanted]
    if not different:
        return None
    name = files.sentencepiece.name
    if len(different) > max(MAX_LOSSY * len(texts), 1) and files.converted:
        raise TokenizerError(
            f"tokenizer {files.sentencepiece}: cannot be written as tokenizer.json: {_of(different, texts)} texts of the data "
            f"get other ids, as {different[0][:60]!r}; give a folder with a tokenizer.json that was made for it"
        )
    return (
        f"{_of(different, texts)} texts of the data get other ids from tokenizer.json than from {name}, as "
        f"{different[0][:60]!r}; leave only the file that the model was trained with in the folder"
    )


def _wrong_class(
    files: TokenizerFiles, folder: Path, tokenizer: Any, texts: Sequence[str], ids: Sequence[Sequence[int]]
) -> str | None:
    """Look for other ids from transformers' own class, in the data and in what a chat template puts together."""
    name = files.config.get("tokenizer_class")
    if name in PLAIN_CLASSES or files.converted or not folder.is_dir():
        return None
    cure = "open it with PreTrainedTokenizerFast, as the folder that the build writes says"
    probes = [f"{token}x" for token in list(ControlTokens(files.tokenizer).ids)[:3]] + ["  x", "x  y"]
    wanted = [*ids, *(row.ids for row in tokenizer.encode_batch_fast(probes, add_special_tokens=False))]
    asked = [*texts, *probes]
    try:
        rows = _encode_with_class(str(name), folder, asked)
    except ImportError:
        return None  # without transformers there is nothing here that would rebuild it
    except Exception as error:  # a class given a vocabulary that is not its own fails in many ways
        return f"the class {name} that tokenizer_config.json names cannot open it ({_first_line(error)}); {cure}"
    different = [number for number, (row, given) in enumerate(zip(rows, wanted, strict=True)) if list(row) != list(given)]
    if not different:
        return None
    in_data = [asked[number] for number in different if number < len(texts)]
    return (
        f"the class {name} that tokenizer_config.json names gives other ids, for {_of(in_data, texts)} texts of the data and "
        f"for {len(different) - len(in_data)} of {len(probes)} texts as templates make them, as "
        f"{asked[different[-1]][:60]!r}; {cure}"
    )


def _encode_with_class(name: str, folder: Path, texts: Sequence[str]) -> Sequence[Sequence[int]]:
    """Return the ids that transformers' own class gives; no code of the folder is run."""
    import transformers
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = getattr(transformers, name).from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            rows: Sequence[Sequence[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    finally:
        logging.set_verbosity(verbosity)
    return rows


def _not_written_back(tokenizer: Any, texts: Sequence[str], ids: Sequence[Sequence[int]]) -> str | None:
    """Look for texts that the ids do not give back, a space at the beginning aside."""
    written = tokenizer.decode_batch([list(row) for row in ids], skip_special_tokens=False)
    pairs = zip(texts, written, strict=True)
    changed = [text for text, back in pairs if back.removeprefix(" ") != text.replace("▁", " ").removeprefix(" ")]
    if not changed:
        return None
    return (
        f"{_of(changed, texts)} texts of the data are not what their ids decode to, as {changed[0][:60]!r}: the tokenizer "
        "folds characters or has no token for them; extend it, or clean such characters away"
    )


def _of(some: Sequence[str], texts: Sequence[str]) -> str:
    return f"{len(some):,} of {len(texts):,}"


def _some(tokens: Sequence[str]) -> str:
    return ", ".join(tokens[:3]) + (f" and {len(tokens) - 3:,} more tokens" if len(tokens) > 3 else "")


def _first_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:100]

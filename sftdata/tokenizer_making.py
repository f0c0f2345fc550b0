"""The tokenizer of a build: loaded, or learned from the surviving training rows, with the template's special tokens added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from sftdata import registry
from sftdata.errors import TokenizerError
from sftdata.preparing import DOCUMENTS_FILE
from sftdata.resolving import read_decisions
from sftdata.tables import read_batches
from sftdata.templates import load_template
from sftdata.templates.render import Template
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.encoder import Encoder
from sftdata.tokenizers.learn import learn_bpe

TOKENIZER_DEFAULT = "tokenizer_default"


def make_tokenizer(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Write the tokenizer folder of a build into `folder`; return what was added and which engine will encode.

    `spec`: `path` or `train` (options), `template`, and for learning `sources` (one entry a part), `decisions`. Raises
    TokenizerError for files that cannot be read, and for a template whose control tokens the tokenizer does not recognise.
    """
    template = _built_in_or_file(spec["template"])
    wanted = list(template.special_tokens) if template else []
    if spec["path"] is not None:
        files = tokenizer_files.read(Path(spec["path"]))
    else:
        files = learn_bpe(_training_texts(spec), vocab_size=spec["train"]["vocab_size"], special_tokens=wanted)
    if template is not None:
        template = _bound(spec["template"], files)
        wanted = list(template.special_tokens)
    before = len(files.added_tokens)
    added = tokenizer_files.add_special_tokens(files, wanted)
    if template is not None:
        files.config["eos_token"] = template.stop_token
        if template.bos_token is not None and files.special("bos_token") is None:
            files.config["bos_token"] = template.bos_token
        files.chat_template = template.jinja
    tokenizer_files.write(files, folder)
    encoder = Encoder(folder)
    _check_control_tokens(encoder, wanted)
    return {
        "added_tokens": added,
        "num_added_before": before,
        "vocab_size": encoder.vocab_size,
        "engine": encoder.engine,
        "learned": spec["path"] is None,
    }


def _built_in_or_file(name: str) -> Template | None:
    """Load a template that is not the tokenizer's own, before there is a tokenizer."""
    return None if name == TOKENIZER_DEFAULT else load_template(name, tokenizer_template=None, bos_token=None, eos_token=None)


def _bound(name: str, files: tokenizer_files.TokenizerFiles) -> Template:
    """Load a template for a tokenizer whose BOS and EOS it shall use."""
    return load_template(
        name,
        tokenizer_template=files.chat_template,
        bos_token=files.special("bos_token"),
        eos_token=files.special("eos_token"),
    )


def _training_texts(spec: dict[str, Any]) -> Iterator[str]:
    """Yield the cleaned texts of the rows that are kept and lie in the training split, in row order."""
    for number, source in enumerate(spec["sources"]):
        keep, split = read_decisions(Path(spec["decisions"]), number)
        name, options = source["format"]
        function = registry.find_step("formatter", name, allow_code=source["allow_code"]).function
        first = 0
        for batch in read_batches(Path(source["documents"]) / DOCUMENTS_FILE):
            rows = slice(first, first + len(batch))
            chosen = np.flatnonzero(keep[rows] & (split[rows] == 0))
            for record in batch.column("record").take(pa.array(chosen)).to_pylist():
                yield from (turn.content for turn in function(orjson.loads(record), **options).turns)
            first += len(batch)


def _check_control_tokens(encoder: Encoder, tokens: list[str]) -> None:
    """Refuse a tokenizer that does not recognise a control token in the middle of text, as ones flagged `normalized` may not."""
    for token in tokens:
        number = encoder.control.get(token)
        for text in (f"x{token}x", f"x\n{token}\nx", f"{token}{token}"):
            ids = encoder.tokenizer.encode(text, add_special_tokens=False).ids
            if number is None or ids.count(number) != text.count(token):
                raise TokenizerError(
                    f"the tokenizer does not recognise the template's token {token!r} inside text; "
                    "set normalized: false for it in tokenizer.json"
                )

"""The tokenizer of a build: loaded, or learned from the surviving training rows, with the template's special tokens added."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sftdata.entries import read_decisions
from sftdata.errors import TokenizerError
from sftdata.formatting import format_documents, open_format, read_documents
from sftdata.rendering import open_template
from sftdata.templates import TOKENIZER_DEFAULT, load_template
from sftdata.templates.render import Template
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.encoder import Encoder, open_encoder
from sftdata.tokenizers.extend import dead_pieces, extend, read_pieces, report
from sftdata.tokenizers.files import TokenizerFiles
from sftdata.tokenizers.learn import END_OF_TEXT, learn
from sftdata.tokenizers.self_check import NUM_TEXTS, added_around, find_traps, hidden_text
from sftdata.tokenizers.texts import read_texts

NUM_FILE_TEXTS = 10_000
"""Lines of given files on which an extended vocabulary is measured."""


def make_tokenizer(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Write the tokenizer folder of a build into `folder`; return what was added, which engine will encode, and its traps.

    `spec`: `path` or `train` (options), `extend` (options, may be missing), `template`, and what it is learned from or checked
    on, which may be missing: `sources` (parts) with `decisions`, or `files` with `field`. Raises TokenizerError for files that
    cannot be read or extended, for a conversion that gives other ids, and for a template whose control tokens the tokenizer
    does not recognise.
    """
    texts = _sample(spec)
    files = _learned(spec) if spec["path"] is None else tokenizer_files.read(Path(spec["path"]))
    warnings = [] if spec["path"] is None else _traps(files, Path(spec["path"]), texts)
    extension = None
    if spec.get("extend"):
        files, extension, dead = _extended(files, spec["extend"], texts)
        warnings += dead
    template = open_template(spec["template"], files)
    wanted = _special_tokens(template)
    before = len(files.added_tokens)
    added = tokenizer_files.add_special_tokens(files, wanted)
    if template is not None:
        _take_template(files, template)
    if files.tokenizer["model"].get("dropout"):
        files.tokenizer["model"]["dropout"] = None  # it would give other tokens in every run
    tokenizer_files.write(files, folder)
    encoder = open_encoder(folder)
    _check_control_tokens(encoder, wanted)
    return {
        "added_tokens": added,
        "num_added_before": before,
        "vocab_size": encoder.vocab_size,
        "engine": encoder.engine,
        "learned": spec["path"] is None,
        "extension": extension,
        "around_every_text": added_around(encoder.tokenizer),
        "warnings": warnings,
    }


def _sample(spec: dict[str, Any]) -> list[str]:
    """Return some texts of every part, or the first of the files."""
    if spec.get("files"):
        return list(islice(_file_texts(spec), NUM_FILE_TEXTS)) if spec["path"] is not None else []
    parts = spec.get("sources") or []
    return [text for part in parts for text in islice(_texts(part, spec, split=None), -(-NUM_TEXTS // len(parts)))]


def _traps(files: TokenizerFiles, path: Path, texts: list[str]) -> list[str]:
    """Look for the traps of a tokenizer that was made elsewhere."""
    main = path / "tokenizer.json" if path.is_dir() else path
    tokenizer = tokenizer_files.load(json.dumps(files.tokenizer), str(main))
    return find_traps(files, tokenizer, main.parent, texts)


def _extended(
    files: TokenizerFiles, options: dict[str, Any], texts: list[str]
) -> tuple[TokenizerFiles, dict[str, Any], list[str]]:
    """Return the tokenizer with the pieces, what became of them, and a warning where some are dead."""
    extension = extend(files, read_pieces(Path(options["pieces"])), add_parts=options["add_parts"])
    cure = "their parts are no pieces: tokenizer.extend.add_parts adds those" if not options["add_parts"] else "leave them out"
    return extension.files, report(files, extension, texts), [f"{line}; {cure}" for line in dead_pieces(extension)]


def _special_tokens(template: Template | None) -> list[str]:
    """Return the tokens that a template needs: those that it declares, and its stop token."""
    if template is None:
        return []
    return list(dict.fromkeys(token for token in (*template.special_tokens, template.stop_token) if token))


def _take_template(files: TokenizerFiles, template: Template) -> None:
    if template.stop_token:
        files.config["eos_token"] = template.stop_token
    if template.bos_token is not None and files.special("bos_token") is None:
        files.config["bos_token"] = template.bos_token
    files.chat_template = template.jinja


def _learned(spec: dict[str, Any]) -> TokenizerFiles:
    """Learn a tokenizer that has the template's special tokens."""
    if spec["template"] == TOKENIZER_DEFAULT:
        special = []
    else:
        template = load_template(spec["template"], tokenizer_template=None, bos_token=None, eos_token=END_OF_TEXT)
        special = _special_tokens(template)
    options = spec["train"]
    return learn(options["algorithm"], _training_texts(spec), vocab_size=options["vocab_size"], special_tokens=special)


def _training_texts(spec: dict[str, Any]) -> Iterator[str]:
    """Yield the cleaned texts of the rows that are kept and lie in the training split, in row order."""
    if spec.get("files"):
        yield from _file_texts(spec)
        return
    for part in spec["sources"]:
        yield from _texts(part, spec, split=0)


def _file_texts(spec: dict[str, Any]) -> Iterator[str]:
    return read_texts([Path(path) for path in spec["files"]], spec["field"])


def _texts(part: dict[str, Any], spec: dict[str, Any], *, split: int | None) -> Iterator[str]:
    """Yield the cleaned texts of a part's kept rows, of one split or of all."""
    keep, splits = read_decisions(Path(spec["decisions"]), part["part"])
    name, options = part["format"]
    form = open_format(name, options, allow_code=part["allow_code"])
    chosen = keep if split is None else keep & (np.asarray(splits) == split)
    for documents in read_documents(Path(part["documents"]), chosen):
        for example in format_documents(form, documents)[0]:
            yield from (span.text for turn in example.turns if (span := turn.reasoning) is not None)
            yield from (turn.content for turn in example.turns)


def _check_control_tokens(encoder: Encoder, tokens: list[str]) -> None:
    """Refuse a tokenizer that does not recognise a template's token inside text, as may be where it is flagged `normalized`."""
    for token in tokens:
        text = hidden_text(encoder.tokenizer, token, encoder.control.ids.get(token))
        if text is not None:
            raise TokenizerError(
                f"the tokenizer does not recognise the template's token {token!r} in {text!r}; "
                "set normalized and single_word to false for it in tokenizer.json"
            )

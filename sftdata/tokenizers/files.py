"""The files of a tokenizer: reading them as they are, and writing the folder that `AutoTokenizer` opens.

The truth is `tokenizer.json`. The folder that is written names the class `PreTrainedTokenizerFast`, which takes that file as it
is; classes such as `LlamaTokenizer` rebuild the tokenizer in transformers 5 and give other ids for the same file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from sftdata import storage
from sftdata.errors import TokenizerError
from sftdata.tokenizers import sentencepiece_model

HUB = "hub:"
FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "new_tokens.json",
    *sentencepiece_model.NAMES,
)  # fmt: skip


class NewToken(NamedTuple):
    """A token that a vocabulary was extended by."""

    id: int
    piece: str
    made_of: list[int]
    """What the tokenizer made of the piece before: a model's new rows are the means of these."""


@dataclass
class TokenizerFiles:
    """A tokenizer as its files say it."""

    tokenizer: dict[str, Any]
    """The JSON of `tokenizer.json`."""
    config: dict[str, Any] = field(default_factory=dict)
    """The JSON of `tokenizer_config.json`; empty where there is none."""
    chat_template: str | None = None
    """Jinja text of the tokenizer's own chat template."""
    sentencepiece: Path | None = None
    """The `.model` that the tokenizer was made from, where it lies there."""
    converted: bool = False
    """True where `tokenizer` was made from it just now."""
    new_tokens: list[NewToken] = field(default_factory=list)

    def special(self, name: str) -> str | None:
        """Return the text of `bos_token`, `eos_token`, `pad_token` or `unk_token`, or None."""
        value = self.config.get(name)
        return value.get("content") if isinstance(value, dict) else value

    @property
    def added_tokens(self) -> list[str]:
        """The texts of all added tokens, special or not, in the order of their ids."""
        return [token["content"] for token in self.tokenizer.get("added_tokens", [])]


def locate(path: str, folder: Path) -> Path:
    """Return the local path of a tokenizer: `hub:org/name` is fetched, other paths are relative to `folder`."""
    if not path.startswith(HUB):
        return folder / Path(path).expanduser()
    from huggingface_hub import snapshot_download

    name = path.removeprefix(HUB)
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        raise TokenizerError(f"tokenizer {path!r} cannot be fetched: {why}") from error


def read(path: Path) -> TokenizerFiles:
    """Read a tokenizer: a folder, a `tokenizer.json` or a SentencePiece `.model`; a folder's `tokenizer.json` goes first.

    Raises TokenizerError with the place and the cure.
    """
    main = _main_file(path)
    beside = main.parent
    config = _read_json(beside / "tokenizer_config.json") if (beside / "tokenizer_config.json").is_file() else {}
    if (beside / "special_tokens_map.json").is_file():
        config = {**_read_json(beside / "special_tokens_map.json"), **{k: v for k, v in config.items() if v is not None}}
    if main.suffix == sentencepiece_model.SUFFIX:
        return _converted(main, config, _chat_template(beside, config))
    tokenizer = _read_json(main)
    if "model" not in tokenizer:
        raise TokenizerError(f"tokenizer {main}: is no tokenizer.json (it has no model)")
    model = next((beside / name for name in sentencepiece_model.NAMES if (beside / name).is_file()), None)
    template = _chat_template(beside, config)
    return TokenizerFiles(tokenizer, config, template, model, new_tokens=read_new_tokens(beside))


def _main_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise TokenizerError(f"tokenizer {path}: no such file or folder")
    for name in ("tokenizer.json", *sentencepiece_model.NAMES):
        if (path / name).is_file():
            return path / name
    raise TokenizerError(f"tokenizer {path}: a tokenizer folder needs a tokenizer.json or a SentencePiece tokenizer.model")


def _converted(path: Path, config: dict[str, Any], chat_template: str | None) -> TokenizerFiles:
    """Return the tokenizer of a `.model`, which puts BOS before a text only where its configuration says so."""
    model = sentencepiece_model.read_model(path)
    tokenizer = sentencepiece_model.to_tokenizer_json(model)
    files = TokenizerFiles(tokenizer, {**model.special, **config}, chat_template, path, converted=True)
    bos = files.special("bos_token")
    number = next((token["id"] for token in files.tokenizer["added_tokens"] if token["content"] == bos), None)
    if config.get("add_bos_token") and number is not None:
        first, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        pair = {"Sequence": {"id": "B", "type_id": 0}}
        files.tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [first, text],
            "pair": [first, text, pair],
            "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
        }
    return files


def read_new_tokens(folder: Path) -> list[NewToken]:
    """Return the tokens that the vocabulary of a folder was extended by; none where it was not. Raises TokenizerError."""
    path = folder / "new_tokens.json"
    if not path.is_file():
        return []
    try:
        return [NewToken(int(token["id"]), str(token["piece"]), token["made_of"]) for token in _read_json(path)["tokens"]]
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"tokenizer {path}: is no list of new tokens; extend the tokenizer again") from error


def read_text(path: Path) -> str:
    """Return the text of a tokenizer's file. Raises TokenizerError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"tokenizer {path}: cannot be read: {error}") from error


def load(text: str, place: str) -> Any:
    """Return the `tokenizers.Tokenizer` of a `tokenizer.json`, which neither truncates nor pads. Raises TokenizerError.

    place: what an error shall name.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # `tokenizers` raises plain Exception for whatever it cannot read
        reason = " ".join(str(error).split())
        raise TokenizerError(f"tokenizer {place}: cannot be loaded: {reason}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(read_text(path))
    except ValueError as error:
        raise TokenizerError(f"tokenizer {path}: is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"tokenizer {path}: is no JSON object")
    return value


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        return named.get("default")
    return template


def add_special_tokens(files: TokenizerFiles, tokens: Sequence[str]) -> list[str]:
    """Add the special tokens that are missing, with the next free ids; returns those that were added."""
    from tokenizers import AddedToken

    missing = [token for token in tokens if token not in files.added_tokens]
    if missing:
        tokenizer = load(json.dumps(files.tokenizer), "tokenizer.json")
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
        files.tokenizer = json.loads(tokenizer.to_str())
    return missing


def write(files: TokenizerFiles, folder: Path) -> None:
    """Write the folder that `AutoTokenizer.from_pretrained` opens."""
    storage.write_bytes(folder / "tokenizer.json", (json.dumps(files.tokenizer, ensure_ascii=False) + "\n").encode())
    config = {key: value for key, value in files.config.items() if key not in ("chat_template", "auto_map")}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("added_tokens_decoder", None)
    names = {name: files.special(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    config.update(names)
    storage.write_json(folder / "tokenizer_config.json", dict(sorted(config.items())))
    special = {name: token for name, token in names.items() if token is not None}
    storage.write_json(folder / "special_tokens_map.json", special)
    if files.new_tokens:
        storage.write_json(folder / "new_tokens.json", {"tokens": [token._asdict() for token in files.new_tokens]})
    if files.chat_template is not None:
        storage.write_bytes(folder / "chat_template.jinja", files.chat_template.encode("utf-8"))

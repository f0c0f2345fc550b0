"""Small tokenizers of every family, and the whole way from records to tokens, for the tests of tokenizing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sftdata.preparing import prepare_part
from sftdata.rendering import open_template
from sftdata.resolving import resolve
from sftdata.tables import read_batches
from sftdata.templates.render import Template
from sftdata.tokenizer_making import make_tokenizer
from sftdata.tokenizers.files import read
from sftdata.tokenizing import tokenize_part

SHARED = Path(__file__).resolve().parents[2] / "shared"
LLAMA2 = SHARED / "parity" / "tokenizer-llama2"

CORPUS = [
    "The gate of the old palace opens at dawn, and the gate closes when the last lamp is out.",
    "user asks and assistant answers; the user thanks the assistant. system 123 456 789",
    "春天的花园里，宫女们提着灯笼走过长廊。灯笼的光照在水面上。",
    "  spaces   and\n\nnew lines\tand tabs, end of turn <|im_start|>assistant Human: Assistant: ",
] * 3

OPTIONS: dict[str, Any] = {
    "roles_to_train": ["assistant"],
    "train_on_inputs": False,
    "train_on_eos": True,
    "train_turns": "all",
    "train_on_thinking": True,
    "control_tokens": "escape",
    "control_tokens_allowed": None,
    "compat": None,
}

FRAGMENTS = (
    "<|im_end|>", "<|im_start|>", "</s>", "<s>", "<unk>", "<|im_", "end|>", "<|", "|>", "</", "s>", "[INST]", "[/INST]",
    "User:", "<0x41>", "▁", " ", "  ", "\n", "\n\n", "\t", "e\u0301", "é", "ﬁ", "①", "İ", "한", "\u0323\u0301",
    "👩\u200d👩\u200d👧", "🇨🇳", "中文", "宫", "gate", "The", "𝒳", "\u00a0", "\u3000", "\x00", "\u2028", "%s", "%",
)  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=8).map("".join)


def byte_level(*, lowercase: bool = False, add_prefix_space: bool = False) -> Tokenizer:
    """Byte-level BPE, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """BPE over `▁` with byte fallback, as LLaMA-2's."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
    pieces = [text.replace(" ", "▁") for text in CORPUS]
    ascii_alphabet = [chr(code) for code in range(33, 127)]
    learned.train_from_iterator(
        pieces, trainers.BpeTrainer(vocab_size=300, initial_alphabet=ascii_alphabet, show_progress=False)
    )
    model = json.loads(learned.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    names += [name for name in ("<", "s", ">", "<s", "/", "</", "</s") if name not in model["vocab"]]
    merges = [*map(tuple, model["merges"]), ("<", "s"), ("<s", ">"), ("<", "/"), ("</", "s"), ("</s", ">")]
    vocab = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def unigram() -> Tokenizer:
    """Unigram with Metaspace, as T5's: no bytes, so that unknown text becomes the unknown token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """WordPiece in lower case, as BERT's: its tokens do not stand for bytes."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "byte_level_prefix": lambda: byte_level(add_prefix_space=True),
    "byte_level_lowercase": lambda: byte_level(lowercase=True),
    "sentencepiece": sentencepiece,
    "unigram": unigram,
    "wordpiece": wordpiece,
}
PROVEN_BY_BYTES = ("byte_level", "byte_level_prefix", "byte_level_lowercase", "sentencepiece", "unigram")


@cache
def family_json(family: str) -> str:
    """Return the `tokenizer.json` of a family, made once."""
    return str(FAMILIES[family]().to_str())


def write_family(
    folder: Path, family: str, *, eos: str | None = "</s>", bos: str | None = "<s>", template: str | None = None
) -> Path:
    """Write a tokenizer folder as others publish them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(family_json(family), encoding="utf-8")
    config = {"eos_token": eos, "bos_token": bos, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@dataclass
class Tokenized:
    """What the phase made of some records."""

    tokenizer_folder: Path
    rows: list[dict[str, Any]]
    """TOKENIZED, in order."""
    counts: dict[str, int]
    engine: str
    ledger: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return Tokenizer.from_file(str(self.tokenizer_folder / "tokenizer.json"))

    def decoded(self, row: int) -> str:
        """Return a row's text, control tokens included."""
        return str(self.tokenizer.decode(self.rows[row]["input_ids"], skip_special_tokens=False))

    def mask(self, row: int) -> list[bool]:
        """Return which of a row's tokens are trained."""
        runs = self.rows[row]["mask_runs"]
        mask = [False] * len(self.rows[row]["input_ids"])
        for start, length in zip(runs[::2], runs[1::2], strict=True):
            assert length > 0 and not any(mask[start : start + length])
            mask[start : start + length] = [True] * length
        return mask

    def trained(self, row: int) -> str:
        """Return the text of the trained tokens."""
        ids = [number for number, trained in zip(self.rows[row]["input_ids"], self.mask(row), strict=True) if trained]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def control_ids(self, row: int) -> list[int]:
        """Return a row's ids of added tokens."""
        added = self.tokenizer.get_added_tokens_decoder()
        return [number for number in self.rows[row]["input_ids"] if number in added]


class Phase:
    """Runs records through prepare, resolve and tokenize in a folder."""

    def __init__(self, folder: Path, tokenizer: Path | None, template: str, **options: Any) -> None:
        self.folder = folder
        self.template = template
        self.options = {**OPTIONS, **options}
        self.tokenizer_folder = folder / "tokenizer"
        self.format: tuple[str, dict[str, Any]] = ("messages", {})
        self.clean: list[tuple[str, dict[str, Any]]] = []
        for name in ("tokenizer", "documents", "decisions", "out"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if tokenizer is not None:
            spec = {"path": str(tokenizer), "train": None, "template": template}
            self.made = make_tokenizer(self.tokenizer_folder, spec)

    @cached_property
    def loaded_template(self) -> Template:
        """The chat template."""
        template = open_template(self.template, read(self.tokenizer_folder))
        assert template is not None
        return template

    def prepare(self, records: Sequence[dict[str, Any]]) -> None:
        """Write the records as JSONL, prepare and resolve them."""
        data = self.folder / "rows.jsonl"
        data.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
        prepared = prepare_part(
            self.folder / "documents",
            {
                "path": str(data), "file": data.name, "source": "talk", "clean": self.clean, "format": self.format,
                "allow_code": True, "ingest": ("jsonl", {}), "piece": None, "member": None, "limit": None, "keep_all": False,
                "without": [],
            },
        )  # fmt: skip
        assert prepared["counts"].get("records", 0) == len(records)
        parts = {"parts": [str(self.folder / "documents")], "dedup": [], "split": {"validation": 0.0}, "seed": 1}
        parts.update(signed=[], sources=["talk"], near_duplicates=None)
        resolve(self.folder / "decisions", parts)

    def spec(self) -> dict[str, Any]:
        """Return the task's description."""
        return {
            "source": "talk", "part": 0,
            "documents": str(self.folder / "documents"), "decisions": str(self.folder / "decisions"),
            "tokenizer": str(self.tokenizer_folder), "template": self.template, "format": self.format, "category": "talk",
            "tokenize": self.options, "allow_code": True, "engine": "auto",
        }  # fmt: skip

    def run(self, records: Sequence[dict[str, Any]]) -> Tokenized:
        """Tokenize the records."""
        self.prepare(records)
        result = tokenize_part(self.folder / "out", self.spec())
        tables = [read_rows(self.folder / "out" / f"{name}.arrow") for name in ("tokenized", "ledger", "quarantine")]
        return Tokenized(self.tokenizer_folder, tables[0], result["counts"], result["engine"], tables[1], tables[2])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of an Arrow stream."""
    rows: list[dict[str, Any]] = pa.Table.from_batches(read_batches(path)).to_pylist() if list(read_batches(path)) else []
    return rows


OWN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '### ' + m.role + ':\\n' + m.content + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
)
"""A chat template as a tokenizer brings it."""


def published(folder: Path, family: str, template: str) -> Path:
    """Return a published tokenizer of a family; skips where LLaMA-2's is wanted and absent."""
    if family == "llama2":
        if not LLAMA2.is_dir():
            pytest.skip("the LLaMA-2 tokenizer of the shared folder is not here")
        return LLAMA2
    return write_family(folder, family, template=OWN_TEMPLATE if template == "tokenizer_default" else None)


CASES = [
    *((family, "chatml") for family in (*FAMILIES, "llama2")),
    *(("sentencepiece", template) for template in ("llama2", "vicuna", "human_assistant", "alpaca", "atom")),
    ("llama2", "llama2"),
    ("byte_level_lowercase", "vicuna"),
    ("unigram", "alpaca"),
    ("byte_level", "tokenizer_default"),
    ("wordpiece", "tokenizer_default"),
]
"""(family, template)"""


def case_phase(case: tuple[str, str], folder: Path, **options: Any) -> Phase:
    """Return the phase of a case."""
    family, template = case
    return Phase(folder, published(folder / "source", family, template), template, **options)


def dialogue(*contents: str, **extra: Any) -> dict[str, Any]:
    """Return a record of user and assistant turns in alternation."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]
    return {"messages": messages, **extra}

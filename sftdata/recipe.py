"""The recipe: frozen models of every section. `recipe_loader.py` reads the file and says where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from sftdata.compat import SCRIPTS
from sftdata.recipe_dedup import Dedup
from sftdata.recipe_mixing import Mix, Pack
from sftdata.recipe_section import Section, at

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
SOURCE_NAME = r"^\w[\w-]*$"
"""No dot, which separates the parts of `--set sources.NAME.path`."""

Role = Literal["system", "user", "assistant", "tool"]
DEDUP = "dedup"
"""The step of the recipe's own `clean` that decides over all rows together."""


class StepSpec(Section):
    """A step as the recipe names it: `name`, or `{name: {option: value}}`."""

    name: str
    options: dict[str, Any] = {}

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {self.name: self.options} if self.options else self.name


def _step(value: Any) -> Any:
    if isinstance(value, StepSpec):
        return value
    if isinstance(value, str):
        return StepSpec(name=value)
    if isinstance(value, Mapping) and len(value) == 1:
        name, options = next(iter(value.items()))
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return StepSpec(name=name, options=dict(options or {}))
    raise ValueError("a step is a name, or {name: {option: value}}")


StepField = Annotated[StepSpec, BeforeValidator(_step)]


def _list_of_paths(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


class TokenizerTrain(Section):
    """Learn a tokenizer from the cleaned text of the training split."""

    algorithm: Literal["bpe", "unigram"] = "bpe"
    vocab_size: int = Field(ge=260)


class TokenizerExtend(Section):
    """Add pieces to the vocabulary of the tokenizer in `path`."""

    pieces: str
    add_parts: bool = False


class Tokenizer(Section):
    """Which tokenizer, and which chat template."""

    path: str | None = None
    extend: TokenizerExtend | None = None
    train: TokenizerTrain | None = None
    chat_template: str = "tokenizer_default"

    @model_validator(mode="after")
    def _one_origin(self) -> Tokenizer:
        if (self.path is None) == (self.train is None):
            raise ValueError("a tokenizer needs either path or train")
        if self.extend is not None and self.path is None:
            raise ValueError("extend needs path: a tokenizer that is learned has the data's own pieces")
        return self


class Source(Section):
    """Where rows come from, how they are cleaned, and what in them is trained on."""

    name: str = Field(pattern=SOURCE_NAME)
    path: Annotated[list[str], BeforeValidator(_list_of_paths)] = Field(min_length=1)
    ingest: StepField
    clean: list[StepField] = []
    format: StepField
    category: str | None = None
    licence: str = ""
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_epochs: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_ask(self) -> Source:
        for name in ("weight", "max_epochs"):
            if self.epochs is not None and getattr(self, name) is not None:
                raise at((name,), "has no meaning beside epochs, which says how often the rows are trained")
        return self


class Tokenize(Section):
    """What is trained, and what happens to control tokens in content and to rows that are too long."""

    sequence_len: int | None = Field(default=None, ge=1)
    roles_to_train: list[Role] = ["assistant"]
    train_turns: Literal["all", "last"] = "all"
    train_on_inputs: bool = False
    train_on_eos: bool = True
    train_on_thinking: bool = True
    control_tokens: Literal["escape", "drop", "error", "allow"] = "escape"
    control_tokens_allowed: dict[Role, list[str]] | None = None
    excess_length: Literal["drop", "truncate_end", "truncate_start", "whole_turns", "split", "error"] = "drop"
    compat: Literal["colossal_pretrain", "colossal_sft", "atom_lora", "tinystories"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Tokenize:
        if self.compat is None:
            if self.sequence_len == 1:
                raise at(("sequence_len",), "1 leaves nothing to train; give at least 2")
            return self
        if self.sequence_len is None:
            raise ValueError(f"compat {self.compat} needs sequence_len, at which it cuts")
        if self.control_tokens != "allow" and "control_tokens" in self.model_fields_set:
            raise ValueError(f"control_tokens {self.control_tokens} has no meaning under compat, which lets them act: allow")
        for name in sorted(self.model_fields_set - {"compat", "sequence_len", "control_tokens"}):
            raise ValueError(f"{name} has no meaning under compat {self.compat}, which decides it")
        return self

    @model_validator(mode="after")
    def _last_turn_is_not_all(self) -> Tokenize:
        if self.train_turns == "last" and self.train_on_inputs:
            raise ValueError("train_turns: last has no meaning under train_on_inputs, which trains everything")
        return self


class Split(Section):
    """The share of rows kept for validation."""

    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    group_by: Literal["document", "near_duplicate"] = "document"


class ShardOptions(Section):
    """How rows are cut into files."""

    max_bytes: int = Field(default=256 << 20, ge=1)


class Limits(Section):
    """Shares of rows at which a stage stops the build."""

    max_bad: float = Field(default=0.001, ge=0.0, le=1.0)
    max_drop: float = Field(default=0.5, ge=0.0, le=1.0)


class Recipe(Section):
    """A whole recipe."""

    name: str = Field(pattern=NAME)
    seed: int = Field(default=42, ge=0, lt=1 << 63)
    tokenizer: Tokenizer
    sources: list[Source] = Field(min_length=1)
    clean: list[StepField] = []
    tokenize: Tokenize = Tokenize()
    split: Split = Split()
    mix: Mix = Mix()
    pack: Pack = Pack()
    shards: ShardOptions = ShardOptions()
    limits: Limits = Limits()
    output: str | None = None
    train: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise at(("sources", len(names) - 1 - names[::-1].index(name), "name"), f"two sources are called {name!r}")
        if self.pack.strategy != "padding" and self.tokenize.sequence_len is None:
            raise at(("pack", "strategy"), f"{self.pack.strategy} needs tokenize.sequence_len")
        if self.tokenize.compat:
            wanted = SCRIPTS[self.tokenize.compat].formatter
            for number, source in enumerate(self.sources):
                if source.format.name != wanted:
                    message = f"tokenize.compat {self.tokenize.compat} reads the fields of the formatter {wanted}"
                    raise at(("sources", number, "format"), message)
        if self.pack.strategy == "packed" and "excess_length" in self.tokenize.model_fields_set:
            raise at(("tokenize", "excess_length"), "has no meaning under pack.strategy packed, which cuts no sample off")
        if self.pack.compat is not None and "excess_length" in self.tokenize.model_fields_set:
            raise at(("tokenize", "excess_length"), "has no meaning under pack.compat, which cuts long rows itself")
        self._check_shares()
        if self.mix.group_by_length is not None and self.pack.strategy != "padding":
            message = f"has no meaning under pack.strategy {self.pack.strategy}, only under padding"
            raise at(("mix", "group_by_length"), message)
        return self

    def _check_shares(self) -> None:
        """Raise for what sources ask for where the strategy does not look at it, and the other way round."""
        if self.mix.strategy == "weighted":
            if self.pack.compat is not None:
                raise at(("pack", "compat"), "has no meaning under mix.strategy weighted, whose repeats it would lose")
            if all(source.epochs is not None for source in self.sources):
                for name in ("budget", "stop"):
                    if getattr(self.mix, name) is not None:
                        raise at(("mix", name), "has no meaning where every source has its epochs")
            return
        for number, source in enumerate(self.sources):
            for name in ("weight", "epochs", "max_epochs"):
                if getattr(source, name) is not None:
                    message = f"has no meaning under mix.strategy {self.mix.strategy}, only under weighted"
                    raise at(("sources", number, name), message)

    @property
    def cleaners(self) -> list[StepSpec]:
        """The recipe's own cleaners, which run on every source after the source's."""
        return [step for step in self.clean if step.name != DEDUP]

    @property
    def dedups(self) -> list[Dedup]:
        """The recipe's steps of deduplication, in order."""
        return [Dedup(**step.options) for step in self.clean if step.name == DEDUP]

    @property
    def near_duplicates(self) -> Dedup | None:
        """What says which rows are near-copies of each other, where the split must keep those together."""
        if self.split.group_by != "near_duplicate" or not self.split.validation:
            return None
        steps = (step for step in self.dedups if (step.method, step.over, step.min_chars) == ("minhash", "document", 0))
        return next(steps, Dedup(method="minhash"))


def json_schema() -> dict[str, Any]:
    """Return the recipe's JSON Schema, for editors."""
    return Recipe.model_json_schema()

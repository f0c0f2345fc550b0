"""The step `dedup` of a recipe's own `clean`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from sftdata.dedup.minhash import choose_bands
from sftdata.recipe_section import Section, at, check_meaning

MINHASH_DEFAULTS: dict[str, float] = {"threshold": 0.8, "num_permutations": 128, "ngram": 5}
"""What `minhash` takes where the recipe does not say."""


class Dedup(Section):
    """Remove rows whose text was seen before, or turns' loss."""

    method: Literal["exact", "minhash"] = "exact"
    over: Literal["document", "turn", "prompt", "response"] = "document"
    max_copies: int = Field(default=1, ge=1)
    allow: list[str] = []
    min_chars: int = Field(default=0, ge=0)
    threshold: float | None = Field(default=None, gt=0.0, le=1.0)
    num_permutations: int | None = Field(default=None, ge=16, le=1024)
    ngram: int | None = Field(default=None, ge=1, le=100)
    priority: list[str] = []
    score: str | None = Field(default=None, min_length=1)
    against: list[str] = []

    @model_validator(mode="after")
    def _options_mean_something(self) -> Dedup:
        check_meaning(self, "method", {name: ("minhash",) for name in MINHASH_DEFAULTS})
        if self.against and self.max_copies > 1:
            raise at(("max_copies",), "has no meaning beside against: a row goes if one of those sources has it")
        return self

    def unknown_sources(self, names: Collection[str]) -> list[tuple[str, str]]:
        """Return (option, name) of the sources that the step names and the recipe does not have."""
        return [(option, name) for option in ("priority", "against") for name in getattr(self, option) if name not in names]

    def settings(self) -> dict[str, Any]:
        """Return the options with what stands for those that the recipe leaves out."""
        found = self.model_dump()
        if self.method == "minhash":
            found.update({name: found[name] or default for name, default in MINHASH_DEFAULTS.items()})
        return found

    def signing(self) -> dict[str, Any] | None:
        """Return the options that signatures depend on; None where the digests of whole records do."""
        if self.method == "exact" and self.over == "document" and not self.min_chars and self.score is None:
            return None
        settings = self.settings()
        found = {name: settings[name] for name in ("method", "over", "min_chars", "score")}
        if self.method == "minhash":
            found["ngram"] = settings["ngram"]
            found["bands"] = list(choose_bands(settings["threshold"], settings["num_permutations"]))
        return found

    def decided(self, kinds: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the step as Resolve takes it: with the number of its signatures among `kinds`, or None."""
        kind = self.signing()
        return {**self.settings(), **(kind or {}), "signed": None if kind is None else kinds.index(kind)}


def kinds_of_signatures(steps: Sequence[Dedup]) -> list[dict[str, Any]]:
    """Return the kinds of signatures that steps need, each once."""
    kinds = [step.signing() for step in steps]
    return [kind for number, kind in enumerate(kinds) if kind is not None and kind not in kinds[:number]]

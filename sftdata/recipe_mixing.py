"""The sections `mix` and `pack` of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sftdata.recipe_section import Section, at, check_meaning


class Mix(Section):
    """In which order the sources' rows are trained, and how often."""

    strategy: Literal["concat", "buckets", "weighted", "curriculum"] = "concat"
    shuffle: bool = True
    bins: int | None = Field(default=None, ge=1)
    by: Literal["tokens", "trained_tokens", "rows"] | None = None
    budget: int | None = Field(default=None, ge=1)
    stop: Literal["first_exhausted", "all_exhausted"] | None = None
    order_by: str | None = Field(default=None, min_length=1)
    group_by_length: int | None = Field(default=None, ge=2)
    compat: Literal["percent"] | None = None

    @model_validator(mode="after")
    def _options_mean_something(self) -> Mix:
        check_meaning(self, "strategy", MIX_OPTIONS)
        if self.compat is not None and self.group_by_length is not None:
            raise at(("group_by_length",), "has no meaning under mix.compat percent, which sorts the rows itself")
        if self.budget is not None and self.stop is not None:
            raise at(("stop",), "has no meaning beside budget, which says where to stop")
        return self

    @property
    def num_bins(self) -> int:
        """Number of buckets: 10 where the recipe does not say, as in Colossal-LLaMA's script."""
        return self.bins or 10

    def settings(self) -> dict[str, Any]:
        """Return the options with what stands for those that the recipe leaves out under its strategy."""
        found = self.model_dump()
        if self.strategy in MIX_OPTIONS["bins"]:
            found["bins"] = self.num_bins
        if self.strategy == "weighted":
            found.update(by=self.by or "tokens", stop=self.stop or "first_exhausted")
        if self.strategy == "curriculum":
            found["order_by"] = self.order_by or "length"
        return found


MIX_OPTIONS = {
    "bins": ("buckets", "curriculum"),
    "by": ("weighted",),
    "budget": ("weighted",),
    "stop": ("weighted",),
    "order_by": ("curriculum",),
    "compat": ("buckets",),
}
"""The strategies under which an option of `mix` has a meaning; those not named here always have one."""


class Pack(Section):
    """How samples fill rows of `sequence_len` tokens."""

    strategy: Literal["padding", "best_fit", "concat", "packed", "splice"] = "padding"
    validation: Literal["padding"] | None = None
    compat: Literal["original"] | None = None
    num_packed_sequences: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _options_mean_something(self) -> Pack:
        check_meaning(self, "strategy", {"compat": ("splice", "concat", "padding"), "num_packed_sequences": ("splice",)})
        check_meaning(self, "compat", {"num_packed_sequences": ("original",)})
        return self

    def settings(self) -> dict[str, Any]:
        """Return the options with what stands for those that the recipe leaves out."""
        return {**self.model_dump(), "num_packed_sequences": self.num_packed_sequences or 8}

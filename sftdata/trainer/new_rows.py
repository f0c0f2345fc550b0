"""The rows of new tokens: where a vocabulary was extended, each begins as the mean of the tokens that its piece was made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sftdata.errors import TokenizerError
from sftdata.tokenizers.files import NewToken, load, read_text


def mean_rows(weight: torch.Tensor, made_of: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the mean of the named rows of `weight`, one row for each entry of `made_of`.

    weight: (rows, size) an embedding or output matrix. The result, (len(made_of), size), has its type; means are taken in
    float32. An entry that names no row gives the mean of all. Raises TokenizerError for a row that is not there.
    """
    flat = torch.tensor([number for numbers in made_of for number in numbers], dtype=torch.long, device=weight.device)
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < len(weight):
        raise TokenizerError(f"new_tokens.json names token {int(flat.max())}, the model has {len(weight)} rows; is it its own?")
    sizes = torch.tensor([len(numbers) for numbers in made_of], dtype=torch.long, device=weight.device)
    with torch.no_grad():
        means = torch.nn.functional.embedding_bag(flat, weight.float(), sizes.cumsum(0) - sizes, mode="mean")
        means[sizes == 0] = weight.float().mean(dim=0)
    return means.to(weight.dtype)


def set_new_rows(model: Any, tokens: Sequence[NewToken], num_old: int) -> int:
    """Set the rows of new tokens, input and output apart, in a model whose embeddings were grown; returns how many.

    num_old: rows that the model had, from which the means are taken.
    """
    if not tokens:
        return 0
    ids = [token.id for token in tokens]
    made_of = [token.made_of for token in tokens]
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = {id(layer.weight): layer.weight for layer in layers if layer is not None}  # tied ones are one
    with torch.no_grad():
        for weight in weights.values():
            weight[ids] = mean_rows(weight[:num_old], made_of)
    return len(ids)


def unknown_to(base_model: str, tokens: Sequence[NewToken], num_rows: int) -> list[NewToken]:
    """Return the new tokens whose rows a base model does not have: a model that was trained with them keeps its own.

    The base's own tokenizer says so; without one, the rows that it lacks are the new ones.
    """
    known = vocabulary(base_model)
    if known is None:
        return [token for token in tokens if token.id >= num_rows]
    return [token for token in tokens if known.get(token.piece) != token.id]


def vocabulary(base_model: str) -> dict[str, int] | None:
    """Return piece → id of the tokenizer beside a base model, or None where there is none."""
    path = Path(base_model) / "tokenizer.json"
    if base_model.startswith("hub:"):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            path = Path(hf_hub_download(base_model.removeprefix("hub:"), "tokenizer.json"))
        except (HfHubHTTPError, LocalEntryNotFoundError):
            return None  # published without one
    if not path.is_file():
        return None
    found: dict[str, int] = load(read_text(path), str(path)).get_vocab(with_added_tokens=True)
    return found

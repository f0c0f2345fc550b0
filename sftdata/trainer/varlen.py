"""The FlashAttention kernel that torch itself brings (2.10 on), for packed rows on a GPU without the package flash_attn.

It takes the documents one after the other and reads none of another, so that nothing is spent on a mask of length² or on what
it hides. transformers does not know it; it is registered with it under the name `varlen`. Batches without borders (padded
validation rows, samples) go through `sdpa`.
"""

from __future__ import annotations

import importlib.util
import inspect
from functools import cache
from typing import Any, cast

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "varlen"
CAUSAL = (-1, 0)
"""Window of a token: all before it, none after it."""


def is_available() -> bool:
    """Return whether this torch has the kernel and this machine a GPU that it is written for."""
    known = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return known and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def register() -> None:
    """Make `varlen` a name that models know; again does no harm."""
    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*arguments: Any, **options: Any) -> Any:
    """Return the mask of padded rows; packed ones, which come without an attention mask, need none."""
    return None if options.get("attention_mask") is None else sdpa_mask(*arguments, **options)


def varlen_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """Attend inside each document. query (1, heads, tokens, size), key and value with as many heads or a divisor of them.

    `cu_seq_lens_q`: (documents + 1,) int32, where each begins; `max_length_q`: tokens of the longest. Returns (1, tokens,
    heads, size).
    """
    borders = options.get("cu_seq_lens_q")
    if borders is None:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found
    if options.get("dropout"):
        raise ValueError("it has no attention dropout")
    kind = query.device.type
    # The rotary positions are float32 and make queries and keys so; autocast does not know this operation.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    q, k, v = (_as_many_heads(tensor[0].transpose(0, 1).to(dtype), query.shape[1]) for tensor in (query, key, value))
    scale = options.get("scaling")
    if scale is None:
        scale = query.shape[-1] ** -0.5
    return kernel(q, k, v, borders, int(options["max_length_q"]), scale)[None], None


def _as_many_heads(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Repeat (tokens, heads, size) to `num_heads` heads, which every version of the kernel takes."""
    groups = num_heads // tensor.shape[1]
    return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=1)


def kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, longest: int, scale: float
) -> torch.Tensor:
    """Call the kernel as this version of torch wants it; all (tokens, heads, size)."""
    from torch.nn.attention.varlen import varlen_attn

    if "scale" not in _parameters():  # 2.10 divides by √size
        query = query * (scale * query.shape[-1] ** 0.5)
    options: dict[str, Any] = {"window_size": CAUSAL} if "window_size" in _parameters() else {"is_causal": True}
    if "scale" in _parameters():
        options["scale"] = scale
    q, k, v = query.contiguous(), key.contiguous(), value.contiguous()
    return cast(torch.Tensor, varlen_attn(q, k, v, borders, borders, longest, longest, **options))


@cache
def _parameters() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)

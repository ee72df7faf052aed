"""Attention as two matrix products and a softmax: the fastest form for tiny models on a CPU.

`scaled_dot_product_attention` has a slow backward pass on CPUs, and Transformers' eager form
copies every key and value head once for each query head that shares it. This one folds the query
heads of a group into rows of one product instead, so that a shared cache is read once.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

GROUPED_ATTENTION = "zs_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with grouped queries.

    Args:
        module: The attention module (part of Transformers' interface, not used).
        query: (batch, heads, T, head_dim), heads a multiple of key's.
        key: (batch, key_value_heads, S, head_dim).
        value: Like `key`, but for its head_dim, which may be another.
        attention_mask: Added to the scores; broadcasts to (batch, 1, T, S). None hides nothing,
            which is right for T = 1 only.
        scaling: Factor of the scores.
        dropout: Must be 0.
        kwargs: Ignored parts of Transformers' interface.

    Returns:
        The attended values as (batch, T, heads, head_dim), and None for the weights.
    """
    batch, heads, length, head_dim = query.shape
    groups = heads // key.shape[1]
    folded = query.reshape(batch, key.shape[1], groups * length, head_dim)
    scores = torch.matmul(folded * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores.view(batch, key.shape[1], groups, length, -1) + attention_mask[:, :, None]
        scores = scores.view(batch, key.shape[1], groups * length, -1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    attended = torch.matmul(weights, value).view(batch, heads, length, value.shape[-1])
    return attended.transpose(1, 2), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
# Without a mask function of its own, Transformers would give the model no mask at all wherever
# the caller passes none, and every token would silently see the future.
AttentionMaskInterface.register(GROUPED_ATTENTION, eager_mask)


def hidden_score(dtype: torch.dtype) -> float:
    """Return what an additive mask of `dtype` adds to the scores of hidden keys.

    It stays finite when a score is added to it and in float32, where the softmax is taken: a
    query that sees nothing, as padding does, must attend evenly and not become NaN.
    """
    return max(torch.finfo(dtype).min, torch.finfo(torch.float32).min) / 2


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where `visible` and a very negative number elsewhere."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, hidden_score(dtype))


def causal_mask(length: int, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Return the additive causal mask of shape (1, 1, length, length)."""
    mask = torch.full((length, length), hidden_score(dtype), dtype=dtype, device=device)
    return mask.triu_(1)[None, None]

"""Counter-based sampling: one uniform number a token, turned into an id by the inverse CDF.

The number is named by (seed of the completion, position), so the same seed and logits give the
same token whatever else is in the batch, on whichever rank, at whatever time.
"""

from __future__ import annotations

from typing import Final

import torch

_BLOCK: Final = 64
"""A running sum over a vocabulary cannot be vectorised; sums and maxima of blocks can."""


def sample(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one id a row; of a row whose logits are not finite, any id, with a NaN beside it.

    Args:
        logits: (B, V).
        uniforms: (B,), in [0, 1); ignored when `temperature` is 0.
        temperature: Divides the logits; 0 takes the most likely id.

    Returns:
        The ids (B,) and their log-probabilities (B,) in float32, under the distribution that was
        sampled from; for temperature 0 under temperature 1.
    """
    logits = logits.float()
    scaled = logits if temperature in (0, 1) else logits / temperature
    probabilities = torch.softmax(scaled, -1)
    blocks = _blocks(probabilities)
    if temperature == 0:
        ids = _most_likely(_blocks(logits, -torch.inf))
    else:
        ids = _inverse_cdf(blocks, uniforms)
    # Nothing is above NaN, which searching would pass.
    ids = ids.clamp(max=logits.shape[-1] - 1)
    return ids, probabilities.gather(-1, ids[:, None])[:, 0].log()


def _blocks(entries: torch.Tensor, filler: float = 0.0) -> torch.Tensor:
    """Return (B, V) as (B, blocks, entries of a block), the last block filled up."""
    missing = -entries.shape[-1] % _BLOCK
    if missing:
        entries = torch.nn.functional.pad(entries, (0, missing), value=filler)
    return entries.view(-1, entries.shape[-1] // _BLOCK, _BLOCK)


def _most_likely(logits: torch.Tensor) -> torch.Tensor:
    """Return the place of each row's largest entry, the first one of several."""
    block = logits.amax(-1).argmax(-1)
    return block * _BLOCK + _chosen(logits, block).argmax(-1)


def _inverse_cdf(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the first place at which the running sum passes the row's share of the whole sum."""
    # In float64, where a uniform below 1 stays below 1.
    ends = probabilities.sum(-1).cumsum(-1, dtype=torch.float64)
    targets = uniforms.to(ends)[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, targets, right=True).clamp_(max=ends.shape[-1] - 1)
    within = _chosen(probabilities, block[:, 0]).cumsum(-1, dtype=torch.float64)
    before = torch.where(block > 0, ends.gather(-1, block.sub(1).clamp_(min=0)), 0.0)
    # The block's sum was rounded another way: a target must not pass its last possible entry.
    targets = torch.minimum(targets - before, within[:, -1:] * (1 - 2**-52))
    return (block * _BLOCK + torch.searchsorted(within, targets, right=True))[:, 0]


def _chosen(blocks: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Return the named block of each row."""
    return blocks[torch.arange(len(block), device=block.device), block]

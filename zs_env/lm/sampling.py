"""Counter-based sampling: one uniform number a token, turned into an id by the inverse CDF.

The number is named by (seed of the completion, position), so the same seed and logits give the
same token whatever else is in the batch, on whichever rank, at whatever time.
"""

from __future__ import annotations

import torch


def sample(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one id a row.

    Args:
        logits: (B, V).
        uniforms: (B,), in [0, 1); ignored when `temperature` is 0.
        temperature: Divides the logits; 0 takes the most likely id.

    Returns:
        The ids (B,) and their log-probabilities (B,) in float32, under the distribution that was
        sampled from; for temperature 0 under temperature 1.
    """
    logits = logits.float()
    if temperature == 0:
        ids = logits.argmax(-1)
        chosen = logits.gather(-1, ids[:, None])[:, 0]
        return ids, chosen - logits.logsumexp(-1)
    scaled = logits if temperature == 1 else logits / temperature
    logprobs = torch.log_softmax(scaled, -1)
    # In float64, where a uniform below 1 stays below 1. The last entry is 1 up to rounding;
    # scaling by it keeps every target below it, and so within the ids of positive probability.
    cdf = logprobs.exp().cumsum(-1, dtype=torch.float64)
    targets = uniforms.to(cdf)[:, None] * cdf[:, -1:]
    ids = torch.searchsorted(cdf, targets, right=True).clamp_(max=logits.shape[-1] - 1)
    return ids[:, 0], logprobs.gather(-1, ids)[:, 0]

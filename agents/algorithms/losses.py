"""Token losses as pure functions of log-probabilities and values."""

from __future__ import annotations

from typing import Literal

import torch

KLEstimator = Literal["k1", "k2", "k3"]
"""Estimators of KL(policy || reference) from one sampled token; see `kl_estimate`."""


def clipped_surrogate(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    clip_range: float,
    clip_range_high: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PPO's clipped loss of each token (arXiv 1707.06347, eq. 7), and where it clips.

    Args:
        log_ratio: (N,) log-probabilities of the current weights minus those of the sampler.
        advantages: (N,).
        clip_range: Distance below 1 beyond which a ratio earns nothing more.
        clip_range_high: The same above 1; None for `clip_range`.

    Returns:
        The losses (N,), and a bool (N,) that tells which tokens have no gradient any more.
    """
    high = clip_range if clip_range_high is None else clip_range_high
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + high)
    losses = -torch.minimum(ratio * advantages, clipped * advantages)
    return losses, (clipped - ratio) * advantages < 0


def row_sums(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return for each token the sum of `values` over its episode.

    Args:
        values: (N,).
        rows: (N,) int64, the episode of each token.

    Example:
        >>> row_sums(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([0, 0, 1]))
        tensor([3., 3., 5.])
    """
    num_rows = int(rows.max()) + 1 if rows.numel() else 0
    return values.new_zeros(num_rows).index_add(0, rows, values)[rows]


def kl_estimate(
    logprobs: torch.Tensor, reference_logprobs: torch.Tensor, estimator: KLEstimator = "k3"
) -> torch.Tensor:
    """Return an estimate of KL(policy || reference) for each token that the policy sampled.

    Schulman, "Approximating KL divergence" (2020). With d = log policy - log reference:
    k1 = d, k2 = d² / 2, k3 = exp(-d) + d - 1. k1 and k3 average to the divergence, k2 is near it;
    k2 and k3 are never negative. Minimising k2 or k3 pulls the policy *towards* the reference;
    the gradient of k1 averages to 0, so that it is of use in rewards only.

    Args:
        logprobs: (N,) of the policy.
        reference_logprobs: (N,).
        estimator: Which one.
    """
    difference = reference_logprobs - logprobs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference**2 / 2
    return difference.exp() - difference - 1


def value_losses(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float = 0.0
) -> torch.Tensor:
    """Return half the squared error of each value.

    Args:
        values: (N,) by the current weights.
        old_values: (N,) by the weights before the update.
        returns: (N,).
        clip_range: Distance from its old value beyond which moving a value earns nothing more: the
            larger of the clipped and the plain error counts. 0 for no clipping.
    """
    errors = (values - returns) ** 2
    if clip_range:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        errors = torch.maximum(errors, (near - returns) ** 2)
    return errors / 2

"""Token losses as pure functions of log-probabilities."""

from __future__ import annotations

import torch


def clipped_surrogate(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    clip_range: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return PPO's clipped loss of each token (arXiv 1707.06347, eq. 7), and where it clips.

    Args:
        logprobs: (N,) of the current weights.
        old_logprobs: (N,) of the weights that sampled.
        advantages: (N,).
        clip_range: Distance from 1 beyond which a ratio earns nothing more.

    Returns:
        The losses (N,), and a bool (N,) that tells which tokens have no gradient any more.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    losses = -torch.minimum(ratio * advantages, clipped * advantages)
    return losses, (clipped - ratio) * advantages < 0


def kl_estimate(logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """Return the estimator k3 of KL(policy || reference) for each token, never negative.

    Schulman, "Approximating KL divergence" (2020); the form that GRPO uses. Minimising it pulls
    the policy *towards* the reference.

    Args:
        logprobs: (N,) of the current weights, for tokens that they sampled.
        reference_logprobs: (N,).
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1

"""Weights of tokens that were sampled by another engine than the one that is trained.

An inference engine with the same weights gives slightly other probabilities: other kernels, other
types of numbers. Its tokens are then drawn from another distribution than the one whose gradient
is taken, which importance weights put right. They are truncated, as one that is large says more
about rounding than about the policy, and would drown all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from agents.algorithms.algorithm import Targets
from agents.batch import Batch


@dataclass(frozen=True, slots=True)
class Importance:
    """The weights of a batch.

    Attributes:
        weights: (B, T) float32, of each action token; 1 off the mask.
        mean: Their mean; near 1 where the two distributions are.
        clipped_share: Share of the tokens whose weight was cut down to the bound.
        logprob_gap: Largest distance of two log-probabilities of the same token.
    """

    weights: torch.Tensor
    mean: float
    clipped_share: float
    logprob_gap: float

    def weigh(self, targets: Targets) -> Targets:
        """Return targets whose advantages are multiplied by the weights.

        A token's loss is proportional to its advantage, up to its sign, in every algorithm of
        this package, clipped or not, so that this multiplies its policy gradient and leaves the
        penalty towards the reference and the critic alone.
        """
        return replace(targets, advantages=targets.advantages * self.weights)

    def metrics(self) -> dict[str, float]:
        """Return the numbers to log."""
        return {
            "importance_mean": self.mean,
            "importance_clipped_share": self.clipped_share,
            "logprob_gap": self.logprob_gap,
        }


def truncated_importance(batch: Batch, trained: torch.Tensor, cap: float) -> Importance:
    """Return the weights w = min(p_trained / p_sampled, C) of a batch's action tokens.

    Truncated importance sampling (Ionides 2008, "Truncated Importance Sampling"; as V-trace's
    rho in IMPALA, arXiv 1802.01561, eq. 1), between the engine that samples and the one that
    trains: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training". With p_trained the policy's probability before the update and r the ratio of the
    current one to that, the policy gradient is E[w grad min(r A, clip(r) A)], w a constant.

    Args:
        batch: With the sampler's log-probabilities.
        trained: (B, T) the policy's own before the update, of the action tokens.
        cap: C, at least 1.

    Example:
        >>> from agents.trajectory import Trajectory
        >>> row = Trajectory(group=0, question_id="q", prompt="")
        >>> row.observe([1])
        >>> row.act([2, 3], [-1.0, -2.0])
        >>> batch = Batch.from_trajectories([row])
        >>> truncated_importance(batch, torch.tensor([[0.0, -1.0, -0.5]]), 2.0).weights
        tensor([[1., 1., 2.]])
    """
    mask = batch.action_mask.clone()
    mask[:, :1] = False  # there is nothing that predicts the first token of a context
    log_ratio = (trained - batch.logprobs).masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    weights = ratio.clamp(max=cap)
    num_tokens = max(1, int(mask.sum()))
    return Importance(
        weights,
        mean=float(weights[mask].sum()) / num_tokens,
        clipped_share=float((ratio > cap).sum()) / num_tokens,
        logprob_gap=float(log_ratio.abs().max()),
    )

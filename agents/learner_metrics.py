"""The numbers that are logged of what was learned."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.losses import kl_estimate
from agents.batch import Batch


def batch_metrics(batch: Batch, targets: Targets) -> dict[str, float]:
    """Return what is known of a batch before the first gradient step.

    Of a critic, `explained_variance` is 1 where it foresees every return, 0 where it does no
    better than a constant, or where all returns are equal.
    """
    advantages = targets.advantages[batch.action_mask]
    metrics = {"useful_share": len(targets.useful) / len(batch)}
    if len(advantages):
        metrics["advantage_mean"] = float(advantages.mean())
        metrics["advantage_std"] = float(advantages.std(correction=0))
    if batch.reference_logprobs is not None and len(advantages):
        kl = kl_estimate(batch.logprobs, batch.reference_logprobs)
        metrics["kl"] = float(kl[batch.action_mask].mean())
    if targets.critic is not None and batch.values is not None and len(advantages):
        asked = targets.critic.weights > 0
        returns, values = targets.critic.returns[asked], batch.values[asked]
        metrics["explained_variance"] = explained_variance(returns, values)
    return metrics


def explained_variance(returns: torch.Tensor, values: torch.Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns), or 0 where all returns are equal."""
    variance = float(returns.double().var(correction=0))
    residual = float((returns.double() - values.double()).var(correction=0))
    return 1 - residual / variance if variance > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PassStatistics:
    """What is known of one micro-batch, as plain numbers.

    Attributes:
        sums: Sums over its action tokens, weighted as in the loss.
        gap: Largest distance of two log-probabilities, the sampler's and the current one.
    """

    sums: dict[str, float]
    gap: float

    @classmethod
    def of(cls, view: TokenView, entropy: torch.Tensor, loss: Loss) -> PassStatistics:
        """Return what every algorithm's micro-batches have, and what this one's loss says."""
        log_ratio = view.logprobs.detach() - view.old_logprobs
        weights = view.weights
        divergence = kl_estimate(view.old_logprobs, view.logprobs.detach())
        sums = {
            "entropy": (entropy * weights).sum(),
            "weight": weights.sum(),
            "ratio": (log_ratio.exp() * weights).sum(),
            "sampler_kl": (divergence * weights).sum(),
            **loss.statistics,
        }
        gap = float(log_ratio.abs().max()) if log_ratio.numel() else 0.0
        return cls({name: float(value) for name, value in sums.items()}, gap)


class Tally:
    """Adds up the statistics of one update.

    Attributes:
        stopped_early: Whether the policy had gone too far from the sampler for another step.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.stopped_early = False
        self._sums: dict[str, float] = defaultdict(float)
        self._norms: list[float] = []
        self._gap = 0.0
        self._part_kl = self._part_weight = 0.0

    def add(self, statistics: PassStatistics) -> None:
        """Add those of one micro-batch."""
        for name, value in statistics.sums.items():
            self._sums[name] += value
        self._part_kl += statistics.sums["sampler_kl"]
        self._part_weight += statistics.sums["weight"]
        # How far sampler and trainer disagree, while the weights are still the same.
        if not self._norms:
            self._gap = max(self._gap, statistics.gap)

    def end_part(self) -> float:
        """Return the mean divergence from the sampler since the last call."""
        kl = self._part_kl / self._part_weight if self._part_weight > 0 else 0.0
        self._part_kl = self._part_weight = 0.0
        return kl

    def end_step(self, grad_norm: float) -> None:
        """Count a gradient step of the policy."""
        self._norms.append(grad_norm)

    def means(self) -> dict[str, float]:
        """Return means over the tokens that were learned from, all epochs together."""
        sums = dict(self._sums)
        weight = sums.pop("weight", 0.0)
        means = {name: value / weight for name, value in sums.items() if weight > 0}
        norm = sum(self._norms) / max(1, len(self._norms))
        return {
            **means,
            "grad_norm": norm,
            "logprob_gap": self._gap,
            "num_steps": float(len(self._norms)),
            "stopped_early": float(self.stopped_early),
        }

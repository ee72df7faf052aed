"""The KL penalty towards a frozen reference, which nearly every algorithm shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from agents.algorithms.algorithm import Algorithm, Loss, Need, TokenView
from agents.algorithms.checks import check_choice, check_count, check_not_negative
from agents.algorithms.losses import KLEstimator, kl_estimate
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Penalised(Algorithm):
    """An algorithm that may be held near the policy that it started from.

    Attributes:
        kl_coef: Weight of the KL penalty towards the frozen reference; 0 needs no reference.
        kl_in_reward: Whether the penalty is taken off the reward of each token, where advantages
            see it, instead of being added to its loss.
        kl_estimator: How the divergence is estimated: k1, k2 or k3.
        num_epochs: Passes over each batch.
    """

    kl_coef: float = 0.0
    kl_in_reward: bool = False
    kl_estimator: KLEstimator = "k3"
    num_epochs: int = 1

    def __post_init__(self) -> None:
        check_not_negative(kl_coef=self.kl_coef)
        check_choice("kl_estimator", self.kl_estimator, get_args(KLEstimator))
        check_count(1, num_epochs=self.num_epochs)
        if self.kl_estimator == "k1" and not self.kl_in_reward:
            # Its gradient is that of a log-probability, which averages to 0: no penalty at all.
            raise ValueError("`kl_estimator` must be k2 or k3 if `kl_in_reward` is false, got 'k1'")

    @property
    def needs(self) -> frozenset[Need]:
        """The reference, if there is a penalty."""
        if self.kl_coef == 0:
            return frozenset()
        return frozenset({"reference_in_targets" if self.kl_in_reward else "reference_in_loss"})

    def shape_rewards(self, batch: Batch) -> Batch:
        """Return the batch without the penalty of each token, where it belongs to the reward."""
        if "reference_in_targets" not in self.needs:
            return batch
        assert batch.reference_logprobs is not None
        kl = kl_estimate(batch.logprobs, batch.reference_logprobs, self.kl_estimator)
        return batch.add_rewards(-self.kl_coef * kl * batch.action_mask)

    def total(
        self, view: TokenView, losses: torch.Tensor, clipped: torch.Tensor | None = None
    ) -> Loss:
        """Return the weighted sum of token losses, with the penalty where it belongs to them.

        Args:
            view: The micro-batch.
            losses: (N,).
            clipped: (N,) bool, the tokens that clipping left without gradient, for the log.
        """
        statistics = {}
        if clipped is not None:
            statistics["clip_share"] = (clipped * view.weights).sum()
        if view.reference_logprobs is not None:
            kl = kl_estimate(view.logprobs, view.reference_logprobs, self.kl_estimator)
            losses = losses + self.kl_coef * kl
            statistics["kl"] = (kl.detach() * view.weights).sum()
        value = (losses * view.weights).sum()
        return Loss(value, {"loss": value.detach(), **statistics})

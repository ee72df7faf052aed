"""REINFORCE (Williams, 1992), with or without a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.penalised import Penalised
from agents.algorithms.weights import token_weights
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class REINFORCE(Penalised):
    """Raise the log-probability of every token by the reward of its episode; nothing is clipped.

    Attributes:
        baseline: Whether the mean reward of the batch is taken off first.
    """

    kl_coef: float = 0.005
    baseline: bool = True

    def targets(self, batch: Batch) -> Targets:
        """Return advantages, and weights that give every token the same say."""
        mask = batch.action_mask
        advantages = batch.rewards - batch.rewards.mean() if self.baseline else batch.rewards
        return Targets(advantages[:, None] * mask, token_weights(mask))

    def loss(self, view: TokenView) -> Loss:
        """Return the log-probabilities weighted by what was earned, plus the KL penalty."""
        return self.total(view, -view.logprobs * view.advantages)

"""RLOO: REINFORCE with a leave-one-out baseline (arXiv 2402.14740)."""

from __future__ import annotations

from dataclasses import dataclass

from agents.algorithms.advantages import leave_one_out
from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.checks import check_not_negative
from agents.algorithms.losses import KLEstimator, clipped_surrogate, row_sums
from agents.algorithms.penalised import Penalised
from agents.algorithms.weights import episode_weights
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class RLOO(Penalised):
    """Compare each episode with the others of its group, as one action with one probability.

    Attributes:
        clip_range: Distance from 1 beyond which the ratio of an episode's probabilities earns
            nothing more.
    """

    clip_range: float = 0.2
    kl_coef: float = 0.005
    kl_in_reward: bool = True
    kl_estimator: KLEstimator = "k1"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(clip_range=self.clip_range)

    @property
    def compares_groups(self) -> bool:
        """Episodes are compared with the others of their group."""
        return True

    def targets(self, batch: Batch) -> Targets:
        """Return advantages, and weights that give every episode the same say."""
        mask = batch.action_mask
        advantages = leave_one_out(batch.rewards, batch.groups)
        return Targets(advantages[:, None] * mask, episode_weights(mask))

    def loss(self, view: TokenView) -> Loss:
        """Return the clipped surrogate of whole episodes."""
        log_ratio = row_sums(view.logprobs - view.old_logprobs, view.rows)
        return self.total(view, *clipped_surrogate(log_ratio, view.advantages, self.clip_range))

"""GRPO: group relative policy optimisation (DeepSeekMath, arXiv 2402.03300)."""

from __future__ import annotations

from dataclasses import dataclass

from agents.algorithms.advantages import group_advantages
from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.checks import check_not_negative
from agents.algorithms.losses import clipped_surrogate
from agents.algorithms.penalised import Penalised
from agents.algorithms.weights import episode_weights
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class GRPO(Penalised):
    """Compare the episodes of one question with each other; no critic.

    Attributes:
        clip_range: Distance from 1 beyond which a probability ratio earns nothing more.
        kl_coef: Weight of the KL penalty towards the frozen reference; 0 needs no reference.
        scale_rewards: Whether advantages are divided by the group's standard deviation.
    """

    clip_range: float = 0.2
    kl_coef: float = 0.005
    scale_rewards: bool = True

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
        advantages = group_advantages(batch.rewards, batch.groups, scale=self.scale_rewards)
        return Targets(advantages[:, None] * mask, episode_weights(mask))

    def loss(self, view: TokenView) -> Loss:
        """Return the clipped surrogate plus the KL penalty."""
        log_ratio = view.logprobs - view.old_logprobs
        return self.total(view, *clipped_surrogate(log_ratio, view.advantages, self.clip_range))

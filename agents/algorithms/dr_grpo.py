"""Dr. GRPO: GRPO done right, without its biases of length and difficulty (arXiv 2503.20783)."""

from __future__ import annotations

from dataclasses import dataclass

from agents.algorithms.advantages import group_advantages
from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.checks import check_count, check_not_negative
from agents.algorithms.losses import clipped_surrogate
from agents.algorithms.penalised import Penalised
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class DrGRPO(Penalised):
    """Divide neither advantages by the group's deviation nor losses by the episode's length.

    Attributes:
        clip_range: Distance from 1 beyond which a probability ratio earns nothing more.
        token_budget: The constant that token losses are divided by instead: as many action tokens
            as an episode may have.
    """

    clip_range: float = 0.2
    token_budget: int = 288

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(clip_range=self.clip_range)
        check_count(1, token_budget=self.token_budget)

    @property
    def compares_groups(self) -> bool:
        """Episodes are compared with the others of their group."""
        return True

    def targets(self, batch: Batch) -> Targets:
        """Return advantages, and the same weight for every token of every batch."""
        mask = batch.action_mask.float()
        advantages = group_advantages(batch.rewards, batch.groups, scale=False)
        return Targets(advantages[:, None] * mask, mask / (len(batch) * self.token_budget))

    def loss(self, view: TokenView) -> Loss:
        """Return the clipped surrogate plus the KL penalty."""
        log_ratio = view.logprobs - view.old_logprobs
        return self.total(view, *clipped_surrogate(log_ratio, view.advantages, self.clip_range))

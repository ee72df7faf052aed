"""GSPO: group sequence policy optimisation (arXiv 2507.18071)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agents.algorithms.advantages import group_advantages
from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.checks import check_not_negative
from agents.algorithms.losses import clipped_surrogate, row_sums
from agents.algorithms.penalised import Penalised
from agents.algorithms.weights import episode_weights
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class GSPO(Penalised):
    """GRPO whose probability ratio is the whole episode's: the geometric mean of its tokens'.

    Attributes:
        clip_range: Distance below 1 beyond which a ratio earns nothing more.
        clip_range_high: The same above 1.
    """

    clip_range: float = 3e-4
    clip_range_high: float = 4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(clip_range=self.clip_range, clip_range_high=self.clip_range_high)

    @property
    def compares_groups(self) -> bool:
        """Episodes are compared with the others of their group."""
        return True

    def targets(self, batch: Batch) -> Targets:
        """Return advantages, and weights that give every episode the same say."""
        mask = batch.action_mask
        advantages = group_advantages(batch.rewards, batch.groups)
        return Targets(advantages[:, None] * mask, episode_weights(mask))

    def loss(self, view: TokenView) -> Loss:
        """Return the clipped surrogate of whole episodes plus the KL penalty."""
        log_ratio = view.logprobs - view.old_logprobs
        tokens = row_sums(torch.ones_like(log_ratio), view.rows)
        losses, clipped = clipped_surrogate(
            row_sums(log_ratio, view.rows) / tokens,
            view.advantages,
            self.clip_range,
            self.clip_range_high,
        )
        return self.total(view, losses, clipped)

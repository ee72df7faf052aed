"""DAPO: decoupled clip and dynamic sampling policy optimisation (arXiv 2503.14476)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.algorithms.advantages import group_advantages
from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.checks import check_count, check_not_negative
from agents.algorithms.losses import clipped_surrogate
from agents.algorithms.penalised import Penalised
from agents.algorithms.weights import token_weights
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class DAPO(Penalised):
    """GRPO that clips later upwards, plays again for groups that differ, and counts tokens.

    Attributes:
        clip_range: Distance below 1 beyond which a probability ratio earns nothing more.
        clip_range_high: The same above 1.
        max_resamples: How many more batches of episodes may be played for groups whose rewards
            are not all equal.
        max_tokens: Action tokens from which an episode loses a whole reward of 1; 0 for no such
            penalty.
        soft_tokens: The penalty rises over this many tokens before that.
        skip_truncated: Whether episodes that the environment cut off are not learned from.
    """

    clip_range: float = 0.2
    clip_range_high: float = 0.28
    max_resamples: int = 3
    max_tokens: int = 0
    soft_tokens: int = 16
    skip_truncated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(clip_range=self.clip_range, clip_range_high=self.clip_range_high)
        check_count(0, max_resamples=self.max_resamples, max_tokens=self.max_tokens)
        check_count(1, soft_tokens=self.soft_tokens)

    def keep_group(self, rewards: Sequence[float]) -> bool:
        """Return whether the rewards differ: dynamic sampling."""
        return any(reward != rewards[0] for reward in rewards)

    def shape_rewards(self, batch: Batch) -> Batch:
        """Return the batch with a soft punishment of overlong episodes."""
        batch = super().shape_rewards(batch)
        if not self.max_tokens:
            return batch
        over = batch.action_mask.sum(1) - (self.max_tokens - self.soft_tokens)
        penalty = (over / self.soft_tokens).clamp(0, 1)
        return batch.add_rewards(-penalty[:, None] * batch.last_actions)

    @property
    def compares_groups(self) -> bool:
        """Episodes are compared with the others of their group."""
        return True

    def targets(self, batch: Batch) -> Targets:
        """Return advantages, and weights that give every token the same say."""
        mask = batch.action_mask
        if self.skip_truncated:
            mask = mask & ~batch.truncated[:, None]
        advantages = group_advantages(batch.rewards, batch.groups)
        return Targets(advantages[:, None] * mask, token_weights(mask))

    def loss(self, view: TokenView) -> Loss:
        """Return the surrogate, clipped at two distances, plus the KL penalty."""
        log_ratio = view.logprobs - view.old_logprobs
        losses, clipped = clipped_surrogate(
            log_ratio, view.advantages, self.clip_range, self.clip_range_high
        )
        return self.total(view, losses, clipped)

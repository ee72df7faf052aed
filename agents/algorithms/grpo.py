"""GRPO: group relative policy optimisation (DeepSeekMath, arXiv 2402.03300)."""

from __future__ import annotations

from dataclasses import dataclass

from agents.algorithms.advantages import group_advantages
from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.losses import clipped_surrogate, kl_estimate
from agents.batch import Batch


@dataclass(frozen=True)
class GRPO:
    """Compare the episodes of one question with each other; no critic.

    Attributes:
        clip_range: Distance from 1 beyond which a probability ratio earns nothing more.
        kl_coef: Weight of the KL penalty towards the frozen reference; 0 needs no reference.
        scale_rewards: Whether advantages are divided by the group's standard deviation.
        num_epochs: Passes over each batch.
    """

    clip_range: float = 0.2
    kl_coef: float = 0.005
    scale_rewards: bool = True
    num_epochs: int = 1

    def __post_init__(self) -> None:
        for name in ("clip_range", "kl_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)!r}")
        if self.num_epochs < 1:
            raise ValueError(f"`num_epochs` must be at least 1, got {self.num_epochs!r}")

    @property
    def needs_reference(self) -> bool:
        """Whether there is a KL penalty."""
        return self.kl_coef > 0

    def targets(self, batch: Batch) -> Targets:
        """Return advantages, and weights that give every episode the same say."""
        mask = batch.action_mask.float()
        advantages = group_advantages(batch.rewards, batch.groups, scale=self.scale_rewards)
        tokens = mask.sum(1, keepdim=True)
        acting = (tokens > 0).sum().clamp(min=1)
        return Targets(advantages[:, None] * mask, mask / tokens.clamp(min=1) / acting)

    def loss(self, view: TokenView) -> Loss:
        """Return the clipped surrogate plus the KL penalty."""
        losses, clipped = clipped_surrogate(
            view.logprobs, view.old_logprobs, view.advantages, self.clip_range
        )
        statistics = {"clip_share": (clipped * view.weights).sum()}
        if view.reference_logprobs is not None:
            kl = kl_estimate(view.logprobs, view.reference_logprobs)
            losses = losses + self.kl_coef * kl
            statistics["kl"] = (kl.detach() * view.weights).sum()
        value = (losses * view.weights).sum()
        return Loss(value, {"loss": value.detach(), **statistics})


ALGORITHMS: dict[str, type[GRPO]] = {"grpo": GRPO}
"""Algorithms by the name that the command line uses."""

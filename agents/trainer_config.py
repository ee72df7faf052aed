"""Hyper-parameters of training that do not depend on the algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Schedule = Literal["constant", "linear", "cosine"]
"""How the learning rate falls over a training."""


@dataclass(frozen=True)
class TrainerConfig:
    """Hyper-parameters that all algorithms share.

    Attributes:
        learning_rate: Of AdamW, at its highest.
        critic_learning_rate: The same for the critic, where the algorithm has one.
        schedule: How the learning rates go from their highest to their last value.
        last_rate_share: Share of the highest learning rates that is left in the last update, in
            [0, 1]; a constant schedule has no use for it.
        num_warmup_updates: Updates over which the learning rates rise to their highest value.
        max_grad_norm: Gradients of the policy, and those of the critic, are scaled down to it.
        target_kl: Divergence from the sampler beyond which an update takes no further gradient
            step, or None to take them all.
        importance_cap: Bound of the weights, at least 1, by which tokens count that another
            engine has sampled (see `agents.importance`); 0 takes the sampler's log-probabilities
            for the policy's own.
        num_minibatches: Gradient steps a pass over a batch; groups are never split.
        max_tokens_per_pass: Padded tokens of one forward and backward pass; bounds memory only.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling during training, above 0.
        seed: Key of questions, noise and sampling.
    """

    learning_rate: float = 1.5e-4
    critic_learning_rate: float = 5e-4
    schedule: Schedule = "constant"
    last_rate_share: float = 0.1
    num_warmup_updates: int = 0
    max_grad_norm: float = 1.0
    target_kl: float | None = None
    importance_cap: float = 0.0
    num_minibatches: int = 2
    max_tokens_per_pass: int = 2048
    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "critic_learning_rate", "max_grad_norm", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                value = getattr(self, name)
                raise ValueError(f"`{name}` must be greater than 0 and finite, got {value!r}")
        if self.target_kl is not None and not self.target_kl > 0:
            raise ValueError(f"`target_kl` must be greater than 0, got {self.target_kl!r}")
        if not 0 <= self.last_rate_share <= 1:
            raise ValueError(f"`last_rate_share` must be in [0, 1], got {self.last_rate_share!r}")
        if self.importance_cap != 0 and not self.importance_cap >= 1:
            raise ValueError(
                f"`importance_cap` must be 0 or at least 1, got {self.importance_cap!r}"
            )
        if self.num_warmup_updates < 0:
            raise ValueError(
                f"`num_warmup_updates` must be at least 0, got {self.num_warmup_updates!r}"
            )
        for name in ("num_minibatches", "max_tokens_per_pass", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)!r}")
        if self.schedule not in get_args(Schedule):
            known = ", ".join(get_args(Schedule))
            raise ValueError(f"`schedule` must be one of {known}, got {self.schedule!r}")

    def rate_share(self, number: int, progress: float) -> float:
        """Return the share of the highest learning rates that an update has.

        Args:
            number: Of the update, from 0.
            progress: Of the training, from 0 in its first update to 1 in its last.

        Example:
            >>> config = TrainerConfig(schedule="linear", last_rate_share=0, num_warmup_updates=2)
            >>> [round(config.rate_share(n, n / 4), 3) for n in range(5)]
            [0.333, 0.5, 0.5, 0.25, 0.0]
        """
        falls = {
            "constant": 0.0,
            "linear": progress,
            "cosine": (1 - math.cos(math.pi * progress)) / 2,
        }
        decay = 1 - (1 - self.last_rate_share) * falls[self.schedule]
        return decay * min(1.0, (number + 1) / (self.num_warmup_updates + 1))

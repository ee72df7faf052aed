"""What an algorithm is: hyper-parameters, what it needs, targets computed once a batch, a loss.

A trainer asks an algorithm for what it needs and never for its name. Losses are sums of token
terms with weights that `targets` fixed for the whole batch, so that accumulating gradients over
micro-batches of any size gives exactly the gradient of the whole. An episode is never split
between micro-batches, so that a term may look at the whole row of its token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from agents.batch import Batch

Need = Literal["critic", "reference_in_targets", "reference_in_loss"]
"""What a learner can provide.

- critic: `Batch.values` before `shape_rewards` and `targets`, `TokenView.critic` in `loss`.
- reference_in_targets: `Batch.reference_logprobs` before `shape_rewards` and `targets`.
- reference_in_loss: `TokenView.reference_logprobs`. It is computed only for what is learned from.
"""


@dataclass(frozen=True, slots=True)
class CriticTargets:
    """What the critic is to predict; both tensors are (B, T), 0 off the mask.

    Attributes:
        returns: What followed the state before each action token.
        weights: Share of the token in the critic's loss; they add up to 1 over the batch.
    """

    returns: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """What the loss of each action token is built from; all tensors are (B, T), 0 off the mask.

    Attributes:
        advantages: How much better than expected.
        weights: Share of the token in the loss; they add up to 1 over the batch, except where an
            algorithm divides by a constant on purpose.
        critic: What the critic learns, where there is one.
    """

    advantages: torch.Tensor
    weights: torch.Tensor
    critic: CriticTargets | None = None

    @property
    def useful(self) -> torch.Tensor:
        """The indices of the rows that anything can be learned from."""
        weights = self.advantages.abs() if self.critic is None else self.critic.weights
        return torch.nonzero(weights.sum(1) > 0).flatten()

    def rows(self, indices: torch.Tensor, length: int) -> Targets:
        """Return some rows, cut to `length` tokens."""
        critic = self.critic and CriticTargets(
            self.critic.returns[indices, :length], self.critic.weights[indices, :length]
        )
        return Targets(self.advantages[indices, :length], self.weights[indices, :length], critic)


@dataclass(frozen=True, slots=True)
class CriticView:
    """The critic's side of a micro-batch, flat over its action tokens.

    Attributes:
        values: (N,) of the state before each token, by the current weights, with gradient.
        old_values: (N,) by the weights before the update.
        returns: (N,).
        weights: (N,).
    """

    values: torch.Tensor
    old_values: torch.Tensor
    returns: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, slots=True)
class TokenView:
    """One micro-batch of whole episodes, flat over its action tokens: all that a loss may look at.

    Attributes:
        logprobs: (N,) of the current weights, with gradient.
        old_logprobs: (N,) of the sampler.
        advantages: (N,).
        weights: (N,).
        rows: (N,) int64, the episode of each token, numbered from 0 within the micro-batch.
        reference_logprobs: (N,) of the frozen reference, or None where the loss needs none.
        critic: The critic's side, or None where there is none.
    """

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor
    reference_logprobs: torch.Tensor | None = None
    critic: CriticView | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to minimise, and the weighted sums behind the numbers that are logged."""

    value: torch.Tensor
    statistics: dict[str, torch.Tensor]


class Algorithm(ABC):
    """A policy-gradient algorithm: a frozen dataclass that says how it differs from this.

    Attributes:
        num_epochs: Passes over each batch.
        max_resamples: How many more batches of episodes may be played where `keep_group` refused
            groups.
    """

    num_epochs: int = 1
    max_resamples: int = 0

    @property
    def needs(self) -> frozenset[Need]:
        """What the learner has to provide."""
        return frozenset()

    @property
    def compares_groups(self) -> bool:
        """Whether an episode counts by its group: one that is a group alone teaches nothing."""
        return False

    def check_group_size(self, size: int) -> None:
        """Check that anything can be learned from groups of so many episodes.

        Raises:
            ValueError: If not.
        """
        if self.compares_groups and size < 2:
            name = type(self).__name__
            raise ValueError(
                f"`group_size` must be at least 2 for {name}, which compares the episodes of a "
                f"group, got {size!r}"
            )

    def keep_group(self, rewards: Sequence[float]) -> bool:
        """Return whether a group of episodes with these rewards is worth learning from."""
        return True

    def shape_rewards(self, batch: Batch) -> Batch:
        """Return the batch with the rewards that are learned from."""
        return batch

    @abstractmethod
    def targets(self, batch: Batch) -> Targets:
        """Return advantages and weights of a whole batch, whose rewards are shaped."""

    def checked_targets(self, batch: Batch) -> Targets:
        """Return the targets of a batch, checked for what an algorithm of one's own may get wrong.

        Raises:
            TypeError: If they are no `Targets`.
            ValueError: If a tensor has not the batch's shape.
        """
        targets, name = self.targets(batch), f"{type(self).__name__}.targets"
        if not isinstance(targets, Targets):
            raise TypeError(f"`{name}` must return Targets, got {type(targets).__name__}")
        wanted = tuple(batch.logprobs.shape)
        for field in ("advantages", "weights"):
            found = tuple(getattr(targets, field).shape)
            if found != wanted:
                raise ValueError(f"`{name}` must return {field} of shape {wanted}, got {found}")
        return targets

    @abstractmethod
    def loss(self, view: TokenView) -> Loss:
        """Return a micro-batch's share of the loss."""

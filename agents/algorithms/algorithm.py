"""What an algorithm is: hyper-parameters, targets computed once a batch, and a loss.

A trainer asks an algorithm for what it needs and never for its name. Losses are sums of token
terms with weights that `targets` fixed for the whole batch, so that accumulating gradients over
micro-batches of any size gives exactly the gradient of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from agents.batch import Batch


@dataclass(frozen=True, slots=True)
class Targets:
    """What the loss of each action token is built from; all tensors are (B, T), 0 off the mask.

    Attributes:
        advantages: How much better than expected.
        weights: Share of the token in the loss; they add up to 1 over the batch.
    """

    advantages: torch.Tensor
    weights: torch.Tensor

    def rows(self, indices: torch.Tensor, length: int) -> Targets:
        """Return some rows, cut to `length` tokens."""
        return Targets(self.advantages[indices, :length], self.weights[indices, :length])


@dataclass(frozen=True, slots=True)
class TokenView:
    """One micro-batch, flat over its action tokens: everything that a loss may look at.

    Attributes:
        logprobs: (N,) of the current weights, with gradient.
        old_logprobs: (N,) of the sampler.
        reference_logprobs: (N,) of the frozen reference, or None where none is needed.
        advantages: (N,).
        weights: (N,).
    """

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    reference_logprobs: torch.Tensor | None
    advantages: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to minimise, and the weighted sums behind the numbers that are logged."""

    value: torch.Tensor
    statistics: dict[str, torch.Tensor]


class Algorithm(Protocol):
    """A policy-gradient algorithm."""

    @property
    def needs_reference(self) -> bool:
        """Whether the loss looks at the frozen reference."""
        ...

    @property
    def num_epochs(self) -> int:
        """Passes over each batch."""
        ...

    def targets(self, batch: Batch) -> Targets:
        """Return advantages and weights of a whole batch."""
        ...

    def loss(self, view: TokenView) -> Loss:
        """Return a micro-batch's share of the loss."""
        ...

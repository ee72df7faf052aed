"""What a rollout and a trainer need of a policy: tokens in, tokens and log-probabilities out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from agents.batch import Batch
from zs_env.lm.generator import TokenGenerator


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the current weights say about sampled tokens, flat over a batch's action tokens.

    Attributes:
        logprobs: (N,) log-probability of each action token, with gradient if it was wanted.
        entropy: (N,) entropy of the distribution it was drawn from, without gradient.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor


class Policy(TokenGenerator, Protocol):
    """A token generator that can be trained."""

    def score(self, batch: Batch, temperature: float = 1.0) -> TokenScores:
        """Score the action tokens of `batch` in row-major order."""
        ...

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return the trainable parameters."""
        ...

    @property
    def module(self) -> torch.nn.Module:
        """What holds the weights."""
        ...

    def make_critic(self) -> torch.nn.Module:
        """Return a critic that starts from the policy's weights.

        Called with a batch, it returns for each action token, (N,) in row-major order, the value
        of the state before it: of everything in the context up to the token before.
        """
        ...

    def frozen_copy(self) -> Policy:
        """Return an independent copy without gradients: the reference of a KL penalty."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer in Hugging Face format."""
        ...

"""A critic: the policy's architecture and first weights, with a number for its vocabulary."""

from __future__ import annotations

import copy
from typing import cast

import torch
from transformers import PreTrainedModel

from agents.batch import Batch
from agents.policies.states import action_states


class Critic(torch.nn.Module):
    """Predicts what is still to be earned; shares no weights with the policy."""

    def __init__(self, model: PreTrainedModel, *, gradient_checkpointing: bool = False) -> None:
        """Start from a copy of a causal LM's body, and from a value of 0 everywhere.

        Args:
            model: The causal LM.
            gradient_checkpointing: Whether the backward pass computes each layer again.
        """
        super().__init__()
        self._recompute = gradient_checkpointing
        self.body = cast(PreTrainedModel, copy.deepcopy(model.get_decoder())).requires_grad_(True)
        # In float32 whatever the body is: a value is a sum of small corrections.
        self.head = torch.nn.Linear(model.config.hidden_size, 1, device=model.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the value of the state before each action token, (N,) in row-major order.

        The value of action token t is read off position t - 1, as its probability is: it knows
        everything before the token, and nothing of the token.
        """
        batch = batch.to(self.head.weight.device)
        states = action_states(self.body, batch, recompute=self._recompute)
        values: torch.Tensor = self.head(states.to(self.head.weight.dtype))[:, 0]
        return values

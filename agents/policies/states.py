"""What a decoder makes of the context before each action token."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from agents.batch import Batch
from zs_env.lm.attention import causal_mask


def action_states(body: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the last hidden states from which the action tokens are predicted.

    The state of action token t is that at t - 1: it has seen everything before the token, and
    neither the token nor what follows. A row may start with an action only if there was nothing
    to predict it from; such a token has no state and is left out.

    Args:
        body: A decoder without its language-model head.
        batch: On the decoder's device.

    Returns:
        (N, hidden size), in row-major order.
    """
    wanted = batch.action_mask[:, 1:]
    # Observations after the last action decide nothing, and may go beyond the model's context.
    length = int(wanted.any(0).nonzero().max()) + 1 if wanted.any() else 0
    if not length:
        return torch.zeros(0, body.config.hidden_size, dtype=body.dtype, device=body.device)
    hidden: torch.Tensor = body(
        input_ids=batch.token_ids[:, :length],
        attention_mask=causal_mask(length, body.dtype, body.device),
        use_cache=False,
    ).last_hidden_state
    return hidden[wanted[:, :length]]

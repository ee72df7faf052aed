"""What a decoder makes of the context before each action token."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from agents.batch import Batch
from zs_env.lm.attention import causal_mask


def action_states(body: PreTrainedModel, batch: Batch, *, recompute: bool = False) -> torch.Tensor:
    """Return the last hidden states from which the action tokens are predicted.

    The state of action token t is that at t - 1: it has seen everything before the token, and
    neither the token nor what follows. A row may start with an action only if there was nothing
    to predict it from; such a token has no state and is left out.

    Args:
        body: A decoder without its language-model head.
        batch: On the decoder's device.
        recompute: Whether the backward pass computes each layer again, of which only the input
            is kept (gradient checkpointing).

    Returns:
        (N, hidden size), in row-major order.
    """
    wanted = batch.action_mask[:, 1:]
    # Observations after the last action decide nothing, and may go beyond the model's context.
    length = int(wanted.any(0).nonzero().max()) + 1 if wanted.any() else 0
    if not length:
        return torch.zeros(0, body.config.hidden_size, dtype=body.dtype, device=body.device)
    # Padding is on the right, where nothing that counts can see it. Without a mask, the model makes
    # its own, which are right everywhere; on a CPU one for all layers is faster, where it is right.
    plain = body.device.type == "cpu" and not _has_windows(body)
    arguments = _masked(body, len(batch), length) if plain else {}
    with recomputed_layers(body) if recompute and torch.is_grad_enabled() else nullcontext():
        hidden: torch.Tensor = body(
            input_ids=batch.token_ids[:, :length], use_cache=False, **arguments
        ).last_hidden_state
    return hidden[wanted[:, :length]]


def _masked(body: PreTrainedModel, num_rows: int, length: int) -> dict[str, torch.Tensor]:
    """Return one mask for all layers, and the positions that some models take from a mask."""
    mask = causal_mask(length, body.dtype, body.device).expand(num_rows, -1, -1, -1)
    if "position_ids" not in inspect.signature(body.forward).parameters:
        return {"attention_mask": mask}
    return {
        "attention_mask": mask,
        "position_ids": torch.arange(length, device=body.device)[None],
    }


def _has_windows(body: PreTrainedModel) -> bool:
    """Return whether some layers do not see everything before a token."""
    config: Any = body.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return bool(kinds - {"full_attention"} or getattr(config, "sliding_window", None))


@contextmanager
def recomputed_layers(body: torch.nn.Module) -> Iterator[None]:
    """Let every layer that runs in the body of the `with` be computed again in backward passes.

    Transformers' own switch works in training mode only, where dropout would be on.

    Raises:
        ValueError: If the model has no layers that can be.
    """
    layers: list[Any] = [each for each in body.modules() if _is_layer(each)]
    if not layers:
        raise ValueError(
            f"`gradient_checkpointing` must be off for a {type(body).__name__}, which does not "
            "support it"
        )
    for layer in layers:
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_layer(module: torch.nn.Module) -> bool:
    return isinstance(module, GradientCheckpointingLayer)

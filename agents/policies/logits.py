"""Log-probabilities of sampled tokens, without all logits of a batch at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from agents.policies.policy import TokenScores


def token_scores(
    model: PreTrainedModel,
    states: torch.Tensor,
    token_ids: torch.Tensor,
    temperature: float,
    chunk: int,
) -> TokenScores:
    """Score tokens, given the last hidden states that they are predicted from.

    Args:
        model: A causal LM.
        states: (N, hidden size).
        token_ids: (N,).
        temperature: Divides the logits; 0 counts as 1.
        chunk: Tokens whose logits exist at the same time; where there are more, they are
            computed again in the backward pass.
    """

    def score(states: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _score(model, states, ids, temperature)

    if len(token_ids) <= chunk:
        return TokenScores(*score(states, token_ids))
    parts = [
        checkpoint(score, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(states.split(chunk), token_ids.split(chunk), strict=True)
    ]
    chosen, entropies = zip(*parts, strict=True)
    return TokenScores(torch.cat(chosen), torch.cat(entropies))


def _score(
    model: PreTrainedModel, states: torch.Tensor, token_ids: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probability and entropy of each token, (N,) each, in float32."""
    logits = logits_of(model, states).float()
    if temperature not in (0, 1):
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, -1)
    chosen = logprobs.gather(-1, token_ids[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return chosen, entropy


def logits_of(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, V) that a causal LM makes of last hidden states (N, hidden size).

    Its own code makes them: some models scale their logits, or bound them, and each in its way.
    """
    module: Any = model
    with _body_says(model, states[None]):
        # The body, which would read the ids, is not asked.
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        logits: torch.Tensor = module(input_ids=ids, use_cache=False).logits[0]
    return logits


class _Said(BaseModelOutputWithPast):
    """What a body says that was not asked: states, and None for all else."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


@contextmanager
def _body_says(model: PreTrainedModel, states: torch.Tensor) -> Iterator[None]:
    """Let a causal LM's body answer with `states` whatever it is given."""
    body: Any = model.get_decoder()
    said = _Said(last_hidden_state=states)
    body.forward = lambda *args, **kwargs: said
    try:
        yield
    finally:
        del body.forward

"""A plain Qwen2 network that can copy from its first training step on.

Small transformers trained from a random start do not discover within a laptop's budget how to
copy a name they have never seen. So one induction circuit (Olsson et al. 2022, arXiv 2209.11895)
is written into the initial weights, and nothing else is special about the network:

- the first half of the residual stream holds the token, the second half starts out empty;
- layer 0: one head a key-value group attends to the previous position (a constant query and key
  whose rotary phases differ by one step) and copies that token into the second half;
- layer 1: one head a group looks for positions whose *previous* token is the current one, along
  the slowest rotary frequencies, where distance hardly matters, and copies the token found there.

Qwen2 because its query, key and value projections have biases, which layer 0 needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

PREVIOUS_TOKEN_SHARPNESS = 60.0
MATCH_GAIN = 3.0
COPY_GAIN = 0.5


@dataclass(frozen=True)
class TinyShape:
    """Size of a tiny model; `num_key_value_heads * head_dim` must be half of `hidden_size`."""

    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 2
    num_key_value_heads: int = 1
    intermediate_size: int = 384
    vocab_size: int = 2048
    max_position_embeddings: int = 1024
    rope_theta: float = 1e5

    def __post_init__(self) -> None:
        head_dim = self.hidden_size // self.num_heads
        if 2 * self.num_key_value_heads * head_dim != self.hidden_size:
            raise ValueError(
                "`num_key_value_heads` times the head's size must be half of `hidden_size`, got "
                f"{self.num_key_value_heads} x {head_dim} of {self.hidden_size}"
            )


def tiny_config(shape: TinyShape, end_id: int) -> Qwen2Config:
    """Return the plain Qwen2 configuration of a tiny model."""
    return Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )


@torch.no_grad()
def induction_model(shape: TinyShape, end_id: int, seed: int) -> Qwen2ForCausalLM:
    """Return a randomly initialised network with the induction circuit written in."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(tiny_config(shape, end_id))
    half = shape.hidden_size // 2
    embedding = model.model.embed_tokens.weight
    embedding[:, :half].normal_(std=half**-0.5)
    embedding[:, half:].normal_(std=0.1 * half**-0.5)
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    frequencies = model.model.rotary_emb.inv_freq
    for group in range(shape.num_key_value_heads):
        _attend_to_previous(first, group, frequencies, shape)
        _match_and_copy(second, group, frequencies, shape)
    return model


def _rows(group: int, size: int) -> slice:
    return slice(group * size, (group + 1) * size)


def _heads(shape: TinyShape, group: int) -> tuple[int, slice, slice]:
    """Return head_dim, the rows of the group's first query head, and of its key-value head."""
    head_dim = shape.hidden_size // shape.num_heads
    first_head = group * (shape.num_heads // shape.num_key_value_heads)
    return head_dim, _rows(first_head, head_dim), _rows(group, head_dim)


def _attend_to_previous(
    attention: Qwen2Attention, group: int, frequencies: torch.Tensor, shape: TinyShape
) -> None:
    head_dim, query, key = _heads(shape, group)
    half = head_dim // 2
    fast = torch.arange(half) < half // 3
    amplitude = math.sqrt(PREVIOUS_TOKEN_SHARPNESS) * fast
    for projection, rows in ((attention.q_proj, query), (attention.k_proj, key)):
        projection.weight[rows] *= 0.1
    attention.k_proj.bias[key] = torch.cat([amplitude, torch.zeros(half)])
    # Rotating the query back by one step makes its score with the key before it the largest.
    attention.q_proj.bias[query] = torch.cat(
        [amplitude * torch.cos(frequencies), -amplitude * torch.sin(frequencies)]
    )
    source, target = _rows(group, head_dim), slice(shape.hidden_size // 2, None)
    _copy(
        attention, query, key, source, target, group, head_dim, 1.0 / math.sqrt(shape.hidden_size)
    )


def _match_and_copy(
    attention: Qwen2Attention, group: int, frequencies: torch.Tensor, shape: TinyShape
) -> None:
    head_dim, query, key = _heads(shape, group)
    slow = torch.nonzero(torch.arange(head_dim // 2) >= (head_dim // 2) * 9 // 16).flatten()
    dims = torch.cat([slow, slow + head_dim // 2])
    half = shape.hidden_size // 2
    mixing = nn.init.orthogonal_(torch.empty(half, half))[: len(dims)]
    for projection, rows, side, gain in (
        (attention.q_proj, query, slice(0, half), MATCH_GAIN),
        (attention.k_proj, key, slice(half, None), 1.0),
    ):
        weight = torch.zeros(head_dim, shape.hidden_size)
        weight[dims, side] = gain * mixing
        projection.weight[rows] = weight
    source = _rows(group, head_dim)
    _copy(attention, query, key, source, slice(0, half), group, head_dim, COPY_GAIN)


def _copy(
    attention: Qwen2Attention,
    query: slice,
    key: slice,
    source: slice,
    target: slice,
    group: int,
    head_dim: int,
    gain: float,
) -> None:
    """Let a head move the dimensions `source` unchanged into the group's part of `target`."""
    start = (target.start or 0) + group * head_dim
    value = torch.zeros_like(attention.v_proj.weight[key])
    value[:, source] = torch.eye(head_dim)
    attention.v_proj.weight[key] = value
    output = torch.zeros_like(attention.o_proj.weight[:, query])
    output[start : start + head_dim] = gain * torch.eye(head_dim)
    attention.o_proj.weight[:, query] = output

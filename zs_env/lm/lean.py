"""The forward pass of Llama's family in as few operations as it takes, for small models on a CPU.

A small model spends its time between the operations: modules, interfaces and masks cost more than
the arithmetic. This pass reads the parameters of the Hugging Face model itself, so that nothing
can be stale, and computes what that model computes: a model that is not recognised in every part
is left to its own code.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch.nn.functional import linear, silu
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
from transformers.activations import SiLUActivation

from zs_env.lm.cache import RaggedCache

FAMILY: Final = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_STATIC_ROPE: Final = ("default", "linear", "llama3", "yarn")
_PLAIN_MODULES: Final = (
    torch.nn.Linear,
    torch.nn.Embedding,
    torch.nn.ModuleList,
    torch.nn.SiLU,
    SiLUActivation,
)


class Grid(NamedTuple):
    """How flat tokens lie in a batch of rows that read different numbers of them.

    Attributes:
        rows: Rows of the batch.
        of_cells: For each cell of (rows, T) the token there; any token where there is none.
        of_tokens: The cell of each token.
        last: The last token of each row.
        mask_of_last: As the mask, for these alone.
    """

    rows: int
    of_cells: torch.Tensor
    of_tokens: torch.Tensor
    last: torch.Tensor
    mask_of_last: torch.Tensor


_Linear: TypeAlias = tuple[torch.Tensor, torch.Tensor | None]


class _Norm(NamedTuple):
    """x * weight / sqrt(mean of x**2 + epsilon), as four operations instead of seven.

    That is x * (weight * sqrt(d)) / hypot(norm of x, sqrt(d * epsilon)).
    """

    scaled_weight: torch.Tensor
    offset: torch.Tensor

    @classmethod
    def of(cls, part: Any) -> _Norm:
        """Return the norm of a module."""
        size = part.weight.shape[0]
        offset = part.weight.new_tensor(math.sqrt(size * part.variance_epsilon))
        return cls(part.weight * math.sqrt(size), offset)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.mul(x, self.scaled_weight).div_(torch.hypot(length, self.offset))


class _Layer(NamedTuple):
    """The parameters of one layer; the norms of queries and keys only where there are some."""

    before_attention: _Norm
    query: _Linear
    key: _Linear
    value: _Linear
    query_norm: _Norm | None
    key_norm: _Norm | None
    output: _Linear
    before_mlp: _Norm
    gate: _Linear
    up: _Linear
    down: _Linear


def is_recognised(model: PreTrainedModel) -> bool:
    """Tell whether `LeanForward` computes what `model` does, as it is at the moment.

    An adapter, a quantised layer, a hook, or another forward method would be passed over; so each
    part has to be of the very class that is expected, and as that class made it.
    """
    if type(model) not in FAMILY:
        return False
    config: Any = model.config
    home = type(model).__module__
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return (
        dtypes in ({torch.float32}, {torch.float64})
        and config.hidden_act == "silu"
        and getattr(config, "sliding_window", None) is None
        and config.rope_parameters.get("rope_type") in _STATIC_ROPE
        and not (model.training and config.attention_dropout)
        and all(_is_plain(part, home) for part in model.modules())
    )


def _is_plain(part: torch.nn.Module, home: str) -> bool:
    return (
        (type(part) in _PLAIN_MODULES or type(part).__module__ == home)
        and not part._forward_hooks
        and not part._forward_pre_hooks
        and "forward" not in vars(part)
    )


class LeanForward:
    """One recognised model, as it is at the moment; made anew for each batch."""

    def __init__(self, model: Any, num_positions: int) -> None:
        """Look up the parameters, and the rotations of positions below `num_positions`."""
        body, config = model.model, model.config
        attention = body.layers[0].self_attn
        self.groups: int = attention.num_key_value_groups
        self._head_dim, self._scaling = attention.head_dim, attention.scaling
        self._embedding = body.embed_tokens.weight
        self._layers = [_layer(layer) for layer in body.layers[: config.num_hidden_layers]]
        self._norm, self._head = _Norm.of(body.norm), _linear(model.lm_head)
        positions = torch.arange(num_positions, device=model.device)[None]
        cos, sin = body.rotary_emb(self._embedding, positions)
        # The halves of a head are rotated into each other, one of them with a minus.
        sin[..., : self._head_dim // 2].neg_()
        self._cos, self._sin = cos[0], sin[0]

    def __call__(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: RaggedCache,
        grid: Grid | None = None,
    ) -> torch.Tensor:
        """Read tokens; `cache` has been aimed at where their keys and values belong.

        Args:
            ids: (N,).
            positions: (N,).
            mask: Added to the scores, (rows * key_value_heads, 1 or groups * T, width).
            cache: Of the rows.
            grid: How the tokens lie if a row may read several; None for one token a row.

        Returns:
            The logits after each row's last token, (rows, V).
        """
        x = self._embedding.index_select(0, ids)
        cos = self._cos.index_select(0, positions)[:, None]
        sin = self._sin.index_select(0, positions)[:, None]
        last_index = len(self._layers) - 1
        for index, layer in enumerate(self._layers):
            h = layer.before_attention(x)
            k = self._heads(h, layer.key, layer.key_norm)
            v = self._heads(h, layer.value, None)
            keys, values = cache.write(index, _rotated(k, cos, sin), v)
            if grid is not None and index == last_index:
                # Of what the last layer makes only the last token's part is wanted.
                x, h, cos, sin = (part.index_select(0, grid.last) for part in (x, h, cos, sin))
                mask, grid = grid.mask_of_last, None
            q = _rotated(self._heads(h, layer.query, layer.query_norm), cos, sin)
            x += linear(self._attended(q, keys, values, mask, grid), *layer.output)
            h = layer.before_mlp(x)
            gate = silu(linear(h, *layer.gate), inplace=True)
            x += linear(gate.mul_(linear(h, *layer.up)), *layer.down)
        return linear(self._norm(x), *self._head)

    def _heads(self, h: torch.Tensor, parameters: _Linear, norm: _Norm | None) -> torch.Tensor:
        """Return a projection by heads, (N, heads, head_dim)."""
        heads = linear(h, *parameters).view(len(h), -1, self._head_dim)
        return heads if norm is None else norm(heads)

    def _attended(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
        grid: Grid | None,
    ) -> torch.Tensor:
        """Return what each token attends to, (N, heads * head_dim)."""
        num_tokens, heads, head_dim = q.shape
        if grid is not None:
            # (rows, T, heads, ...) to (rows, heads, T, ...), whose heads are grouped like keys.
            q = q.index_select(0, grid.of_cells).view(grid.rows, -1, heads, head_dim)
            q = q.transpose(1, 2)
        q = q.reshape(keys.shape[0], -1, head_dim)
        scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=self._scaling)
        attended = torch.bmm(torch.softmax(scores, -1), values)
        if grid is not None:
            attended = attended.view(grid.rows, heads, -1, head_dim).transpose(1, 2)
            attended = attended.reshape(-1, heads * head_dim).index_select(0, grid.of_tokens)
        return attended.view(num_tokens, heads * head_dim)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        before_attention=_Norm.of(layer.input_layernorm),
        query=_linear(attention.q_proj),
        key=_linear(attention.k_proj),
        value=_linear(attention.v_proj),
        query_norm=_Norm.of(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_Norm.of(attention.k_norm) if hasattr(attention, "k_norm") else None,
        output=_linear(attention.o_proj),
        before_mlp=_Norm.of(layer.post_attention_layernorm),
        gate=_linear(mlp.gate_proj),
        up=_linear(mlp.up_proj),
        down=_linear(mlp.down_proj),
    )


def _linear(part: Any) -> _Linear:
    return part.weight, part.bias


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return (N, heads, head_dim) turned by their positions."""
    turned = heads.roll(heads.shape[-1] // 2, -1)
    return torch.mul(heads, cos).addcmul_(turned, sin)

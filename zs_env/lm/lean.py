"""The forward pass of Llama's family in as few operations as it takes, for small models on a CPU.

A small model spends its time between the operations: modules, interfaces and masks cost more than
the arithmetic. This pass reads the parameters of the Hugging Face model itself, so that nothing
can be stale, and computes what that model computes: a model that is not recognised in every part
is left to its own code.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch.nn.functional import linear, rms_norm, silu
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


class _Layer(NamedTuple):
    """The parameters of one layer; the norms of queries and keys only where there are some."""

    before_attention: torch.Tensor
    query: tuple[torch.Tensor, torch.Tensor | None]
    key: tuple[torch.Tensor, torch.Tensor | None]
    value: tuple[torch.Tensor, torch.Tensor | None]
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: tuple[torch.Tensor, torch.Tensor | None]
    before_mlp: torch.Tensor
    gate: tuple[torch.Tensor, torch.Tensor | None]
    up: tuple[torch.Tensor, torch.Tensor | None]
    down: tuple[torch.Tensor, torch.Tensor | None]


def is_recognised(model: PreTrainedModel) -> bool:
    """Tell whether `LeanForward` computes what `model` does, as it is at the moment.

    An adapter, a quantised layer, a hook, or another forward method would be passed over; so each
    part has to be of the very class that is expected, and as that class made it.
    """
    if type(model) not in FAMILY or model.dtype not in (torch.float32, torch.float64):
        return False
    config: Any = model.config
    home = type(model).__module__
    return (
        config.hidden_act == "silu"
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
        self._embedding = body.embed_tokens.weight
        self._layers = [_layer(layer) for layer in body.layers[: config.num_hidden_layers]]
        self._norm, self._head = body.norm.weight, (model.lm_head.weight, model.lm_head.bias)
        attention = body.layers[0].self_attn
        self._head_dim, self._scaling = attention.head_dim, attention.scaling
        self.groups = attention.num_key_value_groups
        self._epsilon = body.norm.variance_epsilon
        positions = torch.arange(num_positions, device=model.device)[None]
        cos, sin = body.rotary_emb(self._embedding, positions)
        # The halves of a head are rotated into each other, one of them with a minus.
        sin[..., : self._head_dim // 2].neg_()
        self._rotations = torch.stack([cos[0], sin[0]], 1)

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
        x = self._embedding[ids]
        cos, sin = self._rotations[positions][:, :, None].unbind(1)
        last_layer = self._layers[-1]
        for layer, stored in zip(self._layers, cache.layers, strict=True):
            h = self._normed(x, layer.before_attention)
            k = self._heads(h, layer.key, layer.key_norm)
            v = self._heads(h, layer.value, None)
            keys, values = stored.write(_rotated(k, cos, sin), v)  # type: ignore[attr-defined]
            if grid is not None and layer is last_layer:
                # Of what the last layer makes only the last token's part is wanted.
                last, mask = grid.last, grid.mask_of_last
                x, h, cos, sin, grid = x[last], h[last], cos[last], sin[last], None
            q = _rotated(self._heads(h, layer.query, layer.query_norm), cos, sin)
            attended = self._attended(q, keys, values, mask, grid)
            x = x + linear(attended, *layer.output)
            h = self._normed(x, layer.before_mlp)
            x = x + linear(silu(linear(h, *layer.gate)) * linear(h, *layer.up), *layer.down)
        return linear(self._normed(x, self._norm), *self._head)

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight.shape, weight, self._epsilon)

    def _heads(
        self,
        h: torch.Tensor,
        parameters: tuple[torch.Tensor, torch.Tensor | None],
        norm: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return a projection by heads, (N, heads, head_dim)."""
        heads = linear(h, *parameters).unflatten(-1, (-1, self._head_dim))
        return heads if norm is None else self._normed(heads, norm)

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
            q = q[grid.of_cells].view(grid.rows, -1, heads, head_dim).transpose(1, 2)
        q = q.reshape(len(keys), -1, head_dim)
        scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=self._scaling)
        attended = torch.bmm(torch.softmax(scores, -1), values)
        if grid is not None:
            attended = attended.view(grid.rows, heads, -1, head_dim).transpose(1, 2)
            attended = attended.reshape(-1, heads * head_dim)[grid.of_tokens]
        return attended.reshape(num_tokens, heads * head_dim)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    query, key, value, output, gate, up, down = (
        (part.weight, part.bias)
        for part in (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.o_proj,
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
        )
    )
    query_norm = attention.q_norm.weight if hasattr(attention, "q_norm") else None
    key_norm = attention.k_norm.weight if hasattr(attention, "k_norm") else None
    return _Layer(
        layer.input_layernorm.weight,
        query,
        key,
        value,
        query_norm,
        key_norm,
        output,
        layer.post_attention_layernorm.weight,
        gate,
        up,
        down,
    )


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return (N, heads, head_dim) turned by their positions."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)

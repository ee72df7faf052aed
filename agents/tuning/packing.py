"""Several examples in one row, none of which sees another: the same loss with less padding.

An example keeps its own positions and attends to its own tokens only (a block-diagonal mask), so
that what a step learns does not depend on how its examples share rows. That takes a model which
reads its positions from `position_ids` and its mask as a 4-D tensor: full attention, or sliding
windows no shorter than a row, computed by `sdpa`, `eager` or our grouped attention.
`check_packing` tells, and tries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from agents.tuning.sft import Example
from zs_env.lm.attention import GROUPED_ATTENTION, hidden_score

_PADDING: Final = -1
_BOOLEAN_MASKS: Final = ("sdpa",)
_ADDITIVE_MASKS: Final = ("eager", GROUPED_ATTENTION)
_TOLERANCES: Final = {torch.float32: 1e-5, torch.float64: 1e-5}
_HALF_TOLERANCE: Final = 0.05

Row = Sequence[Example]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one or more examples each, padded on the right.

    Attributes:
        ids: (B, T) token ids; 0 where there is padding.
        weights: (B, T) weight of predicting each token; 0 for padding and for the first token of
            every example, which another example would predict.
        segments: (B, T) number of the token's example in its row; -1 for padding.
        positions: (B, T) place of the token in its example.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    segments: torch.Tensor
    positions: torch.Tensor

    @property
    def are_packed(self) -> bool:
        """Whether some row holds more than one example."""
        return bool((self.segments > 0).any())

    def to(self, device: torch.device | str) -> Rows:
        """Return the same rows on another device."""
        return Rows(*(getattr(self, field.name).to(device) for field in fields(self)))


def pack(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Return the examples in rows of at most `length` tokens: first fit, the longest first.

    Args:
        examples: Any number.
        length: Tokens of a row; 0 gives every example its own, and so does a longer example.

    Example:
        >>> rows = pack([Example([7] * n, [1.0] * n) for n in (2, 5, 3, 4)], length=7)
        >>> [[len(example.token_ids) for example in row] for row in rows]
        [[5, 2], [4, 3]]
    """
    if not length:
        return [[example] for example in examples]
    rows: list[list[Example]] = []
    left: list[int] = []
    for example in sorted(examples, key=lambda example: -len(example.token_ids)):
        size = len(example.token_ids)
        place = next((i for i, room in enumerate(left) if room >= size), None)
        if place is None:
            rows.append([example])
            left.append(length - size)
        else:
            rows[place].append(example)
            left[place] -= size
    return rows


def split_rows(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Return the rows in passes of at most `max_tokens` padded tokens, at least one row each."""
    passes: list[list[Row]] = []
    width = 0
    for row in rows:
        size = row_length(row)
        width = max(width, size)
        if not passes or (len(passes[-1]) + 1) * width > max_tokens:
            passes.append([])
            width = size
        passes[-1].append(row)
    return passes


def row_length(row: Row) -> int:
    """Return the number of tokens in a row."""
    return sum(len(example.token_ids) for example in row)


def learned_weight(rows: Sequence[Row]) -> float:
    """Return the sum of all weights that count, which is what a loss is divided by."""
    return sum(sum(example.weights[1:]) for row in rows for example in row)


def collate_rows(rows: Sequence[Row]) -> Rows:
    """Return rows of examples as tensors."""
    shape = len(rows), max(map(row_length, rows))
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    weights, segments = torch.zeros(shape), torch.full(shape, _PADDING)
    for index, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row):
            end = start + len(example.token_ids)
            ids[index, start:end] = torch.tensor(example.token_ids)
            weights[index, start + 1 : end] = torch.tensor(example.weights[1:])
            segments[index, start:end] = number
            positions[index, start:end] = torch.arange(end - start)
            start = end
    return Rows(ids, weights, segments, positions)


def block_mask(segments: torch.Tensor) -> torch.Tensor:
    """Return who may see whom, (B, 1, T, T): earlier tokens of the same segment, and oneself."""
    same = segments[:, :, None] == segments[:, None, :]
    return same.tril_()[:, None]


class DocumentLoss(torch.nn.Module):
    """The loss as one module, which whatever wraps a model for several processes can wrap."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Wrap a causal LM."""
        super().__init__()
        self.model = model

    def forward(self, rows: Rows) -> torch.Tensor:
        """Return the weighted sum of -log p(token) over all rows; a scalar in float32."""
        targets, weights = rows.ids[:, 1:], rows.weights[:, 1:]
        columns = torch.nonzero(weights.any(0)).flatten()
        logits = self._logits(rows, columns)
        wanted = torch.nonzero(weights[:, columns].flatten()).flatten()
        losses = functional.cross_entropy(
            logits.flatten(0, 1)[wanted].float(),
            targets[:, columns].flatten()[wanted],
            reduction="none",
        )
        return (losses * weights[:, columns].flatten()[wanted]).sum()

    def _logits(self, rows: Rows, columns: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K, V) at K columns of the inputs."""
        model: Any = self.model
        arguments: dict[str, torch.Tensor] = {}
        # Without packing no mask is needed: what is padded on the right is never looked at.
        if rows.are_packed:
            arguments = {
                "attention_mask": self._mask(rows.segments[:, :-1]),
                "position_ids": rows.positions[:, :-1],
            }
        # The vocabulary is wide, and most columns of a prompt are only read.
        logits: torch.Tensor = model(
            input_ids=rows.ids[:, :-1], use_cache=False, logits_to_keep=columns, **arguments
        ).logits
        return logits

    def _mask(self, segments: torch.Tensor) -> torch.Tensor:
        visible = block_mask(segments)
        if attention_of(self.model) in _BOOLEAN_MASKS:
            return visible
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=visible.device)
        return mask.masked_fill_(~visible, hidden_score(self.model.dtype))


def attention_of(model: PreTrainedModel) -> str:
    """Return the name of the attention implementation that a model uses."""
    return str(model.config._attn_implementation)


def check_packing(model: PreTrainedModel, length: int) -> None:
    """Check that a model can read packed rows of `length` tokens, by trying it on short ones.

    Raises:
        ValueError: If it cannot.
    """
    name, known = attention_of(model), _BOOLEAN_MASKS + _ADDITIVE_MASKS
    if name not in known:
        raise ValueError(f"`pack` must be 0 but for attention {', '.join(known)}, got {name!r}")
    window = _shortest_window(model.config.get_text_config())
    if window is not None and window < length:
        raise ValueError(f"`pack` must be at most the model's window of {window}, got {length!r}")
    kind = model.config.model_type
    try:
        gap = _packing_gap(model)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"`pack` must be 0 for a model of type {kind!r}: {error}") from error
    if not gap <= _TOLERANCES.get(model.dtype, _HALF_TOLERANCE):
        raise ValueError(
            f"`pack` must be 0 for a model of type {kind!r}: its examples see each other "
            f"(losses differ by {gap:.2g})"
        )


def _shortest_window(config: Any) -> int | None:
    """Return the length that attention is limited to in some layer; None if in no layer."""
    kinds = set(getattr(config, "layer_types", None) or ())
    limited = bool(kinds - {"full_attention"}) if kinds else True
    found = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    windows = [int(window) for window in found if window]
    return min(windows, default=None) if limited else None


@torch.no_grad()
def _packing_gap(model: PreTrainedModel) -> float:
    """Return how far the mean loss of short examples changes when they share a row."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    sizes = (9, 5, 7)
    generator = torch.Generator().manual_seed(0)
    examples = [
        Example(torch.randint(vocabulary, (size,), generator=generator).tolist(), [1.0] * size)
        for size in sizes
    ]
    loss = DocumentLoss(model)
    device = model.device
    alone, packed = (
        loss(collate_rows(rows).to(device)) / learned_weight(rows)
        for rows in (pack(examples, 0), pack(examples, sum(sizes)))
    )
    return abs(float(alone - packed))

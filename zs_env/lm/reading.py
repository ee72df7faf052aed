"""Two ways to read tokens into a cache: a model's own code, and the lean pass where it applies.

Both read what is new of every row and return the logits after it. A row's token at position p has
its keys and values in column p, so that what a token sees follows from its position.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final, Protocol

import torch
from transformers import PreTrainedModel

from zs_env.lm.attention import additive_mask, hidden_score
from zs_env.lm.cache import RaggedCache
from zs_env.lm.lean import Grid, LeanForward

_ATTENTION_KINDS: Final = {"full_attention", "sliding_attention"}
TOKENS_AT_ONCE: Final = 2048
"""Tokens of prompts that `LeanReader` reads together, so that what is between two layers stays in
a cache."""

_TRIAL_COLUMNS: Final = 8
_TOLERANCE: Final = 1e-3
"""Of the largest logit: far above rounding, far below what an operation left out would change."""

_ROUGHLY: Final = 0.3
"""The same for half-size numbers, where rounding alone may send tokens to other experts."""


class Reader(Protocol):
    """Reads tokens with one model as it is at the moment."""

    def read_prompts(
        self, cache: RaggedCache, prompts: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> torch.Tensor:
        """Read each row's new tokens, at least one, from its position `starts[row]` on.

        Returns:
            The logits after the last ones, (rows, V).
        """
        ...

    def read_next(
        self, cache: RaggedCache, ids: torch.Tensor, positions: torch.Tensor, width: int
    ) -> torch.Tensor:
        """Read one more token of every row.

        Args:
            cache: Of the rows.
            ids: (rows,).
            positions: (rows,).
            width: More than any position.

        Returns:
            The logits after them, (rows, V).
        """
        ...


class HuggingFaceReader:
    """Reads with the model's own code."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Look up what the model attends to.

        Raises:
            ValueError: If some of its layers do not attend to keys and values of their own.
        """
        self._model, self._windows = model, attention_windows(model.config)
        parameters = inspect.signature(model.forward).parameters.values()
        takes_keep = any(p.name == "logits_to_keep" or p.kind is p.VAR_KEYWORD for p in parameters)
        self._arguments = {"logits_to_keep": 1} if takes_keep else {}

    def read_prompts(
        self, cache: RaggedCache, prompts: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> torch.Tensor:
        """See `Reader`. Shorter prompts are padded on the left, where logits are never wanted."""
        device, length = cache.places.device, max(map(len, prompts))
        padded = [[*[0] * (length - len(prompt)), *prompt] for prompt in prompts]
        ends = [start + len(prompt) for start, prompt in zip(starts, prompts, strict=True)]
        offsets = torch.arange(-length, 0, device=device)
        positions = torch.tensor(ends, device=device)[:, None] + offsets
        first = torch.tensor(starts, device=device)[:, None]
        # No token that is ever read again lies in the last column: padding goes there.
        columns = torch.where(positions >= first, positions, cache.num_columns - 1)
        rows = torch.arange(len(prompts), device=device)[:, None].expand_as(columns)
        cache.aim(rows.flatten(), columns.flatten(), max(ends))
        return self._read(cache, torch.tensor(padded, device=device), positions)

    def read_next(
        self, cache: RaggedCache, ids: torch.Tensor, positions: torch.Tensor, width: int
    ) -> torch.Tensor:
        """See `Reader`."""
        cache.aim(torch.arange(len(ids), device=ids.device), positions, width)
        return self._read(cache, ids[:, None], positions[:, None])

    def _read(self, cache: RaggedCache, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        masks = {
            kind: additive_mask(_visible(positions, cache.width, window)[:, None], self._dtype)
            for kind, window in self._windows.items()
        }
        model: Any = self._model
        logits: torch.Tensor = model(
            input_ids=ids,
            position_ids=positions.clamp(min=0),
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            past_key_values=cache,
            use_cache=True,
            **self._arguments,
        ).logits
        return logits[:, -1]

    @property
    def _dtype(self) -> torch.dtype:
        return self._model.dtype


class LeanReader:
    """Reads with `LeanForward`, for models that it recognises."""

    def __init__(self, model: PreTrainedModel, num_positions: int) -> None:
        """Look up the parameters, which may have changed since the last reader."""
        self._forward = LeanForward(model, num_positions)
        self._columns = torch.arange(num_positions)
        self._hidden = torch.tensor(hidden_score(model.dtype), dtype=model.dtype)
        self._seen = torch.zeros((), dtype=model.dtype)

    def read_prompts(
        self, cache: RaggedCache, prompts: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> torch.Tensor:
        """See `Reader`. No padding is read: only attention needs the tokens as a grid."""
        longest = max(map(len, prompts))
        size = max(1, TOKENS_AT_ONCE // longest)
        parts = [slice(first, first + size) for first in range(0, len(prompts), size)]
        return torch.cat(
            [
                self._read_part(
                    cache.view(part.start, min(part.stop, len(prompts))),
                    prompts[part],
                    starts[part],
                )
                for part in parts
            ]
        )

    def _read_part(
        self, cache: RaggedCache, prompts: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> torch.Tensor:
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        first = torch.tensor(starts)
        offsets = torch.arange(int(lengths.max()))
        rows, columns = (offsets < lengths[:, None]).nonzero().unbind(1)
        ends = lengths.cumsum(0)
        tokens = (ends - lengths)[:, None] + offsets
        width = int((first + lengths).max())
        mask = self._mask(first[:, None] + offsets, width, cache)
        grid = Grid(
            rows=len(prompts),
            of_cells=tokens.clamp_(max=int(ends[-1]) - 1).flatten(),
            of_tokens=rows * len(offsets) + columns,
            last=ends - 1,
            mask_of_last=self._mask((first + lengths - 1)[:, None], width, cache),
        )
        positions = first[rows] + columns
        cache.aim(rows, positions, width)
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        return self._forward(ids, positions, mask, cache, grid)

    def read_next(
        self, cache: RaggedCache, ids: torch.Tensor, positions: torch.Tensor, width: int
    ) -> torch.Tensor:
        """See `Reader`."""
        cache.aim(torch.arange(len(ids)), positions, width)
        return self._forward(ids, positions, self._mask(positions[:, None], width, cache), cache)

    def _mask(self, positions: torch.Tensor, width: int, cache: RaggedCache) -> torch.Tensor:
        """Return what is added to scores, (rows * heads, 1 or groups * T, width)."""
        hidden = self._columns[:width] > positions[..., None]
        mask = torch.where(hidden, self._hidden, self._seen)
        heads, groups = cache.num_heads, self._forward.groups
        if heads == 1 and positions.shape[1] == 1:
            return mask
        repeated = groups if positions.shape[1] > 1 else 1
        of_heads = mask[:, None, None].expand(-1, heads, repeated, -1, -1)
        return of_heads.reshape(-1, repeated * positions.shape[1], width)


@torch.inference_mode()
def check_reads(model: PreTrainedModel, empty_past: torch.Tensor) -> None:
    """Check that a model reads into our cache, bit by bit, what it reads all at once.

    Raises:
        ValueError: If it does not: its attention wants other masks, positions or caches.
    """
    try:
        found, wanted = _trial(HuggingFaceReader(model), empty_past), _at_once(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of code that we do not know
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(refusal(model.config, f"which cannot use our cache ({reason})")) from error
    exact = model.dtype in (torch.float32, torch.float64)
    if (found - wanted).abs().max() > (_TOLERANCE if exact else _ROUGHLY) * wanted.abs().max():
        raise ValueError(refusal(model.config, "which reads otherwise with our cache than without"))


def _at_once(model: Any) -> torch.Tensor:
    """Return what `_trial` does, of contexts that are read whole, and each alone."""
    found = []
    for context in ([0, 1, 2, 3, 1, 1], [2, 0, 3, 2]):
        ids = torch.tensor([context], device=model.device)
        found.append(model(input_ids=ids, use_cache=False).logits[0, -2:])
    return torch.stack(found, dim=1)


@torch.inference_mode()
def lean_agrees(model: PreTrainedModel, empty_past: torch.Tensor) -> bool:
    """Tell whether `LeanReader` gives the model's own logits, up to rounding, for short prompts."""
    lean, own = (
        _trial(reader, empty_past)
        for reader in (LeanReader(model, _TRIAL_COLUMNS), HuggingFaceReader(model))
    )
    return bool((lean - own).abs().max() <= _TOLERANCE * own.abs().max())


def _trial(reader: Reader, empty_past: torch.Tensor) -> torch.Tensor:
    """Return the logits after two prompts, and after one more token of each."""
    cache = RaggedCache.from_rows([empty_past] * 2, _TRIAL_COLUMNS)
    first = reader.read_prompts(cache, [[0, 1, 2, 3, 1], [2, 0, 3]], [0, 0])
    device = empty_past.device
    ids, positions = torch.tensor([1, 2], device=device), torch.tensor([5, 3], device=device)
    return torch.stack([first, reader.read_next(cache, ids, positions, 6)])


def refusal(config: Any, reason: str) -> str:
    """Return the line that tells why a model cannot be used."""
    return (
        "`model` must be a decoder that keeps keys and values of every token, got "
        f"{config.model_type}, {reason}"
    )


def check_config(config: Any) -> None:
    """Check what can be told of a model from its configuration alone.

    Raises:
        ValueError: If it cannot be used.
    """
    attention_windows(config)
    text = config.get_text_config()
    if _has_alibi(text):
        raise ValueError(refusal(config, "whose ALiBi takes no rows of different lengths"))
    if "local" in getattr(text, "attention_layers", ()):
        raise ValueError(refusal(config, "whose local attention counts from the longest row's end"))
    for name in ("num_attention_heads", "max_position_embeddings"):
        if getattr(text, name, None) is None:
            raise ValueError(refusal(config, f"whose configuration has no {name}"))


def _has_alibi(text: Any) -> bool:
    attention = getattr(text, "attn_config", None)
    return bool(
        text.model_type == "bloom"
        or getattr(text, "alibi", False)
        or getattr(attention, "alibi", False)
    )


def attention_windows(config: Any) -> dict[str, int | None]:
    """Return how many tokens back each kind of layer sees; None is all of them.

    Raises:
        ValueError: If there is a kind that does not attend to keys and values of its own.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    single = "full_attention" if window is None else "sliding_attention"
    kinds = set(getattr(text, "layer_types", None) or [single])
    if "recurrent" in getattr(text, "block_types", ()):
        kinds.add("linear_attention")  # RecurrentGemma has no `layer_types` in Transformers 5.17
    if not kinds <= _ATTENTION_KINDS:
        others = ", ".join(sorted(kinds - _ATTENTION_KINDS))
        raise ValueError(refusal(config, f"which has layers of {others}"))
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def cache_size(config: Any) -> tuple[int, int]:
    """Return heads and head_dim of what a layer keeps of a token, twice: as key and as value.

    Multi-head latent attention keeps a latent vector as the one and a rotated key as the other.
    """
    text = config.get_text_config()
    if getattr(text, "kv_lora_rank", None):
        return 1, max(text.kv_lora_rank, text.qk_rope_head_dim)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    if text.model_type == "falcon" and text.multi_query and not text.new_decoder_architecture:
        heads = 1
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(heads), int(head_dim)


def context_length(config: Any) -> int:
    """Return how many tokens a model reads, all at once as it does one by one.

    LongRoPE turns keys otherwise as soon as a text is longer than the texts before its extension:
    keys in a cache, and with them what was sampled, would be another model's than the trainer's.
    """
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    length = config.max_position_embeddings
    if rope.get("rope_type") == "longrope":
        length = min(length, rope.get("original_max_position_embeddings") or length)
    return int(length)


def _visible(positions: torch.Tensor, width: int, window: int | None) -> torch.Tensor:
    """Return which columns each position sees, (rows, T, width)."""
    columns, positions = torch.arange(width, device=positions.device), positions[..., None]
    visible = columns <= positions
    return visible if window is None else visible & (columns > positions - window)

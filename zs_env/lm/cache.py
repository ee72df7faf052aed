"""A key-value cache for ragged batches of growing contexts.

Every row's tokens lie without gaps from the first column on, so that a column is a position and a
mask follows from positions alone. A column holds its position's keys of all rows, so that what a
step attends to is one stretch of memory. Between turns the rows are packed away one by one
(`take_row`), and the next turn's batch is laid out anew (`from_rows`) at the size that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import proxy

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """One layer's keys and values; the interface that Transformers expects."""

    def __init__(self, owner: RaggedCache, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Weakly, for in a circle of references large tensors would outlive their batch.
        self._owner: RaggedCache = proxy(owner)
        self._heads = keys.shape[2]
        self._flat_keys, self._flat_values = keys.flatten(0, 2), values.flatten(0, 2)
        self._keys, self._values = (
            part[:, owner.first : owner.last].flatten(1, 2).transpose(0, 1)
            for part in (keys, values)
        )
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the storage exists from the start."""

    def write(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `RaggedCache.write`."""
        width, key_size, value_size = self._owner.width, keys.shape[-1], values.shape[-1]
        self._put(self._flat_keys, keys)
        self._put(self._flat_values, values)
        if key_size == value_size:
            return self._keys[:, :width], self._values[:, :width]
        return self._keys[:, :width, :key_size], self._values[:, :width, :value_size]

    def _put(self, flat: torch.Tensor, part: torch.Tensor) -> None:
        size = part.shape[-1]
        if size < flat.shape[1]:  # of keys and values, one may be wider than the other
            flat = flat[:, :size]
        flat.index_copy_(0, self._owner.places, part.reshape(-1, size))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (B, heads, T, head_dim); return all columns, (B, heads, width, head_dim)."""
        keys, values = self.write(
            key_states.transpose(1, 2).flatten(0, 1), value_states.transpose(1, 2).flatten(0, 1)
        )
        return keys.unflatten(0, (-1, self._heads)), values.unflatten(0, (-1, self._heads))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (number of key columns, offset) for Transformers' own mask functions."""
        return self._owner.width, 0

    def get_seq_length(self) -> int:
        """Return the number of columns written before this pass."""
        return self._owner.width - self._owner.num_new

    def get_max_length(self) -> int:
        """Return the number of columns that there is room for."""
        return self._owner.num_columns


class RaggedCache(Cache):
    """Keys and values of a batch.

    Attributes:
        storage: Of each layer, (2, columns, rows, key_value_heads, head_dim), where head_dim is
            that of keys or of values, whichever is larger; finite everywhere, as what is hidden
            has weight 0, but 0 * NaN would still be NaN.
        first: The batch's first row.
        last: The row after its last one.
        places: Where the next tokens are written, flat over (columns, rows, heads) of the storage.
        width: Columns attended to.
        num_new: Tokens a row that are being read.
    """

    def __init__(self, storage: Sequence[torch.Tensor], first: int, last: int) -> None:
        """Wrap the rows of storage from `first` to before `last`."""
        self.storage, self.first, self.last = storage, first, last
        self.width = self.num_new = 0
        self.places = torch.empty(0, dtype=torch.long, device=storage[0].device)
        self._own_layers = [_Layer(self, *layer) for layer in storage]
        super().__init__(layers=list(self._own_layers))

    @classmethod
    def from_rows(cls, rows: Sequence[torch.Tensor], num_columns: int) -> RaggedCache:
        """Lay out packed rows, (layers, 2, length, heads, head_dim) each, with room for more."""
        layers, _, _, heads, head_dim = rows[0].shape
        # One tensor a layer: allocators give larger ones back, and then clear their pages anew.
        storage = [
            rows[0].new_zeros(2, num_columns, len(rows), heads, head_dim) for _ in range(layers)
        ]
        for place, row in enumerate(rows):
            if row.shape[2]:
                for layer, packed in zip(storage, row, strict=True):
                    layer[:, : row.shape[2], place] = packed
        return cls(storage, 0, len(rows))

    @property
    def num_columns(self) -> int:
        """Number of tokens that a row has room for."""
        return int(self.storage[0].shape[1])

    @property
    def num_heads(self) -> int:
        """Number of heads of keys and values."""
        return int(self.storage[0].shape[3])

    def view(self, first: int, last: int) -> RaggedCache:
        """Return the rows from `first` to before `last` of these, sharing memory."""
        return RaggedCache(self.storage, self.first + first, self.first + last)

    def aim(self, rows: torch.Tensor, columns: torch.Tensor, width: int) -> None:
        """Say where the next tokens are written and what they may see.

        Args:
            rows: (N,) row of each token.
            columns: (N,) column of each token.
            width: Columns attended to.
        """
        num_rows, heads = self.storage[0].shape[2:4]
        places = columns * num_rows + rows + self.first
        if heads > 1:
            places = (places[:, None] * heads + torch.arange(heads, device=rows.device)).flatten()
        self.places, self.width = places, width
        self.num_new = len(columns) // (self.last - self.first)

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values, (N, heads, head_dim), of a layer where was aimed at.

        Returns:
            All columns that are attended to, (rows * heads, width, head_dim).
        """
        return self._own_layers[layer].write(keys, values)

    def take_row(self, place: int, length: int) -> torch.Tensor:
        """Return one row packed, (layers, 2, length, heads, head_dim)."""
        return torch.stack([layer[:, :length, self.first + place] for layer in self.storage])

    def move(self, rows: Sequence[int], places: Sequence[int], num_columns: int) -> None:
        """Put some rows in the place of others, which are lost.

        Args:
            rows: What moves.
            places: Where it goes, none of it a place that is moved from.
            num_columns: Columns that hold tokens.
        """
        if rows:
            here = torch.tensor(places, device=self.places.device)
            there = torch.tensor(rows, device=self.places.device)
            for layer in self.storage:
                part = layer[:, :num_columns, self.first : self.last]
                part.index_copy_(2, here, part.index_select(2, there))

"""A key-value cache for ragged batches of growing contexts.

All rows write at the same columns, so that appending is one slice copy; the columns that a row
does not use are gaps, and a mask hides them. Between turns the rows are packed away one by one
without their gaps (`take_rows`), and the next turn's batch is laid out anew (`from_rows`) at
exactly the size it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """One layer's view of the shared storage; the interface that Transformers expects."""

    def __init__(self, owner: RaggedCache, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner, self._index = owner, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the storage exists from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (B, heads, T, head_dim) at the current columns; return all columns so far."""
        start = self._owner.num_columns
        end = start + key_states.shape[2]
        keys, values = self._owner.storage[self._index]
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (number of key columns, offset) for Transformers' own mask functions."""
        return self._owner.num_columns + query_length, 0

    def get_seq_length(self) -> int:
        """Return the number of columns written so far."""
        return self._owner.num_columns

    def get_max_length(self) -> int:
        """Return the number of columns that there is room for."""
        return int(self._owner.storage.shape[4])


class RaggedCache(Cache):
    """Keys and values of a batch.

    Attributes:
        storage: (layers, 2, B, key_value_heads, columns, head_dim).
        used: (B, columns) bool: which columns hold a token of the row.
        num_columns: Columns written so far.
    """

    def __init__(self, storage: torch.Tensor, used: torch.Tensor, num_columns: int) -> None:
        """Wrap storage whose first `num_columns` columns are filled as `used` says."""
        super().__init__(layers=[_Layer(self, index) for index in range(storage.shape[0])])
        self.storage, self.used, self.num_columns = storage, used, num_columns

    @classmethod
    def from_rows(cls, rows: Sequence[torch.Tensor], num_new_columns: int) -> RaggedCache:
        """Lay out packed rows, (layers, 2, heads, length, head_dim) each, with room for more."""
        lengths = [row.shape[3] for row in rows]
        longest = max(lengths)
        layers, _, heads, _, head_dim = rows[0].shape
        columns = longest + num_new_columns
        storage = rows[0].new_empty(layers, 2, len(rows), heads, columns, head_dim)
        used = torch.ones(len(rows), columns, dtype=torch.bool, device=rows[0].device)
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            storage[:, :, index, :, :length] = row
            # A gap is masked, but 0 * NaN would still be NaN.
            storage[:, :, index, :, length:longest] = 0
            used[index, length:longest] = False
        return cls(storage, used, longest)

    def take_rows(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """Return the rows at `indices` packed without gaps."""
        written = self.storage[..., : self.num_columns, :]
        used = self.used[:, : self.num_columns]
        return [written[:, :, i][..., used[i], :] for i in indices]

    def keep_rows(self, indices: torch.Tensor) -> None:
        """Drop all rows but those at `indices`, in that order."""
        self.storage = self.storage.index_select(2, indices)
        self.used = self.used.index_select(0, indices)

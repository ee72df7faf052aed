"""The sampling loop: one batch on its way from its new tokens to its last sampled one.

What a step samples is kept as tensors; rows are looked at one by one only when one of them may
have ended. Rows that have ended move behind those that go on, and the batch shrinks to these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from zs_env.lm.cache import RaggedCache, to_front
from zs_env.lm.generator import FinishReason, SamplingParams
from zs_env.lm.reading import Reader
from zs_env.lm.sampling import sample
from zs_env.random import uniforms

_COMPACT_BELOW: Final = 0.9
"""Rows that have ended leave the batch once fewer than this share of it goes on."""


@dataclass(slots=True)
class Row:
    """One context of a batch, and what was sampled so far.

    Attributes:
        prompt: New tokens.
        past: Its packed cache, (layers, 2, tokens read before, heads, head_dim).
        seed: Key of its uniform numbers.
    """

    prompt: Sequence[int]
    past: torch.Tensor
    seed: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def start(self) -> int:
        """Tokens read before."""
        return self.past.shape[2]

    @property
    def end(self) -> int:
        """Tokens of the context with its new ones, and without any sampled one."""
        return self.start + len(self.prompt)


class Decoding:
    """One batch."""

    def __init__(
        self,
        reader: Reader,
        cache: RaggedCache,
        rows: Sequence[Row],
        params: SamplingParams,
        max_context: int,
        candidates: frozenset[int],
        finish: Callable[[Row], FinishReason | None],
    ) -> None:
        """Set up.

        Args:
            reader: Reads the tokens.
            cache: Its places are those of `rows`.
            rows: At least one, each with a prompt of at least one token that leaves room for one.
            params: How to sample.
            max_context: Tokens that a context may hold.
            candidates: Ids that may end a row.
            finish: Tells whether a row has ended whose last id is one of `candidates`.
        """
        self.rows = list(rows)
        self._reader, self._cache, self._active = reader, cache, cache
        self._params, self._max_context = params, max_context
        self._candidates, self._finish = candidates, finish
        keys = np.array([row.seed for row in rows], dtype=np.int64)
        drawn = uniforms(keys, params.max_new_tokens).T
        self._uniforms = torch.tensor(drawn, dtype=torch.float64, device=cache.places.device)
        self._positions = torch.tensor([row.end for row in rows], device=cache.places.device)
        self._unrecorded: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._look_ahead()

    def run(self) -> list[Row]:
        """Sample until every row has ended; return the rows by their places in the cache."""
        logits = self._reader.read_prompts(
            self._cache, [row.prompt for row in self.rows], [row.start for row in self.rows]
        )
        for step in range(self._params.max_new_tokens):
            ids, logprobs = sample(logits, self._uniforms[step], self._params.temperature)
            self._unrecorded.append((ids, logprobs))
            if step + 1 >= self._next_end or not self._candidates.isdisjoint(ids.tolist()):
                self._record(step + 1)
                ids = self._compact(ids)
            if not len(ids):
                break
            width = self._longest + step + 1
            logits = self._reader.read_next(self._active, ids, self._positions, width)
            # A row that has ended and is still here must not run out of positions.
            self._positions.add_(1).clamp_(max=self._max_context - 1)
        return self.rows

    def _going_on(self) -> list[Row]:
        return [row for row in self.rows[: len(self._positions)] if row.finish_reason is None]

    def _look_ahead(self) -> None:
        """Note the longest of the rows that go on, and when the first of them is full."""
        rows = self._going_on()
        self._longest = max((row.end for row in rows), default=0)
        self._next_end = min(self._params.max_new_tokens, self._max_context - self._longest)

    def _record(self, num_sampled: int) -> None:
        """Hand the rows what was sampled for them, and let those end that have to."""
        ids = torch.stack([ids for ids, _ in self._unrecorded], 1).tolist()
        logprobs = torch.stack([logprobs for _, logprobs in self._unrecorded], 1).tolist()
        self._unrecorded.clear()
        for row, its_ids, its_logprobs in zip(self.rows, ids, logprobs, strict=False):
            if row.finish_reason is None:
                row.token_ids += its_ids
                row.logprobs += its_logprobs
                if its_ids[-1] in self._candidates:
                    row.finish_reason = self._finish(row)
                if row.finish_reason is None and self._is_full(row, num_sampled):
                    row.finish_reason = FinishReason.LENGTH

    def _is_full(self, row: Row, num_sampled: int) -> bool:
        return (
            num_sampled == self._params.max_new_tokens
            or row.end + num_sampled >= self._max_context
        )

    def _compact(self, ids: torch.Tensor) -> torch.Tensor:
        """Let rows that have ended leave the batch where that pays; return the ids to be read."""
        going_on = [row.finish_reason is None for row in self.rows[: len(ids)]]
        count = sum(going_on)
        if count and count >= _COMPACT_BELOW * len(ids):
            self._look_ahead()
            return ids
        order = to_front(going_on)
        longest = max(row.end + len(row.token_ids) for row in self.rows[: len(ids)])
        self._active.reorder(order, longest)
        self.rows[: len(ids)] = [self.rows[place] for place in order]
        kept = torch.tensor(order[:count], dtype=torch.long, device=ids.device)
        self._positions, self._uniforms = self._positions[kept], self._uniforms[:, kept]
        self._active = self._cache.view(0, count)
        self._look_ahead()
        return ids[kept]

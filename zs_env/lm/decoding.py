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

from zs_env.lm.cache import RaggedCache
from zs_env.lm.generator import FinishReason, LanguageModelError, SamplingParams
from zs_env.lm.reading import Reader
from zs_env.lm.sampling import sample
from zs_env.random import uniforms

_COMPACT_BELOW: Final = 0.8
"""Rows that have ended leave the batch once fewer than this share of it goes on."""


@dataclass(slots=True)
class Row:
    """One context of a batch, and what was sampled so far.

    Attributes:
        prompt: New tokens.
        past: Its packed cache, (layers, 2, tokens read before, heads, head_dim).
        seed: Key of its uniform numbers.
        start: Tokens read before.
    """

    prompt: Sequence[int]
    past: torch.Tensor
    seed: int
    start: int = field(init=False)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        """Note the length of the cache, which is handed over once the row is in a batch."""
        self.start = self.past.shape[2]

    @property
    def end(self) -> int:
        """Tokens of the context with its new ones, and without any sampled one."""
        return self.start + len(self.prompt)


@dataclass(frozen=True, slots=True)
class MayEnd:
    """What can end a row.

    Attributes:
        ids: Those that may, when they are sampled.
        reason: Tells why a row has ended whose last id is one of them; None if it has not.
    """

    ids: frozenset[int]
    reason: Callable[[list[int]], FinishReason | None]


class Decoding:
    """One batch."""

    def __init__(
        self,
        make_reader: Callable[[int], Reader],
        rows: Sequence[Row],
        params: SamplingParams,
        max_context: int,
        may_end: MayEnd,
    ) -> None:
        """Lay out the cache, and draw every uniform number that the batch can need.

        Args:
            make_reader: Returns what reads tokens at positions below a number.
            rows: At least one, each with a prompt of at least one token that leaves room for one.
            params: How to sample.
            max_context: Tokens that a context may hold.
            may_end: What can end a row before its tokens are used up.
        """
        self._rows, self._num_distinct = _distinct_first(rows)
        self._params, self._max_context, self._may_end = params, max_context, may_end
        longest = max(row.end for row in rows)
        num_columns = min(longest + params.max_new_tokens, max_context)
        self._reader = make_reader(num_columns)
        self._cache = RaggedCache.from_rows([row.past for row in self._rows], num_columns)
        for row in self._rows:
            row.past = row.past.new_empty(0)
        keys = np.array([row.seed for row in self._rows], dtype=np.int64)
        drawn = uniforms(keys, params.max_new_tokens).T
        device = self._cache.places.device
        self._uniforms = torch.tensor(drawn, dtype=torch.float64, device=device)
        self._positions = torch.tensor([row.end for row in self._rows], device=device)
        self._unrecorded: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._look_ahead()

    def run(self, *, keep: bool) -> None:
        """Sample until every row has ended; then pack their caches away, if they are to be kept.

        Raises:
            LanguageModelError: If the model gives logits that are no finite numbers.
        """
        logits = self._read_prompts()
        for step in range(self._params.max_new_tokens):
            ids, logprobs = sample(logits, self._uniforms[step], self._params.temperature)
            self._unrecorded.append((ids, logprobs))
            if step + 1 >= self._next_end or not self._may_end.ids.isdisjoint(ids.tolist()):
                self._record(step + 1)
                ids = self._compact(ids, keep)
                if not self._rows:
                    break
            width = self._longest + step + 1
            logits = self._reader.read_next(self._cache, ids, self._positions, width)
            # A row that has ended and is still here must not run out of positions.
            self._positions.add_(1).clamp_(max=self._max_context - 1)

    def _read_prompts(self) -> torch.Tensor:
        """Read the prompts, those that several rows begin with only once."""
        rows = self._rows[: self._num_distinct]
        logits = self._reader.read_prompts(
            self._cache.view(0, len(rows)),
            [row.prompt for row in rows],
            [row.start for row in rows],
        )
        if len(rows) == len(self._rows):
            return logits
        places = {tuple(row.prompt): place for place, row in enumerate(rows) if not row.start}
        sources = [places[tuple(row.prompt)] for row in self._rows[len(rows) :]]
        longest = max(row.end for row in rows)
        self._cache.move(sources, range(len(rows), len(self._rows)), longest)
        order = torch.tensor([*range(len(rows)), *sources], device=logits.device)
        return logits[order]

    def _record(self, num_sampled: int) -> None:
        """Hand the rows what was sampled for them, and let those end that have to.

        Raises:
            LanguageModelError: If the model gave logits that are no finite numbers.
        """
        ids = torch.stack([ids for ids, _ in self._unrecorded], 1).tolist()
        stacked = torch.stack([logprobs for _, logprobs in self._unrecorded], 1)
        if stacked.isnan().any():
            raise LanguageModelError(
                "the language model gives logits that are no finite numbers: its weights are "
                "damaged, or were trained at too high a learning rate"
            )
        logprobs = stacked.tolist()
        self._unrecorded.clear()
        for row, its_ids, its_logprobs in zip(self._rows, ids, logprobs, strict=True):
            if row.finish_reason is None:
                row.token_ids += its_ids
                row.logprobs += its_logprobs
                row.finish_reason = self._finish_reason(row, num_sampled)

    def _finish_reason(self, row: Row, num_sampled: int) -> FinishReason | None:
        if row.token_ids[-1] in self._may_end.ids:
            reason = self._may_end.reason(row.token_ids)
            if reason is not None:
                return reason
        is_full = row.end + num_sampled >= self._max_context
        used_up = num_sampled == self._params.max_new_tokens
        return FinishReason.LENGTH if is_full or used_up else None

    def _compact(self, ids: torch.Tensor, keep: bool) -> torch.Tensor:
        """Let rows that have ended leave the batch where that pays; return the ids to be read."""
        goes_on = [row.finish_reason is None for row in self._rows]
        count = sum(goes_on)
        if count < _COMPACT_BELOW * len(goes_on):
            if keep:
                self._pack()
            late = [place for place in range(count, len(goes_on)) if goes_on[place]]
            holes = [place for place in range(count) if not goes_on[place]]
            longest = max(row.end + len(row.token_ids) for row in self._rows)
            self._cache.move(late, holes, longest)
            order = list(range(count))
            for hole, place in zip(holes, late, strict=True):
                order[hole] = place
            kept = torch.tensor(order, dtype=torch.long, device=ids.device)
            self._cache = self._cache.view(0, count)
            self._rows = [self._rows[place] for place in order]
            self._positions, self._uniforms = self._positions[kept], self._uniforms[:, kept]
            ids = ids[kept]
        self._look_ahead()
        return ids

    def _pack(self) -> None:
        """Hand the rows that have ended their packed caches, without the last sampled token."""
        for place, row in enumerate(self._rows):
            if row.finish_reason is not None:
                row.past = self._cache.take_row(place, row.end + len(row.token_ids) - 1)

    def _look_ahead(self) -> None:
        """Note the longest of the rows that go on, and when the first of them is full."""
        self._longest = max((row.end for row in self._rows if row.finish_reason is None), default=0)
        self._next_end = min(self._params.max_new_tokens, self._max_context - self._longest)


def _distinct_first(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Return the rows, those last that begin as another one does, and how many the others are.

    The rollouts of one question begin alike, and so do many requests to a simulator.
    """
    seen: set[tuple[int, ...]] = set()
    first: list[Row] = []
    again: list[Row] = []
    for row in rows:
        prompt = tuple(row.prompt)
        (again if not row.start and prompt in seen else first).append(row)
        if not row.start:
            seen.add(prompt)
    return [*first, *again], len(first)

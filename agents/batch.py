"""Trajectories as padded tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from agents.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """B episodes, padded on the right to T tokens.

    Attributes:
        token_ids: (B, T) int64; padding is 0 and told apart by `lengths` alone.
        action_mask: (B, T) bool, True where the policy sampled the token.
        logprobs: (B, T) float32, the sampler's, 0 off the mask.
        lengths: (B,) int64, tokens of each row.
        rewards: (B,) float32, the reward of each episode.
        groups: (B,) int64, equal within a group; numbered in order of appearance.
    """

    token_ids: torch.Tensor
    action_mask: torch.Tensor
    logprobs: torch.Tensor
    lengths: torch.Tensor
    rewards: torch.Tensor
    groups: torch.Tensor

    @classmethod
    def from_trajectories(cls, trajectories: Sequence[Trajectory]) -> Batch:
        """Stack episodes; at least one.

        Raises:
            ValueError: If there is none.
        """
        if not trajectories:
            raise ValueError("`trajectories` must not be empty")
        numbers: dict[int, int] = {}
        for trajectory in trajectories:
            numbers.setdefault(trajectory.group, len(numbers))
        return cls(
            token_ids=_pad([t.token_ids for t in trajectories], torch.int64),
            action_mask=_pad([t.action_mask for t in trajectories], torch.bool),
            logprobs=_pad([t.logprobs for t in trajectories], torch.float32),
            lengths=torch.tensor([len(t.token_ids) for t in trajectories]),
            rewards=torch.tensor([t.reward for t in trajectories], dtype=torch.float32),
            groups=torch.tensor([numbers[t.group] for t in trajectories]),
        )

    def __len__(self) -> int:
        """Return B."""
        return self.token_ids.shape[0]

    def rows(self, indices: torch.Tensor) -> Batch:
        """Return some rows, cut to the longest of them."""
        length = int(self.lengths[indices].max())
        return Batch(
            token_ids=self.token_ids[indices, :length],
            action_mask=self.action_mask[indices, :length],
            logprobs=self.logprobs[indices, :length],
            lengths=self.lengths[indices],
            rewards=self.rewards[indices],
            groups=self.groups[indices],
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))

    def buckets(self, max_tokens: int, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the indices `rows` in buckets of similar length.

        A bucket has at most `max_tokens` padded tokens; a row longer than that has its own.
        """
        order = rows[torch.argsort(self.lengths[rows], stable=True)].tolist()
        bucket: list[int] = []
        for index in order:
            if bucket and int(self.lengths[index]) * (len(bucket) + 1) > max_tokens:
                yield torch.tensor(bucket)
                bucket = []
            bucket.append(index)
        if bucket:
            yield torch.tensor(bucket)


def _pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> torch.Tensor:
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded

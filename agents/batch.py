"""Trajectories as padded tensors."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
        turn_ids: (B, T) int64, the turn of each action token, from 0; -1 off the mask.
        token_rewards: (B, T) float32, each turn's reward at its last action token, 0 elsewhere.
            The reward of a turn without tokens falls to the action token before it, or else to
            the one after it; that of an episode without action tokens is in `rewards` alone.
        truncated: (B,) bool, whether the environment cut the episode off.
        values: (B, T) float32, the critic's, of the state before each action token: what it says
            having read everything up to the token before; 0 off the mask. None without a critic.
        reference_logprobs: (B, T) float32, the frozen reference's, 0 off the mask; None where
            they are not needed for the targets.
    """

    token_ids: torch.Tensor
    action_mask: torch.Tensor
    logprobs: torch.Tensor
    lengths: torch.Tensor
    rewards: torch.Tensor
    groups: torch.Tensor
    turn_ids: torch.Tensor
    token_rewards: torch.Tensor
    truncated: torch.Tensor
    values: torch.Tensor | None = None
    reference_logprobs: torch.Tensor | None = None

    @classmethod
    def from_trajectories(cls, trajectories: Sequence[Trajectory]) -> Batch:
        """Stack episodes; at least one.

        Raises:
            ValueError: If there is none, or a reward is not a finite number.
        """
        if not trajectories:
            raise ValueError("`trajectories` must not be empty")
        for index, trajectory in enumerate(trajectories):
            _check_rewards(index, trajectory)
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
            turn_ids=_pad([_turn_ids(t) for t in trajectories], torch.int64, fill=-1),
            token_rewards=_pad([_token_rewards(t) for t in trajectories], torch.float32),
            truncated=torch.tensor([t.truncated for t in trajectories]),
        )

    def __len__(self) -> int:
        """Return B."""
        return self.token_ids.shape[0]

    @property
    def last_actions(self) -> torch.Tensor:
        """The last action token of each episode, (B, T) bool."""
        after = self.action_mask.flip(1).cumsum(1).flip(1)
        return self.action_mask & (after == 1)

    def rows(self, indices: torch.Tensor) -> Batch:
        """Return some rows, cut to the longest of them."""
        length = int(self.lengths[indices].max())
        return self._map(
            lambda tensor: tensor[indices][:, :length] if tensor.ndim == 2 else tensor[indices]
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def add_rewards(self, token_rewards: torch.Tensor) -> Batch:
        """Return the batch with more rewards, (B, T), 0 off the mask."""
        return replace(
            self,
            rewards=self.rewards + token_rewards.sum(1),
            token_rewards=self.token_rewards + token_rewards,
        )

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Return the batch with `function` applied to every tensor that there is."""
        tensors: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        present = {name: function(tensor) for name, tensor in tensors.items() if tensor is not None}
        return Batch(**present)

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


def _pad(rows: Sequence[Sequence[float]], dtype: torch.dtype, fill: int = 0) -> torch.Tensor:
    padded = torch.full((len(rows), max(map(len, rows))), fill, dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded


def _check_rewards(index: int, trajectory: Trajectory) -> None:
    for number, turn in enumerate(trajectory.turns):
        if not math.isfinite(turn.reward):
            raise ValueError(
                f"`reward` must be a finite number, got {turn.reward!r} in turn {number} of "
                f"episode {index}, question {trajectory.question_id!r}"
            )


def _turn_ids(trajectory: Trajectory) -> list[int]:
    ids = [-1] * len(trajectory.token_ids)
    for number, turn in enumerate(trajectory.turns):
        for place in range(turn.start, turn.end):
            if trajectory.action_mask[place]:
                ids[place] = number
    return ids


def _token_rewards(trajectory: Trajectory) -> list[float]:
    rewards = [0.0] * len(trajectory.token_ids)
    places = [place for place, is_action in enumerate(trajectory.action_mask) if is_action]
    for turn in trajectory.turns:
        if places:
            before = bisect_left(places, turn.end)
            rewards[places[max(0, before - 1)]] += turn.reward
    return rewards

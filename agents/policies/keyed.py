"""Agents whose sampling is named by the episodes they play rather than by where they play them.

Whatever plays thousands of episodes and may be killed in between needs it: which slot an episode
falls into depends on what was played before.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol, Self, runtime_checkable

from agents.agent import Agent
from agents.policies.agent import PolicyAgent, PolicyState
from zs_env.random import derive


@runtime_checkable
class KeyedAgent(Protocol):
    """An agent that can be told which episodes its slots play."""

    def keyed(self, keys: Sequence[int]) -> Agent:
        """Return the same agent for one episode a slot, each named by a number."""
        ...


class Keyed:
    """The part of a `KeyedAgent` that keeps what it was told; it needs no `__init__`."""

    _keys: tuple[int, ...] | None = None

    def keyed(self, keys: Sequence[int]) -> Self:
        """Return the same agent for one episode a slot, each named by a number."""
        agent = copy(self)
        agent._keys = tuple(keys)
        return agent

    def _name(self, slot: int, num_episodes: int) -> tuple[int, ...]:
        """Return numbers that name the episode of a slot, by its place if nobody told it."""
        return (slot, num_episodes) if self._keys is None else (self._keys[slot],)


class KeyedPolicyAgent(Keyed, PolicyAgent):
    """A `PolicyAgent` that can be told which episodes its slots play."""

    def _key(self, state: PolicyState, slot: int) -> int:
        name = self._name(slot, state.num_episodes[slot])
        return derive(self._seed, *name, state.num_actions[slot])

"""A token policy as an agent: text in and out, its context kept from turn to turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.policies.opening import encode_opening
from zs_env.lm.generator import SamplingParams, TokenGenerator, TokenSession
from zs_env.random import derive


@dataclass(slots=True)
class PolicyState:
    """What a `PolicyAgent` remembers.

    Attributes:
        session: Each slot's context.
        num_actions: Actions that it has taken in each slot's episode.
        num_episodes: Episodes begun in each slot.
        num_tokens: Tokens of each slot's latest action; 0 where it was idle.
    """

    session: TokenSession
    num_actions: list[int] = field(default_factory=list)
    num_episodes: list[int] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)


class PolicyAgent:
    """Plays a `TokenGenerator`."""

    def __init__(
        self,
        policy: TokenGenerator,
        stops: Sequence[str],
        *,
        max_new_tokens: int = 48,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Set up the agent.

        Args:
            policy: What writes the actions.
            stops: The strings that end an action: `env.metadata["action_stops"]`.
            max_new_tokens: Tokens of an action at most.
            temperature: Of sampling, where actions are not deterministic.
            seed: Key of that sampling.
        """
        self._policy, self._seed = policy, seed
        self._greedy = SamplingParams(max_new_tokens, 0.0, tuple(stops))
        self._sampling = SamplingParams(max_new_tokens, temperature, tuple(stops))

    def predict(
        self,
        observations: Sequence[str],
        state: PolicyState | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], PolicyState]:
        """Continue every slot's context; see `agents.agent.Agent`."""
        count = len(observations)
        if state is None:
            state = PolicyState(self._policy.session(count), [0] * count, [0] * count)
        started = np.flatnonzero(episode_start).tolist()
        state.session.clear(started)
        for slot in started:
            state.num_actions[slot] = 0
            state.num_episodes[slot] += 1
        active = [slot for slot in range(count) if observations[slot]]
        completions = state.session.generate(
            active,
            [self._encode(observations[slot], opens=slot in started) for slot in active],
            [self._key(state, slot) for slot in active],
            self._greedy if deterministic else self._sampling,
        )
        actions = [""] * count
        state.num_tokens = [0] * count
        for slot, completion in zip(active, completions, strict=True):
            actions[slot] = completion.text
            state.num_tokens[slot] = len(completion.token_ids)
            state.num_actions[slot] += 1
        return actions, state

    def tokens_written(self, state: PolicyState) -> list[int]:
        """Return the tokens of each slot's latest action; see `agents.agent.TokenCounter`."""
        return state.num_tokens

    def _encode(self, observation: str, *, opens: bool) -> list[int]:
        if opens:
            return encode_opening(self._policy, observation)
        return self._policy.encode(observation)

    def _key(self, state: PolicyState, slot: int) -> int:
        return derive(self._seed, slot, state.num_episodes[slot], state.num_actions[slot])

"""A language model that continues text, such as one behind an API, as an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zs_env.lm.generator import SamplingParams, TextGenerator
from zs_env.random import derive
from zs_env.task.actions import STOPS, parse


@dataclass(slots=True)
class TextSlot:
    """What a `TextAgent` remembers of one slot.

    Attributes:
        transcript: All that was read and written in this episode.
        num_actions: Actions taken in this episode.
        num_episodes: Episodes begun in this slot, this one included.
    """

    transcript: str = ""
    num_actions: int = 0
    num_episodes: int = 0


class TextAgent:
    """Plays a `TextGenerator`: the whole transcript is its prompt, in one call for all slots."""

    def __init__(
        self,
        generator: TextGenerator,
        stops: Sequence[str] = STOPS,
        *,
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        seed: int = 0,
        keys: Sequence[int] | None = None,
    ) -> None:
        """Set up the agent.

        Args:
            generator: What writes the actions; its text holds the stop string that ended it.
            stops: The strings that end an action: `env.metadata["action_stops"]`.
            max_new_tokens: Tokens of an action at most.
            temperature: Of sampling, where actions are not deterministic.
            seed: Key of that sampling.
            keys: One number a slot that names the slot's episode, so that sampling depends on
                nothing else; None to name it by its slot and its place there.
        """
        self._generator, self._stops = generator, tuple(stops)
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._seed, self._keys = seed, None if keys is None else tuple(keys)

    def keyed(self, keys: Sequence[int]) -> TextAgent:
        """Return the same agent for the episodes that `keys` name, one a slot."""
        return TextAgent(
            self._generator,
            self._stops,
            max_new_tokens=self._max_new_tokens,
            temperature=self._temperature,
            seed=self._seed,
            keys=keys,
        )

    def predict(
        self,
        observations: Sequence[str],
        state: list[TextSlot] | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], list[TextSlot]]:
        """Continue every slot's transcript; see `agents.agent.Agent`."""
        slots = [TextSlot() for _ in observations] if state is None else state
        for slot in np.flatnonzero(episode_start).tolist():
            slots[slot] = TextSlot(num_episodes=slots[slot].num_episodes + 1)
        active = [slot for slot, text in enumerate(observations) if text]
        for slot in active:
            slots[slot].transcript += observations[slot]
        actions = [""] * len(observations)
        for slot, text in zip(active, self._complete(slots, active, deterministic), strict=True):
            # What follows the action is not read by the environment: it never happened.
            actions[slot] = parse(text).text
            slots[slot].transcript += actions[slot]
            slots[slot].num_actions += 1
        return actions, slots

    def _complete(
        self, slots: Sequence[TextSlot], active: Sequence[int], deterministic: bool
    ) -> list[str]:
        if not active:
            return []
        temperature = 0.0 if deterministic else self._temperature
        return self._generator.complete(
            [slots[slot].transcript for slot in active],
            [self._sampling_key(slots[slot], slot) for slot in active],
            SamplingParams(self._max_new_tokens, temperature, self._stops),
        )

    def _sampling_key(self, slot: TextSlot, index: int) -> int:
        if self._keys is None:
            return derive(self._seed, index, slot.num_episodes, slot.num_actions)
        return derive(self._seed, self._keys[index], slot.num_actions)

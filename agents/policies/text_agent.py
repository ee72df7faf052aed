"""A language model that continues text, such as one behind an API, as an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.policies.keyed import Keyed
from zs_env.lm.generator import (
    Chat,
    CountedText,
    CountingGenerator,
    SamplingParams,
    TextGenerator,
)
from zs_env.random import derive
from zs_env.task.actions import STOPS, parse


@dataclass(slots=True)
class TextSlot:
    """What a `TextAgent` remembers of one slot.

    Attributes:
        transcript: All that was read and written in this episode.
        num_actions: Actions taken in this episode.
        num_episodes: Episodes begun in this slot, this one included.
        num_tokens: Tokens of the latest action; 0 if the slot was idle, None if not known.
    """

    transcript: str = ""
    num_actions: int = 0
    num_episodes: int = 0
    num_tokens: int | None = 0


class TextAgent(Keyed):
    """Plays a `TextGenerator`: the whole transcript is its prompt, in one call for all slots."""

    def __init__(
        self,
        generator: TextGenerator,
        stops: Sequence[str] = STOPS,
        *,
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Set up the agent.

        Args:
            generator: What writes the actions; its text holds the stop string that ended it.
            stops: The strings that end an action: `env.metadata["action_stops"]`.
            max_new_tokens: Tokens of an action at most.
            temperature: Of sampling, where actions are not deterministic.
            seed: Key of that sampling.
        """
        self._generator, self._stops = generator, tuple(stops)
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._seed = seed

    def predict(
        self,
        observations: Sequence[str],
        state: list[TextSlot] | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], list[TextSlot]]:
        """Continue every slot's transcript; see `agents.agent.Agent`."""
        slots = [TextSlot() for _ in observations] if state is None else state
        for index in np.flatnonzero(episode_start).tolist():
            slots[index] = TextSlot(num_episodes=slots[index].num_episodes + 1)
        active = [index for index, text in enumerate(observations) if text]
        for index in active:
            slots[index].transcript += observations[index]
        actions = [""] * len(observations)
        for slot in slots:
            slot.num_tokens = 0
        for index, reply in zip(active, self._complete(slots, active, deterministic), strict=True):
            # What follows the action is not read by the environment: it never happened.
            actions[index] = parse(reply.text).text
            slots[index].transcript += actions[index]
            slots[index].num_actions += 1
            slots[index].num_tokens = reply.num_tokens
        return actions, slots

    def tokens_written(self, state: list[TextSlot]) -> list[int | None]:
        """Return the tokens of each slot's latest action; see `agents.agent.TokenCounter`."""
        return [slot.num_tokens for slot in state]

    def _complete(
        self, slots: Sequence[TextSlot], active: Sequence[int], deterministic: bool
    ) -> list[CountedText]:
        if not active:
            return []
        temperature = 0.0 if deterministic else self._temperature
        return complete_counted(
            self._generator,
            [slots[slot].transcript for slot in active],
            [self._sampling_key(slots[slot], slot) for slot in active],
            SamplingParams(self._max_new_tokens, temperature, self._stops),
        )

    def _sampling_key(self, slot: TextSlot, index: int) -> int:
        return derive(self._seed, *self._name(index, slot.num_episodes), slot.num_actions)


def complete_counted(
    generator: TextGenerator,
    prompts: Sequence[str | Chat],
    seeds: Sequence[int],
    params: SamplingParams,
) -> list[CountedText]:
    """Return completions with their numbers of tokens, as far as `generator` tells them.

    Args:
        generator: What continues the prompts.
        prompts: One or more texts or chats.
        seeds: Key of each one's sampling.
        params: How to sample, and until when.

    Raises:
        ValueError: If a prompt is known not to fit into the model's context.
        LanguageModelError: If the model could not answer.
    """
    if isinstance(generator, CountingGenerator):
        return generator.complete_counted(prompts, seeds, params)
    return [CountedText(text, None) for text in generator.complete(prompts, seeds, params)]

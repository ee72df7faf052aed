"""Agents that choose among the moves of the macro environment, in a text environment.

What such an agent sees, and what its choices write, is what `ZeroSearchMacro-v0` would show and
write: both come from the same `MacroView`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.baselines.documents import read_documents
from agents.baselines.rules import PlayRules
from agents.policies.keyed import Keyed
from zs_env.macro_env import MacroView


@dataclass(frozen=True, slots=True)
class MacroSlot:
    """Where a slot stands.

    Attributes:
        view: What is known.
        action: The latest macro action.
        num_episodes: Episodes begun in this slot, this one included.
    """

    view: MacroView
    action: int = 0
    num_episodes: int = 0


class Chooser(Protocol):
    """Chooses macro actions."""

    def __call__(
        self, views: Sequence[MacroView], keys: Sequence[tuple[int, ...]], deterministic: bool
    ) -> Sequence[int]:
        """Return one macro action a view.

        Args:
            views: What is known in each episode.
            keys: Numbers that name each episode, whatever else is played.
            deterministic: Whether to take the best action rather than to sample one.
        """
        ...


class MacroAgent(Keyed):
    """Plays a chooser of macro actions in a text environment."""

    def __init__(self, choose: Chooser, num_entities: int, rules: PlayRules) -> None:
        """Set up the agent.

        Args:
            choose: Chooses.
            num_entities: Entities to choose from, as of `ZeroSearchMacroEnv`.
            rules: Of the episodes.
        """
        self._choose, self._num_entities, self._rules = choose, num_entities, rules

    def predict(
        self,
        observations: Sequence[str],
        state: list[MacroSlot] | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], list[MacroSlot]]:
        """Choose in every slot, and write it; see `agents.agent.Agent`."""
        before = state or [MacroSlot(MacroView.begin("", 1)) for _ in observations]
        slots = [
            self._seen(slot, text, starts=bool(start))
            for slot, text, start in zip(before, observations, episode_start, strict=True)
        ]
        active = [index for index, text in enumerate(observations) if text]
        views = [slots[index].view for index in active]
        keys = [self._name(index, slots[index].num_episodes) for index in active]
        actions = [""] * len(observations)
        for index, chosen in zip(active, self._choose(views, keys, deterministic), strict=True):
            slot = slots[index]
            actions[index] = slot.view.write(int(chosen), self._num_entities)
            slots[index] = MacroSlot(slot.view, int(chosen), slot.num_episodes)
        return actions, slots

    def _seen(self, slot: MacroSlot, observation: str, *, starts: bool) -> MacroSlot:
        """Return where a slot stands once it has read an observation."""
        if starts:
            question = self._rules.question_in(observation)
            view = MacroView.begin(question, self._rules.max_turns)
            return MacroSlot(view, num_episodes=slot.num_episodes + 1)
        if not observation:
            return slot
        documents = read_documents(observation)
        view = slot.view.after(slot.action, self._num_entities, documents)
        return MacroSlot(view, slot.action, slot.num_episodes)

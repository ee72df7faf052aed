"""A plain Python function as an agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


class FunctionAgent:
    """Calls a function from the transcript so far to the next action, for each slot alone.

    The transcript begins with the prompt, and holds every action and what was read after it: a
    function that remembers nothing can play several turns.
    """

    def __init__(self, function: Callable[[str], str], name: str = "function") -> None:
        """Set up the agent.

        Args:
            function: From a transcript to an action.
            name: What it is called, for messages.
        """
        self._function, self._name = function, name

    def predict(
        self,
        observations: Sequence[str],
        state: list[str] | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], list[str]]:
        """Call the function in every slot that is not idle; see `agents.agent.Agent`.

        Raises:
            TypeError: If it returns no text.
        """
        before = state or [""] * len(observations)
        read = [
            text if starts else old + text
            for old, text, starts in zip(before, observations, episode_start, strict=True)
        ]
        actions = [
            self._call(story) if text else ""
            for story, text in zip(read, observations, strict=True)
        ]
        return actions, [story + action for story, action in zip(read, actions, strict=True)]

    def _call(self, story: str) -> str:
        action = self._function(story)
        if not isinstance(action, str):
            raise TypeError(f"{self._name} must return the text of an action, got {action!r}")
        return action

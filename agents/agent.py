"""The one interface of everything that plays: trained policies, baselines, scripts, people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Agent(Protocol):
    """Chooses the next action in every slot of a vector environment."""

    def predict(
        self,
        observations: Sequence[str],
        state: Any,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], Any]:
        """Return one action a slot, and the state to pass to the next call.

        Args:
            observations: The latest observation of each slot; empty where a slot is idle, and
                then its action does not matter.
            state: None at first, then what the last call returned.
            episode_start: (num_envs,) True where the observation opens an episode.
            deterministic: Whether to take the best action rather than to sample one.
        """
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """An agent that tells how much it writes."""

    def tokens_written(self, state: Any) -> Sequence[int | None]:
        """Return how many tokens the agent wrote for each slot's latest action.

        Args:
            state: What `predict` returned with these actions.

        Returns:
            One number a slot: 0 where it was idle, None where that is not known.
        """
        ...

"""Random play: any macro action that makes sense, be it a search or a name as the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from agents.baselines.macro import MacroAgent
from agents.baselines.rules import PlayRules
from zs_env.macro_env import MacroView
from zs_env.random import uniform

NUM_ENTITIES: Final = 6


class RandomAgent(MacroAgent):
    """Searches for and answers names that it has seen, each move with the same probability."""

    def __init__(self, rules: PlayRules) -> None:
        """Set up the agent for episodes of these rules."""
        super().__init__(self._draw, NUM_ENTITIES, rules)

    def _draw(
        self, views: Sequence[MacroView], keys: Sequence[tuple[int, ...]], deterministic: bool
    ) -> list[int]:
        return [
            self._draw_one(view, (*key, view.turn)) for view, key in zip(views, keys, strict=True)
        ]

    def _draw_one(self, view: MacroView, counters: tuple[int, ...]) -> int:
        choices = np.flatnonzero(view.mask(NUM_ENTITIES)).tolist()
        return int(choices[int(uniform(self._rules.seed, *counters) * len(choices))])

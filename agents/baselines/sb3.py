"""A model of Stable-Baselines3 that was trained on `ZeroSearchMacro-v0`, as an agent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.baselines.macro import MacroAgent
from agents.baselines.rules import PlayRules
from zs_env.macro_env import MacroView, ZeroSearchMacroEnv


class SB3Agent(MacroAgent):
    """Sees what the macro environment shows, and writes what it writes."""

    def __init__(self, model: Any, rules: PlayRules) -> None:
        """Set up the agent.

        Args:
            model: Has `predict(observations, deterministic=)` and the spaces that it was trained
                with.
            rules: Of the episodes.

        Raises:
            ValueError: If its spaces are not those of the macro environment.
        """
        self._model = model
        super().__init__(self._ask, _num_entities(model), rules)

    @classmethod
    def load(cls, path: str, algorithm: str, rules: PlayRules) -> SB3Agent:
        """Load what `model.save` wrote.

        Args:
            path: The file.
            algorithm: Name of its class in `stable_baselines3`: PPO, A2C, DQN.
            rules: Of the episodes.

        Raises:
            ImportError: If Stable-Baselines3 is missing.
            FileNotFoundError: If there is no such file.
            ValueError: If there is no such algorithm, or the model plays another game.
        """
        try:
            import stable_baselines3
        except ImportError as error:
            raise ImportError(
                f"{path} needs Stable-Baselines3: pip install 'zs-env[sb3]'"
            ) from error
        if not Path(path).is_file():
            raise FileNotFoundError(f"`sb3:` must name a file, got {path!r}")
        kind: Any = getattr(stable_baselines3, algorithm, None)
        if not callable(getattr(kind, "load", None)):
            raise ValueError(
                f"`algorithm` must be a class of stable_baselines3, such as PPO, got {algorithm!r}"
            )
        return cls(kind.load(path, device="cpu"), rules)

    def _ask(
        self, views: Sequence[MacroView], keys: Sequence[tuple[int, ...]], deterministic: bool
    ) -> list[int]:
        if not views:
            return []
        seen = np.stack([view.observe(self._num_entities) for view in views])
        chosen, _ = self._model.predict(seen, deterministic=deterministic)
        return [int(action) for action in chosen]


def _num_entities(model: Any) -> int:
    """Return how many entities a model chooses from.

    Raises:
        ValueError: If its spaces are not those of the macro environment.
    """
    num = max(1, (int(getattr(model.action_space, "n", 0)) - 1) // 2)
    env = ZeroSearchMacroEnv(num_entities=num)
    spaces = (model.observation_space, model.action_space)
    if spaces != (env.observation_space, env.action_space):
        raise ValueError(
            "`sb3:` must name a model that was trained on ZeroSearchMacro-v0, got one for "
            f"{model.observation_space} and {model.action_space}"
        )
    return num

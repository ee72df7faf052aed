"""What the environments with numbers instead of texts have in common: a text environment inside."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from zs_env.env import RENDER_MODES, ZeroSearchEnv
from zs_env.episode import Message, Rules
from zs_env.rendering import RenderFrame
from zs_env.settings import SettingsArguments

Numbers = NDArray[Any]
NumericStep = tuple[Numbers, float, bool, bool, dict[str, Any]]


class NumericEnv(gym.Env[Numbers, np.int64]):
    """A `ZeroSearchEnv` that a subclass shows as numbers, for algorithms that cannot take text.

    Args:
        render_mode: As for `ZeroSearchEnv`.
        settings: As for `ZeroSearchEnv`; the engine is "world" where they name none.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 1,
    }

    def __init__(self, render_mode: str | None, settings: SettingsArguments) -> None:
        """Build the text environment."""
        settings.setdefault("engine", "world")
        self.text_env = ZeroSearchEnv(render_mode=render_mode, **settings)
        self.render_mode = self.text_env.render_mode

    @property
    def rules(self) -> Rules:
        """What all episodes have in common."""
        return self.text_env.rules

    @property
    def transcript(self) -> list[Message]:
        """Who wrote what in this episode so far; empty before the first reset."""
        return self.text_env.transcript

    def render(self) -> RenderFrame | None:
        """Return the transcript as `ZeroSearchEnv` does."""
        return self.text_env.render()

    def _begin(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
        """Reset both generators and the text environment; return its info."""
        _, info = self.text_env.reset(seed=seed, options=options)
        super().reset(seed=seed)
        return info

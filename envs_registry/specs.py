"""The table of environments, and the loop that registers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import gymnasium as gym


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """One environment id.

    Attributes:
        id: The id, with its version.
        entry_point: "module:class" of the single environment.
        vector_entry_point: "module:class" of the native vector environment.
        kwargs: Constructor arguments by which it differs from the class's defaults.
    """

    id: str
    entry_point: str
    vector_entry_point: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


SPECS: Final = (
    EnvironmentSpec(
        id="ZeroSearch-v0",
        entry_point="zs_env.env:ZeroSearchEnv",
        vector_entry_point="zs_env.vector_env:ZeroSearchVectorEnv",
    ),
)


def register_all() -> None:
    """Register every environment that is not registered yet; calling it again changes nothing.

    No spec sets `max_episode_steps`: an episode limits its own turns and says so in its info,
    which Gymnasium's `TimeLimit` could not.
    """
    for spec in SPECS:
        if spec.id not in gym.registry:
            gym.register(
                id=spec.id,
                entry_point=spec.entry_point,
                vector_entry_point=spec.vector_entry_point,
                kwargs=dict(spec.kwargs),
            )

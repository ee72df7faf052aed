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
        vector_entry_point: "module:class" of the native vector environment, or None.
        kwargs: Constructor arguments by which it differs from the class's defaults.
    """

    id: str
    entry_point: str
    vector_entry_point: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def _text_spec(id: str, **kwargs: Any) -> EnvironmentSpec:
    return EnvironmentSpec(
        id, "zs_env.env:ZeroSearchEnv", "zs_env.vector_env:ZeroSearchVectorEnv", kwargs
    )


def _preset(name: str, questions: str, split: str = "train") -> EnvironmentSpec:
    """Return the spec of a public data set, with the settings of the paper.

    Its five turns are rounds of search, after which its code asks once more, for an answer.
    """
    paper = {"prompt": "zerosearch", "top_k": 5, "max_turns": 6}
    return _text_spec(f"ZeroSearch-{name}-v0", questions=questions, split=split, **paper)


SPECS: Final = (
    _text_spec("ZeroSearch-v0"),
    _preset("NQ", "nq"),
    _preset("TriviaQA", "triviaqa"),
    _preset("PopQA", "popqa", split="test"),
    _preset("HotpotQA", "hotpotqa"),
    _preset("2Wiki", "2wiki"),
    _preset("MuSiQue", "musique"),
    _preset("Bamboogle", "bamboogle", split="test"),
    EnvironmentSpec("ZeroSearchMacro-v0", "zs_env.macro_env:ZeroSearchMacroEnv"),
    EnvironmentSpec("ZeroSearchToken-v0", "zs_env.token_env:ZeroSearchTokenEnv"),
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

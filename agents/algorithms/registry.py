"""Algorithms by name: `grpo`, `ppo?gae_lambda=0.95&axis=turn`, `my_package.module:MyAlgorithm`.

An algorithm is a frozen dataclass, so that its fields are its options: whatever is written here
after `?` is read by the field's type. Only what is named is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from agents.cli.objects import load_class

if TYPE_CHECKING:
    from agents.algorithms.algorithm import Algorithm

PATHS: Final[Mapping[str, str]] = {
    "reinforce": "agents.algorithms.reinforce:REINFORCE",
    "reinforce-pp": "agents.algorithms.reinforce_pp:REINFORCEpp",
    "rloo": "agents.algorithms.rloo:RLOO",
    "grpo": "agents.algorithms.grpo:GRPO",
    "dr-grpo": "agents.algorithms.dr_grpo:DrGRPO",
    "dapo": "agents.algorithms.dapo:DAPO",
    "gspo": "agents.algorithms.gspo:GSPO",
    "ppo": "agents.algorithms.ppo:PPO",
}
"""The shipped algorithms, by the name that the command line uses."""

_KINDS: Final[Mapping[Any, str]] = {int: "an integer", float: "a number"}
_BOOLS: Final[Mapping[str, bool]] = {"true": True, "false": False}
_NO_OVERRIDES: Final[Mapping[str, Any]] = {}


def make_algorithm(spec: str, overrides: Mapping[str, Any] = _NO_OVERRIDES) -> Algorithm:
    """Return the algorithm that `spec` describes.

    Args:
        spec: A name or `module:Class`, then `?option=value&option=value` if wanted. The class is a
            dataclass whose fields are the options.
        overrides: Options that win over those in `spec`; None leaves an option as it is.

    Raises:
        ValueError: If there is no such algorithm or option, or a value is out of its range.
        TypeError: If the class is no dataclass that is an `Algorithm`.

    Example:
        >>> make_algorithm("grpo?kl_coef=0", {"clip_range": 0.1, "num_epochs": None}).clip_range
        0.1
    """
    name, mark, query = spec.partition("?")
    kind = _load(name)
    options = _read_options(name, kind, query if mark else None)
    given = {key: value for key, value in overrides.items() if value is not None}
    _check_known(name, kind, given)
    algorithm: Algorithm = kind(**options | given)
    return algorithm


def option_names(spec: str) -> frozenset[str]:
    """Return the names of an algorithm's options.

    Args:
        spec: As for `make_algorithm`.

    Raises:
        ValueError: If there is no such algorithm.
        TypeError: If the class is no dataclass that is an `Algorithm`.

    Example:
        >>> sorted(option_names("reinforce") & {"baseline", "clip_range"})
        ['baseline']
    """
    return frozenset(_options(_load(spec.partition("?")[0])))


def _load(name: str) -> type[Any]:
    if name not in PATHS and ":" not in name:
        known = ", ".join(PATHS)
        raise ValueError(f"`algorithm` must be one of {known}, or module:Class, got {name!r}")
    kind = load_class("algorithm", PATHS.get(name, name))
    # Imported here: it loads torch, which a list of names does not need.
    from agents.algorithms.algorithm import Algorithm

    if not (is_dataclass(kind) and issubclass(kind, Algorithm)):
        raise TypeError(f"`algorithm` must name a dataclass that is an Algorithm, got {kind!r}")
    return kind


def _options(kind: type[Any]) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(kind) if field.init}


def _check_known(name: str, kind: type[Any], given: Mapping[str, Any]) -> None:
    for option in given:
        if option not in _options(kind):
            known = ", ".join(_options(kind)) or "none"
            raise ValueError(f"`{option}` is no option of {name}, whose options are: {known}")


def _read_options(name: str, kind: type[Any], query: str | None) -> dict[str, Any]:
    if query is None:
        return {}
    # Unlike in a web form, a plus is a plus: 1e+2 is a number.
    parts = [part.partition("=") for part in query.split("&")]
    texts = {option: unquote(text) for option, mark, text in parts if mark}
    if len(texts) != len(parts):
        raise ValueError(
            f"`algorithm` must have options like ?option=value&option=value, got {query!r}"
        )
    _check_known(name, kind, texts)
    hints = get_type_hints(kind)
    return {option: _read(option, text, hints[option]) for option, text in texts.items()}


def _read(option: str, text: str, kind: Any) -> Any:
    """Return the value that `text` writes for a field of type `kind`."""
    if get_origin(kind) in (Union, UnionType):
        if text == "none" and NoneType in get_args(kind):
            return None
        [kind] = set(get_args(kind)) - {NoneType}
    if get_origin(kind) is Literal:
        return _choose(option, text, {str(choice): choice for choice in get_args(kind)})
    if kind is bool:
        return _choose(option, text, _BOOLS)
    try:
        return kind(text)
    except ValueError:
        wanted = _KINDS.get(kind, "something else")
        raise ValueError(f"`{option}` must be {wanted}, got {text!r}") from None


def _choose(option: str, text: str, choices: Mapping[str, Any]) -> Any:
    if text not in choices:
        raise ValueError(f"`{option}` must be one of {', '.join(choices)}, got {text!r}")
    return choices[text]

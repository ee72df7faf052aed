"""What a trainer was made of, as JSON values, and made again from them.

Only classes that this package ships are made from a file: one that names anything else has to be
accompanied by the object itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from agents.algorithms.registry import PATHS
from agents.cli.objects import load_class
from agents.trainer_config import TrainerConfig
from zs_env.search.curriculum import CURRICULA

_KIND: Final = "kind"


def describe(value: Any) -> Any:
    """Return a value as JSON values: a dataclass as its class and fields, in depth.

    What JSON cannot hold, a function say, is described by the name of its type alone.

    Example:
        >>> from zs_env.search.curriculum import LinearCurriculum
        >>> describe(LinearCurriculum(0.0, 0.25))
        {'kind': 'LinearCurriculum', 'start': 0.0, 'end': 0.25}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [describe(each) for each in value]
    described: dict[str, Any] = {_KIND: type(value).__name__}
    if is_dataclass(value):
        described |= {f.name: describe(getattr(value, f.name)) for f in fields(value) if f.init}
    return described


def rebuild(name: str, description: Any) -> Any:
    """Return the value that `describe` described.

    Args:
        name: What the caller would have to give instead, for messages.
        description: What `describe` returned, read back from JSON.

    Raises:
        ValueError: If it holds an object of a class that this package does not ship, or one that
            its class refuses.

    Example:
        >>> rebuild("curriculum", {"kind": "LinearCurriculum", "start": 0.0, "end": 0.25})
        LinearCurriculum(start=0.0, end=0.25)
    """
    if isinstance(description, list):
        return tuple(rebuild(name, each) for each in description)
    if not isinstance(description, Mapping):
        return description
    arguments = {key: rebuild(name, each) for key, each in description.items() if key != _KIND}
    kinds = {kind.__name__: kind for kind in _kinds()}
    kind = description.get(_KIND)
    if kind not in kinds:
        raise ValueError(f"`{name}` must be given, for a file cannot hold it: it is a {kind}")
    try:
        return kinds[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"`{name}` must be given, for it was saved otherwise: {error}") from error


def _kinds() -> Iterator[type]:
    """Yield every class that `rebuild` makes."""
    yield TrainerConfig
    yield from (load_class("algorithm", path) for path in PATHS.values())
    yield from map(type, CURRICULA.values())

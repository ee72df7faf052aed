"""What an engine's replies depend on beside the request: how a cache tells engines apart.

An engine, or a part of one, that knows this says it with a method `describe()`: JSON values, and
nothing secret in them. Weights and prompts are told by their digests, so that a model that moved
is the same engine, and one that was trained on is another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from zs_env.lm.generator import Chat
from zs_env.search.engine import NoiseKind, SearchEngine, SearchRequest


def describe_engine(engine: SearchEngine, name: str = "") -> dict[str, Any]:
    """Return what the replies of `engine` depend on, as JSON values.

    Args:
        engine: Any engine; one that has a method `describe` is asked.
        name: Under which name it is known; all that there is to tell of an engine without.

    Raises:
        TypeError: If it has neither, or its description is no object of JSON values.
    """
    if name and not _describes(engine):
        return {"name": name}
    return describe_part("engine", engine)


def describe_part(role: str, part: object) -> dict[str, Any]:
    """Return what `part` of an engine says of itself.

    Args:
        role: What the part is, for messages.
        part: It must have a method `describe`.

    Raises:
        TypeError: If it has none, or it returns no object of JSON values.
    """
    kind = type(part).__name__
    if not _describes(part):
        raise TypeError(
            f"`{role}` must have a method describe() that says what replies depend on, got {kind}"
        )
    found: Any = part.describe()  # type: ignore[attr-defined]  # that it is there was just checked
    try:
        found = json.loads(canonical(found))
    except (TypeError, ValueError) as error:
        raise TypeError(f"describe() of {kind} must return JSON values: {error}") from error
    if not isinstance(found, dict):
        raise TypeError(f"describe() of {kind} must return a dictionary, got {found!r}")
    return found


def _describes(thing: object) -> bool:
    return callable(getattr(thing, "describe", None))


def canonical(value: Any) -> str:
    """Return a JSON value as the one text that stands for it.

    Raises:
        TypeError: If it is none.
        ValueError: If it holds a number that JSON has not.

    Example:
        >>> canonical({"b": [1, "é"], "a": None})
        '{"a":null,"b":[1,"é"]}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal.

    Raises:
        TypeError: If it is none.
        ValueError: If it holds a number or a text that UTF-8 JSON has not.
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()


# Everything that prompts tell apart. Another text for one of them is another prompt, however the
# function is called; seeds differ, because a prompt may draw its examples.
_NOISE: Final = ((False, None), (True, None), *((True, kind) for kind in NoiseKind))
_PROBES: Final = (
    SearchRequest("?"),
    SearchRequest("long " * 1000, "long " * 1000, ("long " * 1000,)),
    *(
        SearchRequest("who founded  it", "Who\nfounded it?", ("Ada", "A. L."), noisy, seed, k, kind)
        for k in (1, 3, 10)
        for seed, (noisy, kind) in enumerate(_NOISE)
    ),
)


def prompt_digest(prompt: Callable[[SearchRequest], str | Chat]) -> str:
    """Return a digest of what `prompt` makes of all sorts of requests."""
    written = [prompt(probe) for probe in _PROBES]
    return digest([asdict(each) if isinstance(each, Chat) else each for each in written])

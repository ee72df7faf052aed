"""The options of an engine's name, read into what its class takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

OptionKinds = Mapping[str, Callable[[str], Any]]
"""From an option's name to what reads its value; raises ValueError if it cannot."""

_WANTED: Final[Mapping[Any, str]] = {int: "an integer", float: "a number"}

BM25: Final[OptionKinds] = {"k1": float, "b": float, "index": Path}
DENSE: Final[OptionKinds] = {
    "model": str,
    "query_prefix": str,
    "passage_prefix": str,
    "index_type": str,
    "num_probes": int,
    "batch_size": int,
    "device": str,
    "index": Path,
}
RETRIEVER: Final[OptionKinds] = {"contract": str, "max_batch": int}
GOOGLE: Final[OptionKinds] = {"base_url": str, "country": str, "language": str}


def read_options(options: Mapping[str, str], kinds: OptionKinds) -> dict[str, Any]:
    """Return the options that were given, as arguments.

    Raises:
        ValueError: If a value is not of its kind.

    Example:
        >>> read_options({"k1": "0.9"}, BM25)
        {'k1': 0.9}
    """
    found = {}
    for name, value in options.items():
        kind = kinds[name]
        try:
            found[name] = kind(value)
        except ValueError:
            wanted = _WANTED.get(kind, "something else")
            raise ValueError(f"`{name}` must be {wanted}, got {value!r}") from None
    return found

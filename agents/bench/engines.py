"""What kinds of search engines there are, as far as a benchmark has to tell them apart."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final

from agents.cli.options import load_engine
from zs_env.models import SIMULATORS, model_folder
from zs_env.search.engine import SearchEngine
from zs_env.search.names import read_place
from zs_env.search.registry import check_engine, makes_noise


class EngineKind(StrEnum):
    """What an engine's documents are."""

    SIMULATOR = "simulator"  # written by a language model, useful or noisy as asked for
    REAL = "real"  # found in a corpus or on the web: nobody can ask for noise
    EXACT = "exact"  # made of MiniWiki's facts, useful or noisy as asked for
    EMPTY = "empty"  # there are none
    OWN = "own"  # an object of the caller's, which may do what it likes


_KINDS: Final = {
    **dict.fromkeys((*SIMULATORS, "simulator", "vllm"), EngineKind.SIMULATOR),
    **dict.fromkeys(("bm25", "dense", "retriever", "serpapi", "serper"), EngineKind.REAL),
    "world": EngineKind.EXACT,
    "empty": EngineKind.EMPTY,
}


_MADE_OF_FILES: Final = ("simulator", "vllm", "bm25", "dense")


def engine_kind(name: str) -> EngineKind:
    """Return the kind of an engine; of recorded replies, that of the engine they are from.

    Example:
        >>> [str(engine_kind(name)) for name in ("simulator-tiny", "bm25:wiki.jsonl", "my:engine")]
        ['simulator', 'real', 'own']
    """
    scheme, _, rest = name.partition(":")
    if scheme == "cached":
        return engine_kind(read_place(rest).model or "")
    return _KINDS.get(scheme, EngineKind.OWN)


def writes_noise(name: str) -> bool:
    """Return whether an engine can be asked for noisy documents.

    Example:
        >>> writes_noise("simulator"), writes_noise("bm25")
        (True, False)
    """
    return makes_noise(name)


def check_engine_name(name: str) -> None:
    """Check that `open_engine` can know an engine of this name; a named one is not built.

    Raises:
        ValueError: If it cannot.
        TypeError: If an object of one's own is no engine.
    """
    if engine_kind(name) is EngineKind.OWN:
        open_engine(name)
    else:
        check_engine(name)


def engine_sources(name: str) -> tuple[Path, ...]:
    """Return the files and model folders here that an engine's replies depend on.

    What a server holds, or the Hugging Face hub, cannot be told from here; recordings grow, and
    hold what they were made with.

    Example:
        >>> [path.name for path in engine_sources("simulator-tiny")], engine_sources("bm25")
        (['simulator-tiny'], ())
    """
    scheme, _, rest = name.partition(":")
    if name in SIMULATORS:
        return (model_folder(name),)
    if scheme not in _MADE_OF_FILES:
        return ()
    place = read_place(rest)
    named = (place.name, place.options.get("model", ""))
    return tuple(path for path in map(Path, filter(None, named)) if path.exists())


@lru_cache(maxsize=8)
def open_engine(name: str) -> SearchEngine:
    """Return the engine of a name, built once a process; see `load_engine`."""
    return load_engine(name)

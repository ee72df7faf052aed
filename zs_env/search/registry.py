"""Search engines by name, or by scheme and place, built on first use and once a process."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from zs_env.search.engine import Document, SearchEngine, SearchEngineError, SearchRequest
from zs_env.search.names import Place, read_place


def _build_simulator() -> SearchEngine:
    from zs_env.search.simulator import load_default_simulator

    return load_default_simulator()


def _build_world() -> SearchEngine:
    from zs_env.search.world import WorldSearchEngine
    from zs_env.task.miniwiki import default_world

    return WorldSearchEngine(default_world())


def _build_bm25() -> SearchEngine:
    from zs_env.search.bm25 import BM25SearchEngine
    from zs_env.task.miniwiki import default_world

    return BM25SearchEngine(default_world().passages)


def _build_empty() -> SearchEngine:
    from zs_env.search.empty import EmptySearchEngine

    return EmptySearchEngine()


# The builders import late: naming an engine must not load torch or an index.
ENGINES: Final[dict[str, Callable[[], SearchEngine]]] = {
    "simulator": _build_simulator,
    "world": _build_world,
    "bm25": _build_bm25,
    "empty": _build_empty,
}


def _check_simulator(place: Place) -> None:
    from zs_env.search.simulator import read_options

    read_options(place.options)


def _open_simulator(place: Place) -> SearchEngine:
    from zs_env.search.simulator import SimulatedSearchEngine, read_options

    arguments = read_options(place.options)
    if place.urls:
        from zs_env.lm.openai import OpenAIGenerator

        return SimulatedSearchEngine(OpenAIGenerator(place.urls, place.model), **arguments)
    from zs_env.lm.transformers import TransformersLM

    lm = TransformersLM.from_pretrained(place.name)
    _check_chat(place, lm.has_chat_template)
    return SimulatedSearchEngine(lm, **arguments)


def _open_vllm(place: Place) -> SearchEngine:
    from zs_env.lm.vllm import VLLMGenerator
    from zs_env.search.simulator import SimulatedSearchEngine, read_options

    arguments = read_options(place.options)
    lm = VLLMGenerator.from_pretrained(place.name)
    _check_chat(place, lm.has_chat_template)
    return SimulatedSearchEngine(lm, **arguments)


def _check_chat(place: Place, has_chat_template: bool) -> None:
    if place.options.get("chat") == "true" and not has_chat_template:
        raise ValueError(f"`chat` must be false for a model without chat template: {place.name!r}")


@dataclass(frozen=True, slots=True)
class Scheme:
    """Engines written `scheme:place`, where the place says which.

    Attributes:
        open: Builds the engine.
        options: The options that it knows.
        check: Checks the options' values, without building anything; raises ValueError.
    """

    open: Callable[[Place], SearchEngine]
    options: frozenset[str] = frozenset()
    check: Callable[[Place], None] = lambda _: None


_SIMULATOR_OPTIONS: Final = frozenset({"prompt", "temperature", "chat", "tokens"})
SCHEMES: Final[dict[str, Scheme]] = {
    "simulator": Scheme(_open_simulator, _SIMULATOR_OPTIONS, _check_simulator),
    "vllm": Scheme(_open_vllm, _SIMULATOR_OPTIONS, _check_simulator),
}


def names_engine(text: str) -> bool:
    """Return whether `text` is an engine's name, or a scheme and a place.

    Raises:
        ValueError: If the place is a server whose URL cannot be one, or has an option that the
            engine does not know, or a value that the option cannot have.
    """
    if text in ENGINES:
        return True
    scheme, _, place = text.partition(":")
    if scheme not in SCHEMES or not place:
        return False
    read, known = read_place(place), SCHEMES[scheme].options
    for option in read.options:
        if option not in known:
            choice = ", ".join(sorted(known)) or "none"
            raise ValueError(f"options of `{scheme}:` are {choice}, got {option!r}")
    SCHEMES[scheme].check(read)
    return True


def check_engine(engine: str | SearchEngine) -> None:
    """Check that `make_engine` will accept `engine`, without building anything.

    Raises:
        ValueError: If it is a name that no engine has, or a URL that cannot be one.
        TypeError: If it is anything else without a `search` method, or a class.
    """
    if isinstance(engine, str):
        if names_engine(engine):
            return
    elif callable(getattr(engine, "search", None)) and not isinstance(engine, type):
        return
    known = ", ".join([*ENGINES, *(f"{scheme}:<place>" for scheme in SCHEMES)])
    error = ValueError if isinstance(engine, str) else TypeError
    raise error(f"`engine` must be {known} or an object with a search method, got {engine!r}")


def make_engine(engine: str | SearchEngine) -> SearchEngine:
    """Return the engine that `engine` names or is; a named one is shared within the process.

    Args:
        engine: "simulator" (the shipped language model), "world" (exact documents of the tiny
            world), "bm25" (an index over the tiny world's articles), "empty" (finds nothing);
            "simulator:<folder or hub id>" (another language model in this process),
            "simulator:<URL>#<model>" (one on an OpenAI-compatible server, or on several with
            commas between their URLs; the model may be left out where there is only one),
            "vllm:<folder or hub id>" (one in vLLM in this process), all three with options like
            `?prompt=prompted&temperature=0.7&chat=true&tokens=40` before the `#` (see
            docs/simulator.md); or any object with a `search` method.

    Raises:
        ValueError: If it is a name that no engine has, or a URL that cannot be one.
        TypeError: If it is anything else without a `search` method, or a class.
        ImportError: If it needs an extra that is not installed.
        OSError: If there is no model at the place.
    """
    check_engine(engine)
    return _build_once(engine) if isinstance(engine, str) else engine


@cache
def _build_once(name: str) -> SearchEngine:
    if name in ENGINES:
        return ENGINES[name]()
    scheme, _, place = name.partition(":")
    return SCHEMES[scheme].open(read_place(place))


def search_all(
    engine: SearchEngine, requests: Sequence[SearchRequest | None]
) -> Sequence[Sequence[Document]]:
    """Answer the requests among `requests` with one call of the engine, or none if there are none.

    Args:
        engine: What answers.
        requests: One entry a slot; None where the slot does not search.

    Returns:
        One sequence of documents for each entry, empty where it is None.

    Raises:
        SearchEngineError: If the engine failed, or did not return one list of documents a request.
    """
    asked = [request for request in requests if request is not None]
    if not asked:
        return [()] * len(requests)
    found: Any = engine.search(asked)
    if not isinstance(found, list | tuple) or not all(map(_is_result, found)):
        raise SearchEngineError(
            f"{type(engine).__name__} must return a list of Documents for each request, "
            f"got {reprlib.repr(found)}"
        )
    if len(found) != len(asked):
        raise SearchEngineError(
            f"{type(engine).__name__} returned {len(found)} results for {len(asked)} requests"
        )
    if len(asked) == len(requests):
        return cast(Sequence[Sequence[Document]], found)
    results = iter(found)
    return [() if request is None else next(results) for request in requests]


def _is_result(value: Any) -> bool:
    """Return whether `value` is a list of documents whose parts are texts."""
    if not isinstance(value, list | tuple):
        return False
    for each in value:
        parts: Any = each  # the fields of a dataclass may hold anything
        if not (
            isinstance(each, Document)
            and isinstance(parts.text, str)
            and isinstance(parts.title, str)
        ):
            return False
    return True

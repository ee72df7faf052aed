"""Search engines by name, or by scheme and place, built on first use and once a process."""

from __future__ import annotations

import reprlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, cast

from zs_env.models import SIMULATORS
from zs_env.search.engine import Document, SearchEngine, SearchEngineError, SearchRequest
from zs_env.search.names import Place, read_place, without_userinfo
from zs_env.search.options import (
    BM25,
    DENSE,
    GOOGLE,
    RETRIEVER,
    OptionKinds,
    read_options,
)


def _build_simulator(name: str) -> SearchEngine:
    from zs_env.search.simulator import load_shipped_simulator

    return load_shipped_simulator(name)


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
    **{name: partial(_build_simulator, name) for name in SIMULATORS},
    "world": _build_world,
    "bm25": _build_bm25,
    "empty": _build_empty,
}


def _check_simulator(place: Place) -> None:
    from zs_env.search.simulator import read_simulator_options

    read_simulator_options(place.options)


def _open_simulator(place: Place) -> SearchEngine:
    if not place.urls:
        from zs_env.lm.transformers import TransformersLM

        return simulate("simulator", TransformersLM.from_pretrained, place)
    from zs_env.lm.openai import OpenAIGenerator
    from zs_env.search.simulator import SimulatedSearchEngine, read_simulator_options

    generator = OpenAIGenerator(place.urls, place.model)
    return SimulatedSearchEngine(generator, **read_simulator_options(place.options))


def _open_vllm(place: Place) -> SearchEngine:
    from zs_env.lm.vllm import VLLMGenerator

    return simulate("vllm", VLLMGenerator.from_pretrained, place)


def simulate(scheme: str, load: Callable[[str], Any], place: Place) -> SearchEngine:
    """Return a simulator in this process, whose options are read before its model is loaded.

    Args:
        scheme: Of its name, for messages.
        load: From a folder or hub id to a language model that also tells `has_chat_template`.
        place: What follows the scheme.

    Raises:
        ValueError: If an option is not what it should be, or does not suit the model.
    """
    from zs_env.search.simulator import SimulatedSearchEngine, read_simulator_options

    model = _only_name(scheme, "a folder or hub id", place)
    arguments = read_simulator_options(place.options)
    lm = load(model)
    if arguments.get("chat") and not lm.has_chat_template:
        raise ValueError(f"`chat` must be false for a model without chat template: {model!r}")
    return SimulatedSearchEngine(lm, **arguments)


def _open_bm25(place: Place) -> SearchEngine:
    from zs_env.search.bm25 import BM25SearchEngine

    corpus = _only_name("bm25", "a corpus file", place)
    return BM25SearchEngine.from_file(corpus, **read_options(place.options, BM25))


def _open_dense(place: Place) -> SearchEngine:
    from zs_env.search.dense import DenseSearchEngine

    corpus = _only_name("dense", "a corpus file", place)
    _check_dense(place)
    return DenseSearchEngine(corpus, **read_options(place.options, DENSE))


def _check_dense(place: Place) -> None:
    read_options(place.options, DENSE)
    if "model" not in place.options:
        raise ValueError("`dense:` must name its model, like dense:<corpus>?model=<folder or id>")


def _open_retriever(place: Place) -> SearchEngine:
    from zs_env.search.retriever import RetrieverSearchEngine

    if not place.urls or place.model:
        raise ValueError("`retriever:` must be followed by URLs, and no #model")
    return RetrieverSearchEngine(place.urls, **read_options(place.options, RETRIEVER))


def _open_google(service: str, place: Place) -> SearchEngine:
    from zs_env.search.google import GoogleSearchEngine

    if _only_name(service, "google", place) != "google":
        raise ValueError(f"`{service}:` must be followed by google, got {place.name!r}")
    return GoogleSearchEngine(service, **read_options(place.options, GOOGLE))


def _only_name(scheme: str, wanted: str, place: Place) -> str:
    """Return the name in a place that has no URL and no model.

    Raises:
        ValueError: If it has.
    """
    if place.urls or place.model:
        raise ValueError(f"`{scheme}:` must be followed by {wanted}, with no URL and no #model")
    return place.name


def _find_corpus(scheme: str, place: Place) -> None:
    corpus = _only_name(scheme, "a corpus file", place)
    if not Path(corpus).expanduser().is_file():
        shown = f"{scheme}:{corpus}"
        raise FileNotFoundError(f"`engine` must name an existing file, got {shown!r}")


def _find_model(scheme: str, place: Place) -> None:
    # Anything else may be the id of a model on the hub, which only a download can tell.
    if place.name.startswith((".", "/", "~")) and not Path(place.name).is_dir():
        shown = f"{scheme}:{place.name}"
        raise FileNotFoundError(f"`engine` must name an existing folder, got {shown!r}")


def _open_cached(place: Place) -> SearchEngine:
    from zs_env.search.cached import open_cached

    return open_cached(place)


def _check_cached(place: Place) -> None:
    from zs_env.search.cached import check_place

    check_place(place)


@dataclass(frozen=True, slots=True)
class Scheme:
    """Engines written `scheme:place`, where the place says which.

    Attributes:
        open: Builds the engine.
        options: The options that it knows.
        check: Raises ValueError at a place that `open` would not take; builds nothing.
        find: Raises FileNotFoundError if a file or folder that the place names is not there.
    """

    open: Callable[[Place], SearchEngine]
    options: frozenset[str] = frozenset()
    check: Callable[[Place], None] = lambda _: None
    find: Callable[[Place], None] = lambda _: None


def _scheme(
    open: Callable[[Place], SearchEngine],
    kinds: OptionKinds,
    find: Callable[[Place], None] = lambda _: None,
) -> Scheme:
    def check(place: Place) -> None:
        read_options(place.options, kinds)

    return Scheme(open, frozenset(kinds), check, find)


def _simulator_scheme(name: str, open: Callable[[Place], SearchEngine]) -> Scheme:
    return Scheme(open, _SIMULATOR_OPTIONS, _check_simulator, partial(_find_model, name))


_SIMULATOR_OPTIONS: Final = frozenset({"prompt", "temperature", "chat", "tokens"})
SCHEMES: Final[dict[str, Scheme]] = {
    "simulator": _simulator_scheme("simulator", _open_simulator),
    "vllm": _simulator_scheme("vllm", _open_vllm),
    "bm25": _scheme(_open_bm25, BM25, partial(_find_corpus, "bm25")),
    "dense": Scheme(_open_dense, frozenset(DENSE), _check_dense, partial(_find_corpus, "dense")),
    "retriever": _scheme(_open_retriever, RETRIEVER),
    "serpapi": _scheme(partial(_open_google, "serpapi"), GOOGLE),
    "serper": _scheme(partial(_open_google, "serper"), GOOGLE),
    "cached": Scheme(_open_cached, frozenset({"mode", "digest"}), _check_cached),
}


# They find what is there, and are never told what the environment wants.
_NOISELESS: Final = frozenset({"bm25", "dense", "retriever", "serpapi", "serper", "empty"})


def names_engine(text: str) -> bool:
    """Return whether `text` is an engine's name, or a scheme and a place; no file is looked for.

    Raises:
        ValueError: If the place is a server whose URL cannot be one, or has an option that the
            engine does not know, or a value that the option cannot have.
    """
    if text in ENGINES:
        return True
    scheme, _, rest = text.partition(":")
    if scheme not in SCHEMES or not rest:
        return False
    place, known = read_place(rest), SCHEMES[scheme].options
    for option in place.options:
        if option not in known:
            choice = ", ".join(sorted(known)) or "none"
            raise ValueError(f"options of `{scheme}:` are {choice}, got {option!r}")
    SCHEMES[scheme].check(place)
    return True


def check_engine(engine: str | SearchEngine) -> None:
    """Check that `make_engine` will accept `engine`, without building anything.

    Raises:
        ValueError: If it is a name that no engine has, or a URL that cannot be one.
        TypeError: If it is anything else without a `search` method, or a class.
        FileNotFoundError: If it names a file or folder that is not there.
    """
    if isinstance(engine, str):
        if names_engine(engine):
            scheme, _, rest = engine.partition(":")
            if rest:
                SCHEMES[scheme].find(read_place(rest))
            return
    elif callable(getattr(engine, "search", None)) and not isinstance(engine, type):
        return
    known = ", ".join([*ENGINES, *(f"{scheme}:<place>" for scheme in SCHEMES)])
    error = ValueError if isinstance(engine, str) else TypeError
    shown = without_userinfo(repr(engine))  # where the scheme is misspelt, nobody looked at the URL
    raise error(f"`engine` must be {known} or an object with a search method, got {shown}")


def makes_noise(engine: str | SearchEngine) -> bool:
    """Return whether an engine can be asked for noisy documents; nothing is built.

    An object says so with an attribute `makes_noise`; one without it counts as able, and so does
    a name that tells nothing, such as that of recordings which are known by their digest alone.

    Example:
        >>> makes_noise("simulator"), makes_noise("bm25:wiki.jsonl"), makes_noise("cached:f#bm25")
        (True, False, False)
    """
    if not isinstance(engine, str):
        return bool(getattr(engine, "makes_noise", True))
    scheme, _, rest = engine.partition(":")
    if scheme == "cached":
        return makes_noise(read_place(rest).model or "")
    return scheme not in _NOISELESS


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
            docs/simulator.md); "bm25:<corpus file>", "dense:<corpus file>?model=<folder or hub
            id>", "retriever:<URL>", "serpapi:google", "serper:google" (real engines, see
            docs/engines.md); "cached:<file>?mode=<mode>#<engine>" (what was recorded of another
            engine by name, see `zs_env.search.cached`); or any object with a `search` method.

    Raises:
        ValueError: If it is a name that no engine has, or a URL that cannot be one.
        TypeError: If it is anything else without a `search` method, or a class.
        ImportError: If it needs an extra that is not installed.
        OSError: If there is no model at the place.
    """
    check_engine(engine)
    return _build_once(engine) if isinstance(engine, str) else engine


_building: Final = threading.RLock()  # an engine may be made of another


def _build_once(name: str) -> SearchEngine:
    with _building:  # or threads that ask at the same time would get an engine each
        return _built(name)


@cache
def _built(name: str) -> SearchEngine:
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

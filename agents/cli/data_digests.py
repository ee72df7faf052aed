"""Which files a number came from: digests of the questions, and of what a search engine is made of.

What a server holds cannot be told from here, nor what a class of one's own is made of; MiniWiki is
told by `provenance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from zs_env.models import SIMULATORS, model_folder
from zs_env.search.names import Place, read_place
from zs_env.task.question_sets import NAMES

Digests = dict[str, str]
"""From a file or model, as its name was written, to its SHA-256, or a commit of the hub."""

_CORPORA: Final = ("bm25", "dense")
_MODELS: Final = ("simulator", "vllm")
_SHIPPED_PROMPTS: Final = ("tuned", "prompted")
_DIGITS: Final = 12  # enough to tell files apart


def data_digests(questions: str, engine: str) -> dict[str, Digests]:
    """Return digests of all files that questions and engine come from, by the option's name.

    Args:
        questions: As `--questions` names them.
        engine: As `--engine` names it; empty if no engine is asked.

    Returns:
        `questions_sha256` and `engine_sha256`; files that are not there are left out.

    Raises:
        OSError: If one cannot be read.
    """
    return {
        "questions_sha256": question_digests(questions),
        "engine_sha256": engine_digests(engine),
    }


def question_digests(questions: str) -> Digests:
    """Return a digest of each file among sets of questions.

    Raises:
        OSError: If one cannot be read.
    """
    is_one = Path(questions).is_file()
    names = [questions] if is_one else [name.strip() for name in questions.split(",")]
    return {name: _file(Path(name)) for name in names if name not in NAMES and _is_file(name)}


def engine_digests(engine: str) -> Digests:
    """Return a digest of each file and model that an engine is made of.

    Raises:
        OSError: If one cannot be read.

    Example:
        >>> list(engine_digests("simulator-tiny")), engine_digests("world")
        (['simulator-tiny'], {})
    """
    if engine in SIMULATORS:
        return _known({engine: _model(str(model_folder(engine)))})
    scheme, _, rest = engine.partition(":")
    if scheme == "cached":
        place = read_place(rest)
        is_asked = place.options.get("mode") != "replay-strict"
        return engine_digests(place.model or "") if is_asked else {}
    if scheme not in (*_CORPORA, *_MODELS):
        return {}
    return _known(dict(_parts(scheme, read_place(rest))))


def _parts(scheme: str, place: Place) -> Iterator[tuple[str, str]]:
    """Yield what an engine is made of, with digests, which are empty where nothing can be told."""
    if scheme in _MODELS:
        if place.name:
            yield place.name, _model(place.name)
        prompt = place.options.get("prompt", "")
        if prompt not in _SHIPPED_PROMPTS and _is_file(prompt):
            yield prompt, _file(Path(prompt))
        return
    root = _root(place)
    if _is_file(place.name):
        yield place.name, _file(Path(place.name), root)
    if model := place.options.get("model", ""):
        yield model, _folder(model, root)


def check_same_data(old: Mapping[str, Any], new: Mapping[str, Digests]) -> None:
    """Check that files are those that a run was started with, as far as both are known.

    Args:
        old: A description of the run, with what `data_digests` returned then, if it has that.
        new: What it returns now.

    Raises:
        ValueError: If one has changed; the message names it and both digests.

    Example:
        >>> check_same_data({}, {"questions_sha256": {"q.jsonl": "ab" * 32}})
    """
    for key, digests in new.items():
        before = old.get(key, {})
        for name, digest in digests.items():
            if before.get(name, digest) != digest:
                raise ValueError(
                    f"`{key.removesuffix('_sha256')}` must be those that the run started with, "
                    f"but {name} has changed: its SHA-256 was {before[name][:_DIGITS]}… and is "
                    f"{digest[:_DIGITS]}…"
                )


def joined(old: Mapping[str, Any], new: Mapping[str, Digests]) -> dict[str, Digests]:
    """Return `new` with what only the older description knows.

    An engine that is not asked for once, because its replies were recorded, stays known so.
    """
    return {key: old.get(key, {}) | digests for key, digests in new.items()}


def _known(digests: Digests) -> Digests:
    return {name: digest for name, digest in digests.items() if digest}


def _is_file(name: str) -> bool:
    return Path(name).expanduser().is_file()


def _root(place: Place) -> Path | None:
    index = place.options.get("index")
    return Path(index).expanduser() if index else None


def _file(file: Path, root: Path | None = None) -> str:
    """Return the SHA-256 of a file; one that did not change is read once, as engines do it."""
    from zs_env.search.build_once import default_folder, file_digest

    return file_digest(file.expanduser(), root or default_folder())


def _folder(name: str, root: Path | None) -> str:
    """Return the digest of a folder as dense retrieval takes it, or the commit of a hub's model."""
    from zs_env.search.build_once import default_folder, folder_digest

    folder = Path(name).expanduser()
    return folder_digest(folder, root or default_folder()) if folder.is_dir() else _commit(name)


def _model(name: str) -> str:
    """Return the digest of a model's folder, or the commit of one of the hub; empty if unknown."""
    from zs_env.lm.identity import model_digest

    if not Path(name).is_dir():
        return _commit(name)
    try:
        return model_digest(name)
    except FileNotFoundError:
        return ""  # the model below an adapter is not there yet


def _commit(name: str) -> str:
    """Return the commit of a hub's model that is in the cache; empty if none is.

    Its many gigabytes need not be read: the folder is named after the commit.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return ""  # it cannot be a hub id
    return Path(found).parent.name if isinstance(found, str) else ""

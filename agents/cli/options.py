"""What several commands share: the options that mean the same everywhere, and how they are read.

Nothing here loads torch before a command runs, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from tyro.conf import arg

from agents.cli.checks import check_at_least, check_file
from agents.cli.objects import load_object
from agents.cli.servers import check_servers
from zs_env.models import SIMULATORS
from zs_env.random import derive
from zs_env.search.engine import SearchEngine
from zs_env.search.names import without_userinfo
from zs_env.search.registry import ENGINES, make_engine, makes_noise, names_engine
from zs_env.settings import Settings
from zs_env.task.question_sets import NAMES, QuestionSet
from zs_env.task.questions import Question

if TYPE_CHECKING:
    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.lora import LoraPolicy

T = TypeVar("T")

DEFAULT_ENGINE: Final = "simulator"

EngineName = Annotated[
    str,
    arg(
        metavar="ENGINE",
        help="What answers queries: simulator (a language model), world (exact facts), bm25 (an "
        "index over its sentences), empty (finds nothing), simulator:FOLDER or simulator:HUB_ID "
        "(another model), simulator:http://HOST:PORT/v1#MODEL (one on an OpenAI-compatible "
        "server; its key in ZS_API_KEY), vllm:FOLDER (one in vLLM), bm25:FILE, "
        "dense:FILE?model=FOLDER, retriever:URL, serpapi:google or serper:google (real ones), "
        "cached:FILE#ENGINE (another one's replies, recorded in a file), or an import path "
        "module:attribute. docs/engines.md tells of all and their options.",
    ),
]
SimulatorModelName = Annotated[
    str,
    arg(
        metavar="MODEL",
        help="Of the engine simulator: the language model that writes documents, a shipped one, a "
        "folder, a hub id, or the URL of a server (http://HOST:PORT/v1#MODEL). Options of "
        "`simulator:` may follow, such as ?prompt=prompted for a model that was not tuned.",
    ),
]
CacheFile = Annotated[
    str,
    arg(
        metavar="FILE",
        help="Answer queries from this file wherever it holds the reply (see `zerosearch cache`); "
        "it is made if need be.",
    ),
]
CacheModeName = Annotated[
    str,
    arg(
        metavar="MODE",
        help="What happens to a query that `--cache` does not hold: record (the engine is asked, "
        "and its reply written), replay (asked, not written) or replay-strict (an error; the "
        "engine is not loaded, and its model need not exist).",
    ),
]
PolicyName = Annotated[
    str,
    arg(
        metavar="POLICY",
        help="A shipped policy (base, or skill, which is base before its weakness was planted), "
        "a run folder, a model folder (also one with a LoRA adapter), or the id of any causal "
        "language model on the Hugging Face hub.",
    ),
]
PolicyEngineName = Annotated[
    str,
    arg(
        metavar="ENGINE",
        help="What plays the policy's episodes, with its weights of that moment: transformers "
        "(its own model), vllm (in this process) or vllm-server (at --policy-url). Options may "
        "follow, such as vllm?gpu_memory_utilization=0.4; docs/scale.md tells of them.",
    ),
]
PolicyURL = Annotated[
    str,
    arg(
        metavar="URL",
        help="Of vllm-server: the base URL of a vLLM server with the policy's model, such as "
        "http://HOST:PORT/v1, or several with commas between; its key in ZS_POLICY_API_KEY.",
    ),
]
Split = Annotated[
    str, arg(metavar="SPLIT", help="Where questions come from: train, validation or test.")
]
Questions = Annotated[
    str,
    arg(
        metavar="SET",
        help=f"What is asked: {', '.join(NAMES)}, or a JSONL or parquet file; several with commas "
        "between.",
    ),
]
Noise = Annotated[
    float, arg(metavar="P", help="Probability in [0, 1] that a search brings noisy documents.")
]
ResultsFile = Annotated[
    Path | None, arg(metavar="FILE", help="Where the results go, as one JSON object.")
]
Threads = Annotated[
    int,
    arg(
        metavar="N",
        help="Threads of torch; 0 means OMP_NUM_THREADS, or else all physical cores there are.",
    ),
]


def load_cached_engine(
    name: str, cache: str, mode: str, policy: LoraPolicy | None = None
) -> SearchEngine:
    """Return the engine that `--engine` names, behind the file that `--cache` names, if any.

    Args:
        name: As `load_engine`; in replay-strict, what the engine was called when it was recorded.
        cache: The file; empty means none.
        mode: A `CacheMode`.
        policy: As `load_engine`.

    Raises:
        ValueError: If one is unknown, the file cannot be written, or no server of the engine is
            there; one behind a file need not be.
        TypeError: If the engine cannot be one, or cannot be told from others.
        CacheError: If the file holds no cache, or replay-strict finds no such engine in it.
        FileNotFoundError: If the engine's model, or a file to replay, is missing.
    """
    from zs_env.search.cached import CachedSearchEngine, CacheMode, read_mode

    kind = read_mode(mode, "cache_mode")
    if not cache:
        if kind is not CacheMode.RECORD:
            raise ValueError(f"`cache` must name a file for cache_mode={mode!r}, got ''")
        engine = load_engine(name, policy)
        check_servers(name)
        return engine
    if kind is CacheMode.RECORD:
        check_file(Path(cache), "cache")
    asked = None if kind is CacheMode.REPLAY_STRICT else load_engine(name, policy)
    return CachedSearchEngine(asked, cache, mode=mode, name=name)


def load_engine(name: str, policy: LoraPolicy | None = None) -> SearchEngine:
    """Return the engine that `--engine` names, built.

    Args:
        name: What `make_engine` knows by name, or `module:attribute`: an engine, or a class or
            function that returns one without arguments. The current folder can be imported from.
        policy: Whose model the engine, which must have an adapter for it, is to share; None
            loads every model apart.

    Raises:
        ValueError: If it is neither.
        TypeError: If the attribute is no engine.
        FileNotFoundError: If the engine's model is missing.
    """
    if names_engine(name):
        if policy is None:
            return make_engine(name)
        from agents.policies.sharing import shared_simulator

        return shared_simulator(name, policy)
    if ":" not in name or "//" in name:
        known = ", ".join(ENGINES)
        shown = without_userinfo(repr(name))
        raise ValueError(f"`engine` must be {known} or module:attribute, got {shown}")
    return make_engine(load_object("engine", name, ("search",)))


def noise_made(engine: SearchEngine, noise: float) -> float:
    """Return the probability of noisy documents that comes of asking an engine for `noise`."""
    return noise if makes_noise(engine) else 0.0


def noise_warnings(name: str, engine: SearchEngine, noise: float) -> list[str]:
    """Return the line that says that an engine makes none of the noise it is asked for, if so.

    Args:
        name: What `--engine` calls it.
        engine: The engine.
        noise: The highest probability of noisy documents.
    """
    if noise == noise_made(engine, noise):
        return []
    return [f"warning: {name} makes no noise: no search brings noisy documents, at any noise"]


def load_policy(name: str, device: str = "cpu") -> CausalLMPolicy:
    """Return the policy that `--policy` names, on a device.

    Raises:
        FileNotFoundError: If there is no model of that name, or no folder with one.
        ValueError: If there is no such device.
    """
    from agents.policies.causal_lm import CausalLMPolicy

    check_device(device)
    return CausalLMPolicy.load(name, device)


def check_device(device: str) -> None:
    """Check that torch knows a device, and that it is there.

    Raises:
        ValueError: If not.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`device` must be one that is there, got {device!r}: {reason}") from error


def load_questions(questions: str, split: str, num: int, seed: int) -> tuple[Question, ...]:
    """Return the questions that `--questions`, `--split` and `--num-questions` ask for.

    Args:
        questions: A set by name, or the path of a JSONL or parquet file.
        split: Which part of a named set.
        num: Size of the sample; 0 means all, and so does more than there are.
        seed: Key of the sample.

    Raises:
        ValueError: If one is unknown or out of range.
    """
    check_at_least(0, num_questions=num)
    Settings(split=split)
    return sample(QuestionSet(question_source(questions, split)).split(split), num, seed)


def question_source(questions: str, split: str) -> str | tuple[Question, ...]:
    """Return what environments take for `--questions`: its name, or the questions of several sets.

    Raises:
        ValueError: If one is unknown, or has no such split.
    """
    names = [name.strip() for name in questions.split(",")]
    if len(names) == 1 or Path(questions).is_file():
        return questions
    return tuple(question for name in names for question in QuestionSet(name).split(split))


def simulator_engine(model: str) -> str:
    """Return the name of the engine that `--simulator-model` stands for.

    Example:
        >>> simulator_engine("simulator-tiny"), simulator_engine("runs/sim?temperature=0.5")
        ('simulator-tiny', 'simulator:runs/sim?temperature=0.5')
    """
    return model if model in SIMULATORS else f"simulator:{model}"


def sample(items: Sequence[T], num: int, seed: int) -> tuple[T, ...]:
    """Return `num` of `items` in their order, chosen by `seed`; all of them if `num` is 0.

    Example:
        >>> sample("abcdefgh", 3, seed=0)
        ('c', 'f', 'h')
    """
    if num == 0:
        return tuple(items)
    chosen = sorted(range(len(items)), key=lambda index: derive(seed, index))[:num]
    return tuple(items[index] for index in sorted(chosen))

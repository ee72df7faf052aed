"""`zerosearch evaluate`: how well a policy answers held-out questions."""

from __future__ import annotations

import reprlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import check_at_least, check_file, usage_errors
from agents.cli.data_digests import data_digests
from agents.cli.files import write_json, write_json_lines
from agents.cli.options import (
    CacheFile,
    CacheModeName,
    EngineName,
    Noise,
    PolicyName,
    Questions,
    ResultsFile,
    Split,
    Threads,
    load_cached_engine,
    load_policy,
    load_questions,
    noise_made,
    noise_warnings,
)
from agents.cli.provenance import provenance, weights_checksum
from agents.cli.threads import use_threads
from agents.cli.trained import trained_options
from zs_env.settings import Settings
from zs_env.task.prompts import make_prompt

if TYPE_CHECKING:
    from agents.evaluate import Evaluation
    from agents.policies.causal_lm import CausalLMPolicy
    from zs_env.search.engine import SearchEngine
    from zs_env.task.questions import Question


@dataclass(frozen=True)
class Evaluate:
    """Let a policy answer each question once, greedily, and say how well that went.

    Of a run's policy, prompt, turns, documents and tokens are those of its training unless given.

    Attributes:
        num_questions: Size of a random sample of the questions; 0 means all of them.
        seed: Key of the sample and of the noise.
        max_turns: Actions an episode lasts at most.
        top_k: Documents a search brings.
        prompt: What an episode opens with: miniwiki, zerosearch, or a template holding {question}.
        max_new_tokens: Tokens of an action at most.
    """

    policy: PolicyName = "base"
    engine: EngineName = "simulator"
    noise: Noise = 0.0
    split: Split = "test"
    questions: Questions = "miniwiki"
    num_questions: int = 0
    seed: int = 0
    max_turns: int = 6
    top_k: int = 3
    prompt: str = "miniwiki"
    max_new_tokens: int = 48
    json: ResultsFile = None
    episodes: Annotated[
        Path | None, arg(metavar="FILE", help="Where every episode goes, a JSON object a line.")
    ] = None
    device: Annotated[
        str, arg(metavar="DEVICE", help="Where the policy plays: cpu, cuda, cuda:1, …")
    ] = "cpu"
    cache: CacheFile = ""
    cache_mode: CacheModeName = "record"
    threads: Threads = 0

    def as_trained(self) -> Evaluate:
        """Return the defaults for its policy: of a run's, how the run played.

        Raises:
            ValueError: If the run's options are damaged.
        """
        return Evaluate(**trained_options(self.policy))

    def run(self) -> None:
        """Evaluate, print a table, and write what was asked for."""
        from agents.cli.display import evaluation_table, say

        console = Console()
        with usage_errors():
            threads = use_threads(self.threads)
            setup = prepare(self)
        for warning in noise_warnings(self.engine, setup.engine, self.noise):
            say(console, warning)
        evaluation = measure(
            setup.policy,
            setup.engine,
            setup.questions,
            Conditions(
                self.noise,
                self.seed,
                self.max_turns,
                self.max_new_tokens,
                self.top_k,
                self.prompt,
            ),
            console,
        )
        noise = noise_made(setup.engine, self.noise)
        title = f"{self.policy} · {self.engine} · noise {noise:g} · {self.questions}"
        told = [f"{title} · {self.split} split", *taken_from_run(self)]
        console.print(evaluation_table(evaluation, " · ".join(told)))
        if (again := evaluation.searched_again_share) is not None:
            say(console, f"searched again after noisy documents: {again:.1%}")
        if self.json:
            write_json(self.json, describe(self, evaluation, setup, threads))
            say(console, f"results: {self.json}")
        if self.episodes:
            write_json_lines(self.episodes, evaluation.rows())
            say(console, f"episodes: {self.episodes}")


def taken_from_run(config: Evaluate) -> list[str]:
    """Return in a line which options are not the usual ones but those of the policy's run, if any.

    Raises:
        ValueError: If the run's options are damaged.
    """
    trained, usual = trained_options(config.policy), Evaluate()
    same = [name for name in trained if trained[name] == getattr(config, name)]
    taken = [
        f"{name} {reprlib.repr(trained[name])}"
        for name in same
        if trained[name] != getattr(usual, name)
    ]
    return [f"as trained: {', '.join(taken)}"] if taken else []


@dataclass(frozen=True)
class Setup:
    """What a checked configuration stands for, loaded."""

    policy: CausalLMPolicy
    engine: SearchEngine
    questions: tuple[Question, ...]
    weights_checksum: str


def prepare(config: Evaluate) -> Setup:
    """Check every option and load what they name.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        FileNotFoundError: If there is no model where one should be.
    """
    from agents.policies.causal_lm import find_policy
    from agents.policies.sharing import who_shares

    Settings(noise=config.noise, split=config.split, max_turns=config.max_turns, top_k=config.top_k)
    make_prompt(config.prompt)
    check_at_least(1, max_new_tokens=config.max_new_tokens)
    check_at_least(0, num_questions=config.num_questions, seed=config.seed)
    check_file(config.json, "json")
    check_file(config.episodes, "episodes")
    questions = load_questions(config.questions, config.split, config.num_questions, config.seed)
    policy = _load_policy(config)
    sharing = who_shares(config.engine, config.policy, policy)
    return Setup(
        questions=questions,
        engine=load_cached_engine(config.engine, config.cache, config.cache_mode, sharing),
        policy=policy,
        weights_checksum=weights_checksum(find_policy(config.policy)),
    )


def _load_policy(config: Evaluate) -> CausalLMPolicy:
    from agents.baselines.registry import is_import_path

    try:
        return load_policy(config.policy, config.device)
    except FileNotFoundError as error:
        if not is_import_path(config.policy):
            raise
        raise FileNotFoundError(f"{error}; `zerosearch bench` plays agents of your own") from error


@dataclass(frozen=True)
class Conditions:
    """Under which conditions questions are answered; see `Evaluate`."""

    noise: float = 0.0
    seed: int = 0
    max_turns: int = 6
    max_new_tokens: int = 48
    top_k: int = 3
    prompt: str = "miniwiki"


def measure(
    policy: CausalLMPolicy,
    engine: SearchEngine,
    questions: tuple[Question, ...],
    conditions: Conditions,
    console: Console,
    label: str = "episodes",
) -> Evaluation:
    """Play every question once, greedily, under a progress bar."""
    from agents.cli.display import progress_bar
    from agents.evaluate import evaluate
    from agents.policies.agent import PolicyAgent
    from zs_env.task.actions import STOPS

    with progress_bar(console, label, len(questions)) as advance:
        return evaluate(
            PolicyAgent(policy, STOPS, max_new_tokens=conditions.max_new_tokens),
            questions,
            env_kwargs={
                "engine": engine,
                "max_turns": conditions.max_turns,
                "top_k": conditions.top_k,
                "prompt": conditions.prompt,
            },
            noise=conditions.noise,
            seed=conditions.seed,
            on_progress=advance,
        )


def describe(
    config: Evaluate, evaluation: Evaluation, setup: Setup, threads: int
) -> dict[str, Any]:
    """Return the results, and all that decides them, as JSON values."""
    options = asdict(config) | {"threads": threads}
    is_asked = not config.cache or config.cache_mode != "replay-strict"
    return {
        **evaluation.summary(),
        "config": {k: v for k, v in options.items() if k not in ("json", "episodes")},
        "weights_sha256": setup.weights_checksum,
        **data_digests(config.questions, config.engine if is_asked else ""),
        **provenance(),
    }

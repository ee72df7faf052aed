"""`zerosearch tune collect`: let an agent search with a real engine, and keep what happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import check_at_least, check_file, usage_errors
from agents.cli.objects import load_object
from agents.cli.options import (
    EngineName,
    Noise,
    PolicyName,
    Questions,
    Split,
    Threads,
    load_engine,
    load_policy,
    load_questions,
    noise_warnings,
)
from agents.cli.provenance import weights_checksum
from agents.cli.threads import use_threads
from zs_env.settings import Settings

if TYPE_CHECKING:
    from agents.agent import Agent
    from agents.tuning.collect import CollectReport
    from zs_env.search.engine import SearchEngine
    from zs_env.task.questions import Question


@dataclass(frozen=True)
class Collect:
    """Let an agent answer questions with a search engine; whole trajectories go to a file.

    A run that was stopped goes on where it was when the same command is given again.

    Attributes:
        num_questions: Size of a random sample of the questions; 0 means all of them.
        num_samples: Episodes of each question; more than one need a temperature or noise.
        temperature: Of sampling; 0 takes the best action.
        max_turns: Actions an episode lasts at most.
        max_new_tokens: Tokens of an action at most.
        top_k: Documents that a search brings.
        seed: Key of the sample of questions, of noise and of sampling.
        num_envs: Episodes played side by side; a kill loses so many at most.
    """

    out: Annotated[
        Path, arg(metavar="FILE", help="Gets an episode a line; what it holds is not played again.")
    ]
    policy: PolicyName = "base"
    agent: Annotated[
        str,
        arg(
            metavar="MODULE:ATTRIBUTE",
            help="Plays in the policy's place: an agent, a language model with a method "
            "`complete`, or a class or function that returns one without arguments.",
        ),
    ] = ""
    engine: EngineName = "bm25"
    questions: Questions = "miniwiki"
    split: Split = "train"
    num_questions: int = 0
    num_samples: int = 1
    noise: Noise = 0.0
    temperature: float = 0.0
    max_turns: int = 6
    max_new_tokens: int = 48
    top_k: int = 3
    prompt: Annotated[
        str,
        arg(metavar="PROMPT", help="miniwiki, zerosearch, or a template that holds {question}."),
    ] = "miniwiki"
    seed: int = 0
    num_envs: int = 32
    threads: Threads = 0

    def run(self) -> None:
        """Play what is missing, and say what is there now."""
        from agents.cli.display import progress_bar, say
        from agents.tuning.collect import collect
        from agents.tuning.records import DataError

        console = Console()
        with usage_errors():
            use_threads(self.threads)
            setup = prepare(self)
        for warning in noise_warnings(self.engine, setup.engine, self.noise):
            say(console, warning)
        total = len(setup.questions) * self.num_samples
        with usage_errors(DataError), progress_bar(console, "episodes", total) as advance:
            report = collect(
                setup.agent,
                setup.questions,
                setup.engine,
                self.out,
                env_kwargs=env_kwargs(self),
                names={"agent": self.agent or self.policy, "engine": self.engine},
                settings=setup.settings,
                num_samples=self.num_samples,
                noise=self.noise,
                seed=self.seed,
                num_envs=self.num_envs,
                deterministic=self.temperature == 0,
                on_progress=advance,
            )
        say(console, summary(report))
        say(console, f"episodes: {self.out}")


@dataclass(frozen=True)
class Setup:
    """What checked options stand for, loaded; `settings` is what lines record of them."""

    agent: Agent
    engine: SearchEngine
    questions: tuple[Question, ...]
    settings: dict[str, Any]


def env_kwargs(config: Collect) -> dict[str, Any]:
    """Return the options that the environment takes."""
    return {"max_turns": config.max_turns, "top_k": config.top_k, "prompt": config.prompt}


def prepare(config: Collect) -> Setup:
    """Check every option and load what they name.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        TypeError: If the agent or the engine cannot be one.
        FileNotFoundError: If there is no model where one should be.
    """
    from agents.policies.causal_lm import find_policy

    Settings(noise=config.noise, split=config.split, **env_kwargs(config)).rules()
    check_at_least(
        1,
        max_new_tokens=config.max_new_tokens,
        num_envs=config.num_envs,
        num_samples=config.num_samples,
    )
    check_at_least(0, seed=config.seed, temperature=config.temperature)
    check_file(config.out, "out")
    if config.num_samples > 1 and config.temperature == config.noise == 0:
        raise ValueError(
            f"`temperature` must be greater than 0 for num_samples={config.num_samples}, got 0"
        )
    settings: dict[str, Any] = {
        "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens,
    }
    if not config.agent:
        settings["weights_sha256"] = weights_checksum(find_policy(config.policy))
    return Setup(
        questions=load_questions(config.questions, config.split, config.num_questions, config.seed),
        engine=load_engine(config.engine),
        agent=load_agent(config),
        settings=settings,
    )


def load_agent(config: Collect) -> Agent:
    """Return what plays: the policy, or the object that `--agent` names.

    Raises:
        ValueError: If there is none of that name.
        TypeError: If the object cannot play.
        FileNotFoundError: If there is no model where one should be.
    """
    from agents.policies.keyed import KeyedPolicyAgent
    from agents.policies.text_agent import TextAgent
    from zs_env.task.actions import STOPS

    sampling: dict[str, Any] = {
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "seed": config.seed,
    }
    if not config.agent:
        return KeyedPolicyAgent(load_policy(config.policy), STOPS, **sampling)
    found = load_object("agent", config.agent, ("predict", "complete"))
    if callable(getattr(found, "predict", None)):
        agent: Agent = found
        return agent
    return TextAgent(found, STOPS, **sampling)


def summary(report: CollectReport) -> str:
    """Return what is in the file, in one line."""
    num = report.num_found + report.num_played
    return (
        f"{num} episodes ({report.num_found} were there, {report.num_played} played), "
        f"{report.num_searches} searches, exact match {report.exact_match:.3f}, F1 {report.f1:.3f}"
    )

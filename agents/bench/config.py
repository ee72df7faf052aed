"""The file that describes a benchmark: who plays where, asked what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import gymnasium as gym

import zs_env  # noqa: F401 - registers the ids
from agents.baselines.registry import check_agent
from agents.baselines.rules import PlayRules
from agents.bench.engines import check_engine_name
from agents.cli.checks import check_at_least, check_probability
from agents.cli.options import sample
from agents.tuning.pipeline import read_table
from agents.tuning.records import DataError, located
from zs_env.settings import Settings
from zs_env.task.prompts import make_prompt
from zs_env.task.question_sets import QuestionSet, distinct
from zs_env.task.questions import Question

T = TypeVar("T")

_REQUIRED: Final = ("agents", "engines", "num_questions")


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """What a benchmark's file says.

    Attributes:
        agents: What `make_agent` knows, by what the benchmark calls it.
        engines: What answers queries.
        num_questions: Size of the random sample of each question set; 0 means all of it.
        environments: Registered ids of text environments.
        noise: Probabilities of noisy documents, for engines that can be asked for them.
        seeds: Keys of noise and sampling; every question is asked once with each.
        questions: Question sets by name, or files.
        question_seed: Key of the samples of questions.
        split: Which part of a named set.
        max_turns: Actions an episode lasts at most.
        max_new_tokens: Tokens that a model may write at a time.
        temperature: Of sampling; 0 takes the best action.
        prompt: What an episode opens with.
        top_k: Documents that a search brings.
    """

    agents: Mapping[str, str]
    engines: tuple[str, ...]
    num_questions: int
    environments: tuple[str, ...] = ("ZeroSearch-v0",)
    noise: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)
    questions: tuple[str, ...] = ("miniwiki",)
    question_seed: int = 0
    split: str = "test"
    max_turns: int = 6
    max_new_tokens: int = 48
    temperature: float = 0.0
    prompt: str = "miniwiki"
    top_k: int = 3

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def env_kwargs(self) -> dict[str, Any]:
        """Return the keywords of the environment's constructor, but for the engine."""
        return {"max_turns": self.max_turns, "top_k": self.top_k, "prompt": self.prompt}

    def rules(self, questions: Sequence[Question] = ()) -> PlayRules:
        """Return what agents are told of episodes that ask `questions`."""
        return PlayRules(
            prompt=make_prompt(self.prompt),
            max_turns=self.max_turns,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            questions=tuple(questions),
        )

    def load_questions(self) -> tuple[Question, ...]:
        """Return the questions that all agents are asked, set after set.

        Raises:
            ValueError: If a set has no such split, or two questions share data source and id.
            OSError: If a set cannot be had.
        """
        num, seed = self.num_questions, self.question_seed
        found = (
            question
            for name in self.questions
            for question in sample(QuestionSet(name).split(self.split), num, seed)
        )
        return distinct("`questions`", found)


def read_config(file: Path) -> BenchConfig:
    """Return what a YAML file says, checked; no model is loaded.

    Raises:
        DataError: If it is no such file, or a value cannot be; names the line and the key.
        OSError: If it cannot be read.
    """
    table = read_table(file, "bench", [field.name for field in fields(BenchConfig)])
    for name in _REQUIRED:
        if name not in table.settings:
            raise DataError(f"{file}:{table.line}: `{name}` is missing")
    values = {
        name: _located(file, setting.line, partial(_READERS[name], name, setting.value))
        for name, setting in table.settings.items()
    }
    config = BenchConfig(**values)
    for name, check in _CHECKS.items():
        line = table.settings[name].line if name in table.settings else table.line
        _located(file, line, partial(check, config))
    return config


def _located(file: Path, line: int, read: Callable[[], T]) -> T:
    """Return what `read` returns, letting any mistake say where it stands."""
    with located(file, line):
        try:
            return read()
        except (TypeError, OSError, ImportError, gym.error.Error) as error:
            raise ValueError(str(error)) from error


# --- values -------------------------------------------------------------------------------------


def _read_agents(name: str, value: Any) -> dict[str, str]:
    """Return agents by what they are called: a name alone is called by itself."""
    agents: dict[str, str] = {}
    for each in value if isinstance(value, list) else [value]:
        pairs = each.items() if isinstance(each, dict) else [(each, each)]
        for label, agent in pairs:
            if not isinstance(label, str) or not isinstance(agent, str) or not label.strip():
                raise ValueError(f"`{name}` must hold names, or label: name, got {each!r}")
            if label in agents:
                raise ValueError(f"`{name}` must differ, got {label!r} twice")
            agents[label] = agent
    return _not_empty(name, agents)


def _read_texts(name: str, value: Any) -> tuple[str, ...]:
    return _read_list(name, value, str, "texts")


def _read_integers(name: str, value: Any) -> tuple[int, ...]:
    return _read_list(name, value, int, "integers")


def _read_numbers(name: str, value: Any) -> tuple[float, ...]:
    found = _read_list(name, value, (int, float), "numbers")
    return tuple(float(each) for each in found)


def _read_list(name: str, value: Any, kind: Any, kinds: str) -> tuple[Any, ...]:
    values = value if isinstance(value, list) else [value]
    for each in values:
        if not isinstance(each, kind) or isinstance(each, bool):
            raise ValueError(f"`{name}` must be a list of {kinds}, got {each!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must differ, got {values!r}")
    return tuple(_not_empty(name, values))


def _not_empty(name: str, values: T) -> T:
    if not values:
        raise ValueError(f"`{name}` must not be empty, got {values!r}")
    return values


def _read_one(kind: Any, what: str) -> Callable[[str, Any], Any]:
    def read(name: str, value: Any) -> Any:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"`{name}` must be {what}, got {value!r}")
        return value

    return read


_INTEGER: Final = _read_one(int, "an integer")
_TEXT: Final = _read_one(str, "a text")
_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "agents": _read_agents,
    "engines": _read_texts,
    "num_questions": _INTEGER,
    "environments": _read_texts,
    "noise": _read_numbers,
    "seeds": _read_integers,
    "questions": _read_texts,
    "question_seed": _INTEGER,
    "split": _TEXT,
    "max_turns": _INTEGER,
    "max_new_tokens": _INTEGER,
    "temperature": _read_one((int, float), "a number"),
    "prompt": _TEXT,
    "top_k": _INTEGER,
}


# --- checks -------------------------------------------------------------------------------------


def _check_environments(config: BenchConfig) -> None:
    for name in config.environments:
        if gym.spec(name).vector_entry_point is None:
            raise ValueError(f"`environments` must be text environments, got {name!r}")


def _check_agents(config: BenchConfig) -> None:
    for name in config.agents.values():
        check_agent(name)


def _check_engines(config: BenchConfig) -> None:
    for name in config.engines:
        check_engine_name(name)


def _check_noise(config: BenchConfig) -> None:
    for noise in config.noise:
        check_probability(noise=noise)


def _check_seeds(config: BenchConfig) -> None:
    for seed in config.seeds:
        check_at_least(0, seeds=seed)


def _check_questions(config: BenchConfig) -> None:
    for name in config.questions:
        QuestionSet(name)


def _check_temperature(config: BenchConfig) -> None:
    check_at_least(0, temperature=config.temperature)
    if math.isinf(config.temperature):
        raise ValueError(f"`temperature` must be finite, got {config.temperature!r}")


_CHECKS: Final[Mapping[str, Callable[[BenchConfig], object]]] = {
    "environments": _check_environments,
    "agents": _check_agents,
    "engines": _check_engines,
    "noise": _check_noise,
    "seeds": _check_seeds,
    "questions": _check_questions,
    "num_questions": lambda c: check_at_least(0, num_questions=c.num_questions),
    "question_seed": lambda c: check_at_least(0, question_seed=c.question_seed),
    "split": lambda c: Settings(split=c.split),
    "max_turns": lambda c: Settings(max_turns=c.max_turns),
    "max_new_tokens": lambda c: check_at_least(1, max_new_tokens=c.max_new_tokens),
    "temperature": _check_temperature,
    "prompt": lambda c: make_prompt(c.prompt),
    "top_k": lambda c: Settings(top_k=c.top_k),
}

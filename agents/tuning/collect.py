"""Let an agent answer questions with a search engine, and keep everything that happened.

The first stage of simulation tuning: whole trajectories, one a line. Episodes are played in waves
of up to `num_envs`; a wave is on the disk before the next begins. Which wave an episode is in
follows from the questions alone, and all its randomness from question, sample and seed, so that a
run that was killed and started again leaves what an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from agents.agent import Agent
from agents.evaluate import PlayedTurn, play_turns
from agents.policies.keyed import KeyedAgent
from agents.tuning.records import (
    CollectedEpisode,
    CollectedTurn,
    DataError,
    Source,
    as_line,
    cut_torn_line,
    read_episodes,
)
from zs_env.random import derive
from zs_env.search.engine import SearchEngine
from zs_env.task.actions import ActionKind, parse
from zs_env.task.questions import Question
from zs_env.wrappers import append_line

OPENING: Final = '{"id": '
"""What every line of a file of episodes begins with."""

_ENV_ID: Final = "envs_registry:ZeroSearch-v0"

# What an episode's draws are for.
_NOISE: Final = 0
_SAMPLING: Final = 1


@dataclass(frozen=True, slots=True)
class PlannedEpisode:
    """An episode that is wanted: the `sample`-th one of a question."""

    question: Question
    sample: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others."""
        return self.question.data_source, self.question.id, self.sample

    def draw(self, seed: int, purpose: int) -> int:
        """Return the key of this episode's draws for one purpose."""
        name = f"{self.question.data_source}\0{self.question.id}".encode("utf-8", "surrogatepass")
        digest = int.from_bytes(blake2b(name, digest_size=8).digest())
        return derive(seed, digest, self.sample, purpose)


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What is in the file now, as far as it was wanted.

    Attributes:
        num_played: Episodes that this run played.
        num_found: Episodes that were there before.
        num_searches: Searches in all of them.
        exact_match: Mean over all of them, in [0, 1].
        f1: Mean over all of them, in [0, 1].
    """

    num_played: int
    num_found: int
    num_searches: int
    exact_match: float
    f1: float


def collect(
    agent: Agent,
    questions: Sequence[Question],
    engine: str | SearchEngine,
    out: Path,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    num_samples: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    num_envs: int = 32,
    deterministic: bool | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> CollectReport:
    """Play `num_samples` episodes of each question; what `out` holds already is not played again.

    Args:
        agent: What plays. One that samples should be a `KeyedAgent`: else what it samples depends
            on what else the same run played.
        questions: What is asked; the pair of data source and id tells questions apart.
        engine: What answers queries, by name or as an object.
        out: Gets one `CollectedEpisode` a line, appended.
        env_kwargs: Further keywords of the environment's constructor.
        names: What lines call "agent" and "engine"; by default their classes, or the given name.
        settings: What else changes results, for lines to record, as JSON values.
        num_samples: Episodes of a question, at least 1.
        noise: Probability in [0, 1] of noisy documents.
        seed: Key of noise and sampling.
        num_envs: Episodes played side by side at most; a kill loses so many at most.
        deterministic: Whether the agent takes its best action rather than a sampled one; None
            where one sample is wanted.
        on_progress: Called with the number of episodes found, then with that of each wave.

    Raises:
        ValueError: If an argument is out of range, two questions share an id, or nothing could
            make samples differ.
        DataError: If `out` holds something else, or episodes of another engine, agent, seed or
            setting.
    """
    greedy = num_samples == 1 if deterministic is None else deterministic
    _check_counts(num_samples=num_samples, num_envs=num_envs)
    _check_samples_differ(num_samples, random=noise > 0 or not greedy)
    given = dict(env_kwargs or {})
    plain = {name: value for name, value in given.items() if isinstance(value, str | int | float)}
    recorded = {"noise": noise, "deterministic": greedy} | plain | dict(settings or {})
    called = {"agent": _name(agent), "engine": _name(engine)} | dict(names or {})
    source = Source(**called, seed=seed, settings=recorded)
    stage = _Stage(agent, source, given | {"engine": engine}, noise, greedy)
    return _play_missing(stage, plan_episodes(questions, num_samples), num_envs, out, on_progress)


def _name(thing: Any) -> str:
    return thing if isinstance(thing, str) else type(thing).__name__


def _check_samples_differ(num_samples: int, *, random: bool) -> None:
    if num_samples > 1 and not random:
        raise ValueError(
            f"`num_samples` must be 1 where nothing is random (a deterministic agent, noise 0), "
            f"got {num_samples!r}"
        )


def _check_counts(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value!r}")


def plan_episodes(questions: Sequence[Question], num_samples: int) -> list[PlannedEpisode]:
    """Return the episodes to play: the first sample of every question, then the second, ….

    Raises:
        ValueError: If there are no questions, or two share data source and id.
    """
    plan = [PlannedEpisode(q, sample) for sample in range(num_samples) for q in questions]
    if not plan:
        raise ValueError("`questions` must not be empty")
    seen = set()
    for planned in plan:
        if planned.key in seen:
            name = f"{planned.question.data_source}/{planned.question.id}"
            raise ValueError(f"`questions` must have distinct ids, got {name!r} twice")
        seen.add(planned.key)
    return plan


def _play_missing(
    stage: _Stage,
    plan: Sequence[PlannedEpisode],
    num_envs: int,
    out: Path,
    on_progress: Callable[[int], None],
) -> CollectReport:
    cut_torn_line(out, OPENING)
    found = _read_found(out, stage.source, plan)
    on_progress(len(found))
    episodes = dict(found)
    for start in range(0, len(plan), num_envs):
        # Waves do not close up over what was found: a batched model then sees the same batches,
        # and what it writes does not hang on the last bits of a sum.
        wave = [planned for planned in plan[start : start + num_envs] if planned.key not in found]
        if wave:
            played = list(stage.play(wave))
            append_line(out, "\n".join(as_line(episode.as_json()) for episode in played))
            episodes |= {episode.key: episode for episode in played}
            on_progress(len(wave))
    return _report(list(episodes.values()), len(found))


def _report(episodes: Sequence[CollectedEpisode], num_found: int) -> CollectReport:
    return CollectReport(
        num_played=len(episodes) - num_found,
        num_found=num_found,
        num_searches=sum(len(episode.searches) for episode in episodes),
        exact_match=sum(episode.exact_match for episode in episodes) / len(episodes),
        f1=sum(episode.f1 for episode in episodes) / len(episodes),
    )


def _read_found(
    out: Path, source: Source, plan: Sequence[PlannedEpisode]
) -> dict[tuple[str, str, int], CollectedEpisode]:
    """Return the episodes of the plan that are in the file; the first one where a key repeats.

    Raises:
        DataError: If the file was made otherwise, or asked other questions by the same ids.
    """
    wanted = {planned.key: planned.question for planned in plan}
    found: dict[tuple[str, str, int], CollectedEpisode] = {}
    for number, episode in read_episodes(out) if out.is_file() else ():
        _check_source(f"{out}:{number}", episode.source, source)
        question = wanted.get(episode.key)
        if question is None:
            continue
        if (question.text, question.golden_answers) != (
            episode.question.text,
            episode.question.golden_answers,
        ):
            raise DataError(
                f"{out}:{number}: question {question.id!r} is {episode.question.text!r} here, "
                f"got {question.text!r}: give another file"
            )
        found.setdefault(episode.key, episode)
    return found


def _check_source(place: str, there: Source, here: Source) -> None:
    names = sorted({*there.settings, *here.settings})
    pairs = [
        (name, getattr(there, name), getattr(here, name)) for name in ("engine", "agent", "seed")
    ]
    pairs += [(name, there.settings.get(name), here.settings.get(name)) for name in names]
    for name, made_with, got in pairs:
        if made_with != got:
            raise DataError(
                f"{place}: `{name}` must be {made_with!r}, as in this file, got {got!r}: "
                f"go on with the same or give another file"
            )


@dataclass(frozen=True, slots=True)
class _Stage:
    """Everything that episodes have in common."""

    agent: Agent
    source: Source
    env_kwargs: Mapping[str, Any]
    noise: float
    deterministic: bool

    def play(self, wave: Sequence[PlannedEpisode]) -> Iterator[CollectedEpisode]:
        """Play one episode a slot, and yield them in the order planned."""
        env = gym.make_vec(
            _ENV_ID,
            num_envs=len(wave),
            autoreset_mode=AutoresetMode.DISABLED,
            **self.env_kwargs,
        )
        seed = self.source.seed
        options = {
            "question": [planned.question for planned in wave],
            "noise": self.noise,
            "noise_seed": [planned.draw(seed, _NOISE) for planned in wave],
        }
        agent = self.agent
        if isinstance(agent, KeyedAgent):
            agent = agent.keyed([planned.draw(seed, _SAMPLING) for planned in wave])
        slots: list[list[PlayedTurn]] = [[] for _ in wave]
        for slot, turn in play_turns(agent, env, options, self.deterministic):
            slots[slot].append(turn)
        env.close()
        for planned, turns in zip(wave, slots, strict=True):
            yield _to_episode(planned, self.source, turns)


def _to_episode(
    planned: PlannedEpisode, source: Source, turns: Sequence[PlayedTurn]
) -> CollectedEpisode:
    last = turns[-1].info
    return CollectedEpisode(
        question=planned.question,
        source=source,
        sample=planned.sample,
        turns=tuple(map(_to_turn, turns)),
        answer=str(last["answer"]),
        exact_match=float(last["exact_match"]),
        f1=float(last["f1"]),
        stop_reason=str(last["stop_reason"]),
    )


def _to_turn(turn: PlayedTurn) -> CollectedTurn:
    return CollectedTurn(
        text=parse(turn.action).text,
        action=ActionKind(turn.info["action"]),
        query=str(turn.info["query"]),
        documents=tuple(turn.info["documents"]),
        noisy=bool(turn.info["noisy"]),
    )

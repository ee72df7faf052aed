"""Play every question once and say how well it went, with an interval."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from agents.agent import Agent, TokenCounter
from agents.policies.keyed import KeyedAgent
from agents.rollout import collect, slot_info
from agents.trajectory import Trajectory
from zs_env.lm.generator import TokenGenerator
from zs_env.random import derive
from zs_env.task.questions import Question

DEFAULT_NUM_ENVS = 256

_SAMPLING = 1  # tells the stream of an episode's sampling from that of its noise


@dataclass(frozen=True, slots=True)
class PlayedTurn:
    """What happened in one turn of one question, for whoever wants more than its record.

    Attributes:
        action: What the agent wrote.
        observation: What the environment showed next; empty after the last turn.
        reward: The environment's.
        info: The environment's.
        num_tokens: Tokens that the agent wrote; None if it does not tell.
    """

    action: str
    observation: str
    reward: float
    info: Mapping[str, Any]
    num_tokens: int | None


OnTurn = Callable[[int, PlayedTurn], None]
"""Called with the index of a question and a turn of it, in the order of turns."""


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """What became of one question.

    Attributes:
        question_id: Which question.
        data_source: Where it comes from.
        num_hops: Facts that it takes; None where that is unknown.
        exact_match: 1 or 0.
        f1: Token F1 of the answer, in [0, 1].
        reward: Sum of the rewards.
        searches: Queries sent.
        turns: Actions.
        invalid: Malformed ones among them.
        noisy_replies: Noisy documents upon which the agent could still act.
        searched_again: Those upon which its next action was another search.
        answer: What it answered, empty if it did not.
        stop_reason: Why the episode ended.
    """

    question_id: str
    data_source: str
    num_hops: int | None
    exact_match: float
    f1: float
    reward: float
    searches: int
    turns: int
    invalid: int
    noisy_replies: int
    searched_again: int
    answer: str
    stop_reason: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The records of an evaluation, one a question, in the order asked."""

    records: tuple[EpisodeRecord, ...]

    def mean(self, name: str) -> float:
        """Return the mean of a field over all episodes; NaN if there are none."""
        values = [float(getattr(record, name)) for record in self.records]
        return sum(values) / len(values) if values else math.nan

    @property
    def exact_match_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the exact-match rate."""
        return wilson_interval(sum(r.exact_match for r in self.records), len(self.records))

    @property
    def searched_again_share(self) -> float | None:
        """Share of noisy replies upon which the agent searched again; None if there were none."""
        replies = sum(record.noisy_replies for record in self.records)
        again = sum(record.searched_again for record in self.records)
        return again / replies if replies else None

    def by_hops(self) -> dict[str, Evaluation]:
        """Return one evaluation for each number of hops, "?" where it is unknown."""
        names = sorted({str(record.num_hops or "?") for record in self.records})
        return {
            name: Evaluation(tuple(r for r in self.records if str(r.num_hops or "?") == name))
            for name in names
        }

    def summary(self) -> dict[str, Any]:
        """Return the headline numbers as JSON values."""
        turns = max(1, sum(record.turns for record in self.records))
        return {
            "exact_match": self.mean("exact_match"),
            "exact_match_ci": list(self.exact_match_interval),
            "f1": self.mean("f1"),
            "num_questions": len(self.records),
            "searches": self.mean("searches"),
            "turns": self.mean("turns"),
            "invalid_share": sum(record.invalid for record in self.records) / turns,
            "searched_again_share": self.searched_again_share,
            "by_hops": {
                name: {"exact_match": part.mean("exact_match"), "num_questions": len(part.records)}
                for name, part in self.by_hops().items()
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the records as JSON values."""
        return [asdict(record) for record in self.records]


def wilson_interval(successes: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927).

    Args:
        successes: Sum of scores, each in [0, 1].
        trials: Number of scores; with none the interval is (0, 1).
        z: Normal quantile; the default gives 95 %.

    Example:
        >>> [round(x, 3) for x in wilson_interval(8, 10)]
        [0.49, 0.943]
    """
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def evaluate(
    agent: Agent,
    questions: Sequence[Question],
    *,
    env_id: str = "ZeroSearch-v0",
    env_kwargs: Mapping[str, Any] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    deterministic: bool = True,
    num_envs: int = DEFAULT_NUM_ENVS,
    on_progress: Callable[[int], None] | None = None,
    on_turn: OnTurn | None = None,
) -> Evaluation:
    """Play each of `questions` once.

    Args:
        agent: What plays.
        questions: What is asked.
        env_id: A registered text environment.
        env_kwargs: Its constructor's keywords.
        noise: Probability of noisy documents.
        seed: Key of the noise, and of the sampling of an agent that is `KeyedAgent`; both do not
            depend on what else is asked.
        deterministic: Whether the agent takes its best action rather than a sampled one.
        num_envs: Questions played side by side, at most.
        on_progress: Called with the number of episodes that ended since the last call.
        on_turn: Called with every turn of every question.

    Returns:
        A record a question, in the order asked.

    Raises:
        ValueError: If there are no questions.
        SearchEngineError: If the engine failed.
    """
    if not questions:
        raise ValueError("`questions` must not be empty")
    num_rounds = -(-len(questions) // num_envs)
    size = -(-len(questions) // num_rounds)
    env = gym.make_vec(
        env_id, num_envs=size, autoreset_mode=AutoresetMode.DISABLED, **dict(env_kwargs or {})
    )
    records: list[EpisodeRecord] = []
    for start in range(0, len(questions), size):
        asked = list(questions[start : start + size])
        # The last round may be short: its spare slots repeat a question and are not counted.
        padded = asked + [asked[-1]] * (size - len(asked))
        seeds = _episode_seeds(seed, padded)
        options = {"question": padded, "noise": noise, "noise_seed": seeds}
        watch = _watcher(on_turn, start, len(asked))
        played = _play(_named(agent, seeds), env, padded, options, deterministic, watch)
        records.extend(played[: len(asked)])
        if on_progress:
            on_progress(len(asked))
    env.close()
    return Evaluation(tuple(records))


def replay(
    policy: TokenGenerator,
    questions: Sequence[Question],
    *,
    env_id: str = "ZeroSearch-v0",
    env_kwargs: Mapping[str, Any] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 48,
) -> list[Trajectory]:
    """Play each of a few questions once, greedily, and keep every token.

    The episodes are those of an `evaluate` with the same arguments, up to float ties.

    Args:
        policy: What plays.
        questions: What is asked, side by side.
        env_id: A registered text environment.
        env_kwargs: Its constructor's keywords.
        noise: Probability of noisy documents.
        seed: Key of the noise.
        max_new_tokens: Tokens of an action at most.
    """
    env = gym.make_vec(
        env_id,
        num_envs=len(questions),
        autoreset_mode=AutoresetMode.DISABLED,
        **dict(env_kwargs or {}),
    )
    seeds = _episode_seeds(seed, questions)
    rollout = collect(
        policy,
        env,
        seed=0,
        options={"question": list(questions), "noise": noise, "noise_seed": seeds},
        max_new_tokens=max_new_tokens,
        temperature=0.0,
    )
    env.close()
    return rollout.trajectories


def _episode_seeds(seed: int, questions: Sequence[Question]) -> list[int]:
    return [derive(seed, _question_key(question)) for question in questions]


def _watcher(on_turn: OnTurn | None, start: int, num: int) -> OnTurn:
    """Return what takes the turns of slots and tells those of questions, if anybody listens."""

    def watch(slot: int, turn: PlayedTurn) -> None:
        if on_turn is not None and slot < num:
            on_turn(start + slot, turn)

    return watch


def _named(agent: Agent, seeds: Sequence[int]) -> Agent:
    """Return `agent`, told which episodes it plays if it can be told."""
    if not isinstance(agent, KeyedAgent):
        return agent
    return agent.keyed([derive(seed, _SAMPLING) for seed in seeds])


def _question_key(question: Question) -> int:
    """Return a number that depends on nothing but which question it is."""
    name = f"{question.data_source}\0{question.id}"
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))


def _play(
    agent: Agent,
    env: gym.vector.VectorEnv[Any, Any, Any],
    questions: Sequence[Question],
    options: dict[str, Any],
    deterministic: bool,
    watch: OnTurn,
) -> list[EpisodeRecord]:
    """Play one episode in every slot; `watch` is told of every turn by its slot."""
    tallies = [_Tally() for _ in questions]
    last: list[Mapping[str, Any]] = [{}] * len(questions)
    for slot, turn in play_turns(agent, env, options, deterministic):
        tallies[slot].add(turn.reward, turn.info)
        last[slot] = turn.info
        watch(slot, turn)
    return [_to_record(*parts) for parts in zip(questions, last, tallies, strict=True)]


def play_turns(
    agent: Agent,
    env: gym.vector.VectorEnv[Any, Any, Any],
    options: dict[str, Any],
    deterministic: bool,
) -> Iterator[tuple[int, PlayedTurn]]:
    """Play one episode in every slot, and yield each turn with its slot as it is taken.

    Args:
        agent: What plays.
        env: A text environment that does not reset by itself.
        options: Of its reset.
        deterministic: Whether the agent takes its best action rather than a sampled one.
    """
    count = env.num_envs
    observations, _ = env.reset(seed=0, options=options)
    over, starts = np.zeros(count, dtype=np.bool_), np.ones(count, dtype=np.bool_)
    state = None
    while not over.all():
        actions, state = agent.predict(observations, state, starts, deterministic)
        tokens = agent.tokens_written(state) if isinstance(agent, TokenCounter) else [None] * count
        observations, reward, terminated, truncated, infos = env.step(actions)
        starts = np.zeros(count, dtype=np.bool_)
        for slot in np.flatnonzero(~over).tolist():
            told = float(reward[slot]), slot_info(infos, slot), tokens[slot]
            yield slot, PlayedTurn(actions[slot], observations[slot], *told)
        over = terminated | truncated


@dataclass(slots=True)
class _Tally:
    """What an episode's steps add up to."""

    reward: float = 0.0
    invalid: int = 0
    noisy_replies: int = 0
    searched_again: int = 0
    saw_noise: bool = False

    def add(self, reward: float, info: Mapping[str, Any]) -> None:
        """Count one step by the environment's info about it."""
        action = info["action"]
        self.reward += reward
        self.invalid += action == "malformed"
        self.noisy_replies += self.saw_noise
        self.searched_again += self.saw_noise and action == "search"
        self.saw_noise = action == "search" and bool(info["noisy"])


def _to_record(question: Question, info: Mapping[str, Any], tally: _Tally) -> EpisodeRecord:
    return EpisodeRecord(
        question_id=question.id,
        data_source=question.data_source,
        num_hops=question.num_hops,
        exact_match=float(info["exact_match"]),
        f1=float(info["f1"]),
        reward=tally.reward,
        searches=int(info["num_searches"]),
        turns=int(info["turn"]),
        invalid=tally.invalid,
        noisy_replies=tally.noisy_replies,
        searched_again=tally.searched_again,
        answer=str(info["answer"]),
        stop_reason=str(info["stop_reason"]),
    )

"""What a benchmark has to play: conditions, and the questions of each in chunks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from agents.bench.config import BenchConfig
from agents.bench.engines import writes_noise
from agents.bench.rows import Condition, EpisodeRow
from zs_env.task.questions import Question

EpisodeKey = tuple[Condition, str, str]
"""What tells an episode from all others: its condition, and the question's source and id."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Questions to play under one condition, side by side."""

    condition: Condition
    questions: tuple[Question, ...]

    @property
    def keys(self) -> tuple[EpisodeKey, ...]:
        """What tells its episodes from all others."""
        return tuple((self.condition, each.data_source, each.id) for each in self.questions)


def key_of(row: EpisodeRow) -> EpisodeKey:
    """Return what tells the episode of a row from all others."""
    return row.condition, row.data_source, row.question_id


def noise_levels(config: BenchConfig, engine: str) -> tuple[float, ...]:
    """Return the noise at which an engine is asked: 0 only where nobody can ask for noise."""
    return config.noise if writes_noise(engine) else (0.0,)


def conditions(config: BenchConfig) -> list[Condition]:
    """Return all conditions: those of one agent and engine follow each other."""
    return [
        Condition(agent, environment, engine, noise, seed)
        for agent in config.agents
        for environment in config.environments
        for engine in config.engines
        for noise in noise_levels(config, engine)
        for seed in config.seeds
    ]


def missing_chunks(
    config: BenchConfig,
    questions: Sequence[Question],
    done: Collection[EpisodeKey],
    chunk_size: int,
) -> Iterator[Chunk]:
    """Yield what is left to play.

    Chunks do not close up over what is done: a model that plays questions in batches then sees
    nearly the same batches as in a run that was never stopped.

    Args:
        config: What is wanted.
        questions: What is asked.
        done: Episodes that were played.
        chunk_size: Questions played side by side, at most.
    """
    for condition in conditions(config):
        for start in range(0, len(questions), chunk_size):
            chunk = Chunk(condition, tuple(questions[start : start + chunk_size]))
            pairs = zip(chunk.questions, chunk.keys, strict=True)
            left = tuple(question for question, key in pairs if key not in done)
            if left:
                yield Chunk(condition, left)

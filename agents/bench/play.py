"""Play a chunk of a benchmark; whatever fails becomes a row that says so.

An agent, an engine or a server that fails on one question must cost that one only, so a chunk
that fails is played again question by question. Where several fail in a row, the rest is not
tried: each may take minutes to fail.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agents.baselines.registry import make_agent
from agents.bench.config import BenchConfig
from agents.bench.engines import open_engine
from agents.bench.failures import not_played
from agents.bench.plan import Chunk
from agents.bench.rows import Condition, EpisodeRow, TurnRow
from agents.bench.store import FAILED
from agents.evaluate import EpisodeRecord, PlayedTurn, evaluate
from zs_env.task.questions import Question
from zs_env.task.rewards import substring_match

MAX_FAILURES: Final = 3
"""Questions that may fail in a row before the rest of a chunk is given up."""

# An agent that calls sys.exit() has failed; the benchmark has not.
_FAILURES: Final = (Exception, SystemExit)


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """A chunk with all that a process needs to play it.

    Attributes:
        config: The benchmark.
        chunk: What to play.
        num_threads: Torch's; 0 leaves them as they are.
    """

    config: BenchConfig
    chunk: Chunk
    num_threads: int = 0


def play_chunk(task: ChunkTask) -> list[EpisodeRow]:
    """Play a chunk and return a row for each of its questions, in their order."""
    if task.num_threads:
        from agents.cli.threads import use_threads

        use_threads(task.num_threads)
    chunk = task.chunk
    try:
        return _play(task.config, chunk.condition, chunk.questions)
    except _FAILURES as error:
        if len(chunk.questions) == 1:
            return failed_rows(chunk, _reason(error))
    return _play_one_by_one(task.config, chunk)


def _play_one_by_one(config: BenchConfig, chunk: Chunk) -> list[EpisodeRow]:
    rows: list[EpisodeRow] = []
    num_failures = 0
    for place, question in enumerate(chunk.questions):
        try:
            rows += _play(config, chunk.condition, (question,))
            num_failures = 0
        except _FAILURES as error:
            num_failures += 1
            rows += failed_rows(Chunk(chunk.condition, (question,)), _reason(error))
            if num_failures == MAX_FAILURES:
                rest = Chunk(chunk.condition, chunk.questions[place + 1 :])
                why = not_played(MAX_FAILURES, _reason(error))
                return rows + failed_rows(rest, why)
    return rows


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _play(
    config: BenchConfig, condition: Condition, questions: Sequence[Question]
) -> list[EpisodeRow]:
    turns: list[list[PlayedTurn]] = [[] for _ in questions]
    start = time.perf_counter()
    evaluation = evaluate(
        make_agent(config.agents[condition.agent], config.rules(questions)),
        questions,
        env_id=condition.environment,
        env_kwargs=config.env_kwargs() | {"engine": open_engine(condition.engine)},
        noise=condition.noise,
        seed=condition.seed,
        deterministic=config.temperature == 0,
        num_envs=len(questions),
        on_turn=lambda index, turn: turns[index].append(turn),
    )
    seconds = (time.perf_counter() - start) / len(questions)
    return [
        _to_row(condition, question, record, played, seconds)
        for question, record, played in zip(questions, evaluation.records, turns, strict=True)
    ]


def _to_row(
    condition: Condition,
    question: Question,
    record: EpisodeRecord,
    played: Sequence[PlayedTurn],
    seconds: float,
) -> EpisodeRow:
    answer = record.answer
    return EpisodeRow(
        condition=condition,
        question_id=question.id,
        data_source=question.data_source,
        num_hops=question.num_hops,
        question=question.text,
        golden_answers=question.golden_answers,
        answer=answer,
        exact_match=record.exact_match,
        f1=record.f1,
        sub_exact_match=substring_match(answer, question.golden_answers) if answer else 0.0,
        reward=record.reward,
        searches=record.searches,
        turns=tuple(map(_to_turn, played)),
        invalid=record.invalid,
        tokens=_sum_of(played),
        seconds=round(seconds, 6),
        stop_reason=record.stop_reason,
    )


def _to_turn(turn: PlayedTurn) -> TurnRow:
    return TurnRow(
        action=turn.action,
        kind=str(turn.info["action"]),
        query=str(turn.info["query"]),
        noisy=bool(turn.info["noisy"]),
        observation=turn.observation,
    )


def _sum_of(played: Sequence[PlayedTurn]) -> int | None:
    counts = [turn.num_tokens for turn in played]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def failed_rows(chunk: Chunk, error: str) -> list[EpisodeRow]:
    """Return rows that say why the questions of a chunk were not answered."""
    return [
        EpisodeRow(
            condition=chunk.condition,
            question_id=question.id,
            data_source=question.data_source,
            num_hops=question.num_hops,
            question=question.text,
            golden_answers=question.golden_answers,
            answer="",
            exact_match=0.0,
            f1=0.0,
            sub_exact_match=0.0,
            reward=0.0,
            searches=0,
            turns=(),
            invalid=0,
            tokens=None,
            seconds=0.0,
            stop_reason=FAILED,
            error=error,
        )
        for question in chunk.questions
    ]

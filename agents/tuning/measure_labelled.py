"""How good a simulator is on any data: labelled searches of a split that it was not tuned on.

Nobody knows here what is true, so that a golden answer stands for the fact which was asked for,
and the documents that the real engine found stand beside the simulator's. Answers that tell
nothing, since they are yes or no or stand in the question or in the query, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from agents.tuning.documents import LabelledRow, augment, of_split, read_rows, sample_rows
from agents.tuning.matching import Match, holds
from agents.tuning.measure import (
    BY_ALIAS,
    NEARLY,
    NUM_SEEDS,
    RELEVANCE,
    MeasureOptions,
    ask_again,
    format_metrics,
    likeness,
    overlap_shares,
    style_scores,
)
from agents.tuning.replies import Asker, Case, Reply
from agents.tuning.report import Metric, Rate, SimulatorReport, rate_of
from agents.tuning.requests import Sort
from agents.tuning.signals import telling_answers
from agents.tuning.text_statistics import Relevance
from zs_env.random import derive
from zs_env.search.engine import SearchEngine
from zs_env.task.questions import Question

_USEFUL: Final = (Sort.USEFUL,)
_PLAIN: Final = (Sort.PLAIN,)
_OFF_TOPIC: Final = (Sort.SOMEBODY_ELSE,)


def read_held_out(file: Path, split: str) -> list[LabelledRow]:
    """Return the rows of one split of a file of labelled searches.

    Raises:
        ValueError: If there are none, or the file holds something else; names file and line.
        OSError: If it cannot be read.
    """
    rows = of_split(read_rows(file), split)
    if not rows:
        raise ValueError(f"`split` must be one that {file} has rows of, got {split!r}")
    return rows


def measure_labelled(
    engine: SearchEngine,
    rows: Sequence[LabelledRow],
    options: MeasureOptions | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> SimulatorReport:
    """Ask `engine` what was searched for and compare its replies with what was found.

    Args:
        engine: The simulator.
        rows: Labelled searches; of each label at most `num_requests` are asked.
        options: How much is measured.
        on_progress: Called with the number of requests that were answered.

    Raises:
        SearchEngineError: If the engine could not answer.
    """
    options = options or MeasureOptions()
    asker = Asker(engine, on_progress)
    chosen = choose(rows, options)
    cases = {sort: _cases(asker, part, options.seed) for sort, part in chosen.items()}
    again = {
        sort: ask_again(asker, [case.request for case in cases[sort]], options)
        for sort in (Sort.USEFUL, Sort.PLAIN)
    }
    relevance = Relevance(document.text for row in rows for document in row.documents)
    metrics = _metrics(relevance, options.threshold)
    return SimulatorReport(
        shares={metric.name: metric.share(cases) for metric in metrics} | overlap_shares(again),
        scores=style_scores(cases[Sort.USEFUL]),
        speed=asker.speed,
        leaks={Sort.PLAIN.value: _leaks(cases[Sort.PLAIN], options.threshold)},
    )


def choose(rows: Sequence[LabelledRow], options: MeasureOptions) -> dict[Sort, list[LabelledRow]]:
    """Return what is asked: useful searches, noisy ones, and useful ones off their topic.

    An off-topic search asks the query of another question, whose documents do not hold the
    answer.
    """
    useful = [row for row in rows if not row.request.noisy]
    noisy = [row for row in rows if row.request.noisy]
    chosen = sample_rows(useful, options.num_requests, options.seed)
    swapped = augment(useful, off_topic=1.0, seed=options.seed)[len(useful) :]
    return {
        Sort.USEFUL: chosen,
        Sort.PLAIN: sample_rows(noisy, options.num_requests, options.seed),
        Sort.SOMEBODY_ELSE: sample_rows(swapped, options.num_requests, options.seed),
    }


def num_asked(rows: Sequence[LabelledRow], options: MeasureOptions) -> int:
    """Return how many requests `measure_labelled` makes of an engine."""
    chosen = choose(rows, options)
    again = [min(options.num_repeated, len(chosen[sort])) for sort in (Sort.USEFUL, Sort.PLAIN)]
    return sum(map(len, chosen.values())) + NUM_SEEDS * sum(again)


def _cases(asker: Asker, rows: Sequence[LabelledRow], seed: int) -> list[Case]:
    requests = [replace(row.request, seed=derive(seed, row.key)) for row in rows]
    return [
        Case(request, reply, real=Reply(row.documents))
        for request, reply, row in zip(requests, asker.ask(requests), rows, strict=True)
    ]


def _metrics(relevance: Relevance, threshold: float) -> Iterator[Metric]:
    yield from format_metrics((*_USEFUL, *_PLAIN, *_OFF_TOPIC))
    hit, alias, nearly = (partial(_tells, match, threshold) for match in Match)
    yield Metric("useful_hit", "useful: gives the answer", _USEFUL, hit)
    yield Metric("useful_hit_alias", BY_ALIAS, _USEFUL, alias)
    yield Metric("useful_hit_fuzzy", NEARLY, _USEFUL, nearly)
    label = "  … where the real documents do"
    yield Metric("answerable_hit", label, _USEFUL, _tells_as_real)
    yield Metric("relevance", RELEVANCE, _USEFUL, partial(likeness, relevance))
    yield Metric("noisy_leak", "noisy: gives the answer", _PLAIN, hit)
    yield Metric("noisy_leak_alias", BY_ALIAS, _PLAIN, alias)
    yield Metric("noisy_leak_fuzzy", NEARLY, _PLAIN, nearly)
    yield Metric("off_topic_cheat", "off topic: gives the answer", _OFF_TOPIC, alias)


def _leaks(cases: Sequence[Case], threshold: float) -> dict[str, Rate]:
    return {match.value: rate_of(partial(_tells, match, threshold), cases) for match in Match}


def _tells(match: Match, threshold: float, case: Case, reply: Reply) -> Iterator[bool]:
    """Yield whether documents hold an answer, if one would tell anything."""
    request = case.request
    question = Question("", request.question, request.golden_answers)
    if answers := telling_answers(question, request.query):
        yield holds(reply.documents, answers, match, threshold=threshold)


def _tells_as_real(case: Case, reply: Reply) -> Iterable[bool]:
    assert case.real is not None
    found = partial(_tells, Match.ALIAS, 1.0, case)
    return found(reply) if any(found(case.real)) else ()

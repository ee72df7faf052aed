"""The episodes of a benchmark as arrays: questions along one axis, seeds along the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from agents.bench.rows import EpisodeRow
from agents.bench.statistics import Floats
from agents.bench.store import FAILED

EFFORTS: Final = ("searches", "tokens", "turns", "invalid", "seconds")
"""What an episode took: unknown, rather than nothing, if the episode failed."""


class Place(NamedTuple):
    """A condition, whatever the seed."""

    agent: str
    environment: str
    engine: str
    noise: float


class QuestionKey(NamedTuple):
    """What tells a question from all others."""

    data_source: str
    question_id: str


@dataclass(frozen=True)
class PlaceScores:
    """What happened in one place.

    Attributes:
        place: Which.
        rows: By question, in the order of all places, and by seed.
    """

    place: Place
    rows: tuple[tuple[EpisodeRow, ...], ...]

    def values(self, name: str) -> Floats:
        """Return a field of the rows, shape (questions, seeds); NaN where it is not known."""
        found = [[_number(row, name) for row in same] for same in self.rows]
        return np.array(found, dtype=np.float64)

    @cached_property
    def exact_match(self) -> Floats:
        """Exact match, shape (questions, seeds)."""
        return self.values("exact_match")

    @property
    def num_failed(self) -> int:
        """Episodes in which something outside failed."""
        return sum(row.stop_reason == FAILED for same in self.rows for row in same)


def _number(row: EpisodeRow, name: str) -> float:
    value = len(row.turns) if name == "turns" else getattr(row, name)
    unknown = value is None or (name in EFFORTS and row.stop_reason == FAILED)
    return np.nan if unknown else float(value)


@dataclass(frozen=True)
class Scores:
    """All that was played, on the same questions everywhere.

    Attributes:
        questions: The questions, source after source: the first axis of all arrays.
        num_hops: Of each question; None where that is unknown.
        places: What happened, by place.
    """

    questions: tuple[QuestionKey, ...]
    num_hops: tuple[int | None, ...]
    places: Mapping[Place, PlaceScores]

    @classmethod
    def of(cls, rows: Iterable[EpisodeRow]) -> Scores:
        """Arrange rows.

        Raises:
            ValueError: If there are none, one is there twice, or a place lacks an episode that
                another has.
        """
        found: dict[Place, dict[QuestionKey, dict[int, EpisodeRow]]] = {}
        hops: dict[QuestionKey, int | None] = {}
        for row in rows:
            place = Place(*(getattr(row.condition, name) for name in Place._fields))
            key = QuestionKey(row.data_source, row.question_id)
            same = found.setdefault(place, {}).setdefault(key, {})
            if same.setdefault(row.condition.seed, row) is not row:
                raise ValueError(f"`rows` must hold {key} of {row.condition} once, got it twice")
            hops.setdefault(key, row.num_hops)
        questions = _by_source(hops)
        places = {place: _arrange(place, same, questions) for place, same in found.items()}
        return cls(questions, tuple(hops[key] for key in questions), places)

    @cached_property
    def sources(self) -> dict[str, slice]:
        """Where the questions of each data source stand."""
        places: dict[str, slice] = {}
        for index, key in enumerate(self.questions):
            start = places.get(key.data_source, slice(index, index)).start
            places[key.data_source] = slice(start, index + 1)
        return places

    @property
    def source_sizes(self) -> list[int]:
        """Number of questions of each data source, in order."""
        return [part.stop - part.start for part in self.sources.values()]


def _by_source(hops: Mapping[QuestionKey, int | None]) -> tuple[QuestionKey, ...]:
    if not hops:
        raise ValueError("`rows` must not be empty")
    sources = {source: place for place, source in enumerate(dict.fromkeys(k[0] for k in hops))}
    return tuple(sorted(hops, key=lambda key: sources[key.data_source]))


def _arrange(
    place: Place,
    found: Mapping[QuestionKey, Mapping[int, EpisodeRow]],
    questions: Sequence[QuestionKey],
) -> PlaceScores:
    seeds = sorted({seed for same in found.values() for seed in same})
    try:
        rows = tuple(tuple(found[key][seed] for seed in seeds) for key in questions)
    except KeyError as error:
        raise ValueError(f"`rows` must hold every question of {place}, but lack {error}") from None
    return PlaceScores(place, rows)

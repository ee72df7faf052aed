"""The files that can be labelled: searches somebody made, and how the trajectory ended.

| kind | a row has | its searches |
|---|---|---|
| episodes | what `agents.tuning.collect` wrote | the agent's |
| trajectories | `question`, `answers`, `predicted`, `correct`, `turns` | one a turn |
| paragraphs | `question`, `answers`, `passages` (HotpotQA) | two, made up: see below |

A turn has `query` and `documents`. A passage has `title`, `text` and `supporting`: nobody searched,
but annotators say which ones help, so the question as the query finds those, or as many of the
others. Which kind a file is shows in its first row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agents.tuning.records import (
    CollectedEpisode,
    DataError,
    as_object,
    located,
    read_documents,
    read_json_lines,
    read_question,
    take,
)
from zs_env.search.engine import Document
from zs_env.task.questions import Question
from zs_env.task.rewards import token_f1


@dataclass(frozen=True, slots=True)
class Search:
    """One query and what it found.

    Attributes:
        query: What was searched for.
        documents: What was found; may be empty.
        supporting: Whether annotators say that the documents help; None if they say nothing.
    """

    query: str
    documents: tuple[Document, ...]
    supporting: bool | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The searches for one question, and how well the answer was.

    Attributes:
        question: What was asked.
        searches: In order; none where the agent answered at once.
        exact_match: Grade of the answer, 0 or 1; None if nobody answered.
        f1: The other grade, in [0, 1]; None if nobody answered.
    """

    question: Question
    searches: tuple[Search, ...]
    exact_match: float | None = None
    f1: float | None = None


@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of file.

    Attributes:
        name: What messages call it.
        fields: What a row has at least.
        read: From a row and the file's name to a trajectory; ValueError if something is wrong.
    """

    name: str
    fields: tuple[str, ...]
    read: Callable[[Mapping[str, Any], str], Trajectory]


def read_trajectories(path: Path) -> Iterator[tuple[int, Trajectory]]:
    """Yield the number and the trajectory of each line.

    Raises:
        DataError: If the file is empty or of no known kind, or a row is incomplete; the message
            names file and line.
    """
    kind: FileKind | None = None
    for number, row in read_json_lines(path):
        with located(path, number):
            kind = kind or recognise(row)
            trajectory = kind.read(row, path.stem)
        yield number, trajectory
    if kind is None:
        raise DataError(f"{path}:1: the file must have at least one row, got none")


def recognise(row: Mapping[str, Any]) -> FileKind:
    """Return the kind of file that begins with this row.

    Raises:
        ValueError: If there is none.
    """
    for kind in KINDS:
        if row.keys() >= set(kind.fields):
            return kind
    known = "; ".join(f"{kind.name} ({', '.join(kind.fields)})" for kind in KINDS)
    raise ValueError(f"unknown kind of file: rows must have the fields of {known}; got {list(row)}")


def _read_episode(row: Mapping[str, Any], _: str) -> Trajectory:
    episode = CollectedEpisode.from_json(row)
    searches = tuple(Search(turn.query, turn.documents) for turn in episode.searches)
    return Trajectory(episode.question, searches, episode.exact_match, episode.f1)


def _read_turns(row: Mapping[str, Any], name: str) -> Trajectory:
    question = read_question(row, name)
    turns = take(row, "turns", list)
    if not turns:
        raise ValueError("`turns` must not be empty")
    f1 = token_f1(take(row, "predicted", str), question.golden_answers)
    searches = tuple(_read_turn(turn) for turn in turns)
    return Trajectory(question, searches, float(take(row, "correct", bool)), f1)


def _read_turn(turn: Any) -> Search:
    query = take(as_object(turn), "query", str)
    if not query.strip():
        raise ValueError(f"`query` must not be empty, got {query!r}")
    return Search(query, read_documents(turn, "documents"))


def _read_paragraphs(row: Mapping[str, Any], name: str) -> Trajectory:
    question = read_question(row, name)
    passages = list(zip(read_documents(row, "passages"), _supporting(row["passages"]), strict=True))
    helpful = tuple(document for document, supporting in passages if supporting)
    others = tuple(document for document, supporting in passages if not supporting)
    if not helpful or not others:
        raise ValueError("`passages` must have both supporting ones and others")
    # As many of either: the number of documents must not give the label away.
    num = min(len(helpful), len(others))
    return Trajectory(
        question,
        (
            Search(question.text, helpful[:num], supporting=True),
            Search(question.text, others[:num], supporting=False),
        ),
    )


def _supporting(passages: Sequence[Any]) -> list[bool]:
    return [take(as_object(passage), "supporting", bool) for passage in passages]


KINDS: Final = (
    FileKind(
        "episodes", ("id", "data_source", "golden_answers", "turns", "stop_reason"), _read_episode
    ),
    FileKind(
        "trajectories", ("id", "question", "answers", "predicted", "correct", "turns"), _read_turns
    ),
    FileKind("paragraphs", ("id", "question", "answers", "passages"), _read_paragraphs),
)

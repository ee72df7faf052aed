"""What the stages of simulation tuning hand on: records, one JSON object a line.

A file that an episode takes long to make is appended to, whole lines that have reached the disk;
`cut_torn_line` takes away what a crash left half written. A file that is computed in one go
appears whole or not at all (`write_records`).
"""

from __future__ import annotations

import json
import os
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from agents.durable import write_file
from zs_env.search.engine import Document, NoiseKind
from zs_env.task.actions import ActionKind
from zs_env.task.json_lines import decode_line, numbered_lines
from zs_env.task.question_sets import make_question
from zs_env.task.questions import Question

T = TypeVar("T")

USEFUL: Final = "useful"
NOISY: Final = "noisy"
LABELS: Final = (USEFUL, NOISY)

_KIND_NAMES: Final[dict[type, str]] = {
    str: "a text",
    bool: "true or false",
    int: "an integer",
    list: "a list",
    dict: "an object",
}


class DataError(ValueError):
    """A file holds what it should not; the message names file and line."""


# --- one episode that was played ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """What decides an episode beside its question and its sample number.

    Attributes:
        engine: Name of the search engine.
        agent: Name of what played.
        seed: Key of all randomness.
        settings: Whatever else changes results, by name: JSON values.
    """

    engine: str
    agent: str
    seed: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CollectedTurn:
    """One turn of an agent.

    Attributes:
        text: What the agent wrote, up to the end of its action.
        action: What the text did.
        query: What was searched for; empty for other actions.
        documents: What the agent read next; empty where it did not search.
        noisy: Whether noisy documents were asked for.
    """

    text: str
    action: ActionKind
    query: str
    documents: tuple[Document, ...]
    noisy: bool

    def as_json(self) -> dict[str, Any]:
        """Return the turn as JSON values."""
        return asdict(self) | {
            "action": self.action.value,
            "documents": documents_as_json(self.documents),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> CollectedTurn:
        """Return the turn that `as_json` gave; ValueError names the field that is wrong."""
        return cls(
            text=take(row, "text", str),
            action=ActionKind(take(row, "action", str)),
            query=take(row, "query", str),
            documents=read_documents(row, "documents"),
            noisy=take(row, "noisy", bool),
        )


@dataclass(frozen=True, slots=True)
class CollectedEpisode:
    """A whole trajectory: what was asked, what the agent did, and how well that went.

    Attributes:
        question: What was asked.
        source: What made the episode.
        sample: Its number among the episodes of this question, from 0.
        turns: What happened, at least one turn.
        answer: The final answer; empty where there was none.
        exact_match: Its grade, 0 or 1.
        f1: Its other grade, in [0, 1].
        stop_reason: Why the episode ended, a `StopReason`.
    """

    question: Question
    source: Source
    sample: int
    turns: tuple[CollectedTurn, ...]
    answer: str
    exact_match: float
    f1: float
    stop_reason: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from all others of one source."""
        return self.question.data_source, self.question.id, self.sample

    @property
    def searches(self) -> tuple[CollectedTurn, ...]:
        """The turns whose query reached the engine: a search in the last turn possible did not."""
        turns = self.turns if self.stop_reason != "max_turns" else self.turns[:-1]
        return tuple(turn for turn in turns if turn.action is ActionKind.SEARCH)

    def as_json(self) -> dict[str, Any]:
        """Return the episode as JSON values."""
        return {
            **_question_as_json(self.question),
            **asdict(self.source),
            "sample": self.sample,
            "turns": [turn.as_json() for turn in self.turns],
            "answer": self.answer,
            "exact_match": self.exact_match,
            "f1": self.f1,
            "stop_reason": self.stop_reason,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> CollectedEpisode:
        """Return the episode that `as_json` gave; ValueError names the field that is wrong."""
        turns = take(row, "turns", list)
        if not turns:
            raise ValueError("`turns` must not be empty")
        return cls(
            question=read_question(row, take(row, "data_source", str)),
            source=_read_source(row),
            sample=take(row, "sample", int),
            turns=tuple(CollectedTurn.from_json(as_object(turn)) for turn in turns),
            answer=take(row, "answer", str),
            exact_match=take_share(row, "exact_match"),
            f1=take_share(row, "f1"),
            stop_reason=take(row, "stop_reason", str),
        )


def _read_source(row: Mapping[str, Any]) -> Source:
    return Source(
        engine=take(row, "engine", str),
        agent=take(row, "agent", str),
        seed=take(row, "seed", int),
        settings=take(row, "settings", dict),
    )


def _question_as_json(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "data_source": question.data_source,
        "question": question.text,
        "golden_answers": list(question.golden_answers),
        "num_hops": question.num_hops,
    }


# --- one search that was labelled ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelledSearch:
    """One search and whether its documents are what a useful or a noisy engine should return.

    Attributes:
        question: What was asked.
        query: What was searched for.
        documents: What was found.
        label: "useful" or "noisy".
        outcome: What the end of the trajectory says, a label; None if it says nothing.
        evidence: What the documents themselves say, a label; None if they say nothing.
        judge: What a judge says, a label; None if none was asked.
        split: "train", "validation" or "test".
        noise_kind: What is wrong with noisy documents; None where nobody says.
    """

    question: Question
    query: str
    documents: tuple[Document, ...]
    label: str
    outcome: str | None
    evidence: str | None
    judge: str | None
    split: str
    noise_kind: NoiseKind | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the search as JSON values, without a judge or a kind of noise if it has none."""
        row = _question_as_json(self.question) | {
            "query": self.query,
            "documents": documents_as_json(self.documents),
            "label": self.label,
            "outcome": self.outcome,
            "evidence": self.evidence,
            "split": self.split,
        }
        if self.judge is not None:
            row["judge"] = self.judge
        if self.noise_kind is not None:
            row["noise_kind"] = self.noise_kind.value
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LabelledSearch:
        """Return the search that `as_json` gave; ValueError names the field that is wrong."""
        label = _take_label(row, "label")
        if label is None:
            raise ValueError(f"`label` must be {' or '.join(LABELS)}, got None")
        return cls(
            question=read_question(row, take(row, "data_source", str)),
            query=take(row, "query", str),
            documents=read_documents(row, "documents"),
            label=label,
            outcome=_take_label(row, "outcome"),
            evidence=_take_label(row, "evidence"),
            judge=_take_label(row, "judge") if "judge" in row else None,
            split=take(row, "split", str),
            noise_kind=_take_noise_kind(row, label),
        )


def _take_noise_kind(row: Mapping[str, Any], label: str) -> NoiseKind | None:
    value = row.get("noise_kind")
    if value in (None, ""):
        return None
    if label != NOISY:
        raise ValueError(f"`noise_kind` must come with the label {NOISY!r}, got {value!r:.80}")
    if value not in list(NoiseKind):
        known = ", ".join(NoiseKind)
        raise ValueError(f"`noise_kind` must be one of {known}, got {reprlib.repr(value)}")
    return NoiseKind(value)


def _take_label(row: Mapping[str, Any], name: str) -> str | None:
    if name not in row:
        raise ValueError(f"`{name}` is missing")
    value = row[name]
    if value is not None and value not in LABELS:
        raise ValueError(f"`{name}` must be {' or '.join(LABELS)}, got {reprlib.repr(value)}")
    return value if value is None else str(value)


# --- fields -------------------------------------------------------------------------------------


def take(row: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """Return a field of a row.

    Raises:
        ValueError: If it is missing or not of this kind.

    Example:
        >>> take({"sample": 3}, "sample", int)
        3
    """
    if name not in row:
        raise ValueError(f"`{name}` is missing")
    value = row[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"`{name}` must be {_KIND_NAMES[kind]}, got {reprlib.repr(value)}")
    return value


def take_share(row: Mapping[str, Any], name: str) -> float:
    """Return a field that is a number in [0, 1].

    Raises:
        ValueError: If it is missing or none.
    """
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number in [0, 1], got {reprlib.repr(value)}")
    return float(value)


def read_question(row: Mapping[str, Any], data_source: str) -> Question:
    """Return the question of a row with `id`, `question` and `answers` (or `golden_answers`).

    Raises:
        ValueError: If one of them is missing, empty, or of the wrong type.
    """
    if not isinstance(row.get("id"), str | int):
        raise ValueError(f"`id` must be a text or an integer, got {reprlib.repr(row.get('id'))}")
    return make_question(row, default_id="", data_source=data_source)


def documents_as_json(documents: Sequence[Document]) -> list[dict[str, str]]:
    """Return documents as JSON values."""
    return [{"title": document.title, "text": document.text} for document in documents]


def read_documents(row: Mapping[str, Any], name: str) -> tuple[Document, ...]:
    """Return the documents in a field: texts, or objects with `text` and perhaps `title`.

    Raises:
        ValueError: If one is neither.
    """
    return tuple(_read_document(value) for value in take(row, name, list))


def _read_document(value: Any) -> Document:
    if isinstance(value, str):
        return Document(value)
    row = as_object(value)
    return Document(take(row, "text", str), take(row, "title", str) if "title" in row else "")


def as_object(value: Any) -> dict[str, Any]:
    """Return a value that is an object.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, dict):
        raise ValueError(f"an object was expected, got {reprlib.repr(value)}")
    return value


# --- files --------------------------------------------------------------------------------------


@contextmanager
def located(path: Path, number: int) -> Iterator[None]:
    """Let a ValueError of the body say which line of which file it is about.

    Raises:
        DataError: In the place of the ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise DataError(f"{path}:{number}: {error}") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of each line that is not blank.

    Raises:
        DataError: If a line is not a JSON object in UTF-8.
    """
    for number, line in numbered_lines(path):
        with located(path, number):
            row = as_object(decode_line(line))
        yield number, row


def read_episodes(path: Path) -> Iterator[tuple[int, CollectedEpisode]]:
    """Yield the number and the episode of each line.

    Raises:
        DataError: If a line is no episode.
    """
    for number, row in read_json_lines(path):
        with located(path, number):
            episode = CollectedEpisode.from_json(row)
        yield number, episode


def read_labelled(path: Path) -> Iterator[tuple[int, LabelledSearch]]:
    """Yield the number and the labelled search of each line.

    Raises:
        DataError: If a line is no labelled search.
    """
    for number, row in read_json_lines(path):
        with located(path, number):
            search = LabelledSearch.from_json(row)
        yield number, search


def as_line(row: Mapping[str, Any]) -> str:
    """Return a row as one line without its end; ASCII, so that any text can be in it."""
    return json.dumps(row)


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one row a line, the whole file or nothing; folders are made as needed."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(f"{as_line(row)}\n" for row in rows)

    write_file(path, write)


def cut_torn_line(path: Path, opening: str) -> None:
    """Take away the last line of a file if a crash left it half written, with a warning.

    Args:
        path: A file of lines that were appended whole; it may be missing.
        opening: What every line of such a file begins with. A last line that begins otherwise
            is nobody's torn line, and stays for the reader to complain about.
    """
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    torn, expected = content[whole:], opening.encode()
    if not torn or is_json(torn) or torn[: len(expected)] != expected[: len(torn)]:
        return
    os.truncate(path, whole)
    warnings.warn(
        f"{path}: the last line was torn, as by a crash, and is dropped ({len(torn)} bytes)",
        stacklevel=2,
    )


def is_json(line: bytes) -> bool:
    """Tell whether a line is JSON; one that is not may be torn."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True

"""The folder of a benchmark: its episodes, and what they were played with.

    DIR/episodes.jsonl   an episode a line, appended and forced to the disk
    DIR/bench.json       all that decides an episode beside its condition and its question

What was played is not played again. A line that a crash left half written is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agents.bench.plan import EpisodeKey, key_of
from agents.bench.rows import EPISODES_FILE, EpisodeRow
from agents.cli.files import write_json
from agents.durable import write_text
from agents.tuning.records import cut_torn_line, is_json, located
from zs_env.task.questions import Question
from zs_env.wrappers import append_line

IDENTITY_FILE: Final = "bench.json"
FAILED: Final = "failed"

_OPENING: Final = '{"agent": '  # what every line begins with


def check_identity(folder: Path, identity: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that episodes in a folder were played with the same, and write down what they are.

    Args:
        folder: Of the benchmark; it may be new.
        identity: Tables of JSON values; what is in one of them only, here or there, may be added.

    Raises:
        ValueError: If something differs; names the first difference.
    """
    file = folder / IDENTITY_FILE
    found = _read_identity(file) if file.exists() else {}
    for table, values in identity.items():
        there = found.get(table, {})
        for name, value in values.items():
            if there.get(name, value) != value:
                raise ValueError(
                    f"`out` must be a new folder or that of the same benchmark, but in {file} "
                    f"{table} {name!r} is {there[name]!r} and not {value!r}"
                )
    merged = {table: {**found.get(table, {}), **values} for table, values in identity.items()}
    if merged != found:
        write_json(file, merged)


def _read_identity(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(table): dict(values) for table, values in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not the identity of a benchmark: {error!r}") from error


def cut_torn_row(folder: Path) -> None:
    """Take away a last line that a crash left half written, with a warning."""
    cut_torn_line(folder / EPISODES_FILE, _OPENING)


def read_rows(folder: Path, questions: Sequence[Question] = ()) -> dict[EpisodeKey, EpisodeRow]:
    """Return the episodes in a folder by their keys, but for one that is half written.

    Args:
        folder: Of the benchmark; it may be new.
        questions: What the ids must stand for, as far as they occur.

    Raises:
        DataError: If a line is no episode, or asks something else by the same id.
    """
    file = folder / EPISODES_FILE
    asked = {(each.data_source, each.id): each for each in questions}
    rows: dict[EpisodeKey, EpisodeRow] = {}
    for number, line in _whole_lines(file) if file.is_file() else ():
        with located(file, number):
            row = _read_row(line)
            _check_question(row, asked.get((row.data_source, row.question_id)))
        rows.setdefault(key_of(row), row)
    return rows


def _whole_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the text of each line that is not blank, or the torn last one."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip() and (line.endswith(b"\n") or is_json(line)):
                yield number, line


def _read_row(line: bytes) -> EpisodeRow:
    try:
        return EpisodeRow.from_json(json.loads(line))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an episode: {error!r}") from error


def _check_question(row: EpisodeRow, question: Question | None) -> None:
    if question is None:
        return
    here = (question.text, question.golden_answers)
    if (row.question, row.golden_answers) != here:
        raise ValueError(
            f"question {row.question_id!r} of {row.data_source!r} is {row.question!r} here, got "
            f"{question.text!r}: give another folder"
        )


def append_rows(folder: Path, rows: Sequence[EpisodeRow]) -> None:
    """Add episodes; when this returns they are on the disk."""
    if rows:
        append_line(folder / EPISODES_FILE, as_lines(rows))


def as_lines(rows: Iterable[EpisodeRow]) -> str:
    """Return episodes as lines of JSON, without the last line break."""
    return "\n".join(json.dumps(row.to_json()) for row in rows)


def drop_failed(folder: Path, rows: Mapping[EpisodeKey, EpisodeRow]) -> int:
    """Take failed episodes out of a folder, so that they are played again; return their number."""
    kept = [row for row in rows.values() if row.stop_reason != FAILED]
    num_failed = len(rows) - len(kept)
    if num_failed:
        write_text(folder / EPISODES_FILE, f"{as_lines(kept)}\n" if kept else "")
    return num_failed

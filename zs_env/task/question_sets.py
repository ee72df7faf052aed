"""Sets of questions: the built-in ones by name, a JSONL file, or records in memory.

Nothing is read or generated before the first question is asked for, so that an environment can
be built anywhere at no cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from zs_env.task.questions import Question

SPLITS: Final = ("train", "validation", "test")
NAMES: Final = ("miniwiki", "miniwiki-hard")

QuestionRecord: TypeAlias = Question | Mapping[str, object]
QuestionSource: TypeAlias = str | Path | Sequence[QuestionRecord]


class QuestionSet:
    """Questions by split and by id, loaded when first needed.

    A built-in set has three splits that share no entity. A file or a sequence of records is one
    set, which every split stands for.

    Args:
        source: "miniwiki", "miniwiki-hard", the path of a JSONL file, or records (`Question`s or
            mappings that hold `question`, `answers` or `golden_answers`, and perhaps `id`,
            `data_source` and `num_hops`).

    Raises:
        ValueError: If the source is none of these, or a record is incomplete.
    """

    def __init__(self, source: QuestionSource) -> None:
        """Check the source; records are read now, files and built-in sets later."""
        self._source: str | Path | tuple[Question, ...] = _check_source(source)
        self._splits: dict[str, tuple[Question, ...]] = {}
        self._by_id: dict[str, Question] = {}

    def split(self, name: str) -> tuple[Question, ...]:
        """Return the questions of one split, in a fixed order; never empty."""
        key = name if isinstance(self._source, str) else "all"
        if key not in self._splits:
            self._splits[key] = self._load(key)
        return self._splits[key]

    def find(self, question_id: str) -> Question:
        """Return the question with this id, in whatever split it is.

        Raises:
            ValueError: If there is none.
        """
        if not self._by_id:
            self._by_id = {question.id: question for s in SPLITS for question in self.split(s)}
        if question_id not in self._by_id:
            raise ValueError(
                f"`question` must be the id of one of {len(self._by_id)} questions, "
                f"got {question_id!r}"
            )
        return self._by_id[question_id]

    def _load(self, key: str) -> tuple[Question, ...]:
        if isinstance(self._source, tuple):
            return self._source
        if isinstance(self._source, Path):
            return read_jsonl(self._source)
        from zs_env.task.miniwiki import default_world

        return default_world().questions(key, hard=self._source == "miniwiki-hard")


def _check_source(source: QuestionSource) -> str | Path | tuple[Question, ...]:
    """Return a name, an existing file, or complete records.

    Raises:
        ValueError: If `source` is none of them.
    """
    if isinstance(source, str) and source in NAMES:
        return source
    if isinstance(source, str | Path):
        if Path(source).is_file():
            return Path(source)
        known = ", ".join(NAMES)
        raise ValueError(
            f"`questions` must be {known}, an existing JSONL file or records, got {source!r}"
        )
    return _distinct("`questions`", (make_question(r, str(i)) for i, r in enumerate(source)))


def read_jsonl(path: Path) -> tuple[Question, ...]:
    """Return the questions of a file with one JSON object a line; its name is the data source.

    Raises:
        ValueError: If a line is not a question; the message names file and line.
    """
    questions = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                questions.append(make_question(record, str(number), path.stem))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
    return _distinct(str(path), questions)


def _distinct(name: str, questions: Iterable[Question]) -> tuple[Question, ...]:
    """Return the questions as a tuple.

    Raises:
        ValueError: If there are none, or two share an id.
    """
    unique: dict[str, Question] = {}
    for question in questions:
        if question.id in unique:
            raise ValueError(f"{name} must have distinct ids, got {question.id!r} twice")
        unique[question.id] = question
    if not unique:
        raise ValueError(f"{name} must hold at least one question, got none")
    return tuple(unique.values())


def make_question(record: QuestionRecord, default_id: str, data_source: str = "custom") -> Question:
    """Return the question that a record describes.

    Args:
        record: A `Question`, or a mapping with `question` and `answers` (or `golden_answers`):
            one string or several.
        default_id: Id of a mapping that has none.
        data_source: Data source of a mapping that has none.

    Raises:
        ValueError: If a part is missing or of the wrong type.
    """
    if isinstance(record, Question):
        return record
    if not isinstance(record, Mapping):
        raise ValueError(f"a question must be a Question or a mapping, got {record!r}")
    text = record.get("question")
    if not isinstance(text, str) or not text:
        raise ValueError(f"`question` of a question must be a text, got {text!r}")
    num_hops = record.get("num_hops")
    if not (num_hops is None or isinstance(num_hops, int)):
        raise ValueError(f"`num_hops` of a question must be an integer or None, got {num_hops!r}")
    return Question(
        id=str(record.get("id", default_id)),
        text=text,
        golden_answers=_golden_answers(record),
        data_source=str(record.get("data_source", data_source)),
        num_hops=num_hops,
    )


def _golden_answers(record: Mapping[str, object]) -> tuple[str, ...]:
    """Return the accepted answers of a record, never empty.

    Raises:
        ValueError: If they are missing, empty, or not texts.
    """
    answers = record.get("golden_answers", record.get("answers"))
    if isinstance(answers, str):
        answers = (answers,)
    if (
        not isinstance(answers, Sequence)
        or not answers
        or not all(isinstance(answer, str) and answer for answer in answers)
    ):
        raise ValueError(f"`answers` of a question must be one or more texts, got {answers!r}")
    return tuple(answers)

"""Sets of questions: built-in and public ones by name, a local file, or records in memory.

Nothing is read, generated or downloaded before the first question is asked for, so that an
environment can be built anywhere at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias

from zs_env.task.json_lines import decode_line, numbered_lines
from zs_env.task.public_sets import PUBLIC_SETS, PublicSet
from zs_env.task.questions import Question

SPLITS: Final = ("train", "validation", "test")
_ANSWER_KEYS: Final = ("golden_answers", "answers")
MINIWIKI_NAMES: Final = ("miniwiki", "miniwiki-hard")
NAMES: Final = (*MINIWIKI_NAMES, *PUBLIC_SETS)

QuestionRecord: TypeAlias = Question | Mapping[str, object]
QuestionSource: TypeAlias = str | Path | Sequence[QuestionRecord]

# What reads parquet files and the hub needs libraries that this package does without, so it is
# named here and imported when it is used.
_READERS: Final = "zs_env.readers"


class QuestionSetError(OSError):
    """The world outside failed: a question set could not be fetched."""


class QuestionSet:
    """Questions by split and by id, loaded when first needed.

    A named set has splits that share no question; MiniWiki's three share no entity either. A
    file or a sequence of records is one set, which every split stands for.

    Args:
        source: A name (one of `NAMES`), the path of a JSONL or parquet file, or records
            (`Question`s or mappings that hold `question`, `answers` or `golden_answers`, and
            perhaps `id`, `data_source` and `num_hops`).

    Raises:
        ValueError: If the source is none of these, or a record is incomplete.
        TypeError: If the source is of no such type.
    """

    def __init__(self, source: QuestionSource) -> None:
        """Check the source; records are read now, files and named sets later."""
        self._source: str | Path | tuple[Question, ...] = _check_source(source)
        self._splits: dict[str, tuple[Question, ...]] = {}
        self._by_id: dict[str, list[Question]] = {}

    def split(self, name: str) -> tuple[Question, ...]:
        """Return the questions of one split, in a fixed order; never empty.

        Raises:
            ValueError: If a public set has no such split.
            QuestionSetError: If a public set cannot be fetched.
        """
        key = name if isinstance(self._source, str) else "all"
        if key not in self._splits:
            self._splits[key] = self._load(key)
        return self._splits[key]

    def find(self, question_id: str) -> Question:
        """Return the question with this id, in whatever split it is.

        Raises:
            ValueError: If there is none, or more than one.
        """
        if not self._by_id:
            self._by_id = _index(self._all())
        found = self._by_id.get(question_id, [])
        if len(found) == 1:
            return found[0]
        if not found:
            raise ValueError(
                f"`question` must be the id of one of {len(self._by_id)} questions, "
                f"got {question_id!r}"
            )
        sources = ", ".join(question.data_source for question in found)
        raise ValueError(
            f"`question` must be an id that one question has (or a whole question), "
            f"got {question_id!r}, which {len(found)} have, in {sources}"
        )

    def _all(self) -> Iterator[Question]:
        public = PUBLIC_SETS.get(self._source) if isinstance(self._source, str) else None
        for name in SPLITS if public is None else public.files:
            yield from self.split(name)

    def _load(self, key: str) -> tuple[Question, ...]:
        if isinstance(self._source, tuple):
            return self._source
        if isinstance(self._source, Path):
            return _read_file(self._source)
        if self._source in PUBLIC_SETS:
            return _read_public_set(PUBLIC_SETS[self._source], key)
        from zs_env.task.miniwiki import default_world

        return default_world().questions(key, hard=self._source == "miniwiki-hard")


def _index(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Return the different questions under each id."""
    by_id: dict[str, list[Question]] = {}
    for question in questions:
        same = by_id.setdefault(question.id, [])
        if question not in same:
            same.append(question)
    return by_id


def _check_source(source: QuestionSource) -> str | Path | tuple[Question, ...]:
    """Return a name, an existing file, or complete records.

    Raises:
        ValueError: If `source` is none of them; the message tells an incomplete record by its
            index, from 0.
        TypeError: If it is of no such kind.
    """
    if isinstance(source, str) and source in NAMES:
        return source
    if isinstance(source, str | Path):
        if Path(source).is_file():
            return Path(source)
        known = ", ".join(NAMES)
        raise ValueError(
            f"`questions` must be {known}, an existing JSONL or parquet file, or records, "
            f"got {source!r}"
        )
    records: Any = source
    if not isinstance(records, Iterable) or isinstance(records, Mapping | bytes):
        raise TypeError(f"`questions` must be a name, a file or records, got {source!r}")
    return distinct("`questions`", _read_sequence(records))


def _read_sequence(records: Iterable[QuestionRecord]) -> Iterator[Question]:
    for index, record in enumerate(records):
        try:
            yield make_question(record, str(index))
        except (TypeError, ValueError) as error:
            raise ValueError(f"`questions`[{index}]: {error}") from error


def check_public_split(public: PublicSet, split: str) -> None:
    """Check that a public set has a split, without any download.

    Raises:
        ValueError: If not.
    """
    if split not in public.files:
        known = ", ".join(public.files)
        raise ValueError(
            f"`split` must be one of {known} for questions={public.name!r}, got {split!r}"
        )


def _read_public_set(public: PublicSet, split: str) -> tuple[Question, ...]:
    check_public_split(public, split)
    questions: tuple[Question, ...] = import_module(_READERS).read_public_set(public, split)
    return questions


def _read_file(path: Path) -> tuple[Question, ...]:
    if path.suffix.lower() == ".parquet":
        questions: tuple[Question, ...] = import_module(_READERS).read_parquet(path)
        return questions
    return read_jsonl(path)


def read_jsonl(path: Path) -> tuple[Question, ...]:
    """Return the questions of a file with one JSON object a line; its name is the data source.

    Raises:
        ValueError: If a line is not a question; the message names file and line.
    """
    return distinct(str(path), read_records(str(path), path.stem, numbered_lines(path)))


def read_records(
    name: str, data_source: str, numbered: Iterable[tuple[int, Any]]
) -> Iterator[Question]:
    """Yield the questions that numbered records, or lines of JSON as bytes, describe.

    Args:
        name: What the numbers count in, for messages.
        data_source: Data source of records that name none.
        numbered: Pairs of number and record; the number is the id of a record that has none.

    Raises:
        ValueError: If one is not a question; the message names it by its number.
    """
    for number, record in numbered:
        try:
            record = decode_line(record) if isinstance(record, bytes) else record
            yield make_question(record, str(number), data_source)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}:{number}: {error}") from error


def distinct(name: str, questions: Iterable[Question]) -> tuple[Question, ...]:
    """Return the questions as a tuple.

    Args:
        name: Where they come from, for messages.
        questions: Any number of questions.

    Raises:
        ValueError: If there are none, or two share both data source and id.
    """
    unique: dict[tuple[str, str], Question] = {}
    for question in questions:
        key = (question.data_source, question.id)
        if key in unique:
            raise ValueError(
                f"{name} must have distinct ids, got {question.id!r} twice in {key[0]!r}"
            )
        unique[key] = question
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
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"`question` of a question must be a text, got {text!r}")
    num_hops = record.get("num_hops")
    if isinstance(num_hops, bool) or not (num_hops is None or isinstance(num_hops, int)):
        raise ValueError(f"`num_hops` of a question must be an integer or None, got {num_hops!r}")
    identifier, source = record.get("id"), record.get("data_source")
    return Question(
        id=default_id if identifier is None else str(identifier),
        text=text,
        golden_answers=_golden_answers(record),
        data_source=data_source if source is None else str(source),
        num_hops=num_hops,
    )


def _golden_answers(record: Mapping[str, object]) -> tuple[str, ...]:
    """Return the accepted answers of a record, never empty, from the first key that holds any.

    Raises:
        ValueError: If they are missing, empty, or not texts.
    """
    given = [record[key] for key in _ANSWER_KEYS if record.get(key) is not None]
    for answers in given:
        if texts := _texts(answers):
            return texts
    shown = given[0] if given else None
    raise ValueError(f"`answers` of a question must be one or more texts, got {shown!r}")


def _texts(answers: object) -> tuple[str, ...]:
    """Return the answers that are not blank: public sets hold a blank alias here and there.

    Raises:
        ValueError: If one is not a text.
    """
    several = (answers,) if isinstance(answers, str) else answers
    found = tuple(several) if isinstance(several, Sequence) else ()
    if not all(isinstance(text, str) for text in found):
        raise ValueError(f"`answers` of a question must be one or more texts, got {answers!r}")
    return tuple(text for text in found if text.strip())

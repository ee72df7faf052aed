"""Questions: the record every environment asks, and where sets of them come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_QUESTION_LENGTH: Final = 4096  # characters


@dataclass(frozen=True, slots=True)
class Question:
    """One question with everything needed to grade an answer to it.

    Attributes:
        id: Unique within its data source.
        text: The question as the agent reads it; never blank.
        golden_answers: All accepted answers, the preferred wording first; never empty. A list
            is kept as a tuple.
        data_source: Name of the set it belongs to; (data_source, id) is globally unique.
        num_hops: How many facts must be combined, or None where that is unknown.

    Raises:
        TypeError: If a part is of the wrong type; one answer alone is no sequence of answers.
        ValueError: If there is no golden answer, or `text` is blank or longer than
            `MAX_QUESTION_LENGTH`.
    """

    id: str
    text: str
    golden_answers: tuple[str, ...]
    data_source: str = "custom"
    num_hops: int | None = None

    def __post_init__(self) -> None:
        """Check every part: what is wrong here would else fail in the midst of an episode."""
        for name in ("id", "text", "data_source"):
            self._check(name, isinstance(getattr(self, name), str), "a text")
        hops: Any = self.num_hops
        is_count = isinstance(hops, int) and not isinstance(hops, bool)
        self._check("num_hops", hops is None or is_count, "an integer or None")
        answers: Any = self.golden_answers
        is_several = isinstance(answers, Sequence) and not isinstance(answers, str)
        is_texts = is_several and all(isinstance(answer, str) for answer in answers)
        self._check("golden_answers", is_texts, "a tuple of texts")
        object.__setattr__(self, "golden_answers", tuple(answers))
        self._check_lengths()

    def _check(self, name: str, is_right: bool, kind: str) -> None:
        if not is_right:
            value = getattr(self, name)
            raise TypeError(f"`{name}` of question {self.id!r} must be {kind}, got {value!r}")

    def _check_lengths(self) -> None:
        if not self.golden_answers:
            raise ValueError(f"`golden_answers` of question {self.id!r} must not be empty")
        if not self.text.strip():
            raise ValueError(f"`text` of question {self.id!r} must not be blank, got {self.text!r}")
        if len(self.text) > MAX_QUESTION_LENGTH:
            raise ValueError(
                f"`text` of question {self.id!r} must be at most {MAX_QUESTION_LENGTH} characters "
                f"long, got {len(self.text)}"
            )

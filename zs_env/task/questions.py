"""Questions: the record every environment asks, and where sets of them come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_QUESTION_LENGTH: Final = 4096  # characters


@dataclass(frozen=True, slots=True)
class Question:
    """One question with everything needed to grade an answer to it.

    Attributes:
        id: Unique within its data source.
        text: The question as the agent reads it.
        golden_answers: All accepted answers, the preferred wording first; never empty.
        data_source: Name of the set it belongs to; (data_source, id) is globally unique.
        num_hops: How many facts must be combined, or None where that is unknown.

    Raises:
        ValueError: If there is no golden answer, or `text` is longer than `MAX_QUESTION_LENGTH`.
    """

    id: str
    text: str
    golden_answers: tuple[str, ...]
    data_source: str = "custom"
    num_hops: int | None = None

    def __post_init__(self) -> None:
        if not self.golden_answers:
            raise ValueError(f"`golden_answers` of question {self.id!r} must not be empty")
        if len(self.text) > MAX_QUESTION_LENGTH:
            raise ValueError(
                f"`text` of question {self.id!r} must be at most {MAX_QUESTION_LENGTH} characters "
                f"long, got {len(self.text)}"
            )

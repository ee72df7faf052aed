"""A control beside a base model: what as much more imitation would have done.

Reinforcement learning that starts from a weak model shows little if the same wall time of further
fine-tuning does as well. `control.json` beside the model holds that comparison, whoever made it:

    {"text": "what was compared, and how",
     "rows": [{"name": "base", "seconds": 0, "exact_match": 0.24, "exact_match_ci": [0.22, 0.27],
               "num_questions": 1068}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CONTROL_FILE: Final = "control.json"


@dataclass(frozen=True, slots=True)
class ControlRow:
    """How well a model does after some further training.

    Attributes:
        name: What was done.
        seconds: Wall time that took, at least 0.
        exact_match: Share of questions answered exactly, in [0, 1].
        low: Lower end of its 95 % interval.
        high: Upper end.
        num_questions: Questions asked.
    """

    name: str
    seconds: float
    exact_match: float
    low: float
    high: float
    num_questions: int

    @classmethod
    def from_json(cls, value: Any) -> ControlRow:
        """Return the row that a JSON object describes.

        Raises:
            ValueError: If a part is missing or of the wrong type.
        """
        row = _object("rows", value)
        ends = row.get("exact_match_ci")
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"`exact_match_ci` must be two numbers, got {ends!r:.80}")
        low, high = ends
        name = row.get("name")
        if not isinstance(name, str):
            raise ValueError(f"`name` must be a text, got {name!r:.80}")
        return cls(
            name,
            _number("seconds", row.get("seconds")),
            _number("exact_match", row.get("exact_match")),
            _number("exact_match_ci", low),
            _number("exact_match_ci", high),
            int(_number("num_questions", row.get("num_questions"))),
        )


@dataclass(frozen=True, slots=True)
class Control:
    """A comparison.

    Attributes:
        text: What was compared, and how.
        rows: What came of it.
    """

    text: str
    rows: tuple[ControlRow, ...]

    @classmethod
    def load(cls, file: Path) -> Control:
        """Return the comparison in a file.

        Raises:
            ValueError: If the file holds none; names it.
        """
        try:
            value = _object("control", json.loads(file.read_text(encoding="utf-8")))
            text, rows = value.get("text"), value.get("rows")
            if not isinstance(text, str) or not isinstance(rows, list):
                raise ValueError("`text` must be a text and `rows` a list")
            return cls(text, tuple(ControlRow.from_json(row) for row in rows))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def cells(self) -> list[tuple[str, str, str, str]]:
        """Return name, wall time, exact match and number of questions of each row."""
        return [
            (
                row.name,
                f"{row.seconds:.0f} s",
                f"{row.exact_match:.3f} [{row.low:.3f}, {row.high:.3f}]",
                str(row.num_questions),
            )
            for row in self.rows
        ]


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must hold objects, got {value!r:.80}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"`{name}` must be a number of at least 0, got {value!r:.80}")
    return float(value)

"""The oracle: gives a golden answer at once, because it is told all of them beforehand.

It shows that grading and bookkeeping reach 1, and is the upper end of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.baselines.rules import PlayRules


class OracleAgent:
    """Answers the golden answer of the question that it reads."""

    def __init__(self, rules: PlayRules) -> None:
        """Learn the answers of `rules.questions`; where two share their text, the first counts.

        Raises:
            ValueError: If there are no questions.
        """
        if not rules.questions:
            raise ValueError("`questions` must be told to the oracle beforehand, got none")
        self._rules = rules
        self._answers: dict[str, str] = {}
        for question in rules.questions:
            self._answers.setdefault(question.text, question.golden_answers[0])

    def predict(
        self,
        observations: Sequence[str],
        state: Any,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], Any]:
        """Answer in every slot; see `agents.agent.Agent`."""
        return [self._answer(text) for text in observations], None

    def _answer(self, observation: str) -> str:
        # Whatever follows a question that it was not told is not the first observation.
        known = self._answers.get(self._rules.question_in(observation), "")
        return f"<answer>{known.replace('<', ' ')}</answer>"

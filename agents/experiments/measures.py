"""What is measured of a finished run: its exams, and how its training went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from agents.experiments.design import EXAM_NOISE

BM25_EXAM, NOISY_EXAM, SIMULATOR_EXAM = "bm25", "noisy", "simulator"
MEAN_REWARD, UNSTEADINESS, LAST_SEARCHES = "mean_reward", "unsteadiness", "last_searches"
ROLLOUTS = "rollouts"
_LAST: Final = 5  # updates


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a run.

    Attributes:
        label: Its name for readers.
        about: What it is, for readers.
        is_exam: Whether it is the exact match in an exam of the same name.
        colour: Of its dots.
    """

    label: str
    about: str
    is_exam: bool = False
    colour: str = "#555555"


MEASURES: Final[Mapping[str, Measure]] = {
    BM25_EXAM: Measure("real engine", "exact match with BM25", True, "#0072B2"),
    NOISY_EXAM: Measure(
        f"simulator, noise {EXAM_NOISE}",
        f"exact match with the small simulator at noise {EXAM_NOISE}",
        True,
        "#D55E00",
    ),
    SIMULATOR_EXAM: Measure(
        "simulator", "exact match with the small simulator without noise", True, "#009E73"
    ),
    MEAN_REWARD: Measure("mean reward", "mean reward of all updates: who learns early has more"),
    UNSTEADINESS: Measure(
        "unsteadiness",
        "mean change of the reward from one update to the next, up or down, in the later half",
    ),
    LAST_SEARCHES: Measure("searches", f"searches an episode in the last {_LAST} updates"),
    ROLLOUTS: Measure("rollouts", "batches of episodes an update, where groups are played again"),
}
"""All measures by name."""


def measure_all(
    exams: Mapping[str, Mapping[str, Any]], updates: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return those measures that a run has.

    Args:
        exams: By their names, each with its `exact_match`.
        updates: The metrics of each update; empty where nothing was trained.

    Example:
        >>> rows = [{"rollout/reward": reward, "rollout/searches": 2} for reward in (0.0, 0.5)]
        >>> measures = measure_all({"bm25": {"exact_match": 0.75}}, rows)
        >>> measures["bm25"], measures["mean_reward"], measures["unsteadiness"]
        (0.75, 0.25, 0.5)
    """
    found = {name: float(exam["exact_match"]) for name, exam in exams.items()}
    rewards = [float(row["rollout/reward"]) for row in updates]
    if len(rewards) < 2:
        return found
    steps = [abs(later - earlier) for earlier, later in pairwise(rewards)]
    late = steps[len(steps) // 2 :]
    searches = [float(row["rollout/searches"]) for row in updates[-_LAST:]]
    rollouts = [float(row.get("rollout/num_rollouts", 1)) for row in updates]
    return {
        **found,
        MEAN_REWARD: math.fsum(rewards) / len(rewards),
        UNSTEADINESS: math.fsum(late) / len(late),
        LAST_SEARCHES: math.fsum(searches) / len(searches),
        ROLLOUTS: math.fsum(rollouts) / len(rollouts),
    }

"""What an experiment consists of: arms, seeds, and what is the same for all of them.

An arm is one way to train the policy; every arm is trained once with each seed. The seed decides
questions, noise draws and sampling, so that the runs of one seed are paired across arms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

BASE: Final = "base"
TINY, SMALL, MEDIUM = "simulator-tiny", "simulator", "simulator-medium"
FORMAT_ONLY: Final = "format-only"
EXACT_ENGINES: Final = ("bm25", "world")
"""Engines without a model."""

DEFAULT_ALGORITHM: Final = "grpo"

EXAM_NOISE: Final = 0.5

Curriculum = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train the policy.

    Attributes:
        name: Names its runs.
        engine: What answers queries in training: one of `EXACT_ENGINES`, a shipped simulator, or
            `FORMAT_ONLY`; empty means that nothing is trained.
        curriculum: From progress in [0, 1] to the noise probability.
        about: What it is, for readers.
        algorithm: How the policy learns, as `make_algorithm` reads it.
    """

    name: str
    engine: str
    curriculum: Curriculum
    about: str = ""
    algorithm: str = DEFAULT_ALGORITHM

    @property
    def is_trained(self) -> bool:
        """Whether there is any training."""
        return bool(self.engine)

    @property
    def model(self) -> str | None:
        """Name of the simulator's model; None where no model answers."""
        return None if not self.engine or self.engine in EXACT_ENGINES else self.engine

    def mean_noise(self, num_updates: int) -> float:
        """Return the mean noise probability of training; 0 without any, or where BM25 answers.

        Example:
            >>> Arm("half", "world", lambda progress: progress / 2).mean_noise(3)
            0.25
        """
        if not self.is_trained or self.engine == "bm25":
            return 0.0
        last = max(1, num_updates - 1)
        return sum(self.curriculum(update / last) for update in range(num_updates)) / num_updates


@dataclass(frozen=True, slots=True)
class Protocol:
    """What all runs have in common.

    Attributes:
        num_updates: Updates of training, at least 1.
        num_questions: Questions an update, at least 1.
        group_size: Episodes a question and update, at least 2.
        num_eval_questions: Test questions that a policy answers with the real engine, at least 1.
        num_noisy_questions: Test questions that it answers with the small simulator at noise
            `EXAM_NOISE`, at least 1.
        format_examples: Examples that the format-only simulator is trained on, at least 1.
        max_turns: Actions an episode lasts at most.
        max_new_tokens: Tokens of an action at most.
    """

    num_updates: int = 15
    num_questions: int = 16
    group_size: int = 8
    num_eval_questions: int = 1000
    num_noisy_questions: int = 300
    format_examples: int = 12_000
    max_turns: int = 6
    max_new_tokens: int = 48


@dataclass(frozen=True, slots=True)
class Run:
    """One training of one arm and what comes of it."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Names its files."""
        # An algorithm of one's own may hold slashes and colons.
        return re.sub(r"[^\w.-]+", "-", f"{self.arm.name}-seed{self.seed}")


def plan(arms: Iterable[Arm], num_seeds: int) -> tuple[Run, ...]:
    """Return all runs, seed by seed, so that those that come first can be compared.

    An arm without training has no need of more than one seed.

    Example:
        >>> noise = lambda progress: 0.0
        >>> arms = [Arm("real", "bm25", noise), Arm("untrained", "", noise)]
        >>> [run.name for run in plan(arms, num_seeds=2)]
        ['real-seed0', 'untrained-seed0', 'real-seed1']
    """
    arms = tuple(arms)
    return tuple(
        Run(arm, seed) for seed in range(num_seeds) for arm in arms if arm.is_trained or seed == 0
    )

"""What the miniature experiment consists of: arms, seeds, and what is the same for all of them.

An arm is one way to train the policy; every arm is trained once with each seed. The seed decides
questions, noise draws and sampling, so that the runs of one seed are paired across arms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from zs_env.search.curriculum import ConstantCurriculum, ExponentialCurriculum, ReversedCurriculum

BASE: Final = "base"
TINY, SMALL, MEDIUM = "simulator-tiny", "simulator", "simulator-medium"
FORMAT_ONLY: Final = "format-only"
EXACT_ENGINES: Final = ("bm25", "world")
"""Engines without a model."""

EXAM_NOISE: Final = 0.5

Curriculum = Callable[[float], float]

EASY_TO_HARD: Final = ExponentialCurriculum(0.0, EXAM_NOISE)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train the policy.

    Attributes:
        name: Names its runs.
        engine: What answers queries in training: one of `EXACT_ENGINES`, a shipped simulator, or
            `FORMAT_ONLY`; empty means that nothing is trained.
        curriculum: From progress in [0, 1] to the noise probability.
        about: What it is, for readers.
    """

    name: str
    engine: str
    curriculum: Curriculum = EASY_TO_HARD
    about: str = ""

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
            >>> round(ARMS["small"].mean_noise(15), 3)
            0.198
        """
        if not self.is_trained or self.engine == "bm25":
            return 0.0
        last = max(1, num_updates - 1)
        return sum(self.curriculum(update / last) for update in range(num_updates)) / num_updates


ARMS: Final = {
    arm.name: arm
    for arm in (
        Arm("tiny", TINY, about="the tiny simulator, noise 0 to 0.5, easy to hard"),
        Arm("small", SMALL, about="the small simulator, noise 0 to 0.5, easy to hard"),
        Arm("medium", MEDIUM, about="the medium simulator, noise 0 to 0.5, easy to hard"),
        Arm(
            "format-only",
            FORMAT_ONLY,
            about="a simulator of the small size that knows the format but not the world, noise 0 "
            "to 0.5, easy to hard; it stands for the paper's prompted simulator",
        ),
        Arm("real", "bm25", about="the real engine, BM25, which has no noise to give"),
        Arm(
            "hard-to-easy",
            SMALL,
            ReversedCurriculum(EASY_TO_HARD),
            "the small simulator, the same noise backwards",
        ),
        Arm("constant", SMALL, ConstantCurriculum(0.25), "the small simulator, noise 0.25"),
        Arm("no-noise", SMALL, ConstantCurriculum(0.0), "the small simulator without noise"),
        Arm("untrained", "", ConstantCurriculum(0.0), "the start policy, for comparison"),
        Arm(
            "constant-matched",
            SMALL,
            ConstantCurriculum(0.198),
            "the small simulator, constant noise of the same mean as easy to hard",
        ),
        Arm("exact", "world", about="a simulator without mistakes, easy to hard"),
    )
}
"""Every arm by name; the default experiment has those of `DEFAULT_ARMS`."""

DEFAULT_ARMS: Final = tuple(name for name in ARMS if name not in ("constant-matched", "exact"))


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
        return f"{self.arm.name}-seed{self.seed}"


def plan(arms: Iterable[Arm], num_seeds: int) -> tuple[Run, ...]:
    """Return all runs, seed by seed, so that those that come first can be compared.

    An arm without training has no need of more than one seed.

    Example:
        >>> [run.name for run in plan([ARMS["real"], ARMS["untrained"]], num_seeds=2)]
        ['real-seed0', 'untrained-seed0', 'real-seed1']
    """
    arms = tuple(arms)
    return tuple(
        Run(arm, seed) for seed in range(num_seeds) for arm in arms if arm.is_trained or seed == 0
    )


def find_arms(names: Sequence[str]) -> tuple[Arm, ...]:
    """Return the arms of some names, each once.

    Raises:
        ValueError: If one is unknown, or there is none.
    """
    for name in names:
        if name not in ARMS:
            raise ValueError(f"`arms` must be among {', '.join(ARMS)}, got {name!r}")
    if not names:
        raise ValueError("`arms` must name at least one arm")
    return tuple(ARMS[name] for name in dict.fromkeys(names))

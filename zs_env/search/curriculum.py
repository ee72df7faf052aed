"""Curricula: the probability of noisy documents as a function of training progress.

They reach an environment as data, `reset(options={"noise": curriculum(progress)})`, or as its
constructor's `curriculum`, which `reset(options={"progress": …})` then goes through.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Final, TypeAlias

from zs_env.checks import check_count, check_probability


def _clipped(progress: float) -> float:
    return min(1.0, max(0.0, progress))


def _check_positive(name: str, value: Any) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be greater than 0 and finite, got {value!r}")


class Curriculum(ABC):
    """From progress in [0, 1] to a probability of noise. Subclass it for a curriculum of your own.

    A curriculum never changes. One that learns from how episodes end returns, from `after`,
    another one to go on with.
    """

    __slots__ = ()

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the noise probability at `progress`; beyond [0, 1], that of the nearer end."""

    def after(self, success: float) -> Curriculum:
        """Return the curriculum to go on with after an episode.

        Args:
            success: How well it went, in [0, 1].
        """
        return self

    def get_state(self) -> dict[str, Any]:
        """Return what `after` has changed so far, as JSON values."""
        return {}

    def with_state(self, state: Mapping[str, Any]) -> Curriculum:
        """Return the curriculum that goes on where one built alike had this state."""
        return self


@dataclass(frozen=True, slots=True)
class ExponentialCurriculum(Curriculum):
    """The paper's curriculum (arXiv 2505.04588, eq. 3), exact at both ends.

    p(x) = start + (base**x - 1) / (base - 1) * (end - start) for progress x in [0, 1].

    Attributes:
        start: Probability at the beginning of training.
        end: Probability at its end.
        base: How late the rise comes; above 1 late, below 1 early, 1 is linear.

    Example:
        >>> [round(ExponentialCurriculum()(x), 3) for x in (0.0, 0.5, 1.0)]
        [0.0, 0.167, 0.5]
    """

    start: float = 0.0
    end: float = 0.5
    base: float = 4.0

    def __post_init__(self) -> None:
        check_probability("start", self.start)
        check_probability("end", self.end)
        _check_positive("base", self.base)

    def __call__(self, progress: float) -> float:
        """Return the noise probability at `progress` in [0, 1]; beyond, that of the nearer end."""
        progress = _clipped(progress)
        if progress == 1:
            return self.end  # the sum below rounds: 1 + (0.05 - 1) is not 0.05
        if self.base == 1:
            share = progress
        else:
            share = (self.base**progress - 1) / (self.base - 1)
        noise = self.start + share * (self.end - self.start)
        return min(max(noise, min(self.start, self.end)), max(self.start, self.end))


@dataclass(frozen=True, slots=True)
class LinearCurriculum(Curriculum):
    """A straight line from `start` to `end`, exact at both.

    Example:
        >>> LinearCurriculum(0.0, 0.5)(0.5)
        0.25
    """

    start: float = 0.0
    end: float = 0.5

    def __post_init__(self) -> None:
        check_probability("start", self.start)
        check_probability("end", self.end)

    def __call__(self, progress: float) -> float:
        """Return the noise probability at `progress` in [0, 1]; beyond, that of the nearer end."""
        return ExponentialCurriculum(self.start, self.end, base=1.0)(progress)


@dataclass(frozen=True, slots=True)
class StepCurriculum(Curriculum):
    """A staircase of equal steps: the k-th of n `levels` holds for progress in [k/n, (k+1)/n).

    Example:
        >>> [StepCurriculum((0.0, 0.25, 0.5))(x) for x in (0.0, 0.4, 1.0)]
        [0.0, 0.25, 0.5]
    """

    levels: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5)

    def __post_init__(self) -> None:
        levels: Any = self.levels
        if not isinstance(levels, Sequence) or not levels:
            raise ValueError(f"`levels` must hold at least one probability, got {self.levels!r}")
        for level in self.levels:
            check_probability("levels", level)

    def __call__(self, progress: float) -> float:
        """Return the level that `progress` has reached."""
        index = int(_clipped(progress) * len(self.levels))
        return self.levels[min(index, len(self.levels) - 1)]


@dataclass(frozen=True, slots=True)
class ConstantCurriculum(Curriculum):
    """The same probability from beginning to end."""

    noise: float = 0.0

    def __post_init__(self) -> None:
        check_probability("noise", self.noise)

    def __call__(self, progress: float) -> float:
        """Return the constant."""
        return self.noise


@dataclass(frozen=True, slots=True)
class ReversedCurriculum(Curriculum):
    """Another curriculum played backwards, from hard to easy: the paper's counter-test.

    Example:
        >>> ReversedCurriculum(LinearCurriculum(0.0, 0.5))(0.0)
        0.5
    """

    forward: Curriculum = field(default_factory=ExponentialCurriculum)

    def __post_init__(self) -> None:
        forward: Any = self.forward
        if not isinstance(forward, Curriculum):
            raise TypeError(f"`forward` must be a Curriculum, got {forward!r}")

    def __call__(self, progress: float) -> float:
        """Return what the other curriculum says at 1 - `progress`."""
        return self.forward(1.0 - _clipped(progress))

    def after(self, success: float) -> ReversedCurriculum:
        """Return the reverse of how the other curriculum goes on."""
        return ReversedCurriculum(self.forward.after(success))

    def get_state(self) -> dict[str, Any]:
        """Return the other curriculum's state."""
        return self.forward.get_state()

    def with_state(self, state: Mapping[str, Any]) -> ReversedCurriculum:
        """Return the reverse of the other curriculum with this state."""
        return ReversedCurriculum(self.forward.with_state(state))


@dataclass(frozen=True, slots=True)
class AdaptiveCurriculum(Curriculum):
    """Noise that follows the recent success rate: harder above `target`, easier below.

    Progress plays no part. Every `window` episodes the mean success is compared with the target,
    and the noise moves one `step` towards `end` or back towards `start`.

    Attributes:
        start: Probability to begin with, and the easiest.
        end: The hardest, at least `start`.
        target: Mean success, in [0, 1], above which it gets harder.
        step: How far the probability moves at a time, more than 0.
        window: Episodes between two moves, at least 1.
        noise: The present probability; None begins at `start`.
        total: Sum of the successes since the last move.
        num_episodes: How many those are.

    Example:
        >>> curriculum = AdaptiveCurriculum(window=2).after(1.0).after(0.5)
        >>> curriculum(0.0)
        0.05
    """

    start: float = 0.0
    end: float = 0.5
    target: float = 0.6
    step: float = 0.05
    window: int = 64
    noise: float | None = None
    total: float = 0.0
    num_episodes: int = 0

    def __post_init__(self) -> None:
        for name in ("start", "end", "target"):
            check_probability(name, getattr(self, name))
        if self.end < self.start:
            raise ValueError(f"`end` must be at least start={self.start!r}, got {self.end!r}")
        _check_positive("step", self.step)
        check_count("window", self.window, minimum=1)
        if self.noise is not None:
            check_probability("noise", self.noise)
        check_count("num_episodes", self.num_episodes, minimum=0)
        if not 0 <= self.total <= self.num_episodes:
            raise ValueError(
                f"`total` must be in [0, num_episodes={self.num_episodes}], got {self.total!r}"
            )

    def __call__(self, progress: float) -> float:
        """Return the present probability, whatever the progress."""
        return self.start if self.noise is None else self.noise

    def after(self, success: float) -> AdaptiveCurriculum:
        """Return the curriculum with one more episode counted, and moved if a window is full."""
        total, num_episodes = self.total + success, self.num_episodes + 1
        if num_episodes < self.window:
            return replace(self, total=total, num_episodes=num_episodes)
        direction = 1 if total / num_episodes > self.target else -1
        noise = min(self.end, max(self.start, self(0.0) + direction * self.step))
        return replace(self, noise=noise, total=0.0, num_episodes=0)

    def get_state(self) -> dict[str, Any]:
        """Return the present probability and what was counted since the last move."""
        return {"noise": self.noise, "total": self.total, "num_episodes": self.num_episodes}

    def with_state(self, state: Mapping[str, Any]) -> AdaptiveCurriculum:
        """Return the curriculum with the probability and the counts of `state`."""
        return replace(self, **state)


@dataclass(frozen=True, slots=True)
class _FunctionCurriculum(Curriculum):
    """A plain function as a curriculum."""

    function: Callable[[float], float]

    def __call__(self, progress: float) -> float:
        """Return what the function says, checked, as nobody else has."""
        return check_probability("curriculum(progress)", self.function(_clipped(progress)))


CURRICULA: Final[dict[str, Curriculum]] = {
    "exponential": ExponentialCurriculum(),
    "linear": LinearCurriculum(),
    "step": StepCurriculum(),
    "constant": ConstantCurriculum(),
    "reversed": ReversedCurriculum(),
    "adaptive": AdaptiveCurriculum(),
}

CurriculumSource: TypeAlias = str | Curriculum | Callable[[float], float]


def make_curriculum(curriculum: CurriculumSource) -> Curriculum:
    """Return the curriculum that `curriculum` names or is.

    Args:
        curriculum: A key of `CURRICULA`, a `Curriculum`, or a function from progress in [0, 1]
            to a probability.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is nothing of the kind.
    """
    if isinstance(curriculum, Curriculum):
        return curriculum
    message = f"`curriculum` must be {', '.join(CURRICULA)}, a Curriculum or a function from "
    message += f"progress to a probability, got {curriculum!r}"
    if isinstance(curriculum, str):
        if curriculum not in CURRICULA:
            raise ValueError(message)
        return CURRICULA[curriculum]
    if isinstance(curriculum, type) or not callable(curriculum):
        raise TypeError(message)
    return _FunctionCurriculum(curriculum)

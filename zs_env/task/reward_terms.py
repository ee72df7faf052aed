"""What a turn is worth: terms that look at one turn each, and the sum of them.

A reward is a term, and terms add up to a reward:

    AnswerGrade(token_f1) - 0.1 * FormatError() - 0.02 * SearchCost(free=1) - 0.01 * ExtraWords(8)

The first grades the answer, the rest are counts that a weight turns into a price. Whoever needs
more subclasses `RewardTerm`, or wraps a function of the turn in `PerTurn`. What cannot be part of
a reward is refused when the reward is put together, not at the first answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import isfinite
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, TypeAlias

from zs_env.task.actions import Action, ActionKind
from zs_env.task.rewards import GRADES, GradeFunction, normalise, token_f1


class Turn(NamedTuple):
    """One turn after it was played: all that a reward may look at.

    Attributes:
        action: What the agent did.
        golden_answers: The accepted answers of the question.
        observation: What the agent reads next.
        turn: Actions taken so far, this one included.
        searched: Whether this turn reached the search engine.
        num_searches: Searches so far, this one included.
        ended: Whether the episode is over.
    """

    action: Action
    golden_answers: tuple[str, ...]
    observation: str
    turn: int
    searched: bool
    num_searches: int
    ended: bool


class RewardTerm(ABC):
    """A number for every turn; terms can be added, summed, subtracted, negated and weighted.

    Raises:
        TypeError: If a term is added to what is none, or weighted with what is no number.
        ValueError: If a weight is infinite or NaN.
    """

    __slots__ = ()

    @abstractmethod
    def __call__(self, turn: Turn) -> float:
        """Return what this turn is worth."""

    def __add__(self, other: RewardTerm) -> RewardSum:
        """Return the sum of both terms."""
        return RewardSum((*_parts(self), *_parts(other)))

    def __radd__(self, zero: Literal[0]) -> RewardSum:
        """Return the term itself: where the function `sum` begins."""
        if isinstance(zero, bool) or zero != 0:
            raise _not_a_term(zero)
        return RewardSum(_parts(self))

    def __sub__(self, other: RewardTerm) -> RewardSum:
        """Return the difference of both terms."""
        return self + RewardSum(_weighted(-1.0, other))

    def __neg__(self) -> RewardSum:
        """Return the term times -1."""
        return RewardSum(_weighted(-1.0, self))

    def __mul__(self, weight: float) -> RewardSum:
        """Return the term times a number."""
        return RewardSum(_weighted(weight, self))

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class RewardSum(RewardTerm):
    """A weighted sum: `parts` are pairs of weight and term."""

    parts: tuple[tuple[float, RewardTerm], ...]

    def __post_init__(self) -> None:
        for weight, term in self.parts:
            _check_weight(weight)
            if not isinstance(term, RewardTerm):
                raise _not_a_term(term)

    def __call__(self, turn: Turn) -> float:
        """Return the sum over all parts."""
        return sum(weight * term(turn) for weight, term in self.parts)


def _parts(term: RewardTerm) -> tuple[tuple[float, RewardTerm], ...]:
    return term.parts if isinstance(term, RewardSum) else ((1.0, term),)


def _weighted(weight: float, term: RewardTerm) -> tuple[tuple[float, RewardTerm], ...]:
    _check_weight(weight)
    return tuple((weight * share, part) for share, part in _parts(term))


def _check_weight(weight: Any) -> None:
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"the weight of a RewardTerm must be a number, got {weight!r}")
    if not isfinite(weight):
        raise ValueError(f"the weight of a RewardTerm must be finite, got {weight!r}")


def _not_a_term(value: object) -> TypeError:
    return TypeError(
        f"what is added to a RewardTerm must be another one, got {value!r}: AnswerGrade makes one "
        f"of a grade of (answer, golden answers), PerTurn of a function of the turn"
    )


def _check_function(name: str, value: Any, meaning: str) -> None:
    """Check that `value` can be called as plain functions are; a class or a term cannot."""
    if isinstance(value, type | RewardTerm) or not callable(value):
        raise TypeError(f"`{name}` must be a function of {meaning}, got {value!r}")


def _check_free(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`free` must be an integer, got {value!r}")
    if value < 0:
        raise ValueError(f"`free` must be at least 0, got {value!r}")


@dataclass(frozen=True, slots=True)
class AnswerGrade(RewardTerm):
    """The grade of the answer in the turn that gives one, else 0.

    Attributes:
        grade: From (answer, golden answers) to a number.
    """

    grade: GradeFunction = token_f1

    def __post_init__(self) -> None:
        _check_function("grade", self.grade, "(answer, golden answers)")

    def __call__(self, turn: Turn) -> float:
        """Return the grade; only what stands inside the agent's own answer is looked at."""
        if turn.action.kind is not ActionKind.ANSWER:
            return 0.0
        return self.grade(turn.action.content, turn.golden_answers)


@dataclass(frozen=True, slots=True)
class ExtraWords(RewardTerm):
    """How many words the answer is too long: those beyond the first `free`, articles not counted.

    Example:
        >>> reward = AnswerGrade() - 0.1 * ExtraWords(free=3)
    """

    free: int = 0

    def __post_init__(self) -> None:
        _check_free(self.free)

    def __call__(self, turn: Turn) -> float:
        """Return the number of surplus words; 0 in a turn without an answer."""
        if turn.action.kind is not ActionKind.ANSWER:
            return 0.0
        return float(max(0, len(normalise(turn.action.content).split()) - self.free))


@dataclass(frozen=True, slots=True)
class FormatError(RewardTerm):
    """1 for a turn in bad form, else 0; meant to be subtracted.

    A bonus for good form would pay for every further turn, so that there is none.

    Attributes:
        thought: Whether good form includes a closed `<think>` at the start.
    """

    thought: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.thought, bool):
            raise TypeError(f"`thought` must be True or False, got {self.thought!r}")

    def __call__(self, turn: Turn) -> float:
        """Return 1 if the action is malformed, or a wanted thought is missing."""
        text = turn.action.text
        unthinking = self.thought and not (
            text.lstrip().startswith("<think>") and "</think>" in text
        )
        return float(unthinking or turn.action.kind is ActionKind.MALFORMED)


@dataclass(frozen=True, slots=True)
class SearchCost(RewardTerm):
    """1 for a search that reaches the engine, beyond the first `free` of an episode, else 0."""

    free: int = 0

    def __post_init__(self) -> None:
        _check_free(self.free)

    def __call__(self, turn: Turn) -> float:
        """Return 1 if this turn searched and the free searches were used up before."""
        return float(turn.searched and turn.num_searches > self.free)


@dataclass(frozen=True, slots=True)
class PerTurn(RewardTerm):
    """Any function of the turn, as a term."""

    function: Callable[[Turn], float]

    def __post_init__(self) -> None:
        _check_function("function", self.function, "the turn")

    def __call__(self, turn: Turn) -> float:
        """Return what the function returns."""
        return self.function(turn)


RewardSource: TypeAlias = str | GradeFunction | RewardTerm


def make_reward(reward: RewardSource) -> RewardTerm:
    """Return the reward that `reward` names or is.

    Args:
        reward: A key of `GRADES`, a function from (answer, golden answers) to a number, a
            `RewardTerm`, or the import path `"package.module:name"` of one of these.

    Raises:
        ValueError: If the name is unknown, or its module lacks it.
        TypeError: If it is nothing of the kind.
        ImportError: If the module of an import path cannot be imported.
    """
    if isinstance(reward, RewardTerm):
        return reward
    if isinstance(reward, str):
        return AnswerGrade(GRADES[reward]) if reward in GRADES else make_reward(_find(reward))
    if isinstance(reward, type) or not callable(reward):
        raise TypeError(f"`reward` must be a name, a function or a RewardTerm, got {reward!r}")
    return AnswerGrade(reward)


def _find(path: str) -> GradeFunction | RewardTerm:
    """Return what an import path leads to."""
    module, separator, name = path.partition(":")
    if not separator:
        known = ", ".join(GRADES)
        raise ValueError(f"`reward` must be {known}, module:name or a callable, got {path!r}")
    found: GradeFunction | RewardTerm | None = getattr(import_module(module), name, None)
    if found is None:
        raise ValueError(f"`reward` must name something in {module!r}, got {path!r}")
    return found

"""What an audit finds: one record a violation, and the count of every check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

MAX_SHOWN_LENGTH: Final = 200
"""Characters of a span that a message shows; of a longer one, its two ends."""

MAX_SHOWN_VIOLATIONS: Final = 10
"""Violations that an error's message tells in full."""


class Check(StrEnum):
    """What is proved of a batch."""

    IDS = "ids"  # the trained ids are the sampled ones
    MASK = "mask"  # the mask covers the agent's tokens, and what lies between is the environment's
    STOPS = "stops"  # the token that ended an action is kept
    REWARDS = "rewards"  # every reward is the environment's and sits on an agent's token
    LOGPROBS = "logprobs"  # sampler and trainer give the sampled tokens the same probability
    ANSWERS = "answers"  # what was graded is what the agent wrote
    LENGTHS = "lengths"  # nothing is cut, and padding is told by the lengths

    @property
    def claim(self) -> str:
        """What holds if there is no violation."""
        return _CLAIMS[self]


_CLAIMS: Final = {
    Check.IDS: "trained ids = sampled ids",
    Check.MASK: "mask = the agent's tokens",
    Check.STOPS: "stop tokens are kept",
    Check.REWARDS: "rewards sit on agent tokens",
    Check.LOGPROBS: "sampler and trainer agree",
    Check.ANSWERS: "graded answers are the agent's own",
    Check.LENGTHS: "nothing cut, padding by lengths",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is not as it must be.

    Attributes:
        check: What it violates.
        episode: Index of the episode in its batch.
        turn: Index of the turn, or None where no turn is to blame.
        start: Index of the first offending token in the episode.
        end: Index after the last one.
        text: The decoded span.
        expected: What should have been there, or should have been so, in words.
    """

    check: Check
    episode: int
    turn: int | None
    start: int
    end: int
    text: str
    expected: str

    def __str__(self) -> str:
        """Return the violation in one line."""
        turn = "" if self.turn is None else f", turn {self.turn}"
        place = f"episode {self.episode}{turn}, tokens {self.start}:{self.end}"
        return f"{self.check}: {place} {shortened(self.text)!r}: {self.expected}"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went.

    Attributes:
        check: Which.
        num_checked: How many `unit`s were looked at; 0 where nothing could be.
        unit: What was counted.
        num_violations: How many violations were found.
    """

    check: Check
    num_checked: int
    unit: str
    num_violations: int


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The outcome of an audit.

    Attributes:
        num_episodes: Episodes audited.
        results: One a check, in the order of `Check`.
        violations: In the order in which they were found.
        max_gap: Largest distance between the two log-probabilities of a token; NaN if none could
            be compared.
        mean_gap: Mean distance; NaN if none could be compared.
        tolerance: Distance that is no violation.
    """

    num_episodes: int
    results: tuple[CheckResult, ...]
    violations: tuple[Violation, ...]
    max_gap: float
    mean_gap: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether there is no violation."""
        return not self.violations

    def of(self, check: Check) -> list[Violation]:
        """Return the violations of one check."""
        return [violation for violation in self.violations if violation.check is check]

    def summary(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        compared = self.max_gap == self.max_gap  # JSON knows no NaN
        return {
            "passed": self.passed,
            "num_episodes": self.num_episodes,
            "checks": {
                str(result.check): {
                    "claim": result.check.claim,
                    "num_checked": result.num_checked,
                    "unit": result.unit,
                    "num_violations": result.num_violations,
                }
                for result in self.results
            },
            "max_logprob_gap": self.max_gap if compared else None,
            "mean_logprob_gap": self.mean_gap if compared else None,
            "tolerance": self.tolerance,
            "violations": [asdict(violation) for violation in self.violations],
        }


class AuditError(RuntimeError):
    """A batch that must not be learned from; the message shows the offending spans.

    Attributes:
        report: The whole outcome.
    """

    def __init__(self, report: AuditReport) -> None:
        """Tell the first violations of `report`, which has some."""
        self.report = report
        super().__init__(f"the token audit failed: {violations_text(report.violations)}")


def violations_text(violations: Sequence[Violation], limit: int = MAX_SHOWN_VIOLATIONS) -> str:
    """Return the first violations, one a line, below their number."""
    shown = [f"  {violation}" for violation in violations[:limit]]
    if len(violations) > limit:
        shown.append(f"  and {len(violations) - limit} more")
    plural = "" if len(violations) == 1 else "s"
    return "\n".join([f"{len(violations)} violation{plural}", *shown])


def shortened(text: str, limit: int = MAX_SHOWN_LENGTH) -> str:
    """Return `text`, or both of its ends where it has more than `limit` characters.

    Example:
        >>> shortened("abcdefghij", limit=7)
        'abc…hij'
    """
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[len(text) - half :]}"

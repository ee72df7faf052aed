"""What measuring a simulator ends in: shares with their intervals, in a form that is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from agents.evaluate import wilson_interval
from agents.tuning.replies import Case, Reply, Speed
from agents.tuning.requests import Sort


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % Wilson interval and the number of cases behind it.

    Scores in [0, 1] count as well; their interval is wider than it need be. Of no cases the share
    is 0, and the interval all there is.

    Attributes:
        value: The share, in [0, 1].
        low: Lower end of its interval.
        high: Upper end.
        count: Cases.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, outcomes: Iterable[float]) -> Rate:
        """Return the share of True, or the mean score."""
        found = list(outcomes)
        low, high = wilson_interval(sum(found), len(found))
        return cls(sum(found) / max(1, len(found)), low, high, len(found))


@dataclass(frozen=True, slots=True)
class Share:
    """One line of a report.

    Attributes:
        label: What it is a share of.
        rate: The simulator's.
        real: That of a real engine on the same requests; None where it would tell nothing.
    """

    label: str
    rate: Rate
    real: Rate | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the share as JSON values."""
        return {"label": self.label, **asdict(self.rate), "real": self.real and asdict(self.real)}


@dataclass(frozen=True, slots=True)
class Score:
    """A number about all replies together, for which there is no interval.

    Attributes:
        label: What it is.
        value: The simulator's, in [0, 1].
        real: What it is compared with, in [0, 1].
    """

    label: str
    value: float
    real: float


Check: TypeAlias = Callable[[Case, Reply], Iterable[float]]
"""From a case and a reply to it to outcomes in [0, 1]; none where there is nothing to say."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is counted.

    Attributes:
        name: Its key in a report.
        label: Its name for readers.
        sorts: The sorts of requests that it is about.
        check: What is found out about each reply.
    """

    name: str
    label: str
    sorts: tuple[Sort, ...]
    check: Check

    def share(self, cases: Mapping[Sort, Sequence[Case]]) -> Share:
        """Return the share among `cases`, and the real engine's if it was asked all of them."""
        chosen = [case for sort in self.sorts for case in cases.get(sort, ())]
        asked = [(case, case.real) for case in chosen if case.real is not None]
        real = Rate.of(outcome for pair in asked for outcome in self.check(*pair))
        compares = len(asked) == len(chosen) and real.count > 0
        return Share(self.label, rate_of(self.check, chosen), real if compares else None)


def rate_of(check: Check, cases: Iterable[Case]) -> Rate:
    """Return the share of what is found out about the simulator's replies."""
    return Rate.of(outcome for case in cases for outcome in check(case, case.reply))


@dataclass(frozen=True, slots=True)
class SimulatorReport:
    """What was measured.

    Attributes:
        shares: By name, in the order in which they are shown.
        scores: Numbers about all useful replies, by name.
        speed: Of the engine.
        leaks: By the sort of noise and by how a name was looked for ("exact", "alias", "fuzzy"),
            the share of noisy replies that hold what they must not.
        confusion: By what was requested and by what was found, the number of replies; empty where
            nobody knows what is true.
    """

    shares: Mapping[str, Share]
    scores: Mapping[str, Score]
    speed: Speed
    leaks: Mapping[str, Mapping[str, Rate]]
    confusion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def rate(self, name: str) -> Rate:
        """Return one of the simulator's shares."""
        return self.shares[name].rate

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "rates": {name: share.as_json() for name, share in self.shares.items()},
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "leaks": {
                sort: {match: asdict(rate) for match, rate in rates.items()}
                for sort, rates in self.leaks.items()
            },
            "confusion": {sort: dict(found) for sort, found in self.confusion.items()},
            "speed": self.speed.as_json(),
        }

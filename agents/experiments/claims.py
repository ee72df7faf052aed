"""Claims about arms as paired comparisons, and how they turn out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agents.experiments.statistics import (
    ALPHA,
    Mean,
    holm,
    mean_of,
    minimum_detectable,
    p_value,
)

Scores = Mapping[str, Mapping[int, float]]
"""A measure by arm and seed."""


class Verdict(StrEnum):
    """What the numbers say about a claim, at the level `ALPHA`."""

    HOLDS = "holds"  # the difference is what the claim says, beyond chance
    FAILS = "fails"  # the opposite is, beyond chance
    NOT_RESOLVED = "not resolved"  # chance could have made the difference


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that is said of arms.

    Attributes:
        title: What it says.
        pairs: (better arm, worse arm), as the claim has it.
        margin: How much worse the better arm may be for the claim to hold, in the measure's unit.
        needs_all: Whether the claim is about every pair, or that there is one.
        measure: What is compared, of which the better arm has more; empty means the experiment's
            first measure.
    """

    title: str
    pairs: tuple[tuple[str, str], ...]
    margin: float = 0.0
    needs_all: bool = True
    measure: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison of two arms over the seeds that both have.

    Attributes:
        better: The arm that the claim favours.
        worse: The other one.
        difference: Of the first minus the second, a seed a number; None without a common seed.
        detectable: Difference (from minus the margin) found with 80 % power at the level `ALPHA`,
            if there were no other comparison; None where the seeds show no spread: there are fewer
            than two, or all differ alike.
        detectable_corrected: The same at the level that Holm's correction begins with.
        p: Of the two-sided test against minus the margin, corrected.
        verdict: Of this comparison.
    """

    better: str
    worse: str
    difference: Mean | None
    detectable: float | None
    detectable_corrected: float | None
    p: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim and what became of it."""

    claim: Claim
    verdict: Verdict
    findings: tuple[Finding, ...]


def judge(claim: Claim, scores: Scores) -> Judgement:
    """Test a claim: paired t-tests over seeds, corrected for their number within the claim.

    A claim about every pair holds if each comparison holds, and fails if one fails; a claim that
    there is a pair holds if one holds, and fails if all fail.
    """
    differences = [_difference(scores, *pair) for pair in claim.pairs]
    raw = [1.0 if mean is None else p_value(mean, -claim.margin) for mean in differences]
    findings = tuple(
        _finding(claim, pair, mean, p)
        for pair, mean, p in zip(claim.pairs, differences, holm(raw), strict=True)
    )
    return Judgement(claim, _together(claim, [finding.verdict for finding in findings]), findings)


def _difference(scores: Scores, better: str, worse: str) -> Mean | None:
    first, second = scores.get(better, {}), scores.get(worse, {})
    paired = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    return mean_of(paired) if paired else None


def _finding(claim: Claim, pair: tuple[str, str], mean: Mean | None, p: float) -> Finding:
    verdict = Verdict.NOT_RESOLVED
    if mean is not None and p <= ALPHA:
        verdict = Verdict.HOLDS if mean.value > -claim.margin else Verdict.FAILS
    first_step = ALPHA / len(claim.pairs)
    detectable = (_detectable(mean, ALPHA), _detectable(mean, first_step))
    return Finding(*pair, mean, *detectable, p, verdict)


def _detectable(mean: Mean | None, alpha: float) -> float | None:
    if mean is None or mean.spread is None:
        return None
    return minimum_detectable(mean.spread, mean.num, alpha)


def _together(claim: Claim, verdicts: Sequence[Verdict]) -> Verdict:
    holding, failing = (
        [verdict is wanted for verdict in verdicts] for wanted in (Verdict.HOLDS, Verdict.FAILS)
    )
    if all(holding) or (any(holding) and not claim.needs_all):
        return Verdict.HOLDS
    if all(failing) or (any(failing) and claim.needs_all):
        return Verdict.FAILS
    return Verdict.NOT_RESOLVED

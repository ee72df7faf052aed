"""Intervals and tests of a benchmark: pure functions on arrays.

What is drawn at random is the set of questions; everything else is as the benchmark fixed it. A
resample therefore draws questions, and whatever was asked the same questions is resampled alike:
differences stay paired, and several seeds of one question are not mistaken for several questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agents.evaluate import wilson_interval

Floats = NDArray[np.float64]

CONFIDENCE: Final = 0.95
NUM_RESAMPLES: Final = 2000
TRIMMED: Final = 0.25
"""Share of the scores that an interquartile mean leaves out at either end."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Return JSON values."""
        return asdict(self)


# --- resampling ---------------------------------------------------------------------------------


def resample(sizes: Sequence[int], num: int = NUM_RESAMPLES, seed: int = 0) -> Floats:
    """Return how often each question is drawn in each resample of a stratified bootstrap.

    Each stratum is resampled with replacement to its own size (Efron and Tibshirani 1993).

    Args:
        sizes: Questions of each stratum, each at least 1; the strata follow each other.
        num: Number of resamples.
        seed: Key of the draws (Philox, a counter-based generator).

    Returns:
        Counts, shape (num, sum of sizes); the counts of a stratum sum to its size.
    """
    draws = np.random.Generator(np.random.Philox(key=seed))
    counts = [draws.multinomial(size, np.full(size, 1 / size), size=num) for size in sizes]
    return np.concatenate(counts, axis=1).astype(np.float64)


def resampled_means(values: Floats, counts: Floats) -> Floats:
    """Return the mean of `values` in each resample.

    Args:
        values: One a question, shape (n,) or (n, k); NaN where there is none.
        counts: As `resample` returns them, shape (b, n).

    Returns:
        Shape (b,) or (b, k); NaN for a resample without any value.
    """
    there = ~np.isnan(values)
    total, weight = counts @ np.where(there, values, 0.0), counts @ there
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = total / weight
    return means


def percentiles(mean: float, resampled: Floats) -> Interval:
    """Return an estimate with the percentile interval of its resamples, NaN ones left out."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return Interval(float(mean), float(low), float(high))


def mean_interval(values: Floats, counts: Floats) -> Interval:
    """Return the mean of `values`, one a question, with its bootstrap interval.

    Values that do not vary have an interval of no width: what is missing in a sample cannot be
    resampled. For rates there is `rate_interval`.

    Args:
        values: Shape (n,); NaN where there is none, but not everywhere.
        counts: As `resample` returns them.
    """
    return percentiles(float(np.nanmean(values)), resampled_means(values, counts))


def rate_interval(outcomes: Floats, counts: Floats) -> Interval:
    """Return the mean of outcomes in [0, 1] with its interval.

    Args:
        outcomes: Shape (n, seeds). Of a single seed, whose outcomes are 0 or 1, the interval is
            Wilson's; of several it is the bootstrap's over questions, for which Wilson's would
            count every seed as another question.
        counts: As `resample` returns them.
    """
    if outcomes.shape[1] > 1:
        return mean_interval(outcomes.mean(1), counts)
    low, high = wilson_interval(float(outcomes.sum()), len(outcomes))
    return Interval(float(outcomes.mean()), low, high)


# --- paired tests -------------------------------------------------------------------------------


def mcnemar_exact(num_only_a: int, num_only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947).

    Under the hypothesis that two agents are equally good, each question that only one of them
    answers is a fair coin's toss. The test is conservative: a p-value of at most alpha occurs
    with a probability of at most, and mostly below, alpha.

    Args:
        num_only_a: Questions that only the first answers.
        num_only_b: Questions that only the second answers.

    Example:
        >>> round(mcnemar_exact(2, 10), 4)
        0.0386
    """
    num = num_only_a + num_only_b
    tail = sum(math.comb(num, k) for k in range(min(num_only_a, num_only_b) + 1))
    return min(1.0, 2 * tail / (1 << num))


def mcnemar_mid_p(num_only_a: int, num_only_b: int) -> float:
    """Return the mid-p-value of McNemar's test (Fagerland, Lydersen and Laake 2013).

    Half of the probability of what was observed is left out, which makes the rate of false alarms
    nominal on average, but no longer bounded.

    Example:
        >>> round(mcnemar_mid_p(2, 10), 4)
        0.0225
    """
    num, fewer = num_only_a + num_only_b, min(num_only_a, num_only_b)
    point = math.comb(num, fewer) / (1 << num)
    exact = 2 * sum(math.comb(num, k) for k in range(fewer + 1)) / (1 << num)
    return exact - point if num_only_a != num_only_b else 1 - point / 2


def sign_flip_test(differences: Sequence[int]) -> float:
    """Return the two-sided p-value of the exact paired permutation test (Fisher 1935).

    Under the hypothesis that two agents are alike, each question's difference is as likely with
    the other sign. Of differences in {-1, 0, 1} this is McNemar's exact test; where a question was
    played with several seeds, it is its generalisation.

    Args:
        differences: The first agent's score minus the second's, a question, as integers.

    Example:
        >>> sign_flip_test([1] * 2 + [-1] * 10 + [0] * 100) == mcnemar_exact(2, 10)
        True
    """
    sizes = [abs(each) for each in differences if each]
    total = sum(sizes)
    shares = np.zeros(2 * total + 1)  # of each sum, from -total to total
    shares[total] = 1.0
    for size in sizes:
        shares = (np.roll(shares, size) + np.roll(shares, -size)) / 2
    observed = abs(sum(differences))
    extreme = shares[: total - observed + 1].sum() + shares[total + observed :].sum()
    return float(min(1.0, extreme))


# --- aggregates over tasks ----------------------------------------------------------------------


def interquartile_mean(scores: Floats) -> Floats:
    """Return the mean of the middle half of scores: IQM of Agarwal et al. 2021 (arXiv 2108.13264).

    A quarter of the scores, rounded down, is left out at either end.

    Args:
        scores: Shape (..., m).

    Example:
        >>> float(interquartile_mean(np.array([0.0, 0.2, 0.4, 1.0])))
        0.30000000000000004
    """
    num = scores.shape[-1]
    cut = int(TRIMMED * num)
    middle: Floats = np.sort(scores, axis=-1)[..., cut : num - cut].mean(-1)
    return middle


def performance_profile(scores: Floats, thresholds: Floats) -> Floats:
    """Return the share of scores above each threshold (arXiv 2108.13264, section 4.3).

    Args:
        scores: Shape (..., m).
        thresholds: Shape (t,).

    Returns:
        Shape (..., t).
    """
    shares: Floats = (scores[..., None, :] > thresholds[:, None]).mean(-1)
    return shares


def area_under(levels: Sequence[float], values: Floats) -> Floats:
    """Return the area under a curve by trapezoids, divided by its width.

    Args:
        levels: Where the curve is known, at least two, ascending.
        values: Its values there, shape (..., number of levels).

    Example:
        >>> float(area_under([0.0, 0.5], np.array([0.9, 0.7])))
        0.8
    """
    steps = np.diff(levels)
    area: Floats = ((values[..., 1:] + values[..., :-1]) / 2 * steps).sum(-1)
    return area / float(steps.sum())

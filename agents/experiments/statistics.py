"""Statistics of a few paired numbers: Student's t, intervals, Holm's correction, and power.

Only whole degrees of freedom occur here, for which Student's distribution is a finite sum
(Abramowitz and Stegun 1964, 26.7.3 and 26.7.4), so that no statistics package is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

ALPHA: Final = 0.05
POWER: Final = 0.8
_BISECTIONS: Final = 200
_ROUNDING: Final = 1e-12  # a spread or distance that rounding alone gives numbers of order 1


def t_central(t: float, df: int) -> float:
    """Return the probability that Student's t lies in [-t, t].

    Args:
        t: At least 0; infinity gives 1.
        df: Degrees of freedom, at least 1.

    Raises:
        ValueError: If `df` is below 1.

    Example:
        >>> round(t_central(2.3646, df=7), 4)
        0.95
    """
    if df < 1:
        raise ValueError(f"`df` must be at least 1, got {df!r}")
    return _central(math.atan2(t, math.sqrt(df)), df)


def _central(theta: float, df: int) -> float:
    """Return P(|T| <= tan(theta) sqrt(df)) for theta in [0, pi/2]."""
    sine, square = math.sin(theta), math.cos(theta) ** 2
    odd = df % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, df, 2):
        total += term
        term *= square * k / (k + 1)
    share = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return min(1.0, max(0.0, share))


def t_quantile(p: float, df: int) -> float:
    """Return the number that Student's t is below with probability `p`.

    Args:
        p: In (0, 1).
        df: Degrees of freedom, at least 1.

    Raises:
        ValueError: If `p` or `df` is out of its range.

    Example:
        >>> round(t_quantile(0.975, df=7), 4)
        2.3646
    """
    if not 0 < p < 1:
        raise ValueError(f"`p` must be in (0, 1), got {p!r}")
    if df < 1:
        raise ValueError(f"`df` must be at least 1, got {df!r}")
    low, high = 0.0, math.pi / 2  # the angle is bounded where t is not
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _central(middle, df) < abs(2 * p - 1):
            low = middle
        else:
            high = middle
    return math.copysign(math.tan((low + high) / 2) * math.sqrt(df), p - 0.5)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % t-interval.

    Attributes:
        num: How many numbers it is the mean of, at least 1.
        value: The mean.
        sd: Their standard deviation (n - 1); None of a single number.
        low: Lower end of the interval, which has no width where the numbers are equal; None of a
            single number.
        high: Upper end; None of a single number.
    """

    num: int
    value: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def spread(self) -> float | None:
        """The standard deviation, where one was seen; None of a single number or of equal ones."""
        return None if self.sd is None or self.sd <= _ROUNDING else self.sd


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of at least one number, with an interval if there are two.

    Raises:
        ValueError: If there is none.

    Example:
        >>> mean = mean_of([0.5, 0.7, 0.6])
        >>> round(mean.value, 3), round(mean.low, 3), round(mean.high, 3)
        (0.6, 0.352, 0.848)
    """
    if not values:
        raise ValueError("`values` must not be empty")
    num = len(values)
    value = math.fsum(values) / num
    if num == 1:
        return Mean(1, value)
    sd = math.sqrt(math.fsum((each - value) ** 2 for each in values) / (num - 1))
    half = t_quantile(1 - ALPHA / 2, num - 1) * sd / math.sqrt(num)
    return Mean(num, value, sd, value - half, value + half)


def p_value(mean: Mean, threshold: float = 0.0) -> float:
    """Return the two-sided p-value of the test that the true mean is `threshold`.

    Student's test, where the numbers vary. Numbers that do not, a single one included, tell
    nothing of how far they might: what is left is the exact sign-flip test (Fisher 1935), for
    which n numbers on one side of the threshold have p = 2 / 2^n. That takes 6 of them to be
    below 0.05.

    Example:
        >>> [p_value(mean_of([0.1] * num)) for num in (1, 2, 3, 6)]
        [1.0, 0.5, 0.25, 0.03125]
    """
    distance = abs(mean.value - threshold)
    if mean.spread is not None:
        t = distance / (mean.spread / math.sqrt(mean.num))
        return 1 - t_central(t, mean.num - 1)
    return 1.0 if distance <= _ROUNDING else 2.0 ** (1 - mean.num)


def minimum_detectable(sd: float, num: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest true mean that a two-sided t-test finds with probability `power`.

    (t(1 - alpha/2) + t(power)) sd / sqrt(n), with n - 1 degrees of freedom: Zar, Biostatistical
    Analysis (5th ed. 2010), chapter 7, minimum detectable difference of a test about a mean; a
    paired test is one about the mean of differences.

    Args:
        sd: Standard deviation of the numbers, at least 0.
        num: How many there are, at least 2.
        alpha: Level of the test.
        power: Probability of finding it, in [0.5, 1).

    Raises:
        ValueError: If there are fewer than two, or a probability is out of its range.

    Example:
        >>> round(minimum_detectable(sd=1.0, num=8), 3)
        1.153
    """
    if num < 2:
        raise ValueError(f"`num` must be at least 2, got {num!r}")
    quantiles = t_quantile(1 - alpha / 2, num - 1) + t_quantile(power, num - 1)
    return quantiles * sd / math.sqrt(num)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values corrected for their number (Holm 1979), in the order given.

    To reject those that are at most alpha keeps the chance of a single false rejection among all
    of them at alpha.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    scaled = (min(1.0, p_values[i] * (len(order) - rank)) for rank, i in enumerate(order))
    corrected = dict(zip(order, accumulate(scaled, max), strict=True))
    return tuple(corrected[i] for i in range(len(p_values)))

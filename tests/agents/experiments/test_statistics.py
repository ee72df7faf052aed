import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.bench.statistics import sign_flip_test
from agents.experiments.statistics import (
    Mean,
    holm,
    mean_of,
    minimum_detectable,
    p_value,
    t_central,
    t_quantile,
)

# Printed tables of Student's distribution: (p, df) -> t.
TABLE = {
    (0.975, 1): 12.7062,
    (0.975, 2): 4.3027,
    (0.95, 3): 2.3534,
    (0.995, 5): 4.0321,
    (0.975, 7): 2.3646,
    (0.8, 7): 0.8960,
    (0.975, 10): 2.2281,
    (0.9995, 12): 4.3178,
    (0.99, 30): 2.4573,
    (0.975, 120): 1.9799,
}
# Student's own example (1908): hours of sleep that ten patients gained by the second of two drugs.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]

probabilities = st.floats(0.0, 1.0)
numbers = st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=20)
degrees = st.integers(1, 60)


@pytest.mark.parametrize(("p", "df"), TABLE)
def test_quantiles_are_those_of_printed_tables(p: float, df: int) -> None:
    assert t_quantile(p, df) == pytest.approx(TABLE[p, df], abs=6e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 4.5, 100.0])
def test_probability_has_the_closed_form_of_one_and_two_degrees(t: float) -> None:
    assert t_central(t, 1) == pytest.approx(2 / math.pi * math.atan(t))
    assert t_central(t, 2) == pytest.approx(t / math.sqrt(2 + t * t))


def test_quantile_of_many_degrees_is_that_of_the_normal_distribution() -> None:
    assert t_quantile(0.975, 20_000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=3e-4)


@given(p=st.floats(0.001, 0.999), df=degrees)
def test_quantile_inverts_the_probability(p: float, df: int) -> None:
    assert t_central(abs(t_quantile(p, df)), df) == pytest.approx(abs(2 * p - 1), abs=1e-9)


@given(p=st.floats(0.001, 0.999), df=degrees)
def test_quantiles_are_symmetric(p: float, df: int) -> None:
    assert t_quantile(p, df) == pytest.approx(-t_quantile(1 - p, df), rel=1e-6, abs=1e-9)


@given(first=st.floats(0, 50), second=st.floats(0, 50), df=degrees)
def test_probability_rises_with_t(first: float, second: float, df: int) -> None:
    low, high = sorted((first, second))
    assert 0 <= t_central(low, df) <= t_central(high, df) + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1])
def test_quantile_of_no_probability_raises(p: float) -> None:
    with pytest.raises(ValueError, match=r"`p` must be in \(0, 1\), got"):
        t_quantile(p, 3)


def test_no_degrees_of_freedom_raise() -> None:
    with pytest.raises(ValueError, match="`df` must be at least 1, got 0"):
        t_quantile(0.9, 0)
    with pytest.raises(ValueError, match="`df` must be at least 1, got 0"):
        t_central(1.0, 0)


def test_mean_and_test_are_those_of_students_example() -> None:
    mean = mean_of(SLEEP)
    assert mean.value == pytest.approx(1.58)
    assert mean.sd == pytest.approx(1.229995)
    assert (mean.low, mean.high) == pytest.approx((0.7001142, 2.4598858))
    assert p_value(mean) == pytest.approx(0.00283289)


def test_mean_of_one_number_has_no_interval_and_shows_nothing() -> None:
    assert mean_of([0.4]) == Mean(1, 0.4)
    assert p_value(mean_of([0.4])) == 1.0


def test_mean_of_nothing_raises() -> None:
    with pytest.raises(ValueError, match="`values` must not be empty"):
        mean_of([])


@pytest.mark.parametrize("num", range(1, 9))
def test_numbers_that_do_not_vary_tell_only_their_sign(num: int) -> None:
    equal = mean_of([0.25] * num)
    assert p_value(equal) == p_value(equal, threshold=9.0) == sign_flip_test([1] * num)
    assert p_value(equal, threshold=0.25) == 1.0


@given(numbers, st.floats(0.5, 1.0))
def test_rounding_is_no_spread(scores: list[float], gain: float) -> None:
    differences = [(score + gain) - score for score in scores]
    assert mean_of(differences).spread is None
    assert p_value(mean_of(differences)) == 2.0 ** (1 - len(scores))
    assert p_value(mean_of(differences), threshold=gain) == 1.0


@given(numbers)
def test_interval_holds_the_mean(values: list[float]) -> None:
    mean = mean_of(values)
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low <= mean.value <= mean.high


@given(numbers, st.floats(-1.0, 1.0))
def test_interval_leaves_out_what_the_test_rejects(values: list[float], threshold: float) -> None:
    mean = mean_of(values)
    assert mean.low is not None
    assert mean.high is not None
    p = p_value(mean, threshold)
    assert 0 <= p <= 1
    if mean.spread is not None and abs(p - 0.05) > 1e-6:
        assert (p < 0.05) == (not mean.low <= threshold <= mean.high)


@given(numbers, st.floats(-1.0, 1.0))
def test_p_value_does_not_change_when_everything_is_shifted(
    values: list[float], shift: float
) -> None:
    moved = p_value(mean_of([value + shift for value in values]), threshold=shift)
    if np.std(values) > 1e-3:
        assert moved == pytest.approx(p_value(mean_of(values)), abs=1e-6)


def test_minimum_detectable_is_the_formula_with_table_values() -> None:
    assert minimum_detectable(0.03, 8) == pytest.approx(
        (2.3646 + 0.8960) * 0.03 / math.sqrt(8), rel=1e-4
    )


@pytest.mark.parametrize("num", [4, 8, 16])
def test_minimum_detectable_is_found_with_the_power_promised(num: int) -> None:
    true = minimum_detectable(1.0, num)
    samples = np.random.default_rng(0).normal(true, 1.0, (40_000, num))
    t = samples.mean(1) / (samples.std(1, ddof=1) / math.sqrt(num))
    assert np.mean(np.abs(t) > t_quantile(0.975, num - 1)) == pytest.approx(0.8, abs=0.02)


@given(sd=st.floats(0, 1), num=st.integers(2, 40))
def test_minimum_detectable_falls_with_more_seeds_and_a_laxer_level(sd: float, num: int) -> None:
    assert minimum_detectable(sd, num + 1) <= minimum_detectable(sd, num)
    assert minimum_detectable(sd, num, alpha=0.05) <= minimum_detectable(sd, num, alpha=0.01)


def test_minimum_detectable_of_one_number_raises() -> None:
    with pytest.raises(ValueError, match="`num` must be at least 2, got 1"):
        minimum_detectable(0.1, 1)


def test_holm_is_that_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.2]) == (0.2,)
    assert holm([]) == ()


@given(st.lists(probabilities, max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(raw <= new <= 1 for raw, new in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)


@given(st.lists(probabilities, min_size=1, max_size=8))
def test_holm_rejects_something_if_and_only_if_bonferroni_does(p_values: list[float]) -> None:
    assert min(holm(p_values)) == min(1.0, min(p_values) * len(p_values))

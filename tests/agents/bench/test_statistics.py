"""Intervals that cover, and tests that do not cry wolf: simulated agents of known accuracy."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.bench.statistics import (
    area_under,
    interquartile_mean,
    mcnemar_exact,
    mcnemar_mid_p,
    mean_interval,
    percentiles,
    performance_profile,
    rate_interval,
    resample,
    resampled_means,
    sign_flip_test,
)

NUM = 200
SIMULATIONS = 2000
COUNTS = resample([NUM], num=1000, seed=7)


def covers(interval, truth):
    return interval.low <= truth <= interval.high


def agents(rng, *accuracies, num=NUM):
    """Return whether agents of these accuracies answer each question, easy for one or for all."""
    luck = rng.random((num, 1)) * 0.5 + rng.random((num, len(accuracies))) * 0.5
    ranks = np.where(luck < 0.5, 2 * luck**2, 1 - 2 * (1 - luck) ** 2)  # uniform again
    return (ranks < np.array(accuracies)).astype(float)


def test_simulated_agents_are_as_good_as_they_should_be_and_alike():
    answers = agents(np.random.default_rng(0), 0.3, 0.7, num=200_000)
    assert answers.mean(0) == pytest.approx([0.3, 0.7], abs=0.005)
    assert np.corrcoef(answers.T)[0, 1] > 0.2


@pytest.mark.parametrize("accuracy", [0.1, 0.3, 0.5, 0.85])
def test_wilson_intervals_cover_nominally(accuracy):
    rng = np.random.default_rng(1)
    found = [
        covers(rate_interval(agents(rng, accuracy), COUNTS), accuracy) for _ in range(SIMULATIONS)
    ]
    assert np.mean(found) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("accuracy", [0.3, 0.6])
def test_bootstrap_intervals_of_f1_cover_nominally(accuracy):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(SIMULATIONS):
        right = agents(rng, accuracy)[:, 0]
        f1 = np.where(right == 1, 1.0, rng.choice([0.0, 0.5], NUM))
        found.append(covers(mean_interval(f1, COUNTS), accuracy + (1 - accuracy) / 4))
    assert np.mean(found) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("pair", [(0.5, 0.5), (0.3, 0.45)])
def test_paired_bootstrap_intervals_cover_nominally(pair):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(SIMULATIONS):
        answers = agents(rng, *pair)
        interval = mean_interval(answers[:, 0] - answers[:, 1], COUNTS)
        found.append(covers(interval, pair[0] - pair[1]))
    assert np.mean(found) == pytest.approx(0.95, abs=0.02)


def test_several_seeds_of_a_question_are_not_several_questions():
    """Intervals that took every seed for a question of its own would cover 4 in 5 times."""
    rng = np.random.default_rng(4)
    found, naive = [], []
    for _ in range(SIMULATIONS):
        hard = rng.random((NUM, 1)) < 0.5
        answers = (rng.random((NUM, 4)) < np.where(hard, 0.1, 0.9)).astype(float)
        found.append(covers(rate_interval(answers, COUNTS), 0.5))
        naive.append(covers(rate_interval(answers.reshape(-1, 1), COUNTS[:, :1]), 0.5))
    assert np.mean(found) == pytest.approx(0.95, abs=0.02)
    assert np.mean(naive) < 0.85


def test_areas_and_interquartile_means_cover_nominally():
    rng, levels = np.random.default_rng(5), [0.0, 0.25, 0.5]
    accuracies = np.array([0.8, 0.6, 0.5])
    areas, means = [], []
    for _ in range(SIMULATIONS):
        answers = agents(rng, *accuracies)
        drawn = resampled_means(answers, COUNTS)
        area = float(area_under(levels, answers.mean(0)))
        areas.append(covers(percentiles(area, area_under(levels, drawn)), 0.625))
        iqm = float(interquartile_mean(answers.mean(0)))
        means.append(covers(percentiles(iqm, interquartile_mean(drawn)), accuracies.mean()))
    assert np.mean(areas) == pytest.approx(0.95, abs=0.02)
    assert np.mean(means) == pytest.approx(0.95, abs=0.02)


def false_alarms(test):
    """Return how often a test at 5 % tells two agents apart that are equally good."""
    rng = np.random.default_rng(6)
    alarms = []
    for _ in range(2 * SIMULATIONS):
        first, second = agents(rng, 0.5, 0.5).T
        pair = int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum())
        alarms.append(test(*pair) <= 0.05)
    return float(np.mean(alarms))


MONTE_CARLO = 3 * math.sqrt(0.05 * 0.95 / (2 * SIMULATIONS))


def test_exact_paired_test_raises_at_most_nominally_many_false_alarms():
    """It is conservative, as every exact test of whole numbers is."""
    assert 0.02 <= false_alarms(mcnemar_exact) <= 0.05 + MONTE_CARLO


def test_mid_p_test_raises_nominally_many_false_alarms():
    assert false_alarms(mcnemar_mid_p) == pytest.approx(0.05, abs=0.01 + MONTE_CARLO)


def test_paired_test_finds_what_is_there():
    rng = np.random.default_rng(8)
    found = []
    for _ in range(200):
        answers = agents(rng, 0.4, 0.55).astype(int)
        found.append(sign_flip_test((answers[:, 0] - answers[:, 1]).tolist()) <= 0.05)
    assert np.mean(found) > 0.8


@pytest.mark.parametrize(
    ("only_a", "only_b", "exact", "mid"),
    [
        # Fagerland, Lydersen and Laake (2013): airway hyper-responsiveness, 0.070 and 0.039.
        (1, 7, 0.0703125, 0.0390625),
        (0, 0, 1.0, 0.5),
        (3, 3, 1.0, 0.84375),  # 1 less half of C(6, 3) / 2**6
        (0, 5, 0.0625, 0.03125),
    ],
)
def test_paired_test_equals_what_is_known(only_a, only_b, exact, mid):
    assert mcnemar_exact(only_a, only_b) == pytest.approx(exact)
    assert mcnemar_mid_p(only_a, only_b) == pytest.approx(mid)
    assert mcnemar_exact(only_b, only_a) == mcnemar_exact(only_a, only_b)


@given(st.integers(0, 300), st.integers(0, 300))
def test_paired_test_is_the_binomial_test_of_the_questions_that_differ(only_a, only_b):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected)


@given(st.lists(st.integers(-1, 1), max_size=40))
def test_sign_flip_test_is_mcnemars_where_there_is_one_seed(differences):
    pair = differences.count(1), differences.count(-1)
    assert sign_flip_test(differences) == pytest.approx(mcnemar_exact(*pair))


@given(st.lists(st.integers(-4, 4), max_size=8))
def test_sign_flip_test_counts_all_signs(differences):
    sums = [
        abs(sum(sign * each for sign, each in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    expected = np.mean([each >= abs(sum(differences)) for each in sums])
    assert sign_flip_test(differences) == pytest.approx(expected)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 5))
def test_resamples_keep_the_size_of_every_stratum(sizes, seed):
    counts = resample(sizes, num=20, seed=seed)
    assert counts.shape == (20, sum(sizes))
    assert np.array_equal(counts, resample(sizes, num=20, seed=seed))
    starts = np.cumsum([0, *sizes[:-1]])
    assert (np.add.reduceat(counts, starts, axis=1) == sizes).all()


def test_resamples_differ_by_seed():
    assert not np.array_equal(resample([50], 10, seed=0), resample([50], 10, seed=1))


def test_means_leave_out_what_is_not_there():
    counts = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    found = resampled_means(np.array([1.0, np.nan, 4.0]), counts)
    assert found[0] == 2.0
    assert np.isnan(found[1])
    interval = mean_interval(np.array([1.0, np.nan, 4.0]), counts)
    assert (interval.mean, interval.low, interval.high) == (2.5, 2.0, 2.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_interquartile_mean_is_the_trimmed_mean(scores):
    stats = pytest.importorskip("scipy.stats")  # rliable's own definition
    expected = stats.trim_mean(np.array(scores), proportiontocut=0.25)
    assert float(interquartile_mean(np.array(scores))) == pytest.approx(expected)


def test_performance_profile_is_the_share_above():
    scores = np.array([[0.1, 0.5, 0.9], [0.0, 0.0, 1.0]])
    shares = performance_profile(scores, np.array([0.0, 0.5, 0.95]))
    assert shares == pytest.approx(np.array([[1, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3]]))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True).map(sorted))
def test_area_of_a_straight_line_is_its_middle(levels):
    values = np.array([1 - level / 2 for level in levels])
    if levels[-1] - levels[0] < 1e-6:
        return
    assert float(area_under(levels, values)) == pytest.approx((values[0] + values[-1]) / 2)

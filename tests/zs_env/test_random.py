"""Counter-based randomness: one definition on integers, the same on arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.random import derive, uniform, uniforms

integers = st.integers(min_value=-(2**70), max_value=2**70)


@given(integers, st.lists(integers, max_size=4))
def test_draws_stay_in_their_ranges(seed, counters):
    assert 0 <= derive(seed, *counters) < 2**63
    assert 0.0 <= uniform(seed, *counters) < 1.0


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.integers(0, 7))
def test_array_draws_equal_single_draws_for_unsigned_keys(keys, num):
    draws = uniforms(np.array(keys, dtype=np.uint64), num)
    assert draws.shape == (len(keys), num)
    assert draws.tolist() == [[uniform(key, j) for j in range(num)] for key in keys]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_array_draws_equal_single_draws_for_signed_keys(keys):
    draws = uniforms(np.array(keys, dtype=np.int64), 3)
    assert draws.tolist() == [[uniform(key, j) for j in range(3)] for key in keys]


@given(integers, st.integers(0, 2**32), st.integers(0, 2**32))
def test_order_and_number_of_counters_matter(seed, first, second):
    names = {(first, second), (second, first), (first,), (first, second, 0)}
    assert len({derive(seed, *name) for name in names}) == len(names)


def test_values_never_change():
    """Stored seeds, shipped models and recorded runs depend on these very numbers."""
    assert derive(0) == 8147104208329303767
    assert derive(1, 2, 3) == derive(1 + 2**64, 2, 3)
    assert uniform(7, 0) == 0.7215081806049702


def test_draws_of_one_stream_are_uniform():
    draws = uniforms(np.arange(200, dtype=np.uint64), 500)
    assert draws.mean() == pytest.approx(0.5, abs=0.005)
    assert draws.var() == pytest.approx(1 / 12, abs=0.002)
    histogram, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert np.abs(histogram / draws.size - 0.05).max() < 0.003


def test_neighbouring_streams_and_counters_are_uncorrelated():
    draws = uniforms(np.arange(2000, dtype=np.uint64), 20)
    across_streams = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    across_counters = np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]
    assert abs(across_streams) < 0.02
    assert abs(across_counters) < 0.02


def test_seed_equal_to_counter_is_no_special_case():
    draws = [uniform(value, value) for value in range(100)]
    assert len(set(draws)) == 100
    assert 0.3 < sum(draws) / 100 < 0.7

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.remote.failures import RemoteError
from zs_env.remote.limits import MAX_RETRY_AFTER, Limits, retry_after


@pytest.mark.parametrize("value", [0, -1.0, math.nan])
def test_limit_has_to_be_positive(value):
    with pytest.raises(ValueError, match=r"`deadline` must be greater than 0, got "):
        Limits(deadline=value)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_below_its_doubling_bound(num_failures, draw):
    limits = Limits()
    pause = limits.backoff(num_failures, draw)
    assert 0 <= pause <= limits.longest_delay
    assert pause <= limits.backoff(num_failures + 1, draw)


@given(st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_retry_after_gives_a_bounded_pause(value):
    assert 0 <= retry_after(value) <= MAX_RETRY_AFTER


def test_default_tries_outlive_a_restart_of_a_minute():
    limits = Limits()
    halves = [limits.backoff(num, 0.5) for num in range(1, limits.max_tries)]
    assert 90 < sum(halves) < limits.deadline


def test_error_names_server_tries_and_reason():
    error = RemoteError("http://a/v1", 3, "HTTP 500: no")
    assert str(error) == "http://a/v1 did not answer in 3 tries: HTTP 500: no"
    assert str(RemoteError("a", 1, "b")) == "a did not answer in 1 try: b"

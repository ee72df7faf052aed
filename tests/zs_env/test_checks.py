"""The checks of arguments that several places share."""

import math

import numpy as np
import pytest

from zs_env.checks import check_count, check_probability


@pytest.mark.parametrize("value", [1, 3, np.int64(3), np.uint8(255)])
def test_count_comes_back_as_an_int(value):
    assert check_count("top_k", value, minimum=1) == value
    assert type(check_count("top_k", value, minimum=1)) is int


@pytest.mark.parametrize("value", [0, -1, 2.0, math.nan, math.inf, True, "3", None, [3]])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match="`top_k` must be an integer of at least 1, got "):
        check_count("top_k", value, minimum=1)


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float32(0.25), np.int64(1)])
def test_probability_comes_back_as_a_float(value):
    assert check_probability("noise", value) == value
    assert type(check_probability("noise", value)) is float


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, True, "0.5", None, 1j])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match=r"`noise` must be a probability in \[0, 1\], got "):
        check_probability("noise", value)

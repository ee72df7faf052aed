"""The probability of noise as training goes on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.search.curriculum import ExponentialCurriculum

probabilities = st.floats(0, 1)
bases = st.floats(0.01, 1000) | st.just(1.0)
progress = st.floats(0, 1)


@given(probabilities, probabilities, bases)
def test_ends_are_exact(start, end, base):
    curriculum = ExponentialCurriculum(start, end, base)
    assert curriculum(0.0) == start
    assert curriculum(1.0) == end


@given(probabilities, probabilities, bases, progress)
def test_value_lies_between_the_ends(start, end, base, x):
    value = ExponentialCurriculum(start, end, base)(x)
    assert min(start, end) <= value <= max(start, end)


@given(probabilities, probabilities, st.floats(0.01, 1000), progress, progress)
def test_noise_only_ever_moves_towards_its_end(start, end, base, x, y):
    curriculum = ExponentialCurriculum(start, end, base)
    earlier, later = curriculum(min(x, y)), curriculum(max(x, y))
    rounding = 1e-9  # close to base 1 the formula divides two small differences
    assert abs(end - later) <= abs(end - earlier) + rounding


@given(probabilities, probabilities, st.floats(2, 100), st.integers(0, 200))
def test_follows_the_papers_formula(p_s, p_e, b, i):
    """Equation 3 of arXiv 2505.04588, with i of m updates done."""
    m = 200
    expected = p_s + (b ** (i / m) - 1) / (b - 1) * (p_e - p_s)
    assert math.isclose(ExponentialCurriculum(p_s, p_e, b)(i / m), expected, abs_tol=1e-12)


def test_default_is_the_papers():
    curriculum = ExponentialCurriculum()
    assert (curriculum.start, curriculum.end, curriculum.base) == (0.0, 0.5, 4.0)
    assert curriculum(0.5) == pytest.approx(0.5 / 3)


def test_base_one_is_linear():
    assert ExponentialCurriculum(0.2, 0.6, 1.0)(0.25) == pytest.approx(0.3)


@pytest.mark.parametrize(("x", "expected"), [(-1.0, 0.1), (2.0, 0.9)])
def test_progress_beyond_an_end_stays_there(x, expected):
    assert ExponentialCurriculum(0.1, 0.9)(x) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -0.1}, r"`start` must be a probability in \[0, 1\], got -0.1"),
        ({"end": 1.5}, r"`end` must be a probability in \[0, 1\], got 1.5"),
        ({"end": math.nan}, r"`end` must be a probability in \[0, 1\], got nan"),
        ({"base": 0.0}, "`base` must be greater than 0 and finite, got 0.0"),
        ({"base": -4.0}, "`base` must be greater than 0 and finite, got -4.0"),
        ({"base": math.inf}, "`base` must be greater than 0 and finite, got inf"),
        ({"base": math.nan}, "`base` must be greater than 0 and finite, got nan"),
    ],
)
def test_bad_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExponentialCurriculum(**arguments)

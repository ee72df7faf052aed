"""Every curriculum, by one set of promises; the paper's has a file of its own."""

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.search.curriculum import (
    CURRICULA,
    AdaptiveCurriculum,
    ConstantCurriculum,
    ExponentialCurriculum,
    LinearCurriculum,
    ReversedCurriculum,
    StepCurriculum,
    make_curriculum,
)

probabilities = st.floats(0, 1)
curricula = st.one_of(
    st.builds(ExponentialCurriculum, probabilities, probabilities, st.floats(0.1, 100)),
    st.builds(LinearCurriculum, probabilities, probabilities),
    st.builds(StepCurriculum, st.lists(probabilities, min_size=1, max_size=5).map(tuple)),
    st.builds(ConstantCurriculum, probabilities),
    st.builds(
        lambda end, step: AdaptiveCurriculum(0.0, end, step=step), probabilities, st.just(0.1)
    ),
).flatmap(lambda curriculum: st.sampled_from([curriculum, ReversedCurriculum(curriculum)]))


@given(curricula, st.floats(-1, 2), st.lists(probabilities, max_size=5))
def test_any_curriculum_is_a_probability_and_a_value(curriculum, progress, successes):
    for success in successes:
        curriculum = curriculum.after(success)
    assert 0.0 <= curriculum(progress) <= 1.0
    assert curriculum(progress) == curriculum(min(1.0, max(0.0, progress)))
    assert pickle.loads(pickle.dumps(curriculum)) == curriculum


@given(probabilities, probabilities, probabilities, probabilities)
def test_linear_is_monotone_with_exact_ends(start, end, x, y):
    curriculum = LinearCurriculum(start, end)
    assert (curriculum(0.0), curriculum(1.0)) == (start, end)
    early, late = curriculum(min(x, y)), curriculum(max(x, y))
    assert early <= late if start <= end else early >= late


@given(curricula, probabilities)
def test_reversed_ends_where_the_other_begins(curriculum, progress):
    backwards = ReversedCurriculum(curriculum)
    assert backwards(1.0) == curriculum(0.0)
    assert backwards(0.0) == curriculum(1.0)


def test_steps_have_equal_width():
    curriculum = StepCurriculum((0.0, 0.2, 0.4))
    progress = (0.0, 0.3, 1 / 3, 0.5, 2 / 3, 0.99, 1.0)
    assert [curriculum(x) for x in progress] == [0.0, 0.0, 0.2, 0.2, 0.4, 0.4, 0.4]


def test_adaptive_follows_the_success_rate():
    curriculum = AdaptiveCurriculum(start=0.1, end=0.3, target=0.5, step=0.1, window=2)
    seen = []
    for success in [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0]:
        curriculum = curriculum.after(success)
        seen.append(round(curriculum(0.7), 3))
    assert seen == [0.1, 0.2, 0.2, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3, 0.2]


def test_only_adaptive_ones_learn():
    for curriculum in CURRICULA.values():
        assert (curriculum.after(1.0) == curriculum) != isinstance(curriculum, AdaptiveCurriculum)
    assert ReversedCurriculum(AdaptiveCurriculum(window=1)).after(1.0)(0.5) == 0.05


def test_make_curriculum_takes_names_objects_and_functions():
    assert make_curriculum("exponential") == ExponentialCurriculum()
    assert make_curriculum(ConstantCurriculum(0.3))(0.9) == 0.3
    assert make_curriculum(lambda progress: progress / 2)(0.5) == 0.25
    with pytest.raises(ValueError, match=r"`curriculum\(progress\)` must be a probability .* 2"):
        make_curriculum(lambda progress: 2)(0.5)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: make_curriculum("steep"), ValueError, r"`curriculum` must be exponential, lin"),
        (lambda: make_curriculum(0.5), TypeError, r"`curriculum` must be .*, got 0.5"),
        (lambda: make_curriculum(LinearCurriculum), TypeError, r"`curriculum` must be .*, got <cl"),
        (lambda: LinearCurriculum(end=2), ValueError, r"`end` must be a probability .*, got 2"),
        (lambda: StepCurriculum(()), ValueError, r"`levels` must hold at least one"),
        (lambda: StepCurriculum((0, 3)), ValueError, r"`levels` must be a probability .*, got 3"),
        (lambda: ConstantCurriculum(-1), ValueError, r"`noise` must be a probability .*, got -1"),
        (lambda: AdaptiveCurriculum(0.5, 0.1), ValueError, r"`end` must be at least start=0.5"),
        (lambda: AdaptiveCurriculum(step=0), ValueError, r"`step` must be greater than 0 and"),
        (lambda: AdaptiveCurriculum(window=0), ValueError, r"`window` must be an .* 1, got 0"),
        (lambda: AdaptiveCurriculum(window=2.5), ValueError, r"`window` must be an .* got 2.5"),
        (
            lambda: AdaptiveCurriculum(window=math.nan),
            ValueError,
            r"`window` must be an .* got nan",
        ),
        (lambda: AdaptiveCurriculum(noise=7.0), ValueError, r"`noise` must be a prob.*, got 7.0"),
        (lambda: AdaptiveCurriculum(step=math.nan), ValueError, r"`step` must be gr.*, got nan"),
        (lambda: AdaptiveCurriculum(step="1"), ValueError, r"`step` must be greater .*, got '1'"),
        (lambda: AdaptiveCurriculum(target="a"), ValueError, r"`target` must be a .*, got 'a'"),
        (lambda: AdaptiveCurriculum(num_episodes=-1), ValueError, r"`num_episodes` must be .* -1"),
        (lambda: AdaptiveCurriculum(total=math.nan), ValueError, r"`total` must be in .*, got nan"),
        (
            lambda: ReversedCurriculum("linear"),
            TypeError,
            r"`forward` must be a Cur.*, got 'linear'",
        ),
        (lambda: LinearCurriculum(start="0"), ValueError, r"`start` must be a prob.*, got '0'"),
        (lambda: StepCurriculum(0.5), ValueError, r"`levels` must hold at least one .*, got 0.5"),
    ],
)
def test_bad_argument_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()

"""From wanted noise to requested noise."""

import json
import warnings

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.search.calibration import CalibratedCurriculum, Calibration, CalibrationPoint
from zs_env.search.curriculum import (
    AdaptiveCurriculum,
    ConstantCurriculum,
    LinearCurriculum,
    make_curriculum,
)

HALF = Calibration(0.1, 0.6, (CalibrationPoint(0.5, 0.35, 0.3, 0.4, 300),), {"seed": 2})
shares = st.floats(0, 1)


@given(shares, shares, shares)
def test_requested_is_the_inverse_of_effective(floor, ceiling, p):
    if ceiling - floor > 1e-3:
        calibration = Calibration(floor, ceiling)
        found = calibration.requested(min(ceiling, calibration.effective(p)))
        assert found == pytest.approx(p, abs=1e-9)


@given(shares)
def test_requested_is_a_probability(effective):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert 0 <= HALF.requested(effective) <= 1


@pytest.mark.parametrize(
    ("effective", "requested", "nearest"), [(0.05, 0, "0.100"), (0.9, 1, "0.600")]
)
def test_noise_out_of_reach_is_clipped_with_a_warning(effective, requested, nearest):
    message = rf"effective noise {effective:.2f} is outside .*\[0.100, 0.600\].* to {nearest}"
    with pytest.warns(UserWarning, match=message):
        assert HALF.requested(effective) == requested


def test_ends_can_be_reached_without_a_warning():
    assert (HALF.requested(0.1), HALF.requested(0.6)) == (0, 1)


def test_perfect_simulator_needs_no_calibration():
    assert Calibration(0.0, 1.0).requested(0.37) == 0.37


def test_largest_error_is_that_of_the_points():
    points = tuple(CalibrationPoint(p, e, 0, 1, 1) for p, e in [(0, 0.1), (0.5, 0.3)])
    assert Calibration(0.1, 0.6, points).largest_error == pytest.approx(0.05)
    assert Calibration(0.1, 0.6).largest_error == 0


def test_saved_calibration_is_loaded_again(tmp_path):
    assert HALF.save(tmp_path) == tmp_path / "calibration.json"
    for path in (tmp_path, tmp_path / "calibration.json", str(tmp_path)):
        assert Calibration.load(path) == HALF
        assert Calibration.load(path).origin == {"seed": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[", "calibration.json: "),
        ([], "a calibration must be an object"),
        ({"ceiling": 0.5}, r"`floor` must be a number in \[0, 1\], got None"),
        ({"floor": 0.1, "ceiling": "1"}, "`ceiling` must be a number .* got '1'"),
        ({"floor": True, "ceiling": 1}, "`floor` must be a number .* got True"),
        ({"floor": 0.5, "ceiling": 0.5}, "`ceiling` must be greater than floor=0.5, got 0.5"),
        ({"floor": 0, "ceiling": float("nan")}, "`ceiling` must be a number .* got nan"),
        ({"floor": 0, "ceiling": 1, "points": {}}, "`points` must be a list of objects"),
        ({"floor": 0, "ceiling": 1, "points": [{}]}, "`requested` must be a number"),
        (
            {"floor": 0, "ceiling": 1, "points": [HALF.as_json()["points"][0] | {"count": 0}]},
            "`count` must be an integer of at least 1, got 0",
        ),
    ],
)
def test_file_that_holds_no_calibration_is_named(tmp_path, value, message):
    file = tmp_path / "calibration.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(ValueError, match=message) as raised:
        Calibration.load(file)
    assert str(file) in str(raised.value)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Calibration.load(tmp_path)


def test_curriculum_asks_for_what_gives_the_wanted_noise():
    curriculum = CalibratedCurriculum(LinearCurriculum(0.1, 0.6), HALF)
    assert [curriculum(x) for x in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 0.5, 1.0])


def test_curriculum_out_of_reach_warns():
    with pytest.warns(UserWarning, match="effective noise 0.00 is outside"):
        assert CalibratedCurriculum(ConstantCurriculum(0.0), HALF)(0.3) == 0


def test_learning_curriculum_goes_on_learning():
    curriculum = CalibratedCurriculum(AdaptiveCurriculum(start=0.1, window=1), HALF)
    later = curriculum.after(1.0)
    assert (curriculum(0.0), later(0.0)) == pytest.approx((0.0, 0.1))
    assert curriculum.with_state(later.get_state()) == later


def test_environment_takes_a_calibrated_curriculum():
    curriculum = CalibratedCurriculum(ConstantCurriculum(0.35), HALF)
    assert make_curriculum(curriculum) is curriculum
    env = gym.make("envs_registry:ZeroSearch-v0", engine="world", curriculum=curriculum)
    env.reset(seed=0, options={"progress": 0.5})
    *_, info = env.step("<search> who directed The Silent Harbor</search>")
    assert info["noise"] == pytest.approx(0.5)

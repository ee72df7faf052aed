"""Effective noise of engines whose noise is known."""

from dataclasses import replace

import pytest

from agents.tuning.calibrate import (
    CalibrateOptions,
    calibrate,
    check,
    reachable,
    within_tolerance,
)
from zs_env.random import uniform
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.calibration import Calibration, CalibrationPoint
from zs_env.search.engine import NoiseKind
from zs_env.search.registry import make_engine
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world

WORLD = default_world()
EXACT = WorldSearchEngine(WORLD)
OPTIONS = CalibrateOptions(num_requests=300)


class Flawed:
    """Finds nothing useful in 1 case of 5, and something useful in 3 of 10 that should be noisy."""

    def search(self, requests):
        def is_useful(request):
            return uniform(request.seed, 0) < (0.3 if request.noisy else 0.8)

        return EXACT.search([replace(r, noisy=not is_useful(r)) for r in requests])


@pytest.fixture(scope="module")
def flawed():
    return calibrate(Flawed(), OPTIONS)


def test_perfect_engine_makes_the_noise_that_is_asked_for():
    found = calibrate(WorldSearchEngine(WORLD), OPTIONS)
    assert (found.floor, found.ceiling) == (0, 1)
    assert reachable(found) == [0.1, 0.25, 0.5, 0.75, 0.9]


def test_flaws_are_found(flawed):
    assert flawed.floor == pytest.approx(0.2, abs=0.03)
    assert flawed.ceiling == pytest.approx(0.7, abs=0.03)
    assert reachable(flawed) == [0.25, 0.5]
    assert [point.count for point in flawed.points] == [300] * 7
    assert flawed.largest_error < 0.08


def test_calibrated_requests_make_the_noise_that_is_wanted():
    options = CalibrateOptions(num_requests=2000)
    engine = Flawed()
    found = check(engine, calibrate(engine, options), options)
    assert [point.requested for point in found] == [0.25, 0.5]
    assert within_tolerance(found)


def test_shipped_simulator_makes_less_noise_than_it_is_asked_for():
    options = CalibrateOptions(num_requests=40, probabilities=(0.0, 1.0))
    found = calibrate(make_engine("simulator"), options)
    assert found.floor < 0.15
    assert found.ceiling > 0.75


def test_check_asks_fresh_requests(flawed):
    asked = []

    class Listening(Flawed):
        def search(self, requests):
            asked.append({request.seed for request in requests})
            return super().search(requests)

    options = CalibrateOptions(num_requests=20)
    calibrate(Listening(), options)
    num_batches = len(asked)
    check(Listening(), flawed, options)
    assert not set.union(*asked[:num_batches]) & set.union(*asked[num_batches:])


def test_kinds_of_noise_are_drawn_as_wanted():
    kinds = set()

    class Listening(WorldSearchEngine):
        def search(self, requests):
            kinds.update(request.noise_kind for request in requests if request.noisy)
            return super().search(requests)

    wanted = (NoiseKind.EMPTY, NoiseKind.PARTIAL)
    found = calibrate(Listening(WORLD), CalibrateOptions(60, noise_kinds=wanted))
    assert kinds == set(wanted)
    assert found.origin["noise_kinds"] == ["empty", "partial"]


def test_same_seed_calibrates_the_same(flawed):
    assert calibrate(Flawed(), OPTIONS) == flawed
    assert calibrate(Flawed(), CalibrateOptions(300, seed=5)) != flawed


def test_engine_that_ignores_noise_is_refused():
    engine = BM25SearchEngine(WORLD.passages)
    with pytest.raises(ValueError, match="`engine` must find less where noisy documents"):
        calibrate(engine, CalibrateOptions(100))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_requests": 0}, "`num_requests` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"probabilities": (0.0, 0.5)}, "`probabilities` must be in"),
        ({"probabilities": (0.0, 1.0, 2.0)}, "`probabilities` must be in"),
    ],
)
def test_bad_option_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CalibrateOptions(**arguments)


def test_tolerance_is_about_every_point():
    close, far = (CalibrationPoint(0.5, x, 0.0, 1.0, 9) for x in (0.52, 0.6))
    assert within_tolerance([close])
    assert not within_tolerance([close, far])
    assert within_tolerance(())
    assert reachable(Calibration(0.3, 0.6)) == [0.5]

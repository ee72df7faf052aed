"""Figures of a simulator."""

import numpy as np
import pytest
from PIL import Image

from agents.tuning.figures import plot_calibration, plot_report
from agents.tuning.measure import MeasureOptions, measure_simulator
from zs_env.search.calibration import Calibration, CalibrationPoint
from zs_env.search.empty import EmptySearchEngine
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world

CALIBRATION = Calibration(0.1, 0.9, (CalibrationPoint(0.5, 0.5, 0.4, 0.6, 100),))


@pytest.fixture(scope="module")
def report():
    engine = WorldSearchEngine(default_world())
    return measure_simulator(engine, MeasureOptions(num_requests=5)).as_json()


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_report_is_drawn_and_its_folder_made(report, tmp_path):
    file = tmp_path / "new" / "metrics.png"
    plot_report(report, file)
    assert pixels(file).shape == (770, 1320, 3)


def test_report_without_confusion_is_a_smaller_figure(report, tmp_path):
    leaks = {"plain noise": report["leaks"]["plain noise"]}
    plot_report(report | {"confusion": {}, "leaks": leaks}, tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape == (528, 1100, 3)


def test_report_of_nothing_found_is_drawn(tmp_path):
    report = measure_simulator(EmptySearchEngine(), MeasureOptions(num_requests=2)).as_json()
    plot_report(report, tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").std() > 0


def test_same_numbers_draw_the_same_bytes(report, tmp_path):
    for name in ("a.png", "b.png"):
        plot_report(report, tmp_path / name)
        plot_calibration(CALIBRATION, tmp_path / f"calibration-{name}")
    for name in ("{}.png", "calibration-{}.png"):
        first, second = (tmp_path / name.format(each) for each in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_calibration_is_drawn_with_and_without_points(tmp_path):
    plot_calibration(CALIBRATION, tmp_path / "with.png")
    plot_calibration(Calibration(0.1, 0.9), tmp_path / "without.png")
    assert (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any()

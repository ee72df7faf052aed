"""Cards of models, the shipped ones among them."""

import json
import shutil
from dataclasses import asdict

import pytest

from agents.tuning.build import SIMULATORS
from agents.tuning.cards import (
    CARD_FILE,
    METRICS_FILE,
    SETTINGS,
    card,
    read_metrics,
    weights_of,
    write_card,
    write_metrics,
    write_simulator_metrics,
)
from agents.tuning.control import CONTROL_FILE, Control
from agents.tuning.measure import MeasureOptions, measure_simulator
from agents.tuning.policy_data import SKILL, WEAK
from agents.weights import Weights, weights_checksum
from zs_env.models import MODELS, model_folder
from zs_env.search.calibration import CALIBRATION_FILE, Calibration, CalibrationPoint
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world

CONTROL = {
    "text": "Further imitation, for as long as reinforcement learning takes.",
    "rows": [
        {
            "name": "base and 280 s of SFT",
            "seconds": 280.4,
            "exact_match": 0.31,
            "exact_match_ci": [0.28, 0.34],
            "num_questions": 1068,
        }
    ],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a folder with a simulator that was measured."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    shutil.copytree(model_folder("simulator"), folder)
    found = measure_simulator(WorldSearchEngine(default_world()), MeasureOptions(3))
    origin = {"config": {"num_requests": 3, "seed": 1}, "miniwiki": {"version": 1}}
    write_simulator_metrics(folder, found, origin)
    return folder


@pytest.fixture
def simulator(measured, tmp_path):
    """Return a copy of it, to be changed."""
    return shutil.copytree(measured, tmp_path / "mine", ignore=lambda *_: {CALIBRATION_FILE})


@pytest.fixture
def base(tmp_path):
    """Return a folder with a policy that was measured."""
    folder = tmp_path / "base"
    shutil.copytree(model_folder("base"), folder, ignore=lambda *_: {CONTROL_FILE})
    summary = {"exact_match": 0.25, "exact_match_ci": [0.22, 0.28], "f1": 0.3, "searches": 0.5}
    summary |= {"invalid_share": 0.01, "searched_again_share": 0.125, "num_questions": 1068}
    metrics = {
        "kind": "policy",
        "settings": {setting.name: summary for setting in SETTINGS},
        "habits": {"skill": asdict(SKILL), "base": asdict(WEAK)},
    }
    write_metrics(folder, metrics | weights_of(folder))
    return folder


def test_card_of_a_simulator_says_what_was_measured(simulator):
    text = write_card(simulator).read_text(encoding="utf-8")
    assert text.startswith("# mine\n")
    assert "1.05 M parameters, stored as F16" in text
    assert "`zerosearch tune measure --num-requests 3 --seed 1` on MiniWiki version 1" in text
    assert "| useful: states the asked fact | 1.000 [0.439, 1.000] | 3 | 1.000 |" in text
    assert "| contradictory | 0 | 0 | 0 | 0 | 3 | 0 | 0 | 0 |" in text
    assert "![What was measured](metrics.png)" in text
    assert "Of searches that are noisy" not in text


def test_card_shows_a_calibration_and_draws_it(simulator):
    origin = {"weights_sha256": weights_checksum(simulator)}
    point = CalibrationPoint(0.5, 0.5, 0.45, 0.55, 2000)
    Calibration(0.1, 0.9, (point,), origin).save(simulator)
    text = write_card(simulator).read_text(encoding="utf-8")
    assert "0.100 + 0.800 p lack what is needed" in text
    assert "| 0.5 | 0.500 [0.450, 0.550] | 2000 |" in text
    assert (simulator / "calibration.png").is_file()


def test_calibration_of_other_weights_is_refused(simulator):
    Calibration(0.1, 0.9, (), {"weights_sha256": "other"}).save(simulator)
    with pytest.raises(ValueError, match=r"calibration.json must be about the weights beside it"):
        card(simulator)


def test_metrics_of_other_weights_are_refused(simulator):
    shutil.copy(model_folder("base") / "model.safetensors", simulator)
    with pytest.raises(ValueError, match=r"metrics.json must be about the weights beside it"):
        card(simulator)


def test_model_that_was_not_measured_has_no_card(simulator):
    (simulator / METRICS_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="run `zerosearch tune measure` first"):
        card(simulator)


@pytest.mark.parametrize("content", ["[]", "{}", '{"kind": "poem"}'])
def test_file_that_holds_no_metrics_is_refused(simulator, content):
    (simulator / METRICS_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"metrics.json must hold what was measured of a sim"):
        card(simulator)


def test_card_of_base_says_how_it_was_made_weak(base):
    text = card(base)
    assert "Its weakness is planted" in text
    assert f"| stop early | 0 | {WEAK.stop_early:g} |" in text
    assert "| one hop |" not in text
    assert "| BM25 | 0.250 [0.220, 0.280] | 0.300 | 0.50 | 0.010 | 0.125 | 1068 |" in text
    assert "wall time" not in text


def test_card_of_base_shows_a_control(base):
    (base / CONTROL_FILE).write_text(json.dumps(CONTROL))
    text = card(base)
    assert CONTROL["text"] in text
    assert "| base and 280 s of SFT | 280 s | 0.310 [0.280, 0.340] | 1068 |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 1}, "`text` must be a text and `rows` a list"),
        ({"rows": [1]}, "`rows` must hold objects, got 1"),
        ({"rows": [CONTROL["rows"][0] | {"seconds": -1}]}, "`seconds` must be a number of at"),
        ({"rows": [CONTROL["rows"][0] | {"name": None}]}, "`name` must be a text, got None"),
        ({"rows": [CONTROL["rows"][0] | {"exact_match_ci": [1]}]}, "must be two numbers"),
    ],
)
def test_control_that_is_none_is_refused(tmp_path, change, message):
    file = tmp_path / CONTROL_FILE
    file.write_text(json.dumps(CONTROL | change))
    with pytest.raises(ValueError, match=message) as raised:
        Control.load(file)
    assert str(file) in str(raised.value)


def test_weights_are_counted_from_the_files():
    from transformers import AutoModelForCausalLM

    folder = model_folder("simulator")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert Weights.read(folder).num_parameters == model.num_parameters()


def test_folder_without_sound_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights"):
        Weights.read(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="must hold weights"):
        Weights.read(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_card_of_a_shipped_model_shows_its_recorded_metrics(name):
    folder = model_folder(name)
    assert (folder / CARD_FILE).read_text(encoding="utf-8") == card(folder)


@pytest.mark.parametrize("name", [name for name in MODELS if name in SIMULATORS])
def test_recorded_simulators_are_good_enough(name):
    rates = read_metrics(model_folder(name))["rates"]
    least = {"parsed": 0.97, "useful_hit": 0.90, "on_topic": 0.85, "useful_true": 0.9}
    most = {"noisy_leak": 0.12, "off_topic_cheat": 0.15, "bridge_cheat": 0.07, "repeated": 0.03}
    for bounds, sign in ((least, 1), (most, -1)):
        for key, bound in bounds.items():
            assert sign * rates[key]["value"] >= sign * bound, (name, key)
            assert rates[key]["count"] >= 500


def test_recorded_base_is_weak_but_not_helpless():
    settings = read_metrics(model_folder("base"))["settings"]
    for setting in ("simulator, p = 0", "BM25"):
        assert 0.05 <= settings[setting]["exact_match"] <= 0.40

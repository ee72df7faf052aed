import json

import pytest

from agents.tuning.cards import METRICS_FILE, card
from zs_env.models import MODELS, model_folder


def metrics(name):
    return json.loads((model_folder(name) / METRICS_FILE).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODELS)
def test_card_of_a_shipped_model_shows_its_recorded_metrics(name):
    text = (model_folder(name) / "README.md").read_text(encoding="utf-8")
    assert text == card(name, metrics(name))


def test_recorded_simulator_is_good_enough():
    found = metrics("simulator")
    assert found["parsed"]["value"] >= 0.99
    assert found["useful_hit"]["value"] >= 0.90
    assert found["noisy_leak"]["value"] <= 0.10


def test_recorded_base_is_weak_but_not_helpless():
    for setting in ("simulator, p = 0", "BM25"):
        assert 0.05 <= metrics("base")[setting]["exact_match"] <= 0.40

import json
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.cli.models import Build, build_config
from agents.policies.causal_lm import CausalLMPolicy
from agents.tuning.build import SIMULATORS, BuildConfig


def test_measure_prints_and_writes_every_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "simulator.json"
    options = ["--engine", "world", "--num-requests", "20", "--json", str(file)]
    assert main(["models", "measure", *options, "--threads", "1"]) == 0
    result = json.loads(file.read_text())
    assert result["rates"]["useful_hit"]["value"] == 1.0
    assert result["rates"]["noisy_leak"]["value"] == 0.0
    assert result["rates"]["noisy_leak"]["count"] == 20
    shown = capsys.readouterr().out
    assert "noisy: names the asked object" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_size_one_is_what_the_shipped_models_are_made_with() -> None:
    assert build_config(Build()) == BuildConfig()


def test_size_scales_every_stage() -> None:
    assert build_config(Build(size=1e-9, seed=3)) == BuildConfig(1, 1, 1, 1, seed=3)


@pytest.mark.slow
def test_build_writes_models_that_load(tmp_path: Path) -> None:
    assert main(["models", "build", "--out", str(tmp_path), "--size", "0.001"]) == 0
    for name in (*SIMULATORS, "skill", "base"):
        assert CausalLMPolicy.load(tmp_path / name).model.num_parameters() > 0

"""`zerosearch compare`: a real comparison of two algorithms, as small as can be."""

import json
from pathlib import Path

import pytest

from agents.cli.main import main

TINY = (
    "--arms grpo reinforce?baseline=false --seeds 2 --steps 2 --train-questions 2 --group-size 2 "
    "--num-eval-questions 4 --num-noisy-questions 2 --workers 1"
).split()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "out"
    assert main(["compare", *TINY, "--out", str(folder)]) == 0
    return folder


def test_every_algorithm_learns_from_as_many_episodes(out: Path) -> None:
    records = [json.loads(file.read_text()) for file in sorted((out / "runs").glob("*.json"))]
    assert [record["identity"]["algorithm"] for record in records] == (
        ["grpo"] * 2 + ["reinforce?baseline=false"] * 2
    )
    assert all(len(record["updates"]) == 2 for record in records)
    assert all({"simulator", "bm25", "noisy"} == record["exams"].keys() for record in records)


def test_page_shows_measures_and_curves(out: Path) -> None:
    page = (out / "algorithms.md").read_text()
    assert "| arm | noise | seeds | simulator | real engine |" in page
    assert "(algorithms-curves.png)" in page
    assert (out / "algorithms-curves.png").exists()
    assert "not resolved" in page
    assert "zerosearch compare" in page


def test_results_hold_every_measure(out: Path) -> None:
    results = json.loads((out / "algorithms.json").read_text())
    names = [arm["name"] for arm in results["arms"]]
    assert names == ["grpo", "reinforce?baseline=false"]
    for arm in results["arms"]:
        assert set(arm["measures"]) >= {"simulator", "mean_reward", "unsteadiness"}
        assert arm["measures"]["mean_reward"]["mean"]["num"] == 2


def test_only_what_was_run_is_compared(out: Path) -> None:
    results = json.loads((out / "algorithms.json").read_text())
    assert results["claims"] == []
    [comparison] = results["other_comparisons"]["comparisons"]
    assert comparison["first"] == "reinforce?baseline=false"
    assert comparison["second"] == "grpo"
    assert comparison["difference"]["num"] == 2
    page = (out / "algorithms.md").read_text()
    assert "PPO" not in page
    assert "## Other comparisons" in page


def test_unknown_algorithm_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compare", "--arms", "huge", "--out", str(tmp_path / "out")]) == 2
    assert "`algorithm` must be one of" in capsys.readouterr().err

"""`zerosearch tune measure`, `calibrate` and `card`."""

import json
import shutil
from pathlib import Path

import pytest
import tyro
from tyro.conf import OmitArgPrefixes

from agents.cli.checks import CommandError
from agents.cli.simulators import find_model, load_simulator
from agents.cli.tune_calibrate import Calibrate
from agents.cli.tune_card import Card
from agents.cli.tune_measure import Measure
from zs_env.models import model_folder
from zs_env.search.calibration import Calibration

COMMANDS = {"measure": Measure, "calibrate": Calibrate, "card": Card}


def run(line: str) -> None:
    name, *args = line.split()
    tyro.cli(COMMANDS[name], args=args, config=(OmitArgPrefixes,)).run()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a copy of the shipped simulator with nothing said about it."""
    folder = tmp_path / "mine"
    shutil.copytree(model_folder("simulator"), folder)
    for name in ("README.md", "metrics.json", "metrics.png", "calibration.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


def test_measure_prints_tables_and_writes_numbers_and_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"measure --engine world --num-requests 20 --out {tmp_path} --threads 1")
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["rates"]["useful_hit"]["value"] == 1
    assert result["config"]["engine"] == "world"
    assert result["machine"]["threads"] == 1
    assert "weights_sha256" not in result
    assert (tmp_path / "metrics.png").is_file()
    shown = capsys.readouterr().out
    for part in ("useful: states the asked fact", "contradictory", "requests/s", "false"):
        assert part in shown
    table = shown[: shown.index("results:")]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table.replace("  … ", "")


def test_model_is_measured_calibrated_and_described(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"measure --model {model} --num-requests 2 --threads 1")
    result = json.loads((model / "metrics.json").read_text())
    assert result["num_parameters"] > 1e6
    assert result["speed"]["tokens_per_second"] > 0
    run(f"calibrate --model {model} --num-requests 6 --threads 1 --no-check")
    found = Calibration.load(model)
    assert found.origin["weights_sha256"] == result["weights_sha256"]
    assert found.origin["check"] == []
    run(f"card --model {model}")
    assert "useful: states the asked fact" in (model / "README.md").read_text()
    assert (model / "calibration.png").is_file()
    assert f"card: {model / 'README.md'}" in capsys.readouterr().out.replace("\n/", "/")


def test_calibration_is_checked_on_fresh_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "found.json"
    run(f"calibrate --engine world --num-requests 30 --out {file} --noise-kinds empty partial")
    found = Calibration.load(file)
    assert (found.floor, found.ceiling) == (0, 1)
    assert [point["requested"] for point in found.origin["check"]] == [0.1, 0.25, 0.5, 0.75, 0.9]
    assert found.origin["noise_kinds"] == ["empty", "partial"]
    assert file.with_suffix(".png").is_file()
    shown = capsys.readouterr().out
    assert shown.count("wanted") == 5
    assert "warning: the check is off by more than 0.03" in shown


def test_labelled_searches_are_measured(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "data_source": "made up",
        "question": "Who directed it?",
        "golden_answers": ["Ann Lee"],
        "query": "who directed it",
        "documents": [{"title": "It", "text": "It is by Ann Lee."}],
        "label": "useful",
        "split": "test",
    }
    file = tmp_path / "labelled.jsonl"
    file.write_text(json.dumps(row) + "\n")
    run(f"measure --input {file} --document-tokens 8 --out {tmp_path} --threads 1")
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["rates"]["useful_hit"]["real"]["value"] == 1
    assert result["confusion"] == {}
    assert result["config"]["input"] == str(file)


MISTAKES = {
    "measure --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "measure --model {tmp}": "`model` must be simulator.* or a folder with a model",
    "measure --num-requests 0": "`num_requests` must be at least 1, got 0",
    "measure --seed -1": "`seed` must be at least 0, got -1",
    "measure --threshold 2": r"`threshold` must be in \(0, 1\], got 2.0",
    "measure --document-tokens 0": "`document_tokens` must be at least 1, got 0",
    "measure --input {tmp}/none.jsonl": "No such file.*none.jsonl",
    "measure --input {tmp}/bad.jsonl": "bad.jsonl:1: `id` must be",
    "measure --input {tmp}/good.jsonl --split dev": "`split` must be one that .*, got 'dev'",
    "measure --out /dev/null/x": "`out` must be a folder that can be written",
    "calibrate --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "calibrate --engine bm25 --num-requests 50": "`engine` must find less where noisy documents",
    "calibrate --num-requests 0": "`num_requests` must be at least 1, got 0",
    "calibrate --noise-kinds loud": "`noise_kinds` must be among irrelevant.*, got 'loud'",
    "calibrate --engine world --out {tmp}": "`out` must be a file that can be written",
    "card --model {tmp}": "`model` must be simulator.* or a folder with a model",
    "card --model {model}": "there is no .*metrics.json: run `zerosearch tune measure` first",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_is_told(line: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    row = {"id": "1", "question": "Who?", "golden_answers": ["Ann"], "query": "who"}
    row |= {"label": "useful", "split": "test", "documents": ["Ann."]}
    (tmp_path / "good.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(CommandError, match=MISTAKES[line]):
        run(line.format(tmp=tmp_path, model=model))


def test_damaged_weights_are_a_mistake_and_no_crash(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CommandError, match="must hold weights"):
        run(f"measure --model {model}")


def test_model_is_found_by_name_in_a_folder_and_in_a_run(model: Path, tmp_path: Path) -> None:
    assert find_model("simulator") == model_folder("simulator")
    assert find_model(str(model)) == model
    shutil.move(model, tmp_path / "run" / "model")
    assert find_model(str(tmp_path / "run")) == tmp_path / "run" / "model"


def test_results_of_a_shipped_model_do_not_go_into_the_package(model: Path) -> None:
    assert load_simulator("simulator", "", 32).own_folder is None
    assert load_simulator("world", "simulator", 32).own_folder is None
    assert load_simulator("world", str(model), 32).own_folder == model

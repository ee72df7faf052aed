import json
import os
import signal
from pathlib import Path

import pytest

from agents.callbacks import TranscriptCallback
from agents.cli.main import main
from agents.weights import weights_checksum
from zs_env.models import model_folder

TINY = (
    "--engine world --steps 2 --num-questions 12 --noisy-questions 8 --hard-questions 8 "
    "--train-questions 2 --group-size 4 --eval-questions 8 --threads 1"
).split()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    assert main(["demo", *TINY, "--out", str(out)]) == 0
    return out


def test_demo_measures_every_policy_and_engine(demo: Path) -> None:
    results = json.loads((demo / "demo.json").read_text())["evaluations"]
    sat = {(r["policy"], r["engine"], r["noise"], r["questions"]) for r in results}
    exams = {
        ("world", 0.0, "miniwiki"),
        ("bm25", 0.0, "miniwiki"),
        ("world", 0.5, "miniwiki"),
        ("world", 0.0, "miniwiki-hard"),
    }
    everyone = {(policy, *exam) for policy in ("skill", "base", "trained") for exam in exams}
    assert sat == everyone | {("trained", "empty", 0.0, "miniwiki")}
    assert all(r["seconds"] >= 0 and r["num_questions"] in (8, 12) for r in results)


def test_demo_tells_machine_time_memory_and_command(demo: Path) -> None:
    summary = json.loads((demo / "demo.json").read_text())
    assert summary["machine"].keys() == {"cpu", "cores", "threads", "system"}
    assert summary["machine"]["threads"] == 1
    assert summary["wall_seconds"] >= summary["training"]["seconds"] > 0
    assert summary["training"]["updates"] == 2
    assert summary["peak_memory_mb"] > 0
    assert summary["weights_sha256"] == {
        name: weights_checksum(model_folder(name)) for name in ("skill", "base")
    }
    assert summary["command"].startswith("zerosearch demo --steps 2 ")


def test_demo_leaves_a_run_and_its_figure(demo: Path) -> None:
    names = {path.name for path in demo.iterdir()}
    assert {"metrics.jsonl", "config.json", "checkpoint", "learning_curve.png"} <= names


def test_demo_prints_one_table_and_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["demo", *TINY, "--steps", "1", "--eval-every", "0", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    _, table = shown.split("Held-out test questions, before and after")
    rows = [line.split()[0] for line in table.splitlines() if line.strip()]
    assert [name for name in rows if name in ("skill", "base", "trained")] == [
        "skill",
        "base",
        "trained",
    ]
    assert str(out / "learning_curve.png") in table
    assert "peak memory" in table
    assert "wall time" in table


def test_demo_that_is_stopped_while_it_trains_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.cli.train_run.execute", lambda *arguments: False)
    assert main(["demo", *TINY, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run" / "demo.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_demo_that_is_interrupted_says_what_resuming_leaves_out(
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        TranscriptCallback, "on_update_end", lambda *_: os.kill(os.getpid(), number)
    )
    run = tmp_path / "run"
    assert main(["demo", *TINY, "--eval-every", "0", "--out", str(run)]) == code
    assert (
        f"stopped after update 1 of 2; go on with: zerosearch train --resume {run}; "
        "the evaluation and the table come from another `zerosearch demo`\n"
    ) in capsys.readouterr().out

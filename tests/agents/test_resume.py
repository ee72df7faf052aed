"""A run that was killed, stopped or damaged goes on to the numbers of one that was not.

The command is the real one, on the shipped policy; what is killed is a process of its own.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.callbacks import CheckpointCallback, TranscriptCallback
from agents.cli.main import main
from agents.metrics import read_metrics
from zs_env.models import model_folder

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0
STEPS = 6
# Hot enough that episodes of a group differ, so that the policy does learn between updates.
TINY = (
    f"--engine world --policy skill --steps {STEPS} --num-questions 3 --group-size 3 "
    "--max-turns 2 --temperature 1.5 --eval-questions 4 --eval-every 3 --threads 1 "
    "--log-formats csv"
).split()


def train(out: Path, *options: str) -> int:
    return main(["train", *TINY, "--out", str(out), *options])


def resume(out: Path, *options: str) -> int:
    return main(["train", "--resume", str(out), *options])


def results(run: Path) -> dict[str, Any]:
    """Return all that must not depend on what happened to a run on its way."""
    rows = read_metrics(run)
    files = ["transcripts.jsonl", "checkpoint/model.safetensors", "best/validation.json"]
    last = f"checkpoints/{STEPS:06}"
    files += ["best/model.safetensors", f"{last}/policy.safetensors"]
    table = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()]
    return {
        "rows": [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows],
        "moments": (run / last / "optimizer.safetensors").read_bytes(),
        "table": table,
        **{name: (run / name).read_bytes() for name in files},
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(run) == 0
    found = results(run)
    assert [row["step"] for row in found["rows"]] == [*range(1, STEPS + 1)]
    assert sum(row["train/grad_norm"] > 0 for row in found["rows"]) >= 4
    return found


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Begin with Python's own handler of Ctrl-C, whoever started the tests."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agents.cli.main", "train", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def num_rows(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(read_metrics(file)) if file.exists() else 0


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_run_that_was_killed_five_times_ends_like_an_unbroken_one(
    unbroken: dict[str, Any], tmp_path: Path
) -> None:
    """Killed anywhere: in a rollout, in a gradient step, while files are written."""
    run, moment = tmp_path / "run", random.Random(5)
    for kill in range(5):
        again = ("--resume", str(run)) if kill else (*TINY, "--out", str(run))
        with start(*again) as process:
            wait_for(process, lambda kill=kill: num_rows(run) >= kill)
            wait_for(process, (run / "config.json").exists)
            time.sleep(moment.uniform(0.0, 0.6))
            process.kill()
        assert process.returncode in (-signal.SIGKILL, 0)
    assert resume(run) == 0
    assert results(run) == unbroken


def test_sigterm_finishes_the_update_and_exits_with_zero(
    unbroken: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with start(*TINY, "--out", str(run), "--checkpoint-every", "10") as process:
        wait_for(process, lambda: num_rows(run) >= 2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    done = num_rows(run)
    assert process.returncode == 0
    assert err.strip() == "SIGTERM: stops after this update; once more stops at once"
    assert f"stopped after update {done} of {STEPS}" in out
    assert f"zerosearch train --resume {run}" in out
    assert (run / "checkpoints" / f"{done:06}").is_dir()
    assert resume(run) == 0
    assert results(run) == unbroken


def interrupt(
    monkeypatch: pytest.MonkeyPatch, kind: type, update: int, act: Callable[[], None]
) -> None:
    """Let a callback do something else at the end of an update."""
    real = kind.on_update_end  # type: ignore[attr-defined]

    def on_update_end(self: Any, trainer: Any, *rest: Any) -> Any:
        if trainer.num_updates_done == update:
            act()
        return real(self, trainer, *rest)

    monkeypatch.setattr(kind, "on_update_end", on_update_end)


def die() -> None:
    raise SystemExit(9)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that died after update 4, whose row is written and whose checkpoint is not."""
    run = tmp_path_factory.mktemp("broken") / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, CheckpointCallback, 4, die)
        with pytest.raises(SystemExit):
            train(run)
    assert num_rows(run) == 4
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000002", "000003"]
    return run


@pytest.fixture
def copy(broken: Path, tmp_path: Path) -> Path:
    """Return a copy of the broken run; that a run is somewhere else now must not matter."""
    return shutil.copytree(broken, tmp_path / "moved")


def test_row_without_a_checkpoint_is_written_again(unbroken: dict[str, Any], copy: Path) -> None:
    assert resume(copy) == 0
    assert results(copy) == unbroken


def test_damaged_newest_checkpoint_costs_an_update(
    unbroken: dict[str, Any], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.truncate(copy / "checkpoints" / "000003" / "policy.safetensors", 1000)
    assert resume(copy) == 0
    shown = capsys.readouterr().out
    assert "warning: the checkpoint" in shown
    assert "000003 is left out" in shown
    assert "2 done" in shown
    assert results(copy) == unbroken


def test_run_without_a_checkpoint_starts_again(
    unbroken: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, TranscriptCallback, 1, die)
        with pytest.raises(SystemExit):
            train(run)
    assert not (run / "checkpoints").exists()
    assert resume(run) == 0
    assert results(run) == unbroken


def test_ctrl_c_saves_and_exits_with_130(
    unbroken: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, TranscriptCallback, 2, lambda: signal.raise_signal(signal.SIGINT))
        assert train(run, "--checkpoint-every", "4") == 130
    assert "zerosearch: interrupted" in capsys.readouterr().err
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000001", "000002"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert resume(run) == 0
    assert results(run) == unbroken


def test_run_that_is_over_stays_as_it_is(unbroken: dict[str, Any], copy: Path) -> None:
    assert resume(copy) == 0
    assert resume(copy) == 0
    assert results(copy) == unbroken


def test_options_that_decide_no_number_may_change(unbroken: dict[str, Any], copy: Path) -> None:
    options = "--keep-checkpoints 1 --checkpoint-every 5 --steps 6 --log-formats csv,stdout".split()
    assert resume(copy, *options) == 0
    assert results(copy) == unbroken
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["000006"]
    assert json.loads((copy / "config.json").read_text())["config"]["keep_checkpoints"] == 1


def test_number_of_waves_may_change(unbroken: dict[str, Any], copy: Path) -> None:
    """It is bounded by the questions of a process, and there may now be more processes."""
    assert resume(copy, "--num-waves", "3") == 0
    found = results(copy)["rows"]
    assert len(found) == STEPS
    for row, wanted in zip(found, unbroken["rows"], strict=True):
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 30", "`steps` must be 6, as in the run that `resume` names, got 30"),
        ("--learning-rate 0.1", "`learning_rate` must be 0.00015, as in the run"),
        ("--engine simulator", "`engine` must be 'world', as in the run"),
        ("--policy base", "`policy` must be the weights that the run started from"),
    ],
)
def test_other_options_are_refused(
    broken: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in broken.rglob("*"))
    assert resume(broken, *options.split()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert sorted((path, path.stat().st_mtime_ns) for path in broken.rglob("*")) == before


def test_start_weights_that_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, run = tmp_path / "policy", tmp_path / "run"
    shutil.copytree(model_folder("skill"), policy)
    with monkeypatch.context() as patch:
        interrupt(patch, TranscriptCallback, 2, die)
        with pytest.raises(SystemExit):
            train(run, "--policy", str(policy))
    shutil.copy(model_folder("base") / "model.safetensors", policy)
    assert resume(run) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "`policy` must be the weights that the run started from, with the SHA-256" in line
    # They may lie somewhere else.
    assert resume(run, "--policy", str(model_folder("skill"))) == 0
    assert num_rows(run) == STEPS


def test_lost_rows_are_noticed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "metrics.jsonl").write_text("")
    assert resume(copy) == 2
    assert "metrics.jsonl must hold the" in capsys.readouterr().err


def test_other_versions_are_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["versions"]["torch"] = "1.0"
    (copy / "config.json").write_text(json.dumps(config))
    assert resume(copy) == 0
    assert "warning: versions: torch was 1.0 and is" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{}", '{"config": {"speed": 9}}', "{"])
def test_folder_that_holds_no_run_is_refused(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text("")
        (tmp_path / "config.json").write_text(content)
    assert resume(tmp_path) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "`resume` must be " in line

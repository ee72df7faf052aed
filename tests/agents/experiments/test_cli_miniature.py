"""`zerosearch miniature`: a real experiment, as small as can be, killed and gone on with."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.cli import experiment
from agents.cli.experiment import estimate_seconds, prepare, retyped
from agents.cli.main import main
from agents.cli.miniature import Miniature
from agents.experiments.design import plan
from agents.experiments.miniature import ARMS
from agents.experiments.run_files import FinishedRun
from zs_env.models import model_folder

ROOT = Path(__file__).parents[3]
ARM_NAMES = ("real", "exact")
TINY = (
    "--arms real exact --seeds 2 --steps 1 --train-questions 2 --group-size 2 "
    "--num-eval-questions 6 --num-noisy-questions 2 --workers 1"
).split()
NAMES = ["exact-seed0", "exact-seed1", "real-seed0", "real-seed1"]


def start(out: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "agents.cli.main", "miniature", *TINY, "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def run_names(out: Path) -> list[str]:
    return sorted(file.stem for file in (out / "runs").glob("*.json"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an experiment that SIGKILL stopped after its first run."""
    out = tmp_path_factory.mktemp("miniature") / "out"
    process = start(out)
    deadline = time.monotonic() + 200
    while not run_names(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return out


@pytest.fixture(scope="module")
def resumed(killed: Path) -> tuple[Path, dict[str, int]]:
    """Return the same folder after the second start, and when the runs of the first had ended."""
    before = {
        name: (killed / "runs" / f"{name}.json").stat().st_mtime_ns for name in run_names(killed)
    }
    assert main(["miniature", *TINY, "--out", str(killed), "--markdown", str(killed / "p.md")]) == 0
    return killed, before


def test_killed_experiment_goes_on_without_loss_or_repetition(
    resumed: tuple[Path, dict[str, int]],
) -> None:
    out, before = resumed
    assert 1 <= len(before) < 4
    assert run_names(out) == NAMES
    after = {name: (out / "runs" / f"{name}.json").stat().st_mtime_ns for name in before}
    assert after == before
    assert not (out / "failures").exists()


def test_run_records_all_that_decides_it_and_all_that_came_of_it(
    resumed: tuple[Path, dict[str, int]],
) -> None:
    record = json.loads((resumed[0] / "runs" / "exact-seed1.json").read_text())
    identity = record["identity"]
    assert (identity["arm"], identity["engine"], identity["seed"]) == ("exact", "world", 1)
    assert len(identity["policy_sha256"]) == len(identity["examiner_sha256"]) == 64
    bits = record["exams"]["bm25"]["correct"]
    assert re.fullmatch("[01]{6}", bits)
    assert record["exams"]["bm25"]["exact_match"] == bits.count("1") / 6
    assert record["exams"]["noisy"]["num_questions"] == 2
    [update] = record["updates"]
    assert {"rollout/f1", "train/useful_share", "time/step_s"} <= update.keys()
    assert record["seconds"]["total"] > 0
    assert {"versions", "machine"} <= record.keys()


def test_results_are_written(resumed: tuple[Path, dict[str, int]]) -> None:
    out = resumed[0]
    results = json.loads((out / "miniature.json").read_text())
    assert [arm["name"] for arm in results["arms"]] == list(ARM_NAMES)
    assert all(len(arm["measures"]["bm25"]["by_seed"]) == 2 for arm in results["arms"])
    assert (out / "miniature.png").read_bytes() != b""
    page = (out / "p.md").read_text()
    assert "(p.png)" in page
    assert (out / "p.png").exists()
    assert "--arms real exact" in page


def test_finished_experiment_is_not_repeated(
    resumed: tuple[Path, dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "perform", os._exit)  # would fail
    assert main(["miniature", *TINY, "--out", str(resumed[0])]) == 0


def test_dry_run_lists_runs_and_estimates_and_writes_nothing(
    resumed: tuple[Path, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = resumed[0]
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    options = [*TINY, "--out", str(out), "--dry-run", "--seeds", "3"]
    assert main(["miniature", *options]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"real-seed0 +done, \d+ s", shown)
    assert re.search(r"exact-seed2 +to do", shown)
    assert re.search(r"2 of 6 runs left, 1 at a time: \d+ min", shown)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before


@pytest.mark.parametrize("option", ["--steps", "--num-eval-questions", "--train-questions"])
def test_folder_of_another_experiment_is_refused(
    option: str, resumed: tuple[Path, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["miniature", *TINY, "--out", str(resumed[0]), option, "3"]) == 2
    assert "`out` must be a new folder or that of the same experiment" in capsys.readouterr().err


def test_failed_run_is_recorded_and_told_and_tried_again(
    resumed: tuple[Path, dict[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    shutil.copytree(resumed[0], out)
    lost = out / "runs" / "exact-seed0.json"
    kept = lost.read_bytes()
    lost.unlink()
    monkeypatch.setattr(experiment, "perform", os.fspath)  # a TypeError in the other process
    with pytest.raises(SystemExit, match="1 of 4 runs failed"):
        main(["miniature", *TINY, "--out", str(out)])
    assert re.search("exact-seed0 +failed: TypeError", capsys.readouterr().out)
    assert "Traceback" in (out / "failures" / "exact-seed0.txt").read_text()
    assert len(json.loads((out / "miniature.json").read_text())["arms"]) == 2
    assert main(["miniature", *TINY, "--out", str(out), "--dry-run"]) == 0
    assert "failed before" in capsys.readouterr().out
    lost.write_bytes(kept)
    assert main(["miniature", *TINY, "--out", str(out)]) == 0


def test_format_only_simulator_that_fails_fails_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "perform_format_only", os.fspath)
    with pytest.raises(SystemExit, match="2 of 2 runs failed"):
        main(["miniature", *TINY, "--arms", "format-only", "--out", str(tmp_path)])
    assert "TypeError" in (tmp_path / "failures" / "format-only-seed1.txt").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seeds 0", "`seeds` must be at least 1, got 0"),
        ("--steps 0", "`steps` must be at least 1, got 0"),
        ("--group-size 1", "`group_size` must be at least 2, got 1"),
        ("--workers 0", "`workers` must be at least 1, got 0"),
        ("--num-eval-questions 0", "`num_eval_questions` must be at least 1, got 0"),
        ("--num-eval-questions 100000", r"`num_eval_questions` must be at most \d+, .*100000"),
        ("--arms huge", "`arms` must be among tiny, .* got 'huge'"),
        ("--models {tmp} --arms real", "`models` must be a folder with a model 'base'"),
        ("--out /dev/null/x --arms real", "`out` must be a folder that can be written"),
        ("--markdown {tmp} --arms real", "`markdown` must be a file that can be written"),
    ],
)
def test_mistake_gives_one_line_and_writes_nothing(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options.replace("{tmp}", str(tmp_path)).split()
    assert main(["miniature", "--out", str(tmp_path / "out"), *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert not list(tmp_path.iterdir())


def test_models_come_from_another_folder(tmp_path: Path) -> None:
    for name in ("base", "simulator"):
        (tmp_path / name).symlink_to(model_folder(name))
    config = Miniature(arms=("small",), models=tmp_path, out=tmp_path / "out")
    setup = prepare(config)
    assert setup.models == {name: tmp_path / name for name in ("base", "simulator")}
    assert len(setup.identity(setup.runs[0])["simulator_sha256"]) == 64


def test_estimate_goes_by_the_arm_and_else_by_all_runs() -> None:
    runs = plan([ARMS["real"], ARMS["small"], ARMS["medium"]], 2)
    done = [
        FinishedRun("real", 0, {}, 10.0),
        FinishedRun("small", 0, {}, 30.0),
    ]
    # left: medium 0 and 1 at the median of 10 and 30 each, real 1, small 1
    assert estimate_seconds(runs, done, workers=2) == (20 + 20 + 10 + 30) / 2
    assert math.isnan(estimate_seconds(runs, [], 1))


def test_command_can_be_typed_again() -> None:
    assert retyped(Miniature()) == "zerosearch miniature"
    assert retyped(Miniature(seeds=2, arms=("real", "exact"))) == (
        "zerosearch miniature --seeds 2 --arms real exact"
    )

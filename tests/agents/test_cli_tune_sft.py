import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from safetensors.torch import load_file
from tyro.conf import OmitArgPrefixes

from agents.cli.checks import CommandError
from agents.cli.tune_sft import Sft

QUICK = (
    "--batch-size 4 --warmup-steps 2 --learning-rate 1e-3 --eval-every 6 --save-every 3 "
    "--save-dtype float32 --threads 1"
).split()
PROGRAM = """
import sys, tyro
from tyro.conf import OmitArgPrefixes
from agents.cli.tune_sft import Sft
tyro.cli(Sft, args=sys.argv[1:], config=(OmitArgPrefixes,)).run()
"""


def record(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{split}{number}",
        "data_source": "made",
        "question": f"Who founded {split} {number}?",
        "golden_answers": [f"Founder {number}"],
        "query": f"founder {number}",
        "documents": [{"title": "Firms", "text": f"Founder {number} did."}],
        "label": ["useful", "noisy"][number % 2],
        "split": split,
    } | changes


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [record(n) for n in range(48)] + [record(n, "validation") for n in range(4)]
    return write_rows(tmp_path_factory.mktemp("rows") / "labelled.jsonl", rows)


def parse(labelled: Path, out: Path, *options: str) -> Sft:
    given = ["--input", str(labelled), "--out", str(out), *QUICK, *options]
    return tyro.cli(Sft, args=given, config=(OmitArgPrefixes,))


def sft(labelled: Path, out: Path, *options: str) -> Path:
    parse(labelled, out, *options).run()
    return out


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sft(labelled, tmp_path_factory.mktemp("runs") / "first")


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model/model.safetensors")


def rows_of(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def test_run_folder_holds_everything(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model",
        "tensorboard",
    ]
    assert [row["step"] for row in rows_of(run)] == list(range(13))


def test_config_tells_options_versions_data_and_weights(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["stage"] == "tune sft"
    assert config["config"]["batch_size"] == 4
    assert config["rows"] == {"train": 48, "off_topic": 0, "validation": 4, "too_long": 0}
    assert {"zs-env", "torch", "transformers", "accelerate"} <= config["versions"].keys()
    assert len(config["input_sha256"]) == len(config["start_weights"]) == 64


def test_progress_and_result_are_told(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft(labelled, tmp_path / "out", "--max-steps", "2", "--off-topic", "1")
    shown = capsys.readouterr().out
    assert "simulator · 1,050,752 of 1,050,752 parameters · cpu" in shown
    assert "96 rows to learn (48 of them off topic), 4 to validate" in shown
    assert "step 2/2  loss " in shown
    assert "weights after step " in shown
    sft(labelled, tmp_path / "out", "--max-steps", "2", "--off-topic", "1")
    assert f"finished before: {tmp_path / 'out/model'}" in capsys.readouterr().out


def test_rows_that_are_dropped_are_told(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = record(99, documents=["far away " * 600])
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    sft(write_rows(tmp_path / "rows.jsonl", [*rows, long]), tmp_path / "out", "--max-steps", "1")
    assert "warning: 1 rows dropped, longer than 1024 tokens" in capsys.readouterr().out


def start(labelled: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    given = ["--input", str(labelled), "--out", str(out), *QUICK, *options]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *given],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )


def num_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_killed_run_ends_with_the_weights_of_one_that_was_not(
    labelled: Path, tmp_path: Path
) -> None:
    options = ("--epochs", "3", "--patience", "0")
    killed = start(labelled, tmp_path / "killed", *options)
    while num_lines(tmp_path / "killed/metrics.jsonl") < 8:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/model").exists()
    assert (tmp_path / "killed/state/state.safetensors").exists()
    for name in ("killed", "whole"):
        sft(labelled, tmp_path / name, *options)
    found, expected = tensors(tmp_path / "killed"), tensors(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--seed", "1"], "`seed` is 0 and not 1"),
        (["--pack", "200"], "`pack` is 0 and not 200"),
        (["--model", "base"], "`start_weights` is "),
    ],
)
def test_other_options_in_the_same_folder_are_refused(
    labelled: Path, run: Path, options: list[str], name: str
) -> None:
    with pytest.raises(CommandError, match=f"the same run, got '.*first', whose {name}"):
        sft(labelled, run, *options)


def test_other_rows_in_the_same_folder_are_refused(run: Path, tmp_path: Path) -> None:
    rows = [record(0), record(0, "validation")]
    with pytest.raises(CommandError, match="whose `input_sha256` is "):
        sft(write_rows(tmp_path / "rows.jsonl", rows), run)


def test_folder_of_something_else_is_refused(labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(CommandError, match="which holds results of something else"):
        sft(labelled, tmp_path)
    (tmp_path / "config.json").write_text('{"start_weights_sha256": ""}')
    with pytest.raises(CommandError, match=r"whose config\.json is not that of `tune sft`"):
        sft(labelled, tmp_path)


def test_what_does_not_change_the_result_may_change(labelled: Path, run: Path) -> None:
    sft(labelled, run, "--save-every", "5")


def test_bad_row_is_named_before_anything_is_written(tmp_path: Path) -> None:
    rows = [record(0), record(1, label="maybe")]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(CommandError, match=r"rows.jsonl:2: `label` must be one of useful, noisy"):
        sft(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save-every", "0"], "`save_every` must be at least 1, got 0"),
        (["--model", "no/such/folder/here"], "no/such/folder/here"),
        (["--chat-template"], "`chat_template` must come with a tokenizer that has one"),
        (["--pack", "2000"], "`pack` must be at most 1024, got 2000"),
    ],
)
def test_mistake_is_told_before_anything_is_written(
    labelled: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        sft(labelled, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        sft(tmp_path / "none.jsonl", tmp_path / "out")


def test_loss_that_is_not_finite_is_a_clear_error(labelled: Path, tmp_path: Path) -> None:
    command = replace(
        parse(labelled, tmp_path / "out"), learning_rate=1e30, final_learning_rate=1e30
    )
    with pytest.raises(CommandError, match=r"(in|after) step \d+"):
        command.run()
    assert not (tmp_path / "out/model").exists()


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(labelled: Path, tmp_path: Path) -> None:
    # The last step of an epoch has one row, so that one process has nothing to do.
    rows = [json.loads(line) for line in labelled.read_text().splitlines()][3:]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    options = ["--no-autocast", "--max-tokens-per-pass", "100"]
    sft(file, tmp_path / "one", *options)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    given = ["--input", str(file), "--out", str(tmp_path / "two"), *QUICK, *options]
    environ = {"PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "1"}
    subprocess.run([*launcher, str(program), *given], check=True, env=os.environ | environ)
    torch.testing.assert_close(
        tensors(tmp_path / "two"), tensors(tmp_path / "one"), atol=1e-4, rtol=1e-3
    )

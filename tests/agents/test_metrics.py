import csv
import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.metrics import METRICS_FILE, Logger, read_metrics


def write_run(out_dir: Path, steps: range, *, first_step: int = 0, seconds: float = 0.0) -> Path:
    with Logger(out_dir, first_step=first_step) as writer:
        for step in steps:
            writer.record("train/loss", 1 / 3 + step)
            writer.record("rollout/num_tokens", 7 * step)
            writer.record("time/step", seconds)
            writer.dump(step)
    return out_dir / METRICS_FILE


def test_rows_read_back_as_recorded(tmp_path: Path) -> None:
    path = write_run(tmp_path, range(2))
    assert read_metrics(path) == [
        {"step": 0, "train/loss": 1 / 3, "rollout/num_tokens": 0, "time/step": 0.0},
        {"step": 1, "train/loss": 1 / 3 + 1, "rollout/num_tokens": 7, "time/step": 0.0},
    ]


def test_run_folder_reads_like_its_file(tmp_path: Path) -> None:
    path = write_run(tmp_path, range(2))
    assert read_metrics(tmp_path) == read_metrics(path)


def test_row_is_on_disk_before_the_writer_closes(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        writer.record("train/loss", 0.5)
        writer.dump(0)
        assert read_metrics(tmp_path) == [{"step": 0, "train/loss": 0.5}]


def test_dump_without_records_writes_a_row(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        writer.dump(0)
    assert read_metrics(tmp_path) == [{"step": 0}]


def test_records_do_not_leak_into_the_next_row(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        writer.record("eval/bm25/exact_match", 0.5)
        writer.dump(0)
        writer.dump(1)
    assert read_metrics(tmp_path)[1] == {"step": 1}


def test_keys_are_sorted_whatever_the_order_of_records(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        for key in ("train/b", "rollout/z", "train/a"):
            writer.record(key, 0)
        writer.dump(0)
    keys = list(json.loads((tmp_path / METRICS_FILE).read_text()))
    assert keys == ["rollout/z", "step", "train/a", "train/b"]


def test_equal_runs_differ_only_in_their_times(tmp_path: Path) -> None:
    runs = [
        read_metrics(write_run(tmp_path / str(seconds), range(3), seconds=seconds))
        for seconds in (1.0, 2.0)
    ]
    for rows in runs:
        for row in rows:
            del row["time/step"]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_stored_as_null(tmp_path: Path, value: float) -> None:
    with Logger(tmp_path) as writer:
        writer.record("train/loss", value)
        writer.dump(0)
    assert json.loads((tmp_path / METRICS_FILE).read_text())["train/loss"] is None
    assert math.isnan(read_metrics(tmp_path)[0]["train/loss"])


@pytest.mark.parametrize(
    ("value", "stored"),
    [(3, "3"), (np.int64(3), "3"), (3.0, "3.0"), (np.float32(0.5), "0.5"), (True, "1")],
)
def test_whole_numbers_stay_whole(tmp_path: Path, value: float, stored: str) -> None:
    with Logger(tmp_path) as writer:
        writer.record("train/x", value)
        writer.dump(0)
    assert (tmp_path / METRICS_FILE).read_text() == f'{{"step": 0, "train/x": {stored}}}\n'


def test_tensor_is_recorded_as_its_number(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        writer.record("train/loss", torch.tensor(0.25))
        writer.dump(0)
    assert read_metrics(tmp_path)[0]["train/loss"] == 0.25


def test_record_refuses_a_key_without_its_prefix(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer, pytest.raises(ValueError, match="`key` must begin"):
        writer.record("loss", 1.0)


def test_dump_refuses_to_go_back(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        writer.dump(3)
        with pytest.raises(ValueError, match="`step` must be at least 4, got 3"):
            writer.dump(3)


def test_new_run_replaces_the_rows_of_an_old_one(tmp_path: Path) -> None:
    write_run(tmp_path, range(5))
    path = write_run(tmp_path, range(2))
    assert [row["step"] for row in read_metrics(path)] == [0, 1]


def test_resumed_run_writes_the_bytes_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = write_run(tmp_path / "unbroken", range(6))
    write_run(tmp_path / "resumed", range(5))
    resumed = write_run(tmp_path / "resumed", range(3, 6), first_step=3)
    assert resumed.read_bytes() == unbroken.read_bytes()


def test_read_leaves_out_a_row_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text('{"step": 0}\n{"step": 1, "train/l')
    assert read_metrics(path) == [{"step": 0}]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]"])
def test_read_names_the_line_that_is_wrong(tmp_path: Path, line: str) -> None:
    path = tmp_path / METRICS_FILE
    path.write_text(f'{{"step": 0}}\n{line}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not"):
        read_metrics(path)


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, range(3))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(step, pytest.approx(1 / 3 + step)) for step in range(3)]


def write_csv(out_dir: Path, rows: dict[int, dict[str, float]], first_step: int = 0) -> str:
    with Logger(out_dir, ["csv"], first_step) as logger:
        for step, row in rows.items():
            for key, value in row.items():
                logger.record(key, value)
            logger.dump(step)
    return (out_dir / "metrics.csv").read_text()


def test_csv_has_a_column_a_key_and_room_for_late_ones(tmp_path: Path) -> None:
    rows = {
        1: {"train/loss": 0.1, "rollout/f1": 1 / 3},
        2: {"rollout/f1": 1.0, "eval/a/f1": math.nan},
        3: {"train/loss": 7},
    }
    text = write_csv(tmp_path, rows)
    read = list(csv.DictReader(io.StringIO(text)))
    assert list(read[0]) == ["step", "rollout/f1", "train/loss", "eval/a/f1"]
    assert [row["step"] for row in read] == ["1", "2", "3"]
    assert float(read[0]["rollout/f1"]) == 1 / 3
    assert [row["train/loss"] for row in read] == ["0.1", "", "7"]
    assert [row["eval/a/f1"] for row in read] == ["", "nan", ""]


def test_csv_of_a_resumed_run_is_that_of_an_unbroken_one(tmp_path: Path) -> None:
    rows = {step: {"train/loss": step / 3} for step in range(1, 6)}
    rows[2]["eval/a/f1"] = 1.0
    unbroken = write_csv(tmp_path / "unbroken", rows)
    write_csv(tmp_path / "resumed", {step: rows[step] for step in (1, 2, 3, 4)})
    with (tmp_path / "resumed" / "metrics.csv").open("a") as file:
        file.write("5,0.")
    resumed = write_csv(tmp_path / "resumed", {step: rows[step] for step in (4, 5)}, first_step=4)
    assert resumed == unbroken


def test_csv_of_a_new_run_replaces_an_old_one(tmp_path: Path) -> None:
    write_csv(tmp_path, {1: {"train/old": 1.0}})
    assert write_csv(tmp_path, {1: {"train/new": 2.0}}) == "step,train/new\n1,2.0\n"


def test_stdout_shows_every_number_under_its_heading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Logger(tmp_path, ["stdout"]) as logger:
        for key, value in (("train/kl", 0.0125), ("eval/world/f1", 0.5), ("train/loss", 2)):
            logger.record(key, value)
        logger.dump(3)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["step", "3"],
        ["eval/"],
        ["world/f1", "0.5"],
        ["train/"],
        ["kl", "0.0125"],
        ["loss", "2"],
    ]
    assert not list(tmp_path.iterdir())


def test_only_the_formats_that_are_named_are_written(tmp_path: Path) -> None:
    Logger(tmp_path, ["json", "csv", "json"]).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`log_formats` must be among json, csv, "):
        Logger(tmp_path / "new", ["json", "excel"])
    assert not (tmp_path / "new").exists()


def test_wandb_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        Logger(tmp_path, ["wandb"])


def test_wandb_gets_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Run:
        def log(self, row: dict[str, float], step: int) -> None:
            calls.append((step, row))

        def finish(self) -> None:
            calls.append("finished")

    fake = SimpleNamespace(init=lambda **options: calls.append(options["name"]) or Run())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with Logger(tmp_path / "run-7", ["wandb"]) as logger:
        logger.record("train/loss", 0.5)
        logger.dump(1)
    assert calls == ["run-7", (1, {"train/loss": 0.5}), "finished"]

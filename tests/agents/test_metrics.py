import json
import math
from pathlib import Path

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

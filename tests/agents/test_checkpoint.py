"""Checkpoints: whole or not there, bit for bit, and without pickles."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agents.batch import Batch
from agents.checkpoint import (
    Checkpoint,
    CheckpointError,
    newest_checkpoint,
    read_checkpoint,
    write_batch,
    write_checkpoint,
    write_numbered,
)
from agents.durable import write_folder
from agents.learner import LearnerState, load_tensors, tensors
from agents.trajectory import Trajectory, Turn


class Crash(BaseException):
    """The power failed."""


def make_checkpoint(number: float = 1.0) -> Checkpoint:
    """Return a checkpoint all of whose contents tell its number."""
    moments = {"step": torch.tensor(number), "exp_avg": torch.tensor([number / 3, -0.0])}
    return Checkpoint(
        {
            "modules": {"policy": {"weight": torch.full((3,), number)}},
            "optimizer": {
                "state": {0: moments, 1: {"calls": 2}},
                "param_groups": [{"lr": 0.1 + 0.2, "betas": [0.9, 0.95], "params": [0, 1]}],
            },
        },
        {"number": number, "name": "Zoë"},
        {"reference": {"weight": torch.zeros(2)}},
    )


def number_of(checkpoint: Checkpoint | None) -> float | None:
    """Return the number of a checkpoint, after checking that all of it is of that one."""
    if checkpoint is None:
        return None
    number = float(checkpoint.state["number"])
    modules, optimizer = checkpoint.learner["modules"], checkpoint.learner["optimizer"]
    assert modules["policy"]["weight"].tolist() == [number] * 3
    assert optimizer["state"][0]["step"].item() == number
    return number


def test_checkpoint_reads_back_bit_for_bit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", make_checkpoint())
    read = read_checkpoint(tmp_path / "c")
    written = make_checkpoint()
    moments = read.learner["optimizer"]["state"][0]["exp_avg"]
    wanted = written.learner["optimizer"]["state"][0]["exp_avg"]
    assert moments.numpy().tobytes() == wanted.numpy().tobytes()
    assert read.learner["optimizer"]["state"][1] == {"calls": 2}
    groups = read.learner["optimizer"]["param_groups"]
    assert groups == written.learner["optimizer"]["param_groups"]
    assert read.state == written.state
    assert read.frozen["reference"]["weight"].tolist() == [0, 0]


def test_checkpoint_holds_no_pickle_and_can_be_checked_with_sha256sum(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", make_checkpoint())
    suffixes = {path.suffix for path in (tmp_path / "c").iterdir()}
    assert suffixes == {".safetensors", ".json", ""}
    command = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=tmp_path / "c", check=False).returncode == 0


def test_optimiser_that_has_not_stepped_yet_reads_back(tmp_path: Path) -> None:
    learner: LearnerState = {
        "modules": {"policy": {"weight": torch.ones(1)}},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    write_checkpoint(tmp_path / "c", Checkpoint(learner, {}, {}))
    assert read_checkpoint(tmp_path / "c").learner["optimizer"] == learner["optimizer"]


def truncate(folder: Path) -> None:
    file = folder / "policy.safetensors"
    os.truncate(file, file.stat().st_size - 1)


def flip(folder: Path) -> None:
    file = folder / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "state.json").unlink()


def forget(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text("")


def be_of_the_future(folder: Path) -> None:
    file = folder / "state.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    command = "sha256sum *.safetensors state.json > SHA256SUMS; sort -k 2 -o SHA256SUMS SHA256SUMS"
    subprocess.run(command, shell=True, cwd=folder, check=True)


DAMAGE = [truncate, flip, lose, forget, be_of_the_future]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_refused(tmp_path: Path, damage: Any) -> None:
    write_checkpoint(tmp_path / "c", make_checkpoint())
    damage(tmp_path / "c")
    with pytest.raises(CheckpointError, match=str(tmp_path / "c")):
        read_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_falls_back_to_the_one_before_with_a_warning(
    tmp_path: Path, damage: Any
) -> None:
    for number in (1, 2):
        write_numbered(tmp_path, number, make_checkpoint(number), keep=2)
    damage(tmp_path / "000002")
    with pytest.warns(UserWarning, match="000002 is left out"):
        assert number_of(newest_checkpoint(tmp_path)) == 1
    write_numbered(tmp_path, 2, make_checkpoint(2), keep=2)
    assert number_of(newest_checkpoint(tmp_path)) == 2


def test_damage_everywhere_is_an_error_and_not_a_new_beginning(tmp_path: Path) -> None:
    write_numbered(tmp_path, 1, make_checkpoint(), keep=1)
    truncate(tmp_path / "000001")
    told: list[str] = []
    with pytest.raises(CheckpointError, match="no checkpoint in "):
        newest_checkpoint(tmp_path, told.append)
    assert len(told) == 1


def test_folder_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None


def test_millionth_update_is_newer_than_the_one_before(tmp_path: Path) -> None:
    for number in (999_999, 1_000_000):
        write_numbered(tmp_path, number, make_checkpoint(number), keep=2)
    assert number_of(newest_checkpoint(tmp_path)) == 1_000_000


# Everything through which a checkpoint reaches the disk; each call of each is a place to crash at.
STAGES = [(os, "fsync"), (os, "rename"), (os, "replace"), (os, "rmdir"), (os, "unlink")]
WRITES = [(Path, "mkdir"), (Path, "write_text"), (Path, "rename")]


@pytest.mark.parametrize("where", [*STAGES, *WRITES], ids=lambda pair: f"{pair[1]}")
def test_crash_at_any_moment_leaves_the_old_or_the_new_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    owner, name = where
    real = getattr(owner, name)
    crashes = 0
    for place in range(100):
        for before in (True, False):
            folder = tmp_path / f"{place}-{before}"
            for number in (1, 2):
                write_numbered(folder, number, make_checkpoint(number), keep=2)
            calls = 0

            def failing(
                *args: Any, place: int = place, before: bool = before, **kwargs: Any
            ) -> Any:
                nonlocal calls
                calls += 1
                if calls == place + 1 and before:
                    raise Crash
                result = real(*args, **kwargs)
                if calls == place + 1:
                    raise Crash
                return result

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, failing)
                try:
                    write_numbered(folder, 3, make_checkpoint(3), keep=2)
                except Crash:
                    crashes += 1
            assert number_of(newest_checkpoint(folder)) in (2, 3)
            write_numbered(folder, 3, make_checkpoint(3), keep=2)
            assert number_of(newest_checkpoint(folder)) == 3
            assert sorted(path.name for path in folder.iterdir()) == ["000002", "000003"]
        if calls <= place:
            break
    assert crashes == 2 * place
    assert calls <= place


def test_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    def write(partial: Path) -> None:
        partial.mkdir()
        (partial / "x").write_text("new")
        raise OSError("disk full")

    write_checkpoint(tmp_path / "c", make_checkpoint(1))
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "c", write)
    assert number_of(read_checkpoint(tmp_path / "c")) == 1


def test_folders_inside_are_checked_too(tmp_path: Path) -> None:
    def write_more(partial: Path) -> None:
        (partial / "policy").mkdir()
        (partial / "policy" / "x").write_text("y")

    write_checkpoint(tmp_path / "c", make_checkpoint(), write_more)
    read_checkpoint(tmp_path / "c")
    (tmp_path / "c" / "policy" / "x").write_text("z")
    with pytest.raises(CheckpointError, match="SHA256SUMS"):
        read_checkpoint(tmp_path / "c")


def test_tied_tensors_are_kept_once_and_stay_tied(make_tiny_model: Any) -> None:
    model = make_tiny_model(tie_word_embeddings=True)
    kept = tensors(model)
    assert ("lm_head.weight" in kept) != ("model.embed_tokens.weight" in kept)
    other = make_tiny_model(tie_word_embeddings=True, seed=1)
    load_tensors("policy", other, kept)
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    assert other.lm_head.weight is other.model.embed_tokens.weight


def test_tensors_of_another_model_are_refused(make_tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="must hold the tensors of 'policy'"):
        load_tensors("policy", make_tiny_model(), tensors(make_tiny_model(hidden_size=48)))


def test_batch_reads_back_with_what_was_wrong(tmp_path: Path) -> None:
    trajectory = Trajectory(turns=[Turn("", "answer", False, 1.0, 1, 2)])
    trajectory.observe([1])
    trajectory.act([2], [float("nan")])
    batch = Batch.from_trajectories([trajectory])
    file = tmp_path / "failed" / "update-000003.safetensors"
    write_batch(file, batch, {"error": "the loss is nan"})
    read = load_file(file)
    assert {"token_ids", "action_mask", "rewards"} <= read.keys() <= {*batch.__slots__}
    assert read["logprobs"].isnan().tolist() == [[False, True]]

"""Checkpoints: everything that a training run needs to go on as if it had never stopped.

A checkpoint is a folder: a safetensors file a module (`policy`, and `critic` where there is one),
another of the optimiser's moments, `state.json` with all that is no tensor, and `SHA256SUMS`,
which tells a damaged folder from a whole one. No pickle is written or read. The folder is written
aside, forced to the disk and renamed: there is never half a checkpoint under its name.

Nothing random is stored, for nothing random has a state: questions, noise, sampling and the order
of minibatches are functions of the seed and of the update's number.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.durable import remove_folder, write_folder

if TYPE_CHECKING:
    from agents.batch import Batch
    from agents.learner import LearnerState

STATE_FILE: Final = "state.json"
SUMS_FILE: Final = "SHA256SUMS"
_OPTIMIZER: Final = "optimizer"
_SUFFIX: Final = ".safetensors"
_FORMAT: Final = 1
_NUMBER: Final = re.compile(r"\d{6,}")

Tensors = Mapping[str, torch.Tensor]


class CheckpointError(OSError):
    """A checkpoint that cannot be read, or that belongs to something else."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        learner: What `Learner.state_dict` returned.
        state: JSON values: how far the run is, and whatever else its writer wants to find again.
        frozen: Tensors of modules that are needed and not trained, by module, then by name.
    """

    learner: LearnerState
    state: Mapping[str, Any]
    frozen: Mapping[str, Tensors]


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, write_more: Callable[[Path], None] | None = None
) -> None:
    """Write a checkpoint as `folder`, whole or not at all; one that is there is replaced.

    Args:
        folder: What to write.
        checkpoint: What it holds.
        write_more: Puts further files or folders into the folder whose path it gets.

    Raises:
        OSError: If it cannot be written.
    """

    def write(partial: Path) -> None:
        partial.mkdir()
        moments, rest = _parted(checkpoint.learner["optimizer"])
        files = {**checkpoint.frozen, **checkpoint.learner["modules"], _OPTIMIZER: moments}
        for name, tensors in files.items():
            write_tensors(partial / f"{name}{_SUFFIX}", tensors)
        state = {
            "format": _FORMAT,
            "modules": list(checkpoint.learner["modules"]),
            "frozen": list(checkpoint.frozen),
            _OPTIMIZER: rest,
            "state": dict(checkpoint.state),
        }
        text = json.dumps(state, indent=2, allow_nan=False) + "\n"
        (partial / STATE_FILE).write_text(text, encoding="utf-8")
        if write_more is not None:
            write_more(partial)
        (partial / SUMS_FILE).write_text(_sums(partial), encoding="utf-8")

    write_folder(folder, write)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return what a checkpoint holds, after checking that nothing of it is damaged.

    Raises:
        CheckpointError: If it is damaged, is none, or was written by another version.
    """
    _check_sums(folder)
    try:
        written = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if written["format"] != _FORMAT:
            raise CheckpointError(
                f"{folder} must be a checkpoint of format {_FORMAT}, got {written['format']!r}"
            )
        modules, frozen = (
            {name: load_file(folder / f"{name}{_SUFFIX}") for name in written[kind]}
            for kind in ("modules", "frozen")
        )
        moments = load_file(folder / f"{_OPTIMIZER}{_SUFFIX}")
        optimizer = _joined(moments, written[_OPTIMIZER])
        return Checkpoint({"modules": modules, "optimizer": optimizer}, written["state"], frozen)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} must hold a whole checkpoint: {error!r}") from error


def write_numbered(folder: Path, number: int, checkpoint: Checkpoint, keep: int) -> None:
    """Write the checkpoint of an update into a folder of such, and keep the newest few.

    Args:
        folder: Holds a folder a checkpoint, named by the update's number.
        number: Updates done.
        checkpoint: What to write.
        keep: Checkpoints that stay, at least 1. With two, a damaged one costs an update.

    Raises:
        OSError: If it cannot be written.
    """
    write_checkpoint(folder / f"{number:06}", checkpoint)
    for old in _numbered(folder)[keep:]:
        remove_folder(old)
    for leftover in (*folder.glob(".*.old"), *folder.glob(".*.partial")):
        shutil.rmtree(leftover, ignore_errors=True)


def newest_checkpoint(
    folder: Path, warn: Callable[[str], None] = warnings.warn
) -> Checkpoint | None:
    """Return the newest checkpoint in a folder of such that is whole; None if there is none at all.

    Args:
        folder: As for `write_numbered`; need not exist.
        warn: Told of every checkpoint that is damaged and therefore left out.

    Raises:
        CheckpointError: If there are checkpoints, and all are damaged.
    """
    numbered = _numbered(folder)
    for each in numbered:
        try:
            return read_checkpoint(each)
        except OSError as error:
            warn(f"the checkpoint {each} is left out: {error}")
    if numbered:
        raise CheckpointError(f"no checkpoint in {folder} can be read")
    return None


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is any checkpoint in a folder, be it whole or damaged."""
    return bool(_numbered(folder))


def _numbered(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((each for each in found if _NUMBER.fullmatch(each.name)), key=_number)[::-1]


def _number(folder: Path) -> int:
    return int(folder.name)


def write_tensors(file: Path, tensors: Tensors, note: Mapping[str, str] | None = None) -> None:
    """Write tensors, which share no memory, as a safetensors file with a few texts beside them.

    Raises:
        OSError: If it cannot be written.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        # Without any text, a file of no tensors at all could not be read back.
        save_file(kept, file, {"format": "pt", **(note or {})})
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error


def write_batch(file: Path, batch: Batch, note: Mapping[str, str]) -> None:
    """Write a batch of episodes, to find out later what was wrong with it.

    Raises:
        OSError: If it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: getattr(batch, name) for name in batch.__slots__}
    tensors = {name: each for name, each in columns.items() if isinstance(each, torch.Tensor)}
    write_tensors(file, tensors, note)


def _parted(optimizer: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of an optimiser's state by name, and all else of it as JSON values."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, entries in optimizer["state"].items():
        numbers[str(index)] = {}
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                numbers[str(index)][name] = value
    return tensors, {"state": numbers, "param_groups": optimizer["param_groups"]}


def _joined(tensors: Tensors, rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optimiser's state that `_parted` took apart."""
    state = {int(index): dict(numbers) for index, numbers in rest["state"].items()}
    for key, tensor in tensors.items():
        index, name = key.split("/", 1)
        state[int(index)][name] = tensor
    return {"state": state, "param_groups": rest["param_groups"]}


def _sums(folder: Path) -> str:
    """Return a line a file in the form of the program `sha256sum`, which can check them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_FILE)
    lines = (f"{_sum(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    return "".join(lines)


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_sums(folder: Path) -> None:
    try:
        wanted = (folder / SUMS_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} must hold a checkpoint, got none: {error}") from error
    if not wanted or wanted != _sums(folder):
        raise CheckpointError(f"{folder} must hold what its {SUMS_FILE} says, and does not")

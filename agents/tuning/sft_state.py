"""Where a fine-tuning run has got to, on disk: killed at any moment, it goes on from there.

A state is one safetensors file that is written aside, forced to the disk and renamed, so that
there is always a whole one. It holds the tuned weights, the optimiser's moments, and in its
header how far the run is. Nothing random has to be stored: order, dropout and augmentation are
functions of the seed and of the step. The best weights have files of their own, named by their
step; one is removed only after a state that no longer refers to it is on the disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agents.durable import write_file

STATE_FILE: Final = "state.safetensors"
_BEST_FILE: Final = "best-{step}.safetensors"
_PROGRESS: Final = "progress"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Gradient steps taken.
        best_step: Steps taken when the validation loss was lowest; -1 before any validation.
        best_loss: That loss.
        num_worse: Validations since then.
        last_loss: Loss of the last validation.
    """

    step: int = 0
    best_step: int = -1
    best_loss: float = math.inf
    num_worse: int = 0
    last_loss: float = math.inf

    def validated(self, loss: float) -> Progress:
        """Return the progress after a validation at this step.

        Example:
            >>> Progress(step=5).validated(2.0).validated(3.0).num_worse
            1
        """
        if loss < self.best_loss:
            return Progress(self.step, self.step, loss, 0, loss)
        return replace(self, num_worse=self.num_worse + 1, last_loss=loss)


def save_state(
    folder: Path,
    progress: Progress,
    trained: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state of a run, and remove best weights that it does not refer to.

    Args:
        folder: Of the states.
        progress: How far the run is.
        trained: The tuned parameters by name.
        optimizer: Theirs.

    Raises:
        OSError: If it cannot be written.
    """
    tensors = {f"model/{name}": parameter for name, parameter in trained.items()}
    for name, parameter in trained.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    write_tensors(folder / STATE_FILE, tensors, {_PROGRESS: json.dumps(asdict(progress))})
    for file in folder.glob(_BEST_FILE.format(step="*")):
        if file.name != _BEST_FILE.format(step=progress.best_step):
            file.unlink()


def load_state(
    folder: Path, trained: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> Progress:
    """Put a stored state into the weights and the optimiser; return how far it is.

    Without a state nothing is changed, and the progress is that of a new run.

    Raises:
        OSError: If the state is damaged or belongs to another model.
    """
    file = folder / STATE_FILE
    if not file.exists():
        return Progress()
    tensors, header = read_tensors(file)
    _copy_into(trained, tensors, file)
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, entry, name = key.split("/", 2)
            optimizer.state[trained[name]][entry] = _placed(value, trained[name])
    return Progress(**json.loads(header[_PROGRESS]))


def _placed(value: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return an entry of the optimiser's state where AdamW keeps it: step counters on the CPU."""
    return value.to(parameter.device) if value.ndim else value


def save_best(folder: Path, step: int, trained: Mapping[str, torch.nn.Parameter]) -> None:
    """Write the weights that did best in validation, as they are after `step`."""
    tensors = {f"model/{name}": parameter for name, parameter in trained.items()}
    write_tensors(folder / _BEST_FILE.format(step=step), tensors, {})


def load_best(folder: Path, step: int, trained: Mapping[str, torch.nn.Parameter]) -> None:
    """Put the best weights, those after `step`, back.

    Raises:
        OSError: If their file is damaged or missing.
    """
    file = folder / _BEST_FILE.format(step=step)
    _copy_into(trained, read_tensors(file)[0], file)


@torch.no_grad()
def _copy_into(trained: Mapping[str, torch.nn.Parameter], tensors: Tensors, file: Path) -> None:
    names = {key.partition("/")[2] for key in tensors if key.startswith("model/")}
    if names != trained.keys():
        raise OSError(f"{file} must hold the weights of this model, got those of another")
    for name, parameter in trained.items():
        parameter.copy_(tensors[f"model/{name}"])


def write_tensors(file: Path, tensors: Tensors, header: Mapping[str, str]) -> None:
    """Write tensors so that `file` is at any moment the old one or the new one, whole.

    Raises:
        OSError: If it cannot be written.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        write_file(file, lambda partial: save_file(kept, partial, dict(header)))
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from error


def read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a file and its header.

    Raises:
        OSError: If the file is damaged, or there is none.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}, opened.metadata() or {}
    except SafetensorError as error:
        raise OSError(f"{file} must be a readable safetensors file: {error}") from error

"""The forms in which a run's numbers are written, by the name that `Logger` takes.

Every format gets whole rows: a step, and its numbers by key, sorted. A format is opened with the
run's folder and the first step that will be written; rows of an earlier run in the same folder
are kept up to the step before.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Final, Protocol

from agents.durable import write_text

METRICS_FILE: Final = "metrics.jsonl"
CSV_FILE: Final = "metrics.csv"
TENSORBOARD_FOLDER: Final = "tensorboard"

Row = dict[str, float]


class Format(Protocol):
    """Where rows go."""

    def write(self, step: int, row: Row) -> None:
        """Write a row, so that it outlives this process."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class JsonLines:
    """One JSON object a row in metrics.jsonl; a value that is not finite is null."""

    def __init__(self, out_dir: Path, first_step: int) -> None:
        """Open the file."""
        path = out_dir / METRICS_FILE
        earlier = read_metrics(path) if first_step and path.exists() else []
        # In one go: a crash here must not lose the rows of the run to be resumed.
        write_text(path, "".join(_to_line(row) for row in earlier if row["step"] < first_step))
        self._file = path.open("a", encoding="utf-8", newline="\n")

    def write(self, step: int, row: Row) -> None:
        """Append a line."""
        self._file.write(_to_line({"step": step, **row}))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Csv:
    """A table in metrics.csv, with an empty cell where a row lacks a number.

    A key that turns up late becomes a further column, for which the file is written anew.
    """

    def __init__(self, out_dir: Path, first_step: int) -> None:
        """Read the rows to be kept."""
        self._path = out_dir / CSV_FILE
        self._rows = [r for r in self._read() if first_step and int(r["step"]) < first_step]
        self._columns = list(dict.fromkeys(["step", *(key for row in self._rows for key in row)]))
        self._rewrite()

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        # What follows the last line's end is still being written, or was when its writer died.
        text = self._path.read_text(encoding="utf-8").rpartition("\n")[0]
        return list(csv.DictReader(io.StringIO(text)))

    def _rewrite(self) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, table.getvalue())

    def write(self, step: int, row: Row) -> None:
        """Append a line, or write the file anew."""
        cells = {name: repr(value) for name, value in {"step": step, **row}.items()}
        self._rows.append(cells)
        new = [name for name in cells if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
            return
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(cells)

    def close(self) -> None:
        """Do nothing: the file is open only while it is written."""


class Stdout:
    """A table of names and numbers a row, on standard output."""

    def __init__(self, out_dir: Path, first_step: int) -> None:
        """Open nothing: whatever standard output is at the time is written to."""

    def write(self, step: int, row: Row) -> None:
        """Print a table."""
        print(text_table(step, row), flush=True)

    def close(self) -> None:
        """Do nothing."""


class TensorBoard:
    """Event files for TensorBoard in tensorboard/."""

    def __init__(self, out_dir: Path, first_step: int) -> None:
        """Begin an event file; TensorBoard leaves out what others hold from `first_step` on."""
        # Imported here: it takes two seconds, and most users of this module only read.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out_dir / TENSORBOARD_FOLDER), purge_step=first_step)

    def write(self, step: int, row: Row) -> None:
        """Add the row's numbers."""
        for key, value in row.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, called like the run's folder; its own settings decide the rest."""

    def __init__(self, out_dir: Path, first_step: int) -> None:
        """Begin a run.

        Raises:
            ImportError: If `wandb` is not installed.
        """
        try:
            # By its name: types are checked without it, too.
            wandb = import_module("wandb")
        except ImportError as error:
            raise ImportError("the log format 'wandb' needs: pip install wandb") from error
        self._run = wandb.init(dir=str(out_dir), name=out_dir.name, group=out_dir.name)

    def write(self, step: int, row: Row) -> None:
        """Log the row."""
        self._run.log(row, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


FORMATS: Final[Mapping[str, Callable[[Path, int], Format]]] = {
    "json": JsonLines,
    "csv": Csv,
    "stdout": Stdout,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """Return the names of formats, each once.

    Raises:
        ValueError: If one is unknown.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"`log_formats` must be among {', '.join(FORMATS)}, got {name!r}")
    return tuple(dict.fromkeys(formats))


def text_table(step: int, row: Row) -> str:
    """Return a row as a table, with a heading for what keys have before their slash.

    Example:
        >>> print(text_table(3, {"eval/world/f1": 0.5, "train/kl": 0.0125, "train/loss": 2}))
        step            3
        eval/
          world/f1    0.5
        train/
          kl       0.0125
          loss          2
    """
    cells: list[tuple[str, str]] = [("step", str(step))]
    for prefix, keys in groupby(sorted(row), lambda key: key.partition("/")[0]):
        names = [(f"  {key.partition('/')[2]}", f"{row[key]:.4g}") for key in keys]
        cells += [(f"{prefix}/", ""), *names]
    left, right = (max(len(cell[side]) for cell in cells) for side in (0, 1))
    return "\n".join(f"{name:{left}} {value:>{right}}".rstrip() for name, value in cells)


def read_metrics(path: Path) -> list[Row]:
    """Return the rows of a metrics.jsonl, each with its `step`.

    A null, which is how a value that was not finite is stored, reads back as NaN. A last line
    without its newline is still being written and is left out.

    Args:
        path: The file, or the run's folder that holds it.

    Raises:
        ValueError: If a line is not a JSON object.
    """
    path = path / METRICS_FILE if path.is_dir() else path
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [_from_line(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1)]


def _from_line(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object")
    return {key: math.nan if value is None else value for key, value in row.items()}


def _to_line(row: Row) -> str:
    finite = {key: value if math.isfinite(value) else None for key, value in row.items()}
    return json.dumps(finite, sort_keys=True, allow_nan=False) + "\n"

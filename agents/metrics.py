"""One row of numbers an update: to metrics.jsonl and to TensorBoard.

`record(key, value)` collects, `dump(step)` writes. metrics.jsonl is the record of a run: two runs
with the same seed write the same bytes, but for keys under `time/`, the only place for anything
that a clock or the machine's load decides. TensorBoard shows the same numbers.
"""

from __future__ import annotations

import json
import math
from numbers import Integral
from pathlib import Path
from typing import Self, SupportsFloat

METRICS_FILE = "metrics.jsonl"
PREFIXES = ("rollout/", "train/", "time/", "eval/")

Row = dict[str, float]


class MetricsWriter:
    """Writes a run's metrics; a context manager.

    Args:
        out_dir: The run's folder, made if missing. Gets `metrics.jsonl` and `tensorboard/`.
        first_step: First step to be written. Rows of an earlier run in the same folder are kept
            up to the step before, which is how a run resumes; 0 starts afresh.

    Raises:
        OSError: If the folder cannot be written.
    """

    def __init__(self, out_dir: Path, first_step: int = 0) -> None:
        # Imported here: it takes two seconds, and most users of this module only read.
        from torch.utils.tensorboard import SummaryWriter

        out_dir.mkdir(parents=True, exist_ok=True)
        path = out_dir / METRICS_FILE
        _keep_rows_before(path, first_step)
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._tensorboard = SummaryWriter(str(out_dir / "tensorboard"), purge_step=first_step)
        self._row: Row = {}
        self._next_step = first_step

    def record(self, key: str, value: SupportsFloat) -> None:
        """Add a number to the row of the current update; the last value of a key counts.

        Args:
            key: Begins with `rollout/`, `train/`, `time/` or `eval/`.
            value: Anything `float` takes; whole numbers stay whole.
        """
        if not key.startswith(PREFIXES):
            raise ValueError(f"`key` must begin with one of {', '.join(PREFIXES)}, got {key!r}")
        self._row[key] = int(value) if isinstance(value, Integral) else float(value)

    def dump(self, step: int) -> None:
        """Write what was recorded since the last dump as the row of `step`, flushed.

        Args:
            step: Number of the update, larger than the last one dumped.
        """
        if step < self._next_step:
            raise ValueError(f"`step` must be at least {self._next_step}, got {step!r}")
        row, self._row, self._next_step = self._row, {}, step + 1
        self._file.write(_to_line({"step": step, **row}))
        self._file.flush()
        for key, value in sorted(row.items()):
            self._tensorboard.add_scalar(key, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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


def _keep_rows_before(path: Path, first_step: int) -> None:
    earlier = read_metrics(path) if first_step and path.exists() else []
    kept = [row for row in earlier if row["step"] < first_step]
    # Replaced in one go: a crash here must not lose the rows of the run to be resumed.
    partial = path.with_suffix(".partial")
    partial.write_text("".join(map(_to_line, kept)), encoding="utf-8", newline="\n")
    partial.replace(path)

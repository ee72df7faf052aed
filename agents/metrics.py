"""One row of numbers an update, in as many forms as one likes.

`record(key, value)` collects, `dump(step)` writes. metrics.jsonl is the record of a run: two runs
with the same seed write the same bytes, but for keys under `time/`, the only place for anything
that a clock or the machine's load decides. The other forms show the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from numbers import Integral
from pathlib import Path
from typing import Final, Self, SupportsFloat

from agents.log_formats import FORMATS, Format, check_formats
from agents.log_formats import METRICS_FILE as METRICS_FILE
from agents.log_formats import Row as Row
from agents.log_formats import read_metrics as read_metrics

PREFIXES: Final = ("rollout/", "train/", "time/", "eval/")
DEFAULT_FORMATS: Final = ("json", "tensorboard")


class Logger:
    """Writes a run's metrics; a context manager.

    Args:
        out_dir: The run's folder, made if missing.
        formats: What to write: `json` (metrics.jsonl), `csv` (metrics.csv), `tensorboard` (the
            folder tensorboard/), `stdout` (a table an update), `wandb` (a run of Weights &
            Biases).
        first_step: First step to be written. Rows of an earlier run in the same folder are kept
            up to the step before, which is how a run resumes; 0 starts afresh.

    Raises:
        ValueError: If a format is unknown.
        ImportError: If a format's package is not installed.
        OSError: If the folder cannot be written.
    """

    def __init__(
        self,
        out_dir: str | Path,
        formats: Sequence[str] = DEFAULT_FORMATS,
        first_step: int = 0,
    ) -> None:
        names = check_formats(formats)
        out_dir = Path(out_dir)
        out_dir.mkdir(parents=True, exist_ok=True)
        self._row: Row = {}
        self._next_step = first_step
        with ExitStack() as stack:
            self._formats: list[Format] = []
            for name in names:
                self._formats.append(FORMATS[name](out_dir, first_step))
                stack.callback(self._formats[-1].close)
            self._open = stack.pop_all()

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
        for each in self._formats:
            each.write(step, dict(sorted(row.items())))

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

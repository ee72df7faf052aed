"""The folder of a training run: what makes it one, and how it is begun."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from agents.cli.checks import check_folder

CONFIG_FILE: Final = "config.json"
METRICS_FILE: Final = "metrics.jsonl"
FAILED_FOLDER: Final = "failed"
SAMPLER_FOLDER: Final = "sampler"


def is_run(out: Path) -> bool:
    """Return whether `out` is a run's folder, even one that ended before its first row."""
    if (out / METRICS_FILE).exists():
        return True
    try:
        return "start_weights_sha256" in json.loads((out / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False


def check_out(out: Path) -> None:
    """Check that a run can be written to `out`.

    Raises:
        ValueError: If it cannot be written, or holds a model rather than a run.
    """
    check_folder(out)
    for name in (CONFIG_FILE, "checkpoints"):
        if (out / name).exists() and not is_run(out):
            raise ValueError(
                f"`out` must be a new folder or that of an earlier run, got {str(out)!r}, whose "
                f"{name} is not a run's"
            )


def start_folder(out: Path) -> None:
    """Make the run's folder, without what an earlier run left there.

    Raises:
        OSError: If it cannot be made.
    """
    from agents.callbacks import (
        BEST_FOLDER,
        CHECKPOINT_FOLDER,
        CHECKPOINTS_FOLDER,
        CURVE_FILE,
        TRANSCRIPTS_FILE,
    )
    from agents.log_formats import CSV_FILE, TENSORBOARD_FOLDER

    out.mkdir(parents=True, exist_ok=True)
    # Files of other folders that happen to be called so may be precious.
    if not is_run(out):
        return
    folders = (CHECKPOINTS_FOLDER, CHECKPOINT_FOLDER, BEST_FOLDER, TENSORBOARD_FOLDER)
    for name in (*folders, FAILED_FOLDER):
        shutil.rmtree(out / name, ignore_errors=True)
    # Last what makes it a run: one that is cut off here must not be taken for another's.
    for name in (CURVE_FILE, TRANSCRIPTS_FILE, CSV_FILE, METRICS_FILE, CONFIG_FILE):
        (out / name).unlink(missing_ok=True)

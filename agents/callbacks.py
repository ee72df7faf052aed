"""What happens between updates: metrics, evaluation, transcripts, checkpoints, figures, progress.

Their order matters: `EvaluateCallback` adds to the row that `MetricsCallback` writes,
`CheckpointCallback` counts on what is written by then, and `PlotCallback` draws it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from agents.checkpoint import write_numbered
from agents.durable import to_disk, write_folder, write_text
from agents.evaluate import Evaluation
from agents.metrics import METRICS_FILE, Logger
from agents.plots import plot_learning_curve
from agents.policies.policy import Policy
from agents.rollout import Rollout
from agents.trainer import Callback, Metrics, Trainer
from agents.trajectory import Trajectory
from agents.transcripts import TRAIN, VALIDATION, Decode, episode_record
from zs_env.task.prompts import PLACEHOLDER

CHECKPOINT_FOLDER = "checkpoint"
CHECKPOINTS_FOLDER = "checkpoints"
BEST_FOLDER = "best"
BEST_FILE = "validation.json"
TRANSCRIPTS_FILE = "transcripts.jsonl"
CURVE_FILE = "learning_curve.png"


def is_due(update: int, every: int, last: int) -> bool:
    """Return whether something happens after `update`: at the first, the last and every n-th.

    Args:
        update: Number of the update, from 1.
        every: Updates from one time to the next; 0 means never.
        last: Number of the last update.

    Example:
        >>> [update for update in range(1, 9) if is_due(update, every=3, last=8)]
        [1, 3, 6, 8]
    """
    return every > 0 and (update in (1, last) or update % every == 0)


class MetricsCallback(Callback):
    """Writes one row an update."""

    def __init__(self, logger: Logger) -> None:
        """Write with `logger`, which the caller closes."""
        self._logger = logger

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> None:
        """Write the row of this update; updates count from 1."""
        for key, value in metrics.items():
            self._logger.record(key, value)
        self._logger.dump(trainer.num_updates_done)


class EvaluateCallback(Callback):
    """Evaluates the policy on held-out questions now and then."""

    def __init__(self, name: str, evaluate: Callable[[Policy], Evaluation], *, every: int) -> None:
        """Set up the evaluation.

        Args:
            name: Its keys begin with `eval/NAME/`.
            evaluate: Plays the questions.
            every: As for `is_due`.
        """
        self._name, self._evaluate, self._every = name, evaluate, every

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> None:
        """Evaluate if it is time, and add the results to `metrics`."""
        if is_due(trainer.num_updates_done, self._every, trainer.last_update):
            start = time.perf_counter()
            metrics |= evaluation_metrics(self._name, self._evaluate(trainer.policy))
            metrics["time/eval_s"] = time.perf_counter() - start


def evaluation_metrics(name: str, evaluation: Evaluation) -> Metrics:
    """Return an evaluation as entries of a metrics row."""
    low, high = evaluation.exact_match_interval
    return {
        f"eval/{name}/exact_match": evaluation.mean("exact_match"),
        f"eval/{name}/exact_match_low": low,
        f"eval/{name}/exact_match_high": high,
        f"eval/{name}/f1": evaluation.mean("f1"),
        f"eval/{name}/searches": evaluation.mean("searches"),
    }


class TranscriptCallback(Callback):
    """Writes a few episodes of every update: one JSON object a line, see `agents.transcripts`."""

    def __init__(
        self,
        out_dir: Path,
        decode: Decode,
        num_episodes: int = 3,
        *,
        replay: Callable[[Policy], Sequence[Trajectory]] | None = None,
        replay_every: int = 0,
    ) -> None:
        """Set up the file.

        Args:
            out_dir: The run's folder, which exists.
            decode: From token ids to text.
            num_episodes: Episodes an update, each of another group where there are enough.
            replay: Plays the same few questions each time, so that weights of two updates can be
                compared; None plays none.
            replay_every: As for `is_due`.
        """
        self._file = out_dir / TRANSCRIPTS_FILE
        self._decode, self._num_episodes = decode, num_episodes
        self._replay, self._replay_every = replay, replay_every

    def on_training_start(self, trainer: Trainer) -> None:
        """Begin with an empty file, or with the episodes of the updates that were done."""
        kept = _lines_up_to(self._file, trainer.num_updates_done)
        write_text(self._file, "".join(kept))

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> None:
        """Append the first episode of the first groups, and what is played again if it is time."""
        first_of_groups = {t.group: t for t in reversed(rollout.trajectories)}
        chosen = list(reversed(first_of_groups.values()))[: self._num_episodes]
        self._write(trainer, TRAIN, chosen)
        due = is_due(trainer.num_updates_done, self._replay_every, trainer.last_update)
        if self._replay is not None and due:
            self._write(trainer, VALIDATION, self._replay(trainer.policy))

    def _write(self, trainer: Trainer, split: str, trajectories: Sequence[Trajectory]) -> None:
        template = str(trainer.env.metadata.get("prompt", PLACEHOLDER))
        update = trainer.num_updates_done
        with self._file.open("a", encoding="utf-8") as file:
            for trajectory in trajectories:
                record = episode_record(trajectory, update, split, template, self._decode)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _lines_up_to(file: Path, update: int) -> list[str]:
    """Return the lines of transcripts up to an update; none if there is no file."""
    if not update or not file.exists():
        return []
    # What follows the last line's end was being written when its writer died.
    *lines, _ = file.read_text(encoding="utf-8").split("\n")
    return [f"{line}\n" for line in lines if json.loads(line)["update"] <= update]


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation of a run so far.

    Attributes:
        update: After which it was.
        key: What was compared: a key of the metrics, the more the better.
        value: Its value.
    """

    update: int
    key: str
    value: float


class CheckpointCallback(Callback):
    """Keeps in a run's folder what it needs to go on, and its weights in Hugging Face format.

    checkpoints/ gets a folder an update, of which the newest few stay, checkpoint/ the latest
    weights, and best/ those that did best in validation, with validation.json beside them. Of
    several processes the first one writes; sharded weights have to be put together by all.
    """

    in_every_process: ClassVar[bool] = True

    def __init__(
        self,
        out_dir: str | Path,
        *,
        every: int = 1,
        keep: int = 2,
        best_key: str = "",
        best: Best | None = None,
    ) -> None:
        """Set up the folder.

        Args:
            out_dir: The run's folder, which exists.
            every: As for `is_due`; where training stops there is always a checkpoint.
            keep: Checkpoints that stay, at least 1. Two, so that a damaged one costs little.
            best_key: The key of the metrics, such as `eval/NAME/exact_match`, by which weights
                are the best; empty keeps none. Of equals, the first stays.
            best: The best so far of a run that is resumed.
        """
        self._out_dir, self._every, self._keep = Path(out_dir), every, keep
        self._best_key, self._best = best_key, best
        self._saved = 0

    def on_training_start(self, trainer: Trainer) -> None:
        """Take what a resumed trainer has done for saved."""
        self._saved = trainer.num_updates_done

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> None:
        """Save if it is time."""
        value = metrics.get(self._best_key)
        if value is not None and (self._best is None or value > self._best.value):
            self._best = Best(trainer.num_updates_done, self._best_key, value)
            save_best(trainer.policy, self._out_dir / BEST_FOLDER, self._best)
        if is_due(trainer.num_updates_done, self._every, trainer.last_update):
            self._save(trainer)

    def on_training_end(self, trainer: Trainer) -> None:
        """Save, where training stopped early."""
        if trainer.num_updates_done != self._saved:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        number = self._saved = trainer.num_updates_done
        # The others must not begin to put weights together while the first one evaluates, or
        # where it has failed: they would wait for longer than their connection lasts.
        trainer.processes.together(lambda: None)
        if not trainer.processes.is_first:
            trainer.checkpoint()
            return
        # In this order: what a checkpoint tells of must be there when it is.
        more = {
            "best": None if self._best is None else asdict(self._best),
            "files": file_sizes(self._out_dir),
        }
        checkpoint = trainer.checkpoint(more)
        save_policy(trainer.policy, self._out_dir / CHECKPOINT_FOLDER)
        write_numbered(self._out_dir / CHECKPOINTS_FOLDER, number, checkpoint, self._keep)


def file_sizes(out_dir: Path) -> dict[str, int]:
    """Force the files that a run appends to onto the disk, and return their sizes in bytes."""
    files = [out_dir / name for name in (METRICS_FILE, TRANSCRIPTS_FILE)]
    present = [file for file in files if file.exists()]
    for file in present:
        to_disk(file)
    return {file.name: file.stat().st_size for file in present}


def check_files(out_dir: Path, sizes: Mapping[str, int]) -> None:
    """Check that the files of a run hold at least what they held at a checkpoint.

    Raises:
        ValueError: If one is shorter, or missing.
    """
    for name, size in sizes.items():
        file = out_dir / name
        present = file.stat().st_size if file.exists() else 0
        if present < size:
            raise ValueError(
                f"{file} must hold the {size} bytes that it held at the checkpoint, got {present}"
            )


def save_policy(policy: Policy, folder: Path) -> None:
    """Save `policy` as `folder`, which is never seen half written: it is swapped in at the end."""
    write_folder(folder, policy.save)


def save_best(policy: Policy, folder: Path, best: Best) -> None:
    """Save `policy` as `folder`, and in validation.json what it was best in."""

    def write(partial: Path) -> None:
        policy.save(partial)
        (partial / BEST_FILE).write_text(json.dumps(asdict(best)) + "\n", encoding="utf-8")

    write_folder(folder, write)


class PlotCallback(Callback):
    """Draws the learning curve."""

    def __init__(self, out_dir: Path, *, every: int = 10) -> None:
        """Set up the figure.

        Args:
            out_dir: The run's folder, whose metrics are drawn.
            every: As for `is_due`; where training stops there is always a figure.
        """
        self._out_dir, self._every = out_dir, every

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> None:
        """Draw if it is time, and the last time later."""
        number, last = trainer.num_updates_done, trainer.last_update
        if number != last and is_due(number, self._every, last):
            self._draw()

    def on_training_end(self, trainer: Trainer) -> None:
        """Draw the figure that stays."""
        if trainer.num_updates_done:
            self._draw()

    def _draw(self) -> None:
        plot_learning_curve(self._out_dir, self._out_dir / CURVE_FILE)


class ProgressBarCallback(Callback):
    """Shows a bar of updates; a context manager, so that an error leaves a clean terminal."""

    def __init__(self, console: Console | None = None) -> None:
        """Set up the bar, on `console` or on standard output."""
        self._bar = Progress(*_bar_columns(), console=console)
        self._task = self._bar.add_task("updates", total=None)

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the last state on the screen."""
        self._bar.stop()

    def on_training_start(self, trainer: Trainer) -> None:
        """Show how many updates there are."""
        done, last = trainer.num_updates_done, trainer.last_update
        self._bar.update(self._task, total=last, completed=done)

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> None:
        """Advance."""
        self._bar.update(self._task, completed=trainer.num_updates_done)


def _bar_columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("updates"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


class ProgressCallback(Callback):
    """Shows how training goes; a context manager, so that an error leaves a clean terminal.

    On a terminal a bar and a small table stay in place; elsewhere each update prints one line.
    """

    def __init__(self, console: Console, num_updates: int, eval_name: str) -> None:
        """Set up the display.

        Args:
            console: Where to show it.
            num_updates: Updates that the run will have.
            eval_name: The NAME of the keys `eval/NAME/` to show.
        """
        self._console, self._num_updates = console, num_updates
        self._eval_key = f"eval/{eval_name}/exact_match"
        self._history: list[Metrics] = []
        self._bar = Progress(*_bar_columns())
        self._task = self._bar.add_task("updates", total=num_updates)
        self._live = Live(self._render(), console=console) if console.is_terminal else None

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()

    def on_training_start(self, trainer: Trainer) -> None:
        """Count the updates that a resumed trainer has done."""
        self._bar.update(self._task, completed=trainer.num_updates_done)

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> None:
        """Show one more update."""
        self._history.append(dict(metrics))
        number = trainer.num_updates_done
        self._bar.update(self._task, completed=number)
        if self._live is not None:
            self._live.update(self._render())
        else:
            line = progress_line(metrics, number, self._num_updates, self._eval_key)
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def on_training_end(self, trainer: Trainer) -> None:
        """Tell of updates that took no step, which nothing else on the screen shows."""
        num_idle = sum(row.get("train/num_steps") == 0 for row in self._history)
        if num_idle:
            text = (
                f"nothing to learn from in {num_idle} of {len(self._history)} updates: no episode "
                "earned more or less than what it was compared with"
            )
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _render(self) -> RenderableType:
        return Group(self._bar, progress_table(self._history, self._eval_key))


def progress_line(metrics: Metrics, update: int, num_updates: int, eval_key: str) -> str:
    """Return one update as a line of plain text."""
    width = len(str(num_updates))
    parts = [
        f"update {update:{width}}/{num_updates}",
        f"F1 {metrics['rollout/f1']:.3f}",
        f"EM {metrics['rollout/exact_match']:.3f}",
        f"searches {metrics['rollout/searches']:.2f}",
        f"noise {metrics.get('rollout/noise', 0.0):.2f}",
        _seconds(metrics),
    ]
    if eval_key in metrics:
        rate = f"{metrics[eval_key]:.3f} {_interval(metrics, eval_key)}"
        parts.append(f"held out: EM {rate}")
    return "  ".join(parts)


def progress_table(history: Sequence[Metrics], eval_key: str) -> Table:
    """Return the latest update, and how it came to that, as a small table."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(min_width=18)
    table.add_column(justify="right")
    table.add_column()
    if not history:
        return table
    latest = history[-1]
    for label, key, form in (
        ("training F1", "rollout/f1", ".3f"),
        ("exact match", "rollout/exact_match", ".3f"),
        ("searches", "rollout/searches", ".2f"),
        ("invalid actions", "rollout/invalid_share", ".3f"),
        ("noise", "rollout/noise", ".3f"),
    ):
        values = [row.get(key, 0.0) for row in history]
        top = max(1.0, *values) if len(values) > 1 else 1.0
        table.add_row(label, f"{latest.get(key, 0.0):{form}}", sparkline(values[-40:], top))
    table.add_row("time an update", f"{latest['time/step_s']:.1f} s", _split(latest))
    evaluated = [row for row in history if eval_key in row]
    if evaluated:
        rates = [row[eval_key] for row in evaluated]
        text = f"{sparkline(rates[-40:], 1.0)}  {_interval(evaluated[-1], eval_key)}"
        table.add_row("held-out EM", f"{rates[-1]:.3f}", text)
    return table


def sparkline(values: Sequence[float], top: float) -> str:
    """Return a bar of text for each value, from 0 to `top`.

    Example:
        >>> sparkline([0.0, 0.5, 1.0], top=1.0)
        '▁▅█'
    """
    bars = "▁▂▃▄▅▆▇█"
    levels = (round(value / top * (len(bars) - 1)) for value in values)
    return "".join(bars[min(len(bars) - 1, max(0, level))] for level in levels)


def _seconds(metrics: Metrics) -> str:
    return f"{metrics['time/step_s']:.1f} s ({_split(metrics)})"


def _split(metrics: Metrics) -> str:
    """Return where the time of an update went."""
    parts = (("policy", "policy_s"), ("engine", "engine_s"), ("learning", "update_s"))
    return ", ".join(f"{name} {metrics[f'time/{key}']:.1f}" for name, key in parts)


def _interval(metrics: Metrics, key: str) -> str:
    return f"[{metrics[f'{key}_low']:.2f}, {metrics[f'{key}_high']:.2f}]"

"""Figures of a run, drawn from its metrics alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from agents.metrics import Row, read_metrics

TRAIN_F1 = "rollout/f1"
NOISE = "rollout/noise"
EXACT_MATCH = re.compile(r"eval/(?P<name>.+)/exact_match")

# Okabe and Ito's palette: told apart by colour-blind readers and in grey print.
TRAIN_COLOUR = "#0072B2"
EVAL_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
EVAL_MARKERS = "osD^v"
SPREAD = 0.006  # of the x range: keeps error bars of the same update side by side

Series = tuple[NDArray[np.float64], NDArray[np.float64]]


def plot_learning_curve(metrics: Path | Sequence[Row], out_png: Path) -> None:
    """Draw a training run: F1 an update, noise of the curriculum, exact match when evaluated.

    Args:
        metrics: A metrics.jsonl, a run's folder, or rows as `read_metrics` returns them. Read are
            `rollout/f1`, `rollout/noise` and every `eval/NAME/exact_match`, with error bars where
            `…/exact_match_low` and `…/exact_match_high` stand beside it. What is missing is
            not drawn.
        out_png: Where the figure goes.

    Raises:
        ValueError: If there is neither a training F1 nor an evaluation.
    """
    rows = read_metrics(metrics) if isinstance(metrics, Path) else metrics
    if not any(key == TRAIN_F1 or EXACT_MATCH.fullmatch(key) for row in rows for key in row):
        raise ValueError(f"`metrics` must hold {TRAIN_F1} or eval/NAME/exact_match, got neither")
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    _draw_noise(axes, rows)
    _draw_training(axes, rows)
    _draw_evaluations(axes, rows)
    axes.set_xlabel("update", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_ylabel("F1, exact match", fontsize=12)
    axes.set_ylim(0, 1.02)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the axes, where no curve can run into it.
    figure.legend(loc="outside upper center", ncols=3, fontsize=10.5, frameon=False)
    figure.savefig(out_png, dpi=150)


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the centred moving mean of a series, same length; NaNs are left out of a mean.

    At both ends the window shrinks to what there is.

    Args:
        values: (N,) numbers.
        window: Odd number of neighbours in a mean, at least 1, which returns the series itself.

    >>> smooth(np.array([0.0, 3.0, 6.0, 3.0]), window=3).tolist()
    [1.5, 3.0, 4.0, 4.5]
    """
    kernel = np.ones(window)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), kernel)
    count = np.convolve(known.astype(float), kernel)
    half = window // 2
    inside = slice(half, half + len(values))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)[inside]


def _series(rows: Sequence[Row], key: str) -> Series:
    found = [(row["step"], row[key]) for row in rows if key in row]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _draw_noise(axes: Axes, rows: Sequence[Row]) -> None:
    steps, noise = _series(rows, NOISE)
    if not len(steps):
        return
    behind = axes.twinx()
    behind.fill_between(steps, noise, color="0.5", alpha=0.18, lw=0, label="noise (curriculum)")
    behind.set_ylim(0, 1.02)
    behind.set_ylabel("probability of noisy documents", fontsize=12, color="0.4")
    behind.tick_params(labelsize=11, colors="0.4")
    behind.spines["top"].set_visible(False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)


def _draw_training(axes: Axes, rows: Sequence[Row]) -> None:
    steps, f1 = _series(rows, TRAIN_F1)
    if not len(steps):
        return
    window = 2 * (len(steps) // 20) + 3
    axes.plot(steps, f1, color=TRAIN_COLOUR, alpha=0.3, lw=1, label="training F1")
    axes.plot(steps, smooth(f1, window), color=TRAIN_COLOUR, lw=2.2, label="training F1, smoothed")


def _draw_evaluations(axes: Axes, rows: Sequence[Row]) -> None:
    names = list(_evaluation_names(rows))
    last = max(row["step"] for row in rows)
    for index, name in enumerate(names):
        key = f"eval/{name}/exact_match"
        steps, exact_match = _series(rows, key)
        axes.errorbar(
            steps + (index - (len(names) - 1) / 2) * 2 * SPREAD * last,
            exact_match,
            yerr=_error_bars(rows, key),
            color=EVAL_COLOURS[index % len(EVAL_COLOURS)],
            marker=EVAL_MARKERS[index % len(EVAL_MARKERS)],
            markersize=6,
            lw=1.2,
            ls="--",
            capsize=3,
            label=f"exact match, {name}",
        )


def _evaluation_names(rows: Sequence[Row]) -> Iterator[str]:
    for key in sorted({key for row in rows for key in row}):
        if match := EXACT_MATCH.fullmatch(key):
            yield match["name"]


def _error_bars(rows: Sequence[Row], key: str) -> NDArray[np.float64]:
    """Return (2, N) lengths below and above each point; NaN, which draws none, without bounds."""
    lengths = [
        (row[key] - row.get(f"{key}_low", np.nan), row.get(f"{key}_high", np.nan) - row[key])
        for row in rows
        if key in row
    ]
    return np.array(lengths, dtype=np.float64).clip(min=0.0).T

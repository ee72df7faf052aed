"""Figures of a simulator, drawn from what was written down about it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zs_env.search.calibration import Calibration

# Okabe and Ito's palette: told apart by colour-blind readers and in grey print.
SIMULATOR_COLOUR: Final = "#0072B2"
REAL_COLOUR: Final = "#D55E00"
LEAK_COLOURS: Final = {"exact": "#0072B2", "alias": "#E69F00", "fuzzy": "#009E73"}

GOOD: Final[Mapping[str, str]] = {
    "parsed": "as many documents as wanted",
    "well_formed": "nothing but documents",
    "useful_hit": "useful: holds what was asked",
    "bridge_hit": "… that is not the answer",
    "answerable_hit": "… where real documents do",
    "on_topic": "useful: on topic",
    "useful_true": "useful: statements true",
    "noisy_true": "noisy: statements true",
}
"""Shares that should be high, as far as they were measured."""

BAD: Final[Mapping[str, str]] = {
    "repeated": "a document twice",
    "noisy_leak": "noisy: holds what was asked",
    "answer_leak": "noisy: answer named",
    "off_topic_cheat": "off topic: answer given",
    "bridge_cheat": "first hop: answer given",
}
"""Shares that should be low."""

JsonObject = Mapping[str, Any]


def plot_report(report: JsonObject, out_png: Path) -> None:
    """Draw what was measured of a simulator: shares with their intervals, leaks, and obedience.

    Args:
        report: What `SimulatorReport.as_json` returns; without a confusion matrix there is none
            in the figure.
        out_png: Where the figure goes; its folder is made if needed.
    """
    confusion = report["confusion"]
    figure = Figure(figsize=(12, 7) if confusion else (10, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25), height_ratios=(1.5, 1))
    names = [(name, label) for part in (GOOD, BAD) for name, label in part.items()]
    _draw_shares(figure.add_subplot(grid[:, 0]), report["rates"], names)
    if confusion:
        _draw_confusion(figure.add_subplot(grid[0, 1]), confusion)
    _draw_leaks(figure.add_subplot(grid[1 if confusion else slice(0, 2), 1]), report["leaks"])
    _save(figure, out_png)


def plot_calibration(calibration: Calibration, out_png: Path) -> None:
    """Draw the effective noise against the requested one: measured points and the line.

    Args:
        calibration: Of one simulator.
        out_png: Where the figure goes; its folder is made if needed.
    """
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    ends = np.array([0.0, 1.0])
    line = np.array([calibration.floor, calibration.ceiling])
    axes.plot(ends, ends, color="0.6", ls=":", lw=1.2, label="as requested")
    label = f"{calibration.floor:.3f} + {calibration.ceiling - calibration.floor:.3f} p"
    axes.plot(ends, line, color=SIMULATOR_COLOUR, lw=1.6, label=label)
    points = calibration.points
    axes.errorbar(
        [point.requested for point in points],
        [point.effective for point in points],
        yerr=_lengths([(p.effective, p.low, p.high) for p in points]),
        color=REAL_COLOUR,
        marker="o",
        markersize=5,
        lw=0,
        elinewidth=1.2,
        capsize=3,
        label="measured, 95 % interval",
    )
    axes.set_xlabel("requested noise p", fontsize=12)
    axes.set_ylabel("effective noise", fontsize=12)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    _tidy(axes)
    axes.legend(fontsize=10.5, frameon=False)
    _save(figure, out_png)


def _draw_shares(axes: Axes, rates: JsonObject, names: Sequence[tuple[str, str]]) -> None:
    """Draw a line for each share that was measured, the first on top."""
    shown = [(rates[name], label) for name, label in names if rates.get(name, {}).get("count")]
    places = np.arange(len(shown))
    _draw_points(axes, places - 0.12, [rate for rate, _ in shown], SIMULATOR_COLOUR, "simulator")
    real = [(place, rate["real"]) for place, (rate, _) in enumerate(shown) if rate["real"]]
    if real:
        spots = np.array([place for place, _ in real]) + 0.16
        _draw_points(axes, spots, [rate for _, rate in real], REAL_COLOUR, "real engine")
    num_good = sum(name in GOOD for name, _ in names if rates.get(name, {}).get("count"))
    axes.axhline(num_good - 0.5, color="0.6", lw=0.8)
    axes.set_yticks(places, [label for _, label in shown], fontsize=10.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share (above the line: high is good, below: low)", fontsize=11)
    _tidy(axes)
    axes.legend(loc="lower right", fontsize=10, frameon=False)


def _draw_points(
    axes: Axes, places: NDArray[Any], rates: Sequence[JsonObject], colour: str, label: str
) -> None:
    axes.errorbar(
        [rate["value"] for rate in rates],
        places,
        xerr=_lengths([(rate["value"], rate["low"], rate["high"]) for rate in rates]),
        color=colour,
        marker="o" if colour == SIMULATOR_COLOUR else "D",
        markersize=5,
        lw=0,
        elinewidth=1.3,
        capsize=2.5,
        label=label,
    )


def _lengths(intervals: Sequence[tuple[float, float, float]]) -> NDArray[np.float64]:
    """Return (2, N) lengths below and above each value of (value, low, high)."""
    found = [(value - low, high - value) for value, low, high in intervals]
    return np.array(found, dtype=np.float64).reshape(-1, 2).clip(min=0.0).T


def _draw_confusion(axes: Axes, confusion: Mapping[str, Mapping[str, int]]) -> None:
    """Draw what was found for each request, in per cent of its row."""
    columns = list(next(iter(confusion.values())))
    counts = np.array([[found[name] for name in columns] for found in confusion.values()])
    shares = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(shares.shape):
        value = shares[row, column]
        if value >= 0.5:
            colour = "white" if value > 55 else "black"
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9.5
            )
    rows = [f"{name} ({sum(found.values())})" for name, found in confusion.items()]
    axes.set_yticks(range(len(rows)), rows, fontsize=10)
    axes.set_xticks(range(len(columns)), columns, fontsize=9, rotation=25, ha="right")
    axes.set_ylabel("requested", fontsize=11)
    axes.set_title("found, per cent of what was requested", fontsize=11)


def _draw_leaks(axes: Axes, leaks: Mapping[str, JsonObject]) -> None:
    """Draw bars for each sort of noise: how often it names what was asked for."""
    places = np.arange(len(leaks))
    for index, (match, colour) in enumerate(LEAK_COLOURS.items()):
        rates = [found[match] for found in leaks.values()]
        axes.bar(
            places + (index - 1) * 0.26,
            [rate["value"] for rate in rates],
            width=0.24,
            yerr=_lengths([(rate["value"], rate["low"], rate["high"]) for rate in rates]),
            color=colour,
            error_kw={"elinewidth": 1.0, "capsize": 2},
            label=match,
        )
    axes.set_xticks(places, list(leaks), fontsize=9, rotation=25, ha="right")
    axes.set_xlim(-0.7, len(leaks) - 0.3)
    top = max(rate["high"] for found in leaks.values() for rate in found.values())
    axes.set_ylim(0, min(1.0, max(0.2, 1.3 * top)))
    axes.set_ylabel("leak", fontsize=11)
    axes.set_title("noisy replies that name what was asked for", fontsize=11)
    _tidy(axes)
    axes.legend(fontsize=9.5, frameon=False, ncols=3)


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, out_png: Path) -> None:
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=110)

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from agents.metrics import Logger, Row
from agents.plots import plot_learning_curve, smooth

floats = st.floats(-1e3, 1e3, allow_nan=False)


def made_up_rows(num_updates: int) -> list[Row]:
    rows: list[Row] = [
        {"step": n, "rollout/f1": n / num_updates, "rollout/noise": 0.5 * n / num_updates}
        for n in range(num_updates)
    ]
    for row in rows[::5]:
        for engine in ("simulator", "bm25"):
            key = f"eval/{engine}/exact_match"
            row |= {key: 0.5, f"{key}_low": 0.4, f"{key}_high": 0.7}
    return rows


def num_colours(path: Path) -> int:
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


def test_figure_is_a_png_at_150_dpi(tmp_path: Path) -> None:
    plot_learning_curve(made_up_rows(20), tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert (image.format, image.size) == ("PNG", (1200, 720))


def test_same_rows_draw_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_learning_curve(made_up_rows(10), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("num_updates", [1, 2, 3, 4, 20, 300])
def test_ticks_are_whole_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_updates: int
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    plot_learning_curve(made_up_rows(num_updates), tmp_path / "curve.png")
    low, high = drawn[0].axes[0].get_xlim()
    ticks = [tick for axes in drawn[0].axes for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(float(tick).is_integer() for tick in ticks)


@pytest.mark.parametrize("prefix", ["rollout/f1", "rollout/noise", "eval/"])
def test_every_part_shows_in_the_figure(tmp_path: Path, prefix: str) -> None:
    rows = made_up_rows(20)
    without = [{k: v for k, v in row.items() if not k.startswith(prefix)} for row in rows]
    plot_learning_curve(rows, tmp_path / "all.png")
    plot_learning_curve(without, tmp_path / "without.png")
    assert num_colours(tmp_path / "without.png") < num_colours(tmp_path / "all.png")


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 0.0, "rollout/f1": 0.5}],
        [{"step": 0.0, "rollout/f1": float("nan")}, {"step": 1.0, "rollout/f1": 0.5}],
        [{"step": 0.0, "eval/bm25/exact_match": 0.5}],
    ],
    ids=["one update", "a missing value", "evaluation without bounds"],
)
def test_what_is_missing_is_not_drawn(tmp_path: Path, rows: list[Row]) -> None:
    plot_learning_curve(rows, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0


def test_run_folder_draws_like_its_rows(tmp_path: Path) -> None:
    rows = made_up_rows(10)
    with Logger(tmp_path) as writer:
        for row in rows:
            for key in row.keys() - {"step"}:
                writer.record(key, row[key])
            writer.dump(int(row["step"]))
    plot_learning_curve(tmp_path, tmp_path / "folder.png")
    plot_learning_curve(rows, tmp_path / "rows.png")
    assert (tmp_path / "folder.png").read_bytes() == (tmp_path / "rows.png").read_bytes()


@pytest.mark.parametrize("rows", [[], [{"step": 0.0, "rollout/noise": 0.5}]])
def test_rows_with_nothing_to_draw_are_refused(tmp_path: Path, rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="got neither"):
        plot_learning_curve(rows, tmp_path / "curve.png")


@given(st.lists(floats, min_size=1), st.integers(0, 10))
def test_smooth_stays_between_the_extremes(values: list[float], half: int) -> None:
    smoothed = smooth(np.array(values), 2 * half + 1)
    assert len(smoothed) == len(values)
    assert min(values) - 1e-6 <= smoothed.min() <= smoothed.max() <= max(values) + 1e-6


@given(st.lists(floats, min_size=1))
def test_smooth_with_a_window_of_one_changes_nothing(values: list[float]) -> None:
    np.testing.assert_array_equal(smooth(np.array(values), 1), values)


def test_smooth_leaves_missing_values_out_of_the_mean() -> None:
    smoothed = smooth(np.array([1.0, np.nan, 3.0]), 3)
    np.testing.assert_array_equal(smoothed, [1.0, 2.0, 3.0])

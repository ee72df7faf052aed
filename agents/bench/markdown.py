"""The report of a benchmark as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agents.bench.failures import failure_lines
from agents.bench.reading import BenchRun
from agents.bench.report_data import title
from agents.pages.visible import markdown_text, visible

_METRICS: Final = {
    "exact_match": ("EM", 3),
    "f1": ("F1", 3),
    "sub_exact_match": ("SubEM", 3),
    "searches": ("searches", 2),
    "tokens": ("tokens", 1),
    "invalid": ("invalid", 2),
    "seconds": ("seconds", 2),
}


def markdown(run: BenchRun) -> str:
    """Return the report as a page of Markdown."""
    results = run.results
    sections = [
        f"# {markdown_text(title(run))}",
        _list(run.notes),
        _section("Failed episodes", _FAILED, _list(failure_lines(run.episodes))),
        _section("Noise robustness", _ROBUSTNESS, _robustness(results["robustness"])),
        _section("Simulator-to-real gap", _GAP, _gaps(results["sim_to_real"])),
        _section("Agents and conditions", _CONDITIONS, _conditions(results["conditions"])),
        _section("Over all tasks", _AGGREGATES, _aggregates(results["aggregates"])),
        _section("Pairs of agents", _COMPARISONS, _comparisons(results["comparisons"])),
        *_provenance(results),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


_FAILED: Final = "They count as wrong answers, for these reasons."
_ROBUSTNESS: Final = (
    "Exact match against the probability p of noisy documents, and the area under that curve "
    "divided by the width of its range."
)
_GAP: Final = "Exact match with the simulator at p = 0 minus that with the real engine."
_CONDITIONS: Final = "Means an episode; 95 % intervals in brackets."
_AGGREGATES: Final = (
    "Exact match over tasks, a task being a source at an engine and a noise: interquartile mean "
    "(IQM) and mean with 95 % intervals by stratified bootstrap (arXiv:2108.13264)."
)
_COMPARISONS: Final = (
    "Difference in exact match on the same questions, A − B; p of the exact McNemar test, or of an "
    "exact sign-flip test where questions were asked with several seeds, and after Holm's "
    "correction."
)


def estimate(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return a mean with its interval as text; None gives a dash.

    Example:
        >>> estimate({"mean": 0.5, "low": 0.41, "high": 0.59}, 2), estimate({"mean": 2.0}, 1)
        ('0.50 [0.41, 0.59]', '2.0')
        >>> estimate(None)
        '–'
    """
    if value is None or value.get("mean") is None:
        return "–"
    mean = f"{value['mean']:.{digits}f}"
    if value.get("low") is None or value.get("high") is None:
        return mean
    return f"{mean} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _section(name: str, about: str, content: str) -> str:
    return f"## {name}\n\n{about}\n\n{content}" if content else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, or nothing where there is no row."""
    lines = [list(row) for row in rows]
    rule = ["---"] * len(heads)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines)) if lines else ""


def _names(row: Mapping[str, Any], *names: str) -> list[str]:
    return [markdown_text(str(row[name])) for name in names]


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _robustness(rows: Sequence[Mapping[str, Any]]) -> str:
    noises = sorted({point["noise"] for row in rows for point in row["points"]})
    heads = ("agent", "environment", "engine", "area", *(f"p = {noise:g}" for noise in noises))
    return _table(heads, (_robustness_row(row, noises) for row in rows))


def _robustness_row(row: Mapping[str, Any], noises: Sequence[float]) -> list[str]:
    points = {point["noise"]: point for point in row["points"]}
    means = [estimate(points.get(noise)) for noise in noises]
    return [*_names(row, "agent", "environment", "engine"), estimate(row["area"]), *means]


def _gaps(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("agent", "environment", "simulator", "real")
    return _table((*names, "gap"), ([*_names(row, *names), estimate(row["gap"])] for row in rows))


def _conditions(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("agent", "environment", "engine", "noise")
    heads = (*names, *(label for label, _ in _METRICS.values()), "episodes", "failed")
    return _table(heads, ([*_names(row, *names), *_measured(row)] for row in rows))


def _measured(row: Mapping[str, Any]) -> list[str]:
    metrics = row["metrics"]
    means = [estimate(metrics.get(name), digits) for name, (_, digits) in _METRICS.items()]
    return [*means, str(row["num_episodes"]), str(row["num_failed"])]


def _aggregates(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("agent", "environment")
    return _table(
        (*names, "IQM", "mean"),
        ([*_names(row, *names), estimate(row["iqm"]), estimate(row["mean"])] for row in rows),
    )


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("agent_a", "agent_b", "environment", "engine", "noise")
    heads = ("A", "B", *names[2:], "A − B", "pairs", "p", "p (Holm)")
    return _table(heads, ([*_names(row, *names), *_compared(row)] for row in rows))


def _compared(row: Mapping[str, Any]) -> list[str]:
    difference = estimate({"mean": row["difference"], "low": row["low"], "high": row["high"]})
    return [difference, str(row["num_pairs"]), _p(row["p_value"]), _p(row["p_holm"])]


def _provenance(results: Mapping[str, Any]) -> list[str]:
    shown = results.get("runs") or {name: results[name] for name in ("config", "provenance")}
    # Indented, so that no text in it can end the block.
    text = visible(json.dumps(shown, indent=2, ensure_ascii=False))
    block = "\n".join(f"    {line}" for line in text.splitlines())
    return ["## Provenance", block]

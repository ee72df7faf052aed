"""What a benchmark left in its folder, read again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agents.bench.rows import EPISODES_FILE, RESULTS_FILE, EpisodeRow
from agents.bench.scores import Place
from agents.bench.store import read_rows

PARTS: Final = ("conditions", "comparisons", "aggregates", "robustness", "sim_to_real")
_HEAD: Final = ("benchmark", "config", "provenance")


@dataclass(frozen=True, slots=True)
class BenchRun:
    """A benchmark that ended.

    Attributes:
        name: How to call it: its folder's name.
        results: What results.json holds.
        episodes: Those of the conditions in the results.
        notes: What a reader has to know of how it came about.
    """

    name: str
    results: dict[str, Any]
    episodes: tuple[EpisodeRow, ...]
    notes: tuple[str, ...] = ()


def read_run(folder: Path) -> BenchRun:
    """Return the run in a folder.

    Raises:
        FileNotFoundError: If one of its two files is missing.
        ValueError: If one does not hold what it should; it names the file, and the line.
    """
    for name in (RESULTS_FILE, EPISODES_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no benchmark in {folder}: it has no {name}")
    results = _read_results(folder / RESULTS_FILE)
    rows = tuple(read_rows(folder).values())
    places = {place_of_json(each) for each in results["conditions"]}
    counted = tuple(row for row in rows if place_of(row) in places)
    notes = (*results.get("notes", ()), *_surplus(results, rows))
    return BenchRun(folder.resolve().name, results, counted, notes)


def _read_results(file: Path) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} must hold JSON, got another text: {error}") from error
    if not isinstance(results, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(results).__name__}")
    missing = [name for name in (*_HEAD, *PARTS) if name not in results]
    if missing:
        raise ValueError(f"{file} must hold {missing[0]!r}, got {', '.join(results) or 'nothing'}")
    return results


def place_of(row: EpisodeRow) -> Place:
    """Return where an episode was played, whatever its seed."""
    return Place(*(getattr(row.condition, name) for name in Place._fields))


def place_of_json(values: dict[str, Any]) -> Place:
    """Return the place that an entry of results.json is about."""
    return Place(*(values[name] for name in Place._fields))


def _surplus(results: dict[str, Any], rows: tuple[EpisodeRow, ...]) -> tuple[str, ...]:
    """Tell of episodes in the folder that the results do not count, and the other way round."""
    counted = sum(condition["num_episodes"] for condition in results["conditions"])
    if counted == len(rows):
        return ()
    return (
        f"The results count {counted} episodes, and the folder holds {len(rows)}: the file of the "
        "benchmark was changed in between, or it was not run to its end.",
    )

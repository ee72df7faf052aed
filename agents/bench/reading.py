"""What a benchmark left in its folder, read again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agents.bench.rows import EPISODES_FILE, RESULTS_FILE, EpisodeRow

PARTS: Final = ("conditions", "comparisons", "aggregates", "robustness", "sim_to_real")
_HEAD: Final = ("benchmark", "config", "provenance")


@dataclass(frozen=True, slots=True)
class BenchRun:
    """A benchmark that ended.

    Attributes:
        name: How to call it: its folder's name.
        results: What results.json holds.
        episodes: In the order in which they were played.
    """

    name: str
    results: dict[str, Any]
    episodes: tuple[EpisodeRow, ...]


def read_run(folder: Path) -> BenchRun:
    """Return the run in a folder.

    Raises:
        FileNotFoundError: If one of its two files is missing.
        ValueError: If one does not hold what it should; it names the file, and the line.
    """
    results = _read_results(folder / RESULTS_FILE)
    episodes = tuple(_read_episodes(folder / EPISODES_FILE))
    return BenchRun(folder.resolve().name, results, episodes)


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


def _read_episodes(file: Path) -> Iterator[EpisodeRow]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield EpisodeRow.from_json(json.loads(line))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{file}, line {number}: must be an episode, got {error!r}"
                ) from error

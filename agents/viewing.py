"""A training run as a page: its curve, its episodes token by token, its weights side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agents.durable import write_text
from agents.metrics import METRICS_FILE, Row, read_metrics
from agents.pages.page import render
from agents.transcripts import TRAIN, VALIDATION

VIEW_FILE: Final = "view.html"
MAIN_BLOCK: Final = "run"
MAX_UPDATES: Final = 200
_TRANSCRIPTS_FILE: Final = "transcripts.jsonl"
_CONFIG_FILE: Final = "config.json"
_NEEDED: Final = (
    "update",
    "question_id",
    "question",
    "turns",
    "answer",
    "golden_answers",
    "reward",
    "exact_match",
    "stop_reason",
)

Record = dict[str, Any]


def write_view(run: Path, file: Path, max_updates: int = MAX_UPDATES) -> None:
    """Write the page of a training run.

    Args:
        run: The folder that `zerosearch train` wrote: metrics.jsonl, transcripts.jsonl, and
            config.json if it is there. A run that is still going on shows what there is.
        file: Where the page goes, whole or not at all.
        max_updates: Updates whose training episodes the page holds, spread evenly; 0 means all.
            Episodes of evaluations are always there.

    Raises:
        FileNotFoundError: If `run` has no metrics or transcripts.
        ValueError: If a file does not hold what it should; it names the line.
        OSError: If the page cannot be written.
    """
    text = render(f"Training run {run.resolve().name}", "viewer", view_blocks(run, max_updates))
    write_text(file, text)


def view_blocks(run: Path, max_updates: int = MAX_UPDATES) -> dict[str, Any]:
    """Return the blocks of a run's page by id: one for all, and one an update with episodes.

    Args:
        run: The folder that `zerosearch train` wrote.
        max_updates: As for `write_view`.

    Raises:
        FileNotFoundError: If it has no metrics or transcripts.
        ValueError: If a file does not hold what it should; it names the line.
    """
    for name in (METRICS_FILE, _TRANSCRIPTS_FILE):
        if not (run / name).is_file():
            raise FileNotFoundError(f"no training run in {run}: it has no {name}")
    rows, records = read_metrics(run), read_transcripts(run / _TRANSCRIPTS_FILE)
    trained = sorted({record["update"] for record in records if record["split"] == TRAIN})
    kept = set(spread(trained, max_updates)) if max_updates else set(trained)
    shown = [r for r in records if r["split"] == VALIDATION or r["update"] in kept]
    by_update: dict[int, list[Record]] = {}
    for record in shown:
        by_update.setdefault(record["update"], []).append(record)
    main = {
        "name": run.resolve().name,
        "config": _config(run / _CONFIG_FILE),
        "metrics": columns(rows),
        "updates": sorted(by_update),
        "num_left_out": len(trained) - len(kept),
        "questions": _asked_again(shown),
    }
    return {MAIN_BLOCK: main} | {f"update-{n}": by_update[n] for n in sorted(by_update)}


def read_transcripts(file: Path) -> list[Record]:
    """Return the episodes of a run; those of an earlier version have no `tokens`.

    Raises:
        ValueError: If a line is no episode. A last line without its newline is still being
            written, and is left out.
    """
    *lines, _ = file.read_text(encoding="utf-8").split("\n")
    return [_record(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def _record(line: str, where: str) -> Record:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: must be JSON, got {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: must be a JSON object, got {type(values).__name__}")
    missing = [name for name in _NEEDED if name not in values]
    if missing:
        raise ValueError(f"{where}: must hold {missing[0]!r}, got {', '.join(values)}")
    record: Record = {"split": TRAIN, "tokens": None, **values}
    if record["tokens"] is not None:
        _check_tokens(record["tokens"], where)
    return record


def _check_tokens(tokens: Mapping[str, Any], where: str) -> None:
    """Check that the lists belong together, for colours would be those of other tokens."""
    mask, sampled = tokens["mask"], tokens["mask"].count("1")
    lengths = {"pieces": len(mask), "logprobs": sampled, "advantages": sampled}
    for name, length in lengths.items():
        if tokens[name] is not None and len(tokens[name]) != length:
            raise ValueError(
                f"{where}: `{name}` must have {length} entries as `mask` says, got "
                f"{len(tokens[name])}"
            )


def spread(values: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of some values, spread evenly, the first and the last among them.

    Example:
        >>> spread([1, 2, 3, 4, 5, 6, 7], 4), spread([1, 2], 4), spread([1, 2], 1)
        ([1, 3, 5, 7], [1, 2], [2])
    """
    if len(values) <= count:
        return list(values)
    if count == 1:
        return [values[-1]]
    step = (len(values) - 1) / (count - 1)
    return [values[round(number * step)] for number in range(count)]


def columns(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Return metrics by key, with None where a row has none.

    Example:
        >>> columns([{"step": 1, "a": 2.0}, {"step": 2}])
        {'a': [2.0, None], 'step': [1, 2]}
    """
    keys = sorted({key for row in rows for key in row})
    return {key: [_known(row.get(key)) for row in rows] for key in keys}


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _config(file: Path) -> Any:
    """Return what a run says of itself; nothing if it does not, or another file is there."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _asked_again(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the questions that were asked after several updates, those of evaluations first."""
    asked: dict[tuple[bool, str], dict[str, Any]] = {}
    for record in records:
        key = (record["split"] != VALIDATION, record["question_id"])
        entry = asked.setdefault(
            key,
            {
                "split": record["split"],
                "id": record["question_id"],
                "text": record["question"],
                "updates": [],
            },
        )
        if record["update"] not in entry["updates"]:
            entry["updates"].append(record["update"])
    found = [asked[key] for key in sorted(asked)]
    return [entry for entry in found if len(entry["updates"]) > 1]

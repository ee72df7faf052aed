"""What the page of a benchmark shows, as JSON values.

One block has everything but the transcripts: a table of questions, and a row an episode that
refers to it. The transcripts of a condition have a block of their own, so that a browser reads
them when somebody looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agents.bench.reading import PARTS, BenchRun, place_of, place_of_json
from agents.bench.rows import EpisodeRow

MAIN_BLOCK: Final = "report"
_FIELDS: Final = (
    "answer",
    "exact_match",
    "f1",
    "sub_exact_match",
    "reward",
    "searches",
    "invalid",
    "tokens",
    "seconds",
    "stop_reason",
    "error",
)
COLUMNS: Final = ("condition", "place", "question", "seed", *_FIELDS)


def report_blocks(run: BenchRun) -> dict[str, Any]:
    """Return the blocks of a page by id."""
    conditions = run.results["conditions"]
    numbers = {place_of_json(each): number for number, each in enumerate(conditions)}
    by_condition: list[list[EpisodeRow]] = [[] for _ in conditions]
    for episode in run.episodes:
        by_condition[numbers[place_of(episode)]].append(episode)
    questions = _Questions()
    rows = [
        _row(number, place, episode, questions)
        for number, episodes in enumerate(by_condition)
        for place, episode in enumerate(episodes)
    ]
    main = _main(run) | {
        "conditions": [
            each | {"block": f"turns-{number}"} for number, each in enumerate(conditions)
        ],
        "episodes": {"columns": COLUMNS, "rows": rows},
        "questions": questions.table,
    }
    turns = {f"turns-{number}": _turns(each) for number, each in enumerate(by_condition)}
    return {MAIN_BLOCK: main, **turns}


def title(run: BenchRun) -> str:
    """Return what a run is called."""
    kind = "Leaderboard" if "runs" in run.results else "Benchmark"
    return f"{kind}: {run.results['benchmark']}"


def _main(run: BenchRun) -> dict[str, Any]:
    results = run.results
    merged = results.get("runs")
    own = {name: results[name] for name in ("config", "provenance")}
    return {
        "title": title(run),
        "notes": run.notes,
        "provenance": merged or [{"name": results["benchmark"], **own}],
        **{name: results[name] for name in PARTS},
    }


class _Questions:
    """Numbers questions in the order in which they are first asked."""

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        self._numbers: dict[tuple[Any, ...], int] = {}

    def number(self, episode: EpisodeRow) -> int:
        key = (
            episode.data_source,
            episode.question_id,
            episode.question,
            episode.golden_answers,
        )
        if key not in self._numbers:
            self._numbers[key] = len(self.table)
            source, id_, text, golden = key
            hops = episode.num_hops
            entry = {"source": source, "id": id_, "text": text, "golden": golden, "hops": hops}
            self.table.append(entry)
        return self._numbers[key]


def _row(condition: int, place: int, episode: EpisodeRow, questions: _Questions) -> list[Any]:
    head = [condition, place, questions.number(episode), episode.condition.seed]
    return head + [_short(getattr(episode, name)) for name in _FIELDS]


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _turns(episodes: Sequence[EpisodeRow]) -> list[list[list[Any]]]:
    return [
        [[turn.action, turn.kind, turn.query, turn.noisy, turn.observation] for turn in each.turns]
        for each in episodes
    ]

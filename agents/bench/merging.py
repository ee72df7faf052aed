"""Several benchmarks as one leaderboard: what they have in common, and what was left out.

Agents are compared on the same questions, or not at all. A condition is common if every run has
it with the same questions, golden answers and seeds, and nothing speaks against its engine being
the same; others are left out, and a note says so. The numbers are computed anew from the episodes,
as those of one benchmark.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Final, NamedTuple

from agents.bench.reading import BenchRun, place_of
from agents.bench.report import write_report
from agents.bench.results import summarise
from agents.bench.rows import EPISODES_FILE, RESULTS_FILE, EpisodeRow
from agents.bench.store import as_lines
from agents.cli.files import write_json

# Of a configuration, what only says which conditions there are.
_AXES: Final = frozenset({"agents", "environments", "engines", "noise", "seeds", "num_questions"})


class Task(NamedTuple):
    """A condition without its agent."""

    environment: str
    engine: str
    noise: float

    def __str__(self) -> str:
        """Return it as a note has it."""
        return f"{self.engine} at noise {self.noise:g} in {self.environment}"


class Asked(NamedTuple):
    """One episode's question, and the seed with which it was asked."""

    data_source: str
    question_id: str
    question: str
    golden_answers: tuple[str, ...]
    seed: int


def write_leaderboard(runs: Sequence[BenchRun], out: Path) -> tuple[str, ...]:
    """Write the leaderboard of some runs as a benchmark's folder, its report included.

    Args:
        runs: At least two.
        out: A new folder, or that of an earlier leaderboard.

    Returns:
        Notes: what was left out, and what differs.

    Raises:
        ValueError: If the runs have no condition in common, or `out` holds a benchmark.
    """
    _check_out(out)
    merged = merge(runs)
    out.mkdir(parents=True, exist_ok=True)
    lines = as_lines(merged.episodes)
    (out / EPISODES_FILE).write_text(f"{lines}\n", encoding="utf-8", newline="\n")
    write_json(out / RESULTS_FILE, merged.results)
    write_report(out)
    return merged.notes


def _check_out(out: Path) -> None:
    results = out / RESULTS_FILE
    if results.exists():
        try:
            if "runs" in json.loads(results.read_text(encoding="utf-8")):
                return
        except ValueError:
            pass
    if results.exists() or (out / EPISODES_FILE).exists():
        raise ValueError(
            f"`out` must be a new folder or that of an earlier leaderboard, got {str(out)!r}, "
            "which holds a benchmark"
        )


def merge(runs: Sequence[BenchRun]) -> BenchRun:
    """Return several runs as one, restricted to the conditions that they have in common.

    Args:
        runs: At least two. An agent's name that several of them have gets the run's name behind.

    Raises:
        ValueError: If they have no condition in common.
    """
    runs = _named_apart(runs)
    tasks = {run.name: tasks_of(run) for run in runs}
    common, left_out = _shared(tasks, {run.name: engine_checksums(run) for run in runs})
    if not common:
        raise ValueError(
            "`runs` must have a condition in common, with the same questions and seeds, got: "
            + "; ".join(left_out)
        )
    rows = [row for run in _agents_apart(runs) for row in run.episodes if task_of(row) in common]
    notes = (*left_out, *_differences(runs), *_earlier_notes(runs))
    results = {
        "benchmark": " + ".join(dict.fromkeys(run.results["benchmark"] for run in runs)),
        "config": {},
        **summarise(rows),
        "provenance": {},
        "runs": [
            {"name": run.name, **{key: run.results[key] for key in ("config", "provenance")}}
            for run in runs
        ],
        "notes": list(notes),
    }
    return BenchRun("leaderboard", results, tuple(rows), notes)


def task_of(row: EpisodeRow) -> Task:
    """Return the condition of an episode, but for its agent."""
    return Task(*place_of(row)[1:])


def tasks_of(run: BenchRun) -> dict[Task, frozenset[Asked]]:
    """Return what a run asked in each condition."""
    asked: dict[Task, set[Asked]] = {}
    for row in run.episodes:
        question = Asked(
            row.data_source,
            row.question_id,
            row.question,
            row.golden_answers,
            row.condition.seed,
        )
        asked.setdefault(task_of(row), set()).add(question)
    return {task: frozenset(questions) for task, questions in asked.items()}


def engine_checksums(run: BenchRun) -> dict[str, Any]:
    """Return the checksums of the models and files of a run's engines, as far as they are known."""
    merged = [each["provenance"] for each in run.results.get("runs", ())]
    found = [each.get("engines_sha256", {}) for each in (run.results["provenance"], *merged)]
    return {name: checksums for each in found for name, checksums in each.items()}


def _shared(
    tasks: Mapping[str, Mapping[Task, frozenset[Asked]]], engines: Mapping[str, Mapping[str, Any]]
) -> tuple[frozenset[Task], list[str]]:
    """Return the conditions that all runs have alike, and a note for each of the others."""
    everything = dict.fromkeys(task for found in tasks.values() for task in found)
    notes = {task: _why_not(task, tasks, engines) for task in everything}
    common = frozenset(task for task, note in notes.items() if not note)
    return common, [note for note in notes.values() if note]


def _why_not(
    task: Task,
    tasks: Mapping[str, Mapping[Task, frozenset[Asked]]],
    engines: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return why a condition is not common; nothing if it is."""
    present = {name: found[task] for name, found in tasks.items() if task in found}
    if len(present) < len(tasks):
        return f"Left out: {task}, which only {_listed(present)} has."
    known = [found[task.engine] for found in engines.values() if task.engine in found]
    if any(checksums != known[0] for checksums in known):
        return f"Left out: {task}, for the engine's files differ between {_listed(present)}."
    if len(set(present.values())) == 1:
        return ""
    questions = {name: {each[:-1] for each in asked} for name, asked in present.items()}
    if len({frozenset(found) for found in questions.values()}) == 1:
        return f"Left out: {task}, for the seeds differ between {_listed(present)}."
    counts = ", ".join(f"{len(found)} in {name}" for name, found in questions.items())
    shared = len(set.intersection(*questions.values()))
    return f"Left out: {task}, for the questions differ: {counts}, of which {shared} are the same."


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)


def _named_apart(runs: Sequence[BenchRun]) -> list[BenchRun]:
    """Return the runs with names that differ."""
    named: dict[str, BenchRun] = {}
    for run in runs:
        name = _unused(run.name, named)
        named[name] = replace(run, name=name)
    return list(named.values())


def _unused(name: str, used: Collection[str]) -> str:
    """Return a name, with a number behind it if need be, that is not used yet."""
    numbered = (f"{name} #{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if each not in used)


def _agents_apart(runs: Sequence[BenchRun]) -> Iterator[BenchRun]:
    """Yield the runs with names of agents that differ between them."""
    agents = [sorted({row.condition.agent for row in run.episodes}) for run in runs]
    num = Counter(agent for found in agents for agent in found)
    used = {agent for agent in num if num[agent] == 1}
    for run, found in zip(runs, agents, strict=True):
        names = {agent: agent for agent in found}
        for agent in (each for each in found if num[each] > 1):
            names[agent] = _unused(f"{agent} ({run.name})", used)
            used.add(names[agent])
        rows = (_renamed(row, names[row.condition.agent]) for row in run.episodes)
        yield replace(run, episodes=tuple(rows))


def _renamed(row: EpisodeRow, agent: str) -> EpisodeRow:
    return replace(row, condition=replace(row.condition, agent=agent))


def _differences(runs: Sequence[BenchRun]) -> list[str]:
    """Return a note for each setting and version that the runs do not have alike."""
    settings = [dict(_settings(run)) for run in runs]
    names = dict.fromkeys(name for found in settings for name in found)
    notes = []
    for name in names:
        texts = [json.dumps(found.get(name), ensure_ascii=False) for found in settings]
        if len(set(texts)) > 1:
            told = ", ".join(f"{t} in {run.name}" for t, run in zip(texts, runs, strict=True))
            notes.append(f"Differs: {name} is {told}.")
    return notes


def _settings(run: BenchRun) -> Iterator[tuple[str, Any]]:
    for name, value in run.results["config"].items():
        if name not in _AXES:
            yield name, value
    provenance = run.results["provenance"]
    for table in ("versions", "miniwiki"):
        for name, value in provenance.get(table, {}).items():
            yield f"{table}.{name}", value


def _earlier_notes(runs: Sequence[BenchRun]) -> list[str]:
    return [f"{run.name}: {note}" for run in runs for note in run.notes]

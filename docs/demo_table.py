"""Write the table of a recorded demo into the README, between its two markers.

Recorded by `zerosearch demo --out docs/demo`, written by `python docs/demo_table.py`. What other
seeds come to is said below it; their records are copies of `demo.json` after
`zerosearch demo --seed N`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "demo" / "demo.json"
OTHER_SEEDS = ROOT / "benchmarks" / "results" / "demo"
README = ROOT / "README.md"
BEGIN, END = "<!-- demo table: docs/demo_table.py -->\n", "<!-- end of demo table -->"

POLICIES = {
    "base": "base, before training",
    "trained": "**trained**, {steps} updates",
    "skill": "for comparison: base before its weakness was planted",
}
COLUMNS = {
    "simulator": ("simulator", 0.0, "miniwiki"),
    "BM25": ("bm25", 0.0, "miniwiki"),
    "simulator, noise 0.5": ("simulator", 0.5, "miniwiki"),
    "hard set": ("simulator", 0.0, "miniwiki-hard"),
    "no documents": ("empty", 0.0, "miniwiki"),
}


def table(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Return exact match with its 95 % interval for every policy and setting of a demo."""
    found = _evaluations(record)
    counts = [found["trained", *setting]["num_questions"] for setting in COLUMNS.values()]
    heads = [f"{name} ({count})" for name, count in zip(COLUMNS, counts, strict=True)]
    lines = ["| exact match | " + " | ".join(heads) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for policy, label in POLICIES.items():
        cells = [_cell(found.get((policy, *setting))) for setting in COLUMNS.values()]
        lines.append(f"| {label.format(**record['config'])} | " + " | ".join(cells) + " |")
    noisy = [(policy, found[policy, "simulator", 0.5, "miniwiki"]) for policy in POLICIES]
    again = [f"{policy} {row['searched_again_share']:.0%}" for policy, row in noisy]
    machine, minutes = record["machine"], record["wall_seconds"] / 60
    lines += [
        "",
        f"After noisy documents they search again: {', '.join(again)}.",
        f"Greedy answers to held-out test questions (their number), 95 % Wilson intervals, seed "
        f"{record['config']['seed']}, measured by `{record['command']}` on "
        f"{machine['cores']} cores of an {machine['cpu']} in {minutes:.1f} minutes "
        f"(median {record['training']['median_update_seconds']:.1f} s an update).",
        "",
        _medians([record, *others]),
    ]
    return "\n".join(lines) + "\n"


def _listed(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{row['exact_match']:.3f}" for row in rows)


def _evaluations(record: Mapping[str, Any]) -> dict[tuple[str, ...], Mapping[str, Any]]:
    names = ("policy", "engine", "noise", "questions")
    return {tuple(row[name] for name in names): row for row in record["evaluations"]}


def _medians(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what the trained policies of all seeds come to."""
    names = list(COLUMNS)[:3]
    found = [_evaluations(record) for record in records]
    rows = [[one["trained", *COLUMNS[name]] for one in found] for name in names]
    parts = [
        f"{name} {median(row['exact_match'] for row in each):.3f} ({_listed(each)})"
        for name, each in zip(names, rows, strict=True)
    ]
    two_hops = median(row["by_hops"]["2"]["exact_match"] for row in rows[0])
    again = median(row["searched_again_share"] for row in rows[2])
    seeds = ", ".join(str(record["config"]["seed"]) for record in records)
    return (
        f"Trained with seeds {seeds} (`zerosearch demo --seed N`), median exact match (each): "
        f"{'; '.join(parts)}. Two-hop questions {two_hops:.3f}; search again after noisy "
        f"documents {again:.0%}."
    )


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    low, high = row["exact_match_ci"]
    return f"{row['exact_match']:.2f} [{low:.2f}, {high:.2f}]"


def recorded() -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Return the demo that is shown, and those with other seeds."""
    record, *others = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (RECORD, *sorted(OTHER_SEEDS.glob("seed*.json")))
    )
    return record, others


def with_table(readme: str, record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Return the README's text with the table of `record` between its markers."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(record, others) + END + after


def main() -> None:
    """Rewrite the README."""
    readme = README.read_text(encoding="utf-8")
    README.write_text(with_table(readme, *recorded()), encoding="utf-8")


if __name__ == "__main__":
    main()

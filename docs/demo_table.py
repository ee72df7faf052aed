"""Write the table of a recorded demo into the README, between its two markers.

Recorded by `zerosearch demo --out docs/demo`, written by `python docs/demo_table.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "demo" / "demo.json"
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


def table(record: Mapping[str, Any]) -> str:
    """Return exact match with its 95 % interval for every policy and setting of a demo."""
    found = {
        (row["policy"], row["engine"], row["noise"], row["questions"]): row
        for row in record["evaluations"]
    }
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
    ]
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    low, high = row["exact_match_ci"]
    return f"{row['exact_match']:.2f} [{low:.2f}, {high:.2f}]"


def with_table(readme: str, record: Mapping[str, Any]) -> str:
    """Return the README's text with the table of `record` between its markers."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(record) + END + after


def main() -> None:
    """Rewrite the README."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    README.write_text(with_table(README.read_text(encoding="utf-8"), record), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Write the table of a recorded benchmark into docs/benchmarks.md, between its two markers.

Recorded by `zerosearch bench examples/benchmarks/miniwiki.yaml --out runs/bench`, whose
results.json and report.md then went to benchmarks/results/bench; written by
`python docs/bench_table.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "benchmarks" / "results" / "bench" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: docs/bench_table.py -->\n", "<!-- end of table -->"


def table(results: Mapping[str, Any]) -> str:
    """Return each agent's exact match by engine and noise, the area under it, and the gap."""
    conditions = {(c["agent"], c["engine"], c["noise"]): c for c in results["conditions"]}
    places = list(dict.fromkeys(key[1:] for key in conditions))
    areas = {each["agent"]: each["area"] for each in results["robustness"]}
    gaps = {each["agent"]: each["gap"] for each in results["sim_to_real"]}
    heads = ["exact match", *(_head(*place) for place in places), "area", "simulator − bm25"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for agent, area in areas.items():
        found = (conditions[agent, *place]["metrics"]["exact_match"] for place in places)
        cells = [*map(_cell, found), f"{area['mean']:.2f}", f"{gaps[agent]['mean']:+.2f}"]
        lines.append(f"| {agent} | {' | '.join(cells)} |")
    provenance = results["provenance"]
    machine = provenance["machine"]
    lines += [
        "",
        f"95 % Wilson intervals; {results['config']['num_questions']} test questions, "
        f"{sum(c['num_episodes'] for c in results['conditions']):,} episodes, "
        f"{sum(c['num_failed'] for c in results['conditions'])} failures. Measured by "
        f"`{provenance['command']}` on {machine['cores']} cores of an {machine['cpu']}.",
    ]
    return "\n".join(lines) + "\n"


def _head(engine: str, noise: float) -> str:
    return f"{engine}, noise {noise:g}" if noise else engine


def _cell(rate: Mapping[str, float]) -> str:
    return f"{rate['mean']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"


def with_table(page: str, results: Mapping[str, Any]) -> str:
    """Return the page's text with the table of `results` between its markers."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(results) + END + after


def main() -> None:
    """Rewrite the page."""
    results = json.loads(RECORD.read_text(encoding="utf-8"))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()

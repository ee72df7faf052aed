"""The results of a benchmark as a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agents.bench.rows import RESULTS_FILE

PAGE: Final = "report.md"
_HEADS: Final = ("agent", "engine", "noise", "EM", "95 %", "F1", "SubEM", "searches", "failed")


def write_report(folder: Path) -> None:
    """Write `report.md` into a folder that holds `results.json`."""
    results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    lines = [f"# {results['benchmark']}", "", _line(_HEADS), _line("---" for _ in _HEADS)]
    lines += [_line(_cells(each)) for each in results["conditions"]]
    (folder / PAGE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cells(condition: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = condition["metrics"]
    exact = metrics["exact_match"]
    return (
        condition["agent"],
        condition["engine"],
        f"{condition['noise']:g}",
        f"{exact['mean']:.3f}",
        f"{exact['low']:.3f} – {exact['high']:.3f}",
        f"{metrics['f1']['mean']:.3f}",
        f"{metrics['sub_exact_match']['mean']:.3f}",
        f"{metrics['searches']['mean']:.2f}",
        str(condition["num_failed"]),
    )


def _line(cells: Any) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"

"""The report of a benchmark: report.html to look into, report.md to read on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agents.bench.markdown import markdown
from agents.bench.reading import BenchRun, read_run
from agents.bench.report_data import report_blocks, title
from agents.pages.page import render

PAGE_FILE: Final = "report.html"
MARKDOWN_FILE: Final = "report.md"


def write_report(folder: Path) -> None:
    """Make report.html and report.md of a folder's episodes.jsonl and results.json.

    Args:
        folder: Where both are, and where the report goes; an earlier one is replaced.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If one does not hold what it should.
        OSError: If the report cannot be written.
    """
    run = read_run(folder)
    _write(folder / PAGE_FILE, page(run))
    _write(folder / MARKDOWN_FILE, markdown(run))


def page(run: BenchRun) -> str:
    """Return the page: one file that needs nothing but a browser."""
    return render(title(run), "report", report_blocks(run))


def _write(file: Path, text: str) -> None:
    """Write whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(file)

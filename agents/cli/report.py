"""`zerosearch report`: the report of a benchmark written anew, or of several as a leaderboard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from agents.cli.checks import check_folder, usage_errors


@dataclass(frozen=True)
class Report:
    """Write report.html and report.md of benchmarks anew, or merge them into a leaderboard.

    A leaderboard has the conditions that all benchmarks have with the same questions and seeds,
    and says what was left out.

    Attributes:
        compare: Merge the benchmarks into one leaderboard instead.
    """

    folders: Annotated[
        Positional[tuple[Path, ...]],
        arg(metavar="DIR ...", help="Folders that `zerosearch bench` wrote."),
    ]
    compare: bool = False
    out: Annotated[Path | None, arg(metavar="FOLDER", help="Where the leaderboard goes.")] = None

    def run(self) -> None:
        """Write the reports."""
        with usage_errors():
            _check(self)
            if self.compare:
                _compare(self)
            else:
                _rewrite(self)


def _check(config: Report) -> None:
    if not config.folders:
        raise ValueError("`folders` must name at least one benchmark, got none")
    if config.compare and len({folder.resolve() for folder in config.folders}) < 2:
        names = ", ".join(map(str, config.folders))
        raise ValueError(f"`folders` must name two benchmarks to compare, got {names}")
    if config.compare != (config.out is not None):
        got = "--compare alone" if config.compare else "--out alone"
        raise ValueError(f"`compare` and `out` must be given together, got {got}")


def _rewrite(config: Report) -> None:
    from agents.bench.report import PAGE_FILE, write_report
    from agents.cli.display import say

    console = Console()
    for folder in config.folders:
        write_report(folder)
        say(console, f"report: {folder / PAGE_FILE}")


def _compare(config: Report) -> None:
    from agents.bench.merging import write_leaderboard
    from agents.bench.reading import read_run
    from agents.bench.report import PAGE_FILE
    from agents.cli.display import say

    assert config.out is not None
    check_folder(config.out)
    console = Console()
    runs = [read_run(folder) for folder in config.folders]
    for note in write_leaderboard(runs, config.out):
        say(console, note)
    say(console, f"leaderboard: {config.out / PAGE_FILE}")

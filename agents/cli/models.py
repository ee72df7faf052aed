"""`zerosearch models`: make the shipped models, and measure a simulator."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg, subcommand

from agents.cli.checks import check_at_least, check_file, check_folder, usage_errors
from agents.cli.files import write_json
from agents.cli.options import EngineName, Threads, load_engine
from agents.cli.provenance import provenance
from agents.cli.threads import use_threads

if TYPE_CHECKING:
    from rich.table import Table

    from agents.tuning.measure import Rate, SimulatorReport


@dataclass(frozen=True)
class Build:
    """Train the shipped models from nothing, one process and thread for each half of them.

    Attributes:
        copy_examples: Repeated random strings, for learning to copy.
        simulator_examples: Requests with their documents.
        skill_examples: Perfect transcripts of searching agents.
        habit_examples: Spoilt transcripts, which make base out of skill.
        seed: Key of data, initial weights and order.
    """

    out: Annotated[
        Path, arg(metavar="DIR", help="Gets a folder a model; those of the same name are replaced.")
    ] = Path("runs/models")
    copy_examples: int = 2400
    simulator_examples: int = 96_000
    skill_examples: int = 40_000
    habit_examples: int = 3_000
    seed: int = 0

    def run(self) -> None:
        """Train and write the models."""
        from agents.tuning.build import BuildConfig, build

        options = {field.name: getattr(self, field.name) for field in fields(BuildConfig)}
        with usage_errors():
            check_at_least(0, seed=self.seed)
            check_at_least(1, **{name: n for name, n in options.items() if name != "seed"})
            check_folder(self.out)
        build(self.out, BuildConfig(**options))


@dataclass(frozen=True)
class Measure:
    """Ask a simulator held-out questions, and count how often its documents are what they should.

    Attributes:
        num_requests: Requests, half of them for useful and half for noisy documents.
        seed: Key of the requests.
    """

    engine: EngineName = "simulator"
    num_requests: int = 500
    seed: int = 1
    json: Annotated[
        Path | None, arg(metavar="FILE", help="Where the results go, as one JSON object.")
    ] = None
    threads: Threads = 0

    def run(self) -> None:
        """Measure, print a table, and write what was asked for."""
        from agents.tuning.measure import measure_simulator

        with usage_errors():
            use_threads(self.threads)
            check_at_least(2, num_requests=self.num_requests)
            check_at_least(0, seed=self.seed)
            check_file(self.json, "json")
            engine = load_engine(self.engine)
        report = measure_simulator(engine, self.num_requests, self.seed)
        Console().print(report_table(report, f"{self.engine} · {self.num_requests} requests"))
        if self.json:
            write_json(self.json, describe(self, report))


@dataclass(frozen=True)
class Models:
    """Make or measure the models that ship with the package."""

    command: Annotated[Build, subcommand("build")] | Annotated[Measure, subcommand("measure")]

    def run(self) -> None:
        """Run the command below this one."""
        self.command.run()


def report_table(report: SimulatorReport, title: str) -> Table:
    """Return what was measured, one share a line."""
    from agents.cli.display import new_table

    table = new_table(title)
    table.add_column("share of")
    for name in ("cases", "value", "95 % interval"):
        table.add_column(name, justify="right")
    for label, rate in (
        ("replies with all documents, none twice", report.parsed),
        ("useful replies that state the asked fact", report.useful_hit),
        ("  … where that is not the golden answer", report.bridge_hit),
        ("noisy replies that leak the asked fact", report.noisy_leak),
        ("documents in useful replies that are true", report.true_useful),
        ("documents in noisy replies that are true", report.true_noisy),
    ):
        table.add_row(label, *_cells(rate))
    return table


def _cells(rate: Rate) -> tuple[str, str, str]:
    return str(rate.count), f"{rate.value:.1%}", f"{rate.low:.1%} – {rate.high:.1%}"


def describe(config: Measure, report: SimulatorReport) -> dict[str, Any]:
    """Return the results, and all that decides them, as JSON values."""
    options = asdict(config)
    del options["json"]
    return {**report.as_dict(), "config": options, **provenance()}

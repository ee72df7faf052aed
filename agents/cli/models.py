"""`zerosearch models`: make the shipped models, and measure a simulator."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg, subcommand

from agents.cli.checks import check_at_least, check_file, check_folder, usage_errors
from agents.cli.files import write_json
from agents.cli.options import EngineName, Threads, load_engine
from agents.cli.provenance import provenance
from agents.cli.threads import use_threads
from zs_env.models import MODELS

if TYPE_CHECKING:
    from rich.table import Table

    from agents.tuning.build import BuildConfig
    from agents.tuning.measure import Rate, SimulatorReport


@dataclass(frozen=True)
class Build:
    """Train the shipped models from nothing, one process and thread for each half of them.

    Attributes:
        size: Share of the training examples that the shipped models saw; less is for trying.
        seed: Key of data, initial weights and order.
    """

    out: Annotated[
        Path, arg(metavar="DIR", help="Gets a folder a model; those of the same name are replaced.")
    ] = Path("runs/models")
    size: float = 1.0
    seed: int = 0

    def run(self) -> None:
        """Train and write the models."""
        from agents.tuning.build import build

        with usage_errors():
            check_at_least(0, seed=self.seed)
            if not self.size > 0:
                raise ValueError(f"`size` must be greater than 0, got {self.size!r}")
            check_folder(self.out)
        build(self.out, build_config(self))


def build_config(config: Build) -> BuildConfig:
    """Return the sizes of all stages, at least one example each."""
    from agents.tuning.build import BuildConfig

    full = BuildConfig()
    names = [field.name for field in fields(full) if field.name.endswith("_examples")]
    sizes = {name: max(1, round(config.size * getattr(full, name))) for name in names}
    return replace(full, seed=config.seed, **sizes)


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

    models: Annotated[
        Path | None,
        arg(
            metavar="DIR",
            help="Measure all models in this folder instead, on whole sets of test questions, and "
            "write the results into their cards.",
        ),
    ] = None

    def run(self) -> None:
        """Measure, and print a table or write cards."""
        with usage_errors():
            use_threads(self.threads)
            check_at_least(2, num_requests=self.num_requests)
            check_at_least(0, seed=self.seed)
            check_file(self.json, "json")
        if self.models is None:
            measure(self)
        else:
            write_all_cards(self.models)


def measure(config: Measure) -> None:
    """Measure one simulator, print a table, and write what was asked for."""
    from agents.tuning.measure import measure_simulator

    with usage_errors():
        engine = load_engine(config.engine)
    report = measure_simulator(engine, config.num_requests, config.seed)
    Console().print(report_table(report, f"{config.engine} · {config.num_requests} requests"))
    if config.json:
        write_json(config.json, describe(config, report))


def write_all_cards(models: Path) -> None:
    """Measure all models in a folder and write their cards."""
    from agents.policies.causal_lm import find_policy
    from agents.tuning.cards import write_cards

    with usage_errors():
        for name in MODELS:
            find_policy(models / name)
        check_folder(models, "models")
    write_cards(models)


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
    del options["json"], options["models"]
    return {**report.as_dict(), "config": options, **provenance()}

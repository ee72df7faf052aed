"""`zerosearch models`: make the shipped models, and measure a simulator."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from tyro.conf import arg, subcommand

from agents.cli import tune_measure
from agents.cli.checks import check_at_least, check_file, check_folder, usage_errors
from agents.cli.files import write_json
from agents.cli.options import EngineName, ResultsFile, Threads
from agents.cli.threads import use_threads
from zs_env.models import MODELS

if TYPE_CHECKING:
    from agents.tuning.build import BuildConfig


@dataclass(frozen=True)
class Build:
    """Train the shipped models from nothing, two at a time, each in a process with one thread.

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
        num_requests: Requests of each sort: useful, each kind of noise, off topic, first hop.
        seed: Key of the requests.
    """

    engine: EngineName = "simulator"
    num_requests: int = 500
    seed: int = 1
    json: ResultsFile = None
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
        """Measure, and print tables or write cards."""
        with usage_errors():
            threads = use_threads(self.threads)
            check_at_least(2, num_requests=self.num_requests)
            check_at_least(0, seed=self.seed)
            check_file(self.json, "json")
        if self.models is None:
            measure(self, threads)
        else:
            write_all_cards(self, self.models, threads)


def measure(config: Measure, threads: int) -> None:
    """Measure one simulator, print tables, and write what was asked for."""
    console = Console()
    task = tune_measure.Measure(
        engine=config.engine, num_requests=config.num_requests, seed=config.seed
    )
    with usage_errors():
        setup = tune_measure.prepare(task)
    report = tune_measure.measure(setup, console)
    title = f"{config.engine} · {config.num_requests} requests of each sort"
    tune_measure.print_report(console, report, title)
    if config.json:
        write_json(config.json, {**report.as_json(), **tune_measure.describe(task, threads)})


def write_all_cards(config: Measure, models: Path, threads: int) -> None:
    """Measure all models in a folder and write their cards."""
    from agents.policies.causal_lm import find_policy
    from agents.tuning.cards import write_cards
    from agents.tuning.measure import MeasureOptions

    with usage_errors():
        for name in MODELS:
            find_policy(models / name)
        check_folder(models, "models")
    task = tune_measure.Measure(num_requests=config.num_requests, seed=config.seed)
    options = MeasureOptions(config.num_requests, config.seed)
    write_cards(models, options, tune_measure.describe(task, threads))


@dataclass(frozen=True)
class Merge:
    """Add a LoRA adapter to its model, and write the sum as a plain model."""

    policy: Annotated[
        str, arg(metavar="DIR", help="A folder with an adapter, or a run that trained one.")
    ]
    out: Annotated[Path, arg(metavar="DIR", help="A new folder for the model.")]

    def run(self) -> None:
        """Merge, and say where the model is."""
        from agents.cli.display import say
        from agents.policies.lora import merge

        with usage_errors():
            check_folder(self.out)
            if (self.out / "config.json").exists():
                raise ValueError(f"`out` must be a new folder, got {str(self.out)!r}")
            merge(self.policy, self.out)
        say(Console(), f"the model: {self.out}")


@dataclass(frozen=True)
class Models:
    """Make, measure or merge models."""

    command: (
        Annotated[Build, subcommand("build")]
        | Annotated[Measure, subcommand("measure")]
        | Annotated[Merge, subcommand("merge")]
    )

    def run(self) -> None:
        """Run the command below this one."""
        self.command.run()

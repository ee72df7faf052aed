"""`zerosearch tune measure`: how good a simulator is, as numbers and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import check_at_least, check_folder, usage_errors
from agents.cli.options import EngineName, Threads
from agents.cli.provenance import machine, provenance
from agents.cli.simulators import DocumentTokens, ModelName, Simulator, load_simulator
from agents.cli.threads import use_threads

if TYPE_CHECKING:
    from rich.table import Table

    from agents.tuning.documents import LabelledRow
    from agents.tuning.measure import MeasureOptions
    from agents.tuning.report import Rate, SimulatorReport

DEFAULT_OUT = Path("runs/measure")


@dataclass(frozen=True)
class Measure:
    """Ask a simulator what it was not tuned on, and check every document.

    Prints tables and writes metrics.json and metrics.png.

    Attributes:
        num_requests: Requests of each sort: useful, each kind of noise, off topic, first hop.
        seed: Key of the requests.
        threshold: Least similarity, in (0, 1], of words that are nearly a name.
    """

    engine: EngineName = "simulator"
    model: ModelName = ""
    input: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="Labelled searches (`tune label`) to ask instead of questions of MiniWiki.",
        ),
    ] = None
    split: Annotated[
        str, arg(metavar="SPLIT", help="Which of them: train, validation or test.")
    ] = "test"
    num_requests: int = 500
    seed: int = 1
    threshold: float = 0.85
    document_tokens: DocumentTokens = 32
    out: Annotated[
        Path | None,
        arg(
            metavar="DIR", help="Gets the files. Default: the folder of the model, or runs/measure."
        ),
    ] = None
    threads: Threads = 0

    def run(self) -> None:
        """Measure, print tables, and write the files."""
        from agents.cli.display import say
        from agents.tuning.cards import FIGURE_FILE, METRICS_FILE, write_simulator_metrics

        console = Console()
        with usage_errors():
            threads = use_threads(self.threads)
            setup = prepare(self)
        report = measure(setup, console)
        print_report(console, report, f"{setup.simulator.name} · {self.input or 'MiniWiki'}")
        origin = describe(self, threads)
        write_simulator_metrics(setup.out, report, origin, setup.simulator.folder)
        for name in (METRICS_FILE, FIGURE_FILE):
            say(console, f"results: {setup.out / name}")


@dataclass(frozen=True)
class Setup:
    """What checked options stand for, loaded.

    Attributes:
        simulator: What is measured.
        options: How much.
        rows: Labelled searches to ask; None means questions of MiniWiki.
        out: Folder of the results.
    """

    simulator: Simulator
    options: MeasureOptions
    rows: Sequence[LabelledRow] | None
    out: Path


def prepare(config: Measure) -> Setup:
    """Check every option and load what they name.

    Raises:
        ValueError: If an option is out of its range or names nothing, or the input is not as it
            should be.
        TypeError: If the engine cannot be one.
        OSError: If a file cannot be read, or there is no model where one should be.
    """
    from agents.tuning.measure import MeasureOptions
    from agents.tuning.measure_labelled import read_held_out

    check_at_least(0, seed=config.seed)
    options = MeasureOptions(config.num_requests, config.seed, config.threshold)
    if config.out:
        check_folder(config.out)
    rows = read_held_out(config.input, config.split) if config.input else None
    simulator = load_simulator(config.engine, config.model, config.document_tokens)
    out = config.out or simulator.own_folder or DEFAULT_OUT
    check_folder(out)
    return Setup(simulator, options, rows, out)


def measure(setup: Setup, console: Console) -> SimulatorReport:
    """Measure under a progress bar."""
    from agents.cli.display import progress_bar
    from agents.tuning.measure import measure_simulator
    from agents.tuning.measure_labelled import measure_labelled, num_asked

    engine, options, rows = setup.simulator.engine, setup.options, setup.rows
    total = options.num_asked if rows is None else num_asked(rows, options)
    with progress_bar(console, "requests", total) as advance:
        if rows is None:
            return measure_simulator(engine, options, on_progress=advance)
        return measure_labelled(engine, rows, options, on_progress=advance)


def describe(config: Measure, threads: int) -> dict[str, Any]:
    """Return all that decides the results beside the weights, as JSON values."""
    options = asdict(config) | {"input": config.input and str(config.input)}
    del options["out"], options["threads"]
    return {"config": options, "machine": machine(threads), **provenance()}


# --- tables -------------------------------------------------------------------------------------


def print_report(console: Console, report: SimulatorReport, title: str) -> None:
    """Print everything that was measured."""
    from agents.cli.display import say

    console.print(shares_table(report, title))
    if report.confusion:
        console.print(confusion_table(report))
    console.print(leaks_table(report))
    speed = report.speed.as_json()
    tokens = speed["tokens_per_second"]
    rate = "" if tokens is None else f", {tokens:.0f} tokens/s"
    say(console, f"speed: {speed['requests_per_second']:.1f} requests/s{rate}\n")


def shares_table(report: SimulatorReport, title: str) -> Table:
    """Return all shares with their intervals, and the numbers about all replies together."""
    from agents.cli.display import new_table

    table = new_table(title)
    table.add_column("share of")
    for name in ("cases", "share", "95 % interval", "real"):
        table.add_column(name, justify="right", no_wrap=True)
    for share in report.shares.values():
        real = f"{share.real.value:.3f}" if share.real else ""
        table.add_row(share.label, *_cells(share.rate), real)
    table.add_section()
    for score in report.scores.values():
        table.add_row(score.label, "", f"{score.value:.3f}", "", f"{score.real:.3f}")
    return table


def _cells(rate: Rate) -> tuple[str, str, str]:
    if not rate.count:
        return "0", "–", "–"
    return str(rate.count), f"{rate.value:.3f}", f"{rate.low:.3f} – {rate.high:.3f}"


_HEADS = {
    "irrelevant": "irrel.",
    "near-miss": "near",
    "outdated": "past",
    "contradictory": "contr.",
    "partial": "part.",
}


def confusion_table(report: SimulatorReport) -> Table:
    """Return how many replies of which kind were found, by what was requested."""
    from agents.cli.display import new_table

    table = new_table("what was found, by what was requested")
    table.add_column("requested", no_wrap=True)
    for name in next(iter(report.confusion.values())):
        table.add_column(_HEADS.get(name, name), justify="right", no_wrap=True)
    for sort, found in report.confusion.items():
        table.add_row(sort, *(str(count) if count else "·" for count in found.values()))
    return table


def leaks_table(report: SimulatorReport) -> Table:
    """Return how often noisy replies hold what they must not, read in three ways."""
    from agents.cli.display import new_table

    table = new_table("noisy replies that hold what they must not")
    table.add_column("requested")
    for name in ("cases", *next(iter(report.leaks.values()))):
        table.add_column(name, justify="right")
    for sort, rates in report.leaks.items():
        cells = [f"{rate.value:.3f}" for rate in rates.values()]
        table.add_row(sort, str(next(iter(rates.values())).count), *cells)
    return table

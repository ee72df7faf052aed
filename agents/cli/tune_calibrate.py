"""`zerosearch tune calibrate`: how much noise a simulator really makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import check_file, usage_errors
from agents.cli.options import EngineName, Threads
from agents.cli.provenance import provenance
from agents.cli.simulators import DocumentTokens, ModelName, Simulator, load_simulator
from agents.cli.threads import use_threads
from agents.weights import weights_checksum
from zs_env.search.calibration import CALIBRATION_FILE, Calibration, CalibrationPoint

if TYPE_CHECKING:
    from rich.table import Table

    from agents.tuning.calibrate import CalibrateOptions

DEFAULT_OUT = Path("runs") / CALIBRATION_FILE


@dataclass(frozen=True)
class Calibrate:
    """Measure the effective noise of a simulator against the noise that it is asked for.

    Effective noise is the share of searches whose documents lack what is needed.

    Attributes:
        num_requests: Requests for each probability of noise.
        seed: Key of the requests; the check takes those of the next one.
        check: Ask as many fresh requests for each of five levels of effective noise, and say how
            far off they are.
    """

    engine: EngineName = "simulator"
    model: ModelName = ""
    noise_kinds: Annotated[
        tuple[str, ...],
        arg(
            metavar="[KIND…]",
            help="Kinds among which noisy requests draw one, as the environment's `noise_kinds`: "
            "irrelevant, near-miss, outdated, contradictory, partial, empty.",
        ),
    ] = ()
    num_requests: int = 2000
    seed: int = 2
    check: bool = True
    document_tokens: DocumentTokens = 32
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="Where the calibration goes. Default: calibration.json in the folder of the "
            "model, or in runs.",
        ),
    ] = None
    threads: Threads = 0

    def run(self) -> None:
        """Measure, print a table, and write the calibration."""
        from agents.cli.display import say
        from agents.tuning.calibrate import TOLERANCE, within_tolerance
        from agents.tuning.figures import plot_calibration

        console = Console()
        with usage_errors():
            use_threads(self.threads)
            setup = prepare(self)
        calibration, checked = execute(self, setup, console)
        console.print(calibration_table(calibration, checked, setup.simulator.name))
        if checked and not within_tolerance(checked):
            say(console, f"warning: the check is off by more than {TOLERANCE}")
        file = calibration.save(setup.out)
        figure = file.with_suffix(".png")
        plot_calibration(calibration, figure)
        say(console, f"calibration: {file}\nfigure: {figure}")


@dataclass(frozen=True)
class Setup:
    """What checked options stand for, loaded; `out` is the file of the result."""

    simulator: Simulator
    options: CalibrateOptions
    out: Path


def prepare(config: Calibrate) -> Setup:
    """Check every option and load what they name.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        TypeError: If the engine cannot be one.
        OSError: If there is no model where one should be.
    """
    from agents.tuning.calibrate import CalibrateOptions
    from zs_env.search.engine import NoiseKind

    unknown = [kind for kind in config.noise_kinds if kind not in list(NoiseKind)]
    if unknown:
        known = ", ".join(NoiseKind)
        raise ValueError(f"`noise_kinds` must be among {known}, got {unknown[0]!r}")
    kinds = tuple(NoiseKind(kind) for kind in config.noise_kinds)
    options = CalibrateOptions(config.num_requests, config.seed, kinds)
    check_file(config.out, "out")
    simulator = load_simulator(config.engine, config.model, config.document_tokens)
    own = simulator.own_folder and simulator.own_folder / CALIBRATION_FILE
    out = config.out or own or DEFAULT_OUT
    check_file(out, "out")
    return Setup(simulator, options, out)


def execute(
    config: Calibrate, setup: Setup, console: Console
) -> tuple[Calibration, tuple[CalibrationPoint, ...]]:
    """Measure under a progress bar; return the calibration, and the points of its check.

    Raises:
        CommandError: If noise makes no difference to the engine.
    """
    from agents.cli.display import progress_bar
    from agents.tuning.calibrate import WANTED, calibrate, check

    engine, options = setup.simulator.engine, setup.options
    num_levels = len(options.probabilities) + len(WANTED) * config.check
    checked: tuple[CalibrationPoint, ...] = ()
    with progress_bar(console, "requests", num_levels * options.num_requests) as advance:
        with usage_errors(ValueError):
            found = calibrate(engine, options, on_progress=advance)
        if config.check:
            checked = check(engine, found, options, on_progress=advance)
    origin = {**found.origin, **describe(config, setup, checked)}
    return replace(found, origin=origin), checked


def describe(
    config: Calibrate, setup: Setup, checked: Sequence[CalibrationPoint]
) -> dict[str, Any]:
    """Return the check, and what the calibration is about, as JSON values."""
    folder = setup.simulator.folder
    return {
        "check": [asdict(point) for point in checked],
        "engine": setup.simulator.name,
        "document_tokens": config.document_tokens,
        "weights_sha256": weights_checksum(folder) if folder else None,
        **provenance(),
    }


def calibration_table(
    calibration: Calibration, checked: Sequence[CalibrationPoint], title: str
) -> Table:
    """Return what was measured, and what the check found, beside what was expected."""
    from agents.cli.display import new_table

    table = new_table(f"{title} · effective noise")
    table.add_column("")
    for name in ("noise", "searches", "effective", "95 % interval", "expected", "off by"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in calibration.points:
        expected = calibration.effective(point.requested)
        table.add_row("requested", *_cells(point, expected))
    table.add_section()
    for point in checked:
        table.add_row("wanted", *_cells(point, point.requested))
    return table


def _cells(point: CalibrationPoint, expected: float) -> tuple[str, ...]:
    return (
        f"{point.requested:g}",
        str(point.count),
        f"{point.effective:.3f}",
        f"{point.low:.3f} – {point.high:.3f}",
        f"{expected:.3f}",
        f"{point.effective - expected:+.3f}",
    )

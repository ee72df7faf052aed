"""Commands that do an experiment: every arm with every seed, then what became of its claims."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from rich.console import Console
from rich.text import Text
from tyro.conf import arg

from agents.cli.checks import check_at_least, check_file, check_folder, usage_errors
from agents.cli.files import command_line, write_json
from agents.cli.options import load_questions
from agents.cli.provenance import machine, provenance, weights_checksum
from agents.cli.threads import use_threads
from agents.durable import write_text
from agents.experiments.design import BASE, FORMAT_ONLY, SMALL, Arm, Protocol, Run, plan
from agents.experiments.experiment import Experiment, find_arms
from agents.experiments.measures import MEASURES
from agents.experiments.run_files import (
    FinishedRun,
    check_format_only,
    check_others,
    claimed,
    failure_file,
    format_only_folder,
    read_run,
    run_file,
    run_identity,
    shared_identity,
)
from agents.experiments.workers import outcomes
from zs_env.models import model_folder
from zs_env.task.miniwiki import default_world

if TYPE_CHECKING:
    from rich.table import Table

    from agents.experiments.report import Report

EXAM_SEED = 0
"""Key of the questions of the exams: the same for all runs."""

NARROW = (0, 2, 5, 6)
"""Those columns of a claim's table that a terminal has room for."""


@dataclass(frozen=True)
class ExperimentCommand:
    """What all commands that do an experiment have in common.

    Attributes:
        seeds: Runs of each arm, with the seeds 0, 1, ...
        steps: Updates of training.
        train_questions: Questions an update.
        group_size: Episodes a question and update.
        num_eval_questions: Test questions of an exam.
        num_noisy_questions: Test questions of the exam with noise 0.5.
        format_examples: Examples that the format-only simulator is trained on.
        workers: Runs at a time, each in a process with one thread.
        dry_run: List the runs, estimate the time and show what has been found so far; write
            nothing.
    """

    experiment: ClassVar[Experiment]

    out: Annotated[
        Path, arg(metavar="DIR", help="Where everything goes; an earlier start is gone on with.")
    ]
    seeds: int = 8
    steps: int = 15
    train_questions: int = 16
    group_size: int = 8
    num_eval_questions: int = 1000
    num_noisy_questions: int = 300
    format_examples: int = 12_000
    arms: Annotated[
        tuple[str, ...], arg(metavar="ARM ...", help="What to compare; nothing means the usual.")
    ] = ()
    models: Annotated[
        Path | None,
        arg(metavar="DIR", help="Where base and the simulators are, if not those shipped."),
    ] = None
    workers: int = 2
    markdown: Annotated[
        Path | None,
        arg(metavar="FILE", help="Where a page about the results goes, its figures beside it."),
    ] = None
    dry_run: bool = False

    def run(self) -> None:
        """Do the runs that are left, and report."""
        console = Console()
        with usage_errors():
            check(self)
            setup = prepare(self)
            done = read_finished(setup)
        if self.dry_run:
            show_plan(self, setup, done, console)
            show_report(make_report(self, done), console)
            return
        with ExitStack() as stack:
            with usage_errors():
                stack.enter_context(claimed(self.out))
            failed = execute(self, setup, done, console)
        report = make_report(self, read_finished(setup))
        write_report(self, report, setup)
        show_report(report, console)
        if failed:
            raise SystemExit(
                f"zerosearch: error: {len(failed)} of {len(setup.runs)} runs failed, for what is "
                f"said in {failure_file(self.out, failed[0]).parent}"
            )

    @property
    def chosen_arms(self) -> tuple[Arm, ...]:
        """What to compare."""
        return find_arms(self.experiment, self.arms or self.experiment.default_arms)

    @property
    def protocol(self) -> Protocol:
        """What all runs have in common."""
        return Protocol(
            num_updates=self.steps,
            num_questions=self.train_questions,
            group_size=self.group_size,
            num_eval_questions=self.num_eval_questions,
            num_noisy_questions=self.num_noisy_questions,
            format_examples=self.format_examples,
        )


@dataclass(frozen=True)
class Setup:
    """What a checked configuration stands for; nothing has been written yet.

    Attributes:
        out: The experiment's folder.
        protocol: What all runs have in common.
        runs: What has to be done, in order.
        shared: The part of an identity that all runs have in common.
        models: Folders of the models, by their names; the format-only one need not exist yet.
        measures: What is measured of every run.
    """

    out: Path
    protocol: Protocol
    runs: tuple[Run, ...]
    shared: Mapping[str, Any]
    models: Mapping[str, Path]
    measures: tuple[str, ...]

    @property
    def lacks_format_only(self) -> bool:
        """Whether the format-only simulator is needed and has not been trained."""
        return FORMAT_ONLY in self.models and not self.models[FORMAT_ONLY].exists()

    def identity(self, run: Run) -> dict[str, Any]:
        """Return everything that decides the results of `run`, as far as it is known."""
        folder = self.models.get(run.arm.model or "")
        simulator = weights_checksum(folder) if folder and folder.exists() else None
        return run_identity(run, self.shared, simulator)

    def task(self, run: Run) -> Task:
        """Return `run` as a process needs it."""
        model = run.arm.model
        return Task(
            run,
            self.protocol,
            self.identity(run),
            policy=self.models[BASE],
            simulator=self.models[model] if model else None,
            examiner=self.models[SMALL],
            measures=self.measures,
            file=run_file(self.out, run),
        )


def check(config: ExperimentCommand) -> None:
    """Check every option.

    Raises:
        ValueError: If one is out of its range.
    """
    check_at_least(
        1,
        seeds=config.seeds,
        steps=config.steps,
        train_questions=config.train_questions,
        num_eval_questions=config.num_eval_questions,
        num_noisy_questions=config.num_noisy_questions,
        format_examples=config.format_examples,
        workers=config.workers,
    )
    check_at_least(2, group_size=config.group_size)
    available = len(load_questions("miniwiki", "test", 0, EXAM_SEED))
    for name in ("num_eval_questions", "num_noisy_questions"):
        if getattr(config, name) > available:
            raise ValueError(
                f"`{name}` must be at most {available}, the test questions that there are, got "
                f"{getattr(config, name)!r}"
            )
    check_folder(config.out)
    check_file(config.markdown, "markdown")


def prepare(config: ExperimentCommand) -> Setup:
    """Find the arms and their models, and check that the folder is for the same experiment.

    Raises:
        ValueError: If an arm or model is unknown, or the folder holds another experiment.
        FileNotFoundError: If the weights of a model are missing.
    """
    arms, protocol = config.chosen_arms, config.protocol
    names = [BASE, SMALL, *(arm.model for arm in arms if arm.model)]
    models = {name: find_model(config, name) for name in names}
    shared = shared_identity(
        protocol,
        policy=weights_checksum(models[BASE]),
        examiner=weights_checksum(models[SMALL]),
        world=default_world().checksum(),
    )
    check_others(config.out, shared)
    if FORMAT_ONLY in models:
        check_format_only(config.out, protocol)
    runs, measures = plan(arms, config.seeds), config.experiment.measures
    return Setup(config.out, protocol, runs, shared, models, measures)


def find_model(config: ExperimentCommand, name: str) -> Path:
    """Return the folder of a model.

    Raises:
        ValueError: If no shipped model has that name.
        FileNotFoundError: If there are no weights.
    """
    if name == FORMAT_ONLY:
        return format_only_folder(config.out)
    if config.models is None:
        return model_folder(name)
    folder = config.models / name
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"`models` must be a folder with a model {name!r}, got {str(config.models)!r}"
        )
    return folder


def read_finished(setup: Setup) -> list[FinishedRun]:
    """Return the runs that have ended well.

    Raises:
        ValueError: If a file cannot be read, or is that of another experiment.
    """
    found = (read_run(run_file(setup.out, run), setup.identity(run)) for run in setup.runs)
    return [run for run in found if run is not None]


@dataclass(frozen=True)
class Task:
    """A run with all that a process needs to do it.

    Attributes:
        run: Arm and seed.
        protocol: What all runs have in common.
        identity: Everything that decides the results.
        policy: Folder of the start policy.
        simulator: Folder of the model that answers queries in training; None where none does.
        examiner: Folder of the simulator of the exams.
        measures: Names the exams.
        file: Where the results go.
    """

    run: Run
    protocol: Protocol
    identity: Mapping[str, Any]
    policy: Path
    simulator: Path | None
    examiner: Path
    measures: tuple[str, ...]
    file: Path


def perform(task: Task) -> None:
    """Do a run and write its file; in a process of its own."""
    from agents.experiments import execution
    from agents.policies.causal_lm import CausalLMPolicy
    from zs_env.search.registry import make_engine

    use_threads(1)
    protocol, arm = task.protocol, task.run.arm
    engine = None
    if arm.is_trained:
        simulator = task.simulator
        engine = execution.load_simulator(simulator) if simulator else make_engine(arm.engine)
    exams = execution.make_exams(
        task.measures,
        task.examiner,
        load_questions("miniwiki", "test", protocol.num_eval_questions, EXAM_SEED),
        load_questions("miniwiki", "test", protocol.num_noisy_questions, EXAM_SEED),
    )
    policy = CausalLMPolicy.load(task.policy)
    result = execution.execute(task.run, protocol, policy, engine, exams)
    write_json(
        task.file,
        {"identity": task.identity, **result, "machine": machine(1), **provenance()},
    )


@dataclass(frozen=True)
class FormatOnlyTask:
    """The format-only simulator, to be trained by a process."""

    folder: Path
    protocol: Protocol


def perform_format_only(task: FormatOnlyTask) -> None:
    """Train the format-only simulator; in a process of its own."""
    from agents.experiments.format_only import train_format_only

    use_threads(1)
    train_format_only(task.folder, task.protocol)


def execute(
    config: ExperimentCommand, setup: Setup, done: Sequence[FinishedRun], console: Console
) -> list[Run]:
    """Do the runs that are not `done`, and return those that failed."""
    from agents.cli.display import progress_bar, say

    finished = {(run.arm, run.seed) for run in done}
    left = [run for run in setup.runs if (run.arm.name, run.seed) not in finished]
    say(console, f"{len(setup.runs)} runs, {len(left)} left; results: {config.out}")
    failed = prepare_format_only(setup, left, console)
    tasks = [setup.task(run) for run in left if run not in failed]
    with progress_bar(console, "runs", len(tasks)) as advance:
        for number, outcome in enumerate(outcomes(perform, tasks, config.workers), 1):
            run = outcome.task.run
            note_outcome(failure_file(config.out, run), outcome.error)
            if outcome.error:
                failed.append(run)
            line = run_line(run, outcome.error, read_run(outcome.task.file, {}))
            say(console, f"{number:>4}/{len(tasks)}  {line}")
            advance(1)
    return failed


def prepare_format_only(setup: Setup, left: Sequence[Run], console: Console) -> list[Run]:
    """Train the format-only simulator if need be; return the runs that fail for want of it."""
    from agents.cli.display import say

    waiting = [run for run in left if run.arm.model == FORMAT_ONLY]
    if not waiting or not setup.lacks_format_only:
        return []
    say(console, f"training the format-only simulator: {setup.protocol.format_examples} examples")
    task = FormatOnlyTask(setup.models[FORMAT_ONLY], setup.protocol)
    [outcome] = outcomes(perform_format_only, [task], 1)
    for run in waiting:
        note_outcome(failure_file(setup.out, run), outcome.error)
    return waiting if outcome.error else []


def note_outcome(file: Path, error: str) -> None:
    """Write why a run failed, or take away what an earlier failure left."""
    if error:
        write_text(file, error)
    else:
        file.unlink(missing_ok=True)


def run_line(run: Run, error: str, finished: FinishedRun | None) -> str:
    """Return how a run ended, as a line."""
    if error or finished is None:
        return f"{run.name:<22}  failed: {(error.strip().splitlines() or ['no results'])[-1]}"
    exams = (name for name in finished.scores if MEASURES[name].is_exam)
    scores = "  ".join(f"{name} {finished.scores[name]:.3f}" for name in exams)
    return f"{run.name:<22}  EM {scores}  {finished.seconds:.0f} s"


def estimate_seconds(runs: Sequence[Run], done: Sequence[FinishedRun], workers: int) -> float:
    """Return how long the runs that are not done will take; NaN if none is done.

    An arm of which no run is done counts as the median of all runs.
    """
    finished = {(run.arm, run.seed) for run in done}
    left = [run for run in runs if (run.arm.name, run.seed) not in finished]
    if not done and left:
        return math.nan
    return sum(_typical_seconds(run, done) for run in left) / workers


def _typical_seconds(run: Run, done: Sequence[FinishedRun]) -> float:
    same = [each.seconds for each in done if each.arm == run.arm.name]
    return statistics.median(same or [each.seconds for each in done])


def show_plan(
    config: ExperimentCommand, setup: Setup, done: Sequence[FinishedRun], console: Console
) -> None:
    """Print every run with its state, and how long those that are left will take."""
    from agents.cli.display import say

    seconds = {(run.arm, run.seed): run.seconds for run in done}
    for run in setup.runs:
        took = seconds.get((run.arm.name, run.seed))
        failed = "failed before, to be tried again" * failure_file(setup.out, run).exists()
        say(console, f"{run.name:<22}  {f'done, {took:.0f} s' if took else failed or 'to do'}")
    estimate = estimate_seconds(setup.runs, done, config.workers)
    left = len(setup.runs) - len(done)
    minutes = "unknown: no run is done" if math.isnan(estimate) else f"{estimate / 60:.0f} min"
    say(console, f"\n{left} of {len(setup.runs)} runs left, {config.workers} at a time: {minutes}")
    if setup.lacks_format_only:
        say(console, "the format-only simulator has to be trained first")


def make_report(config: ExperimentCommand, done: Sequence[FinishedRun]) -> Report:
    """Return what has been found by the runs that are done."""
    from agents.experiments.report import summarise

    return summarise(config.experiment, config.protocol, config.chosen_arms, done)


def write_report(config: ExperimentCommand, report: Report, setup: Setup) -> None:
    """Write the results as JSON and as figures, and as a page if wanted."""
    from agents.experiments.report import as_json, markdown, plot, plot_curves

    name = config.experiment.name
    checksums = {name: weights_checksum(folder) for name, folder in setup.models.items()}
    origin = {"command": retyped(config), "weights_sha256": checksums, **provenance()}
    write_json(config.out / f"{name}.json", {**as_json(report), **origin})
    pages = [config.out / f"{name}.md", *([config.markdown] if config.markdown else [])]
    for page in pages:
        figure, curves = page.with_suffix(".png"), page.with_name(f"{page.stem}-curves.png")
        plot(report, figure)
        plot_curves(report, curves)
        shown = curves.name if curves.exists() else ""
        write_text(page, markdown(report, retyped(config), figure.name, shown))


def retyped(config: ExperimentCommand) -> str:
    """Return what to type for the same experiment."""
    given = command_line(replace(config, arms=()))
    return given + (f" --arms {shlex.join(config.arms)}" if config.arms else "")


def show_report(report: Report, console: Console) -> None:
    """Print the arms, what became of the claims, and comparisons that no claim is about."""
    from agents.cli.display import new_table
    from agents.experiments.report import exam_heads, exam_rows, finding_row, other_row

    console.print(filled(new_table("Exact match"), exam_heads(report), exam_rows(report)))
    for number, judgement in enumerate(report.judgements, 1):
        title = f"{number}. {judgement.claim.title}: {judgement.verdict}"
        console.print(finding_table(title, map(finding_row, judgement.findings)))
    if report.others:
        console.print(finding_table("Other comparisons", map(other_row, report.others)))


def finding_table(title: str, rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of comparisons, of those columns that a terminal has room for."""
    from agents.cli.display import new_table
    from agents.experiments.report import FINDING_HEADS

    heads = [head.replace(" (", "\n(") for head in FINDING_HEADS]
    chosen = [[row[i] for i in NARROW] for row in (heads, *rows)]
    return filled(new_table(title), chosen[0], chosen[1:])


def filled(table: Table, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return `table` with columns and rows; all but the first column stand to the right."""
    for index, head in enumerate(heads):
        # An arm of one's own may have a name that is too long for the line: it goes on below.
        side: Literal["left", "right"] = "right" if index else "left"
        table.add_column(Text(head), justify=side, no_wrap=index > 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table

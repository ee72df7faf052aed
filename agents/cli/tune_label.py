"""`zerosearch tune label`: say of every search whether its documents are useful or noisy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import check_at_least, check_file, usage_errors
from agents.cli.files import write_json
from agents.cli.objects import load_object
from agents.cli.options import Threads
from agents.cli.threads import use_threads

if TYPE_CHECKING:
    from rich.table import Table

    from agents.tuning.judge import Judge
    from agents.tuning.label import LabelOptions, LabelReport


@dataclass(frozen=True)
class Label:
    """Label searches useful or noisy, filter them, and split them by question.

    Attributes:
        validation: Share of questions for validation.
        test: Share of questions for testing; the rest is for training.
        balance: Take as many useful searches as noisy ones of every split.
        seed: Key of which searches are taken for that.
    """

    input: Annotated[
        tuple[Path, ...],
        arg(
            metavar="FILE…",
            help="Episodes of `tune collect`, trajectories of another agent, or questions with "
            "supporting paragraphs; which it is shows in the first row.",
        ),
    ]
    output: Annotated[Path, arg(metavar="FILE", help="Gets a labelled search a line.")]
    rule: Annotated[
        str,
        arg(
            metavar="RULE",
            help="What decides: evidence (do the documents hold what was needed? the outcome "
            "where they cannot show it), outcome (did the trajectory end well?), judge, or agree "
            "(only searches on which all signals that there are say the same).",
        ),
    ] = "evidence"
    judge: Annotated[
        str,
        arg(
            metavar="MODEL",
            help="Also ask a language model: a shipped one, a model folder, or module:attribute "
            "with a method `complete`. What it says is kept in OUTPUT.judged.jsonl.",
        ),
    ] = ""
    grade: Annotated[
        str, arg(metavar="GRADE", help="By which grade a trajectory ends well: em or f1.")
    ] = "em"
    threshold: Annotated[
        float, arg(metavar="G", help="The least grade, in (0, 1], with which it does.")
    ] = 1.0
    validation: float = 0.05
    test: float = 0.05
    balance: bool = False
    seed: int = 0
    report: Annotated[
        Path | None, arg(metavar="FILE", help="Where the counts go, as one JSON object.")
    ] = None
    threads: Threads = 0

    def run(self) -> None:
        """Label, print tables, and write what was asked for."""
        from agents.cli.display import say
        from agents.tuning.label import label
        from agents.tuning.records import DataError

        console = Console()
        with usage_errors():
            setup = prepare(self)
        with usage_errors(DataError):
            report = label(self.input, self.output, setup.options, setup.judge)
        for table in report_tables(report):
            console.print(table)
        if self.report:
            write_json(self.report, describe(self, report))
            say(console, f"report: {self.report}")
        say(console, f"labelled searches: {self.output}")


@dataclass(frozen=True)
class Setup:
    """What checked options stand for, loaded."""

    options: LabelOptions
    judge: Judge | None


def prepare(config: Label) -> Setup:
    """Check every option and load the judge.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        TypeError: If the judge cannot be one.
        OSError: If an input cannot be read, or there is no model where one should be.
    """
    from agents.tuning.label import LabelOptions, check_files
    from agents.tuning.signals import OutcomeRule

    check_at_least(0, seed=config.seed)
    options = LabelOptions(
        rule=config.rule,
        outcome=OutcomeRule(config.grade, config.threshold),
        validation=config.validation,
        test=config.test,
        balance=config.balance,
        seed=config.seed,
    )
    for path in config.input:
        path.open("rb").close()
    check_file(config.output, "output")
    check_file(config.report, "report")
    check_files(config.input, config.output)
    if config.report:
        check_files([*config.input, config.output], config.report, "report")
    if options.rule == "judge" and not config.judge:
        raise ValueError("`judge` must be given for the rule 'judge', got ''")
    return Setup(options, load_judge(config.judge, config.threads) if config.judge else None)


def load_judge(name: str, threads: int) -> Judge:
    """Return the judge that `--judge` names.

    Raises:
        ValueError: If there is none of that name.
        TypeError: If the object that it names cannot complete texts.
        FileNotFoundError: If there is no model where one should be.
    """
    from agents.tuning.judge import Judge

    use_threads(threads)
    if ":" in name:
        return Judge(name, load_object("judge", name, ("complete",)))
    from zs_env.lm.transformers import TransformersLM
    from zs_env.models import MODELS, model_folder

    folder = model_folder(name) if name in MODELS else Path(name)
    if not (folder / "config.json").is_file():
        known = ", ".join(MODELS)
        raise FileNotFoundError(
            f"`judge` must be {known}, a model folder or module:attribute, got {name!r}"
        )
    return Judge(name, TransformersLM.from_pretrained(folder))


def describe(config: Label, report: LabelReport) -> dict[str, Any]:
    """Return the counts, and all that decides them, as JSON values."""
    options = asdict(config) | {
        "input": [str(path) for path in config.input],
        "output": str(config.output),
    }
    del options["report"], options["threads"]
    return {**report.as_json(), "config": options}


def report_tables(report: LabelReport) -> list[Table]:
    """Return what was written, what was left out, and how far the signals agree."""
    return [_rows_table(report), _dropped_table(report), *_agreement_tables(report)]


def _rows_table(report: LabelReport) -> Table:
    from agents.cli.display import new_table
    from agents.tuning.records import LABELS

    table = new_table(f"{report.num_rows} of {report.num_searches} searches")
    table.add_column("")
    for name in LABELS:
        table.add_column(name, justify="right")
    for counts in (report.rows, report.data_sources):
        for name, row in counts.items():
            table.add_row(name, *(str(row[label]) for label in LABELS))
        table.add_section()
    return table


def _dropped_table(report: LabelReport) -> Table:
    from agents.cli.display import new_table
    from agents.tuning.label import DROPPED

    table = new_table("left out")
    table.add_column("because")
    table.add_column("searches", justify="right")
    for reason, meaning in DROPPED.items():
        table.add_row(meaning, str(report.dropped[reason]))
    return table


def _agreement_tables(report: LabelReport) -> list[Table]:
    from agents.cli.display import new_table

    if not report.agreement:
        return []
    table = new_table("agreement of signals")
    table.add_column("signals")
    for name in ("searches", "agree", "kappa", "both useful", "both noisy"):
        table.add_column(name, justify="right")
    for pair in report.agreement:
        both = [str(pair.counts[name][name]) for name in pair.counts]
        share = "–" if pair.share is None else f"{pair.share:.1%}"
        kappa = "–" if pair.kappa is None else f"{pair.kappa:.2f}"
        table.add_row(f"{pair.first}, {pair.second}", str(pair.num), share, kappa, *both)
    return [table]

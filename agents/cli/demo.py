"""`zerosearch demo`: the whole loop on a laptop, and what training changed, as one table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from agents.cli import train_run, train_setup
from agents.cli.checks import check_at_least, usage_errors
from agents.cli.evaluate import Conditions, measure
from agents.cli.files import command_line, write_json
from agents.cli.options import (
    EngineName,
    PolicyName,
    Threads,
    load_engine,
    load_policy,
    load_questions,
    noise_made,
    noise_warnings,
)
from agents.cli.provenance import cpu_model, machine, provenance, weights_checksum
from agents.cli.threads import use_threads
from agents.cli.train import Train
from agents.memory import peak_memory_mb

if TYPE_CHECKING:
    from agents.evaluate import Evaluation
    from agents.policies.causal_lm import CausalLMPolicy
    from zs_env.search.engine import SearchEngine
    from zs_env.task.questions import Question

RESULTS_FILE = "demo.json"
NOISE = 0.5
TRAINED = "trained"
LEFT_OUT = "the evaluation and the table come from another `zerosearch demo`"


@dataclass(frozen=True)
class Demo:
    """Train a tiny policy to search, with a tiny language model as the search engine.

    - Evaluates base, in which bad habits were planted, and skill, the same policy before that.
    - Trains base with GRPO, while documents get noisier (0 to 0.5), and evaluates it again.
    - Shows all results in one table, and writes demo.json beside what `train` writes.

    Attributes:
        steps: Updates of training.
        seed: Key of everything random.
        num_questions: Test questions an evaluation; 0 means all.
        noisy_questions: Test questions of the evaluations with noise 0.5 and without documents; 0
            means all.
        hard_questions: Questions of the hard set; 0 means all.
        train_questions: Questions an update.
        group_size: Episodes a question and update.
        eval_every: Updates between evaluations on validation questions; 0 means never.
        eval_questions: Validation questions of such an evaluation; 0 means all.
    """

    steps: int = 30
    seed: int = 0
    out: Annotated[
        Path, arg(metavar="DIR", help="The run's folder; an earlier run in it is replaced.")
    ] = Path("runs/demo")
    num_questions: int = 0
    noisy_questions: int = 300
    hard_questions: int = 200
    train_questions: int = 16
    group_size: int = 8
    eval_every: int = 10
    eval_questions: int = 200
    engine: EngineName = "simulator"
    policy: PolicyName = "base"
    skill: Annotated[
        str, arg(metavar="POLICY", help="The policy to compare with; named like --policy.")
    ] = "skill"
    threads: Threads = 0

    def run(self) -> None:
        """Evaluate, train, evaluate again, and show the difference."""
        start, console = time.perf_counter(), Console()
        with usage_errors():
            threads = use_threads(self.threads)
            setup = prepare(self)
        _announce(self, setup, threads, console)
        results = list(_sit(setup.before, setup.exams[:-1], self.seed, console))
        trained, seconds = _train(self, setup, threads, console)
        if trained is None:
            return
        results += _sit({TRAINED: trained}, setup.exams, self.seed, console)
        summary = describe(self, results, threads, seconds, time.perf_counter() - start)
        write_json(self.out / RESULTS_FILE, summary)
        _conclude(self, results, summary, console)


@dataclass(frozen=True)
class Exam:
    """One evaluation that policies sit: a column of the final table.

    Attributes:
        column: Heading.
        engine_name: What `--engine` calls the engine.
        engine: What answers queries.
        question_set: Where the questions come from.
        questions: What is asked.
        noise: Probability of noisy documents.
    """

    column: str
    engine_name: str
    engine: SearchEngine
    question_set: str
    questions: tuple[Question, ...]
    noise: float = 0.0


@dataclass(frozen=True)
class Result:
    """How a policy did in an exam, and how long it took."""

    policy: str
    exam: Exam
    evaluation: Evaluation
    seconds: float


@dataclass(frozen=True)
class Setup:
    """What a checked configuration stands for, loaded; nothing has been written yet.

    Attributes:
        before: Policies to evaluate before training, by the name of their row.
        exams: The last one, without documents, is for the trained policy alone.
        training: The configuration of training.
        training_setup: The same, loaded.
    """

    before: dict[str, CausalLMPolicy]
    exams: tuple[Exam, ...]
    training: Train
    training_setup: train_setup.Setup


def prepare(config: Demo) -> Setup:
    """Check every option and load what they name.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        FileNotFoundError: If there is no model where one should be.
    """
    check_at_least(0, noisy_questions=config.noisy_questions, hard_questions=config.hard_questions)
    check_at_least(1, train_questions=config.train_questions)
    training = Train(
        engine=config.engine,
        policy=config.policy,
        steps=config.steps,
        num_questions=config.train_questions,
        group_size=config.group_size,
        seed=config.seed,
        out=str(config.out),
        noise_end=NOISE,
        eval_every=config.eval_every,
        eval_questions=config.eval_questions,
        threads=config.threads,
    )
    loaded = train_setup.prepare(training)
    before = {
        "skill": load_policy(config.skill),
        "base": load_policy(config.policy),
    }
    return Setup(before, make_exams(config), training, loaded)


def make_exams(config: Demo) -> tuple[Exam, ...]:
    """Return the columns of the final table, all on test questions; "no documents" is the last."""

    def questions(name: str, num: int) -> tuple[str, tuple[Question, ...]]:
        return name, load_questions(name, "test", num, config.seed)

    simulator = (config.engine, load_engine(config.engine))
    everything = questions("miniwiki", config.num_questions)
    some = questions("miniwiki", config.noisy_questions)
    hard = questions("miniwiki-hard", config.hard_questions)
    return (
        Exam(config.engine, *simulator, *everything),
        Exam("bm25", "bm25", load_engine("bm25"), *everything),
        Exam(f"{config.engine}\nnoise {NOISE}", *simulator, *some, noise=NOISE),
        Exam(f"{config.engine}\nhard set", *simulator, *hard),
        Exam("no\ndocuments", "empty", load_engine("empty"), *some),
    )


def _announce(config: Demo, setup: Setup, threads: int, console: Console) -> None:
    from agents.cli.display import say

    episodes = config.train_questions * config.group_size
    test = len(setup.exams[0].questions)
    say(console, f"zerosearch demo · {cpu_model()} · torch threads: {threads} · seed {config.seed}")
    say(console, f"1. evaluate {config.skill} and {config.policy} on {test} test questions")
    say(
        console,
        f"2. train {config.policy}: {config.steps} GRPO updates of {episodes} episodes, "
        f"noise 0 to {NOISE}",
    )
    say(console, f"3. evaluate it again; results: {config.out}\n")
    for warning in noise_warnings(config.engine, setup.exams[0].engine, NOISE):
        say(console, warning)


def _sit(
    policies: Mapping[str, CausalLMPolicy], exams: Sequence[Exam], seed: int, console: Console
) -> Iterator[Result]:
    """Let every policy sit every exam, and say how each went."""
    for name, policy in policies.items():
        for exam in exams:
            start = time.perf_counter()
            label = f"{name}, {_flat(exam.column)}"
            evaluation = measure(
                policy, exam.engine, exam.questions, Conditions(exam.noise, seed), console, label
            )
            result = Result(name, exam, evaluation, time.perf_counter() - start)
            _report(label, result, console)
            yield result


def _report(label: str, result: Result, console: Console) -> None:
    from agents.cli.display import say

    evaluation = result.evaluation
    low, high = evaluation.exact_match_interval
    say(
        console,
        f"{label:<28}  EM {evaluation.mean('exact_match'):.3f} [{low:.2f}, {high:.2f}]"
        f"{len(evaluation.records):>6} questions {result.seconds:>6.1f} s",
    )


def _train(
    config: Demo, setup: Setup, threads: int, console: Console
) -> tuple[CausalLMPolicy | None, float]:
    """Train, and return the trained policy, None if it was stopped, and the seconds that took."""
    console.print()
    start = time.perf_counter()
    finished = train_run.execute(setup.training, setup.training_setup, console, threads, LEFT_OUT)
    console.print()
    return setup.training_setup.policy if finished else None, time.perf_counter() - start


def describe(
    config: Demo, results: Sequence[Result], threads: int, training_s: float, wall_s: float
) -> dict[str, Any]:
    """Return everything that was measured, and on what, as JSON values."""
    from agents.metrics import read_metrics
    from agents.policies.folders import find_policy

    updates = [row["time/step_s"] for row in read_metrics(config.out)]
    return {
        "command": command_line(config),
        "config": asdict(config) | {"out": str(config.out), "threads": threads},
        "weights_sha256": {
            name: weights_checksum(find_policy(name)) for name in (config.skill, config.policy)
        },
        "evaluations": [_describe_result(result, config.seed) for result in results],
        "training": {
            "updates": len(updates),
            "seconds": round(training_s, 1),
            "median_update_seconds": round(statistics.median(updates), 2),
        },
        "wall_seconds": round(wall_s, 1),
        "peak_memory_mb": round(peak_memory_mb()),
        "machine": machine(threads),
        **provenance(),
    }


def _describe_result(result: Result, seed: int) -> dict[str, Any]:
    exam = result.exam
    return {
        "policy": result.policy,
        "engine": exam.engine_name,
        "noise": noise_made(exam.engine, exam.noise),
        "questions": exam.question_set,
        "split": "test",
        "seed": seed,
        "seconds": round(result.seconds, 1),
        **result.evaluation.summary(),
    }


def _conclude(
    config: Demo, results: Sequence[Result], summary: Mapping[str, Any], console: Console
) -> None:
    from agents.callbacks import CURVE_FILE
    from agents.cli.display import comparison_table, say

    rows: dict[str, dict[str, Evaluation]] = {}
    for result in results:
        label = _row_label(result.policy, config)
        rows.setdefault(label, {})[result.exam.column] = result.evaluation
    columns = list(dict.fromkeys(result.exam.column for result in results))
    console.print(comparison_table(columns, rows, "Held-out test questions, before and after"))
    minutes, seconds = divmod(round(summary["wall_seconds"]), 60)
    training = summary["training"]
    say(
        console,
        "Greedy, each question once; below each exact match its 95 % interval.\n\n"
        f"searched again  {_searched_again(results)}\n"
        f"questions       {_question_counts(results)}\n"
        f"wall time       {minutes} min {seconds} s, training {training['seconds']} s "
        f"({training['median_update_seconds']} s an update)\n"
        f"peak memory     {summary['peak_memory_mb']} MB\n"
        f"learning curve  {config.out / CURVE_FILE}\n"
        f"all numbers     {config.out / RESULTS_FILE}",
    )


def _searched_again(results: Sequence[Result]) -> str:
    """Return how often each policy searched again after noisy documents."""
    shares = [
        f"{result.policy} {share:.0%}"
        for result in results
        if (share := result.evaluation.searched_again_share) is not None
    ]
    return f"after noisy documents: {', '.join(shares) or 'there were none'}"


def _question_counts(results: Sequence[Result]) -> str:
    """Return how many questions there were, and in which columns."""
    columns: dict[int, dict[str, None]] = {}
    for result in results:
        columns.setdefault(len(result.exam.questions), {})[_flat(result.exam.column)] = None
    return ", ".join(f"{count} ({', '.join(names)})" for count, names in columns.items())


def _flat(column: str) -> str:
    return column.replace("\n", " ")


def _row_label(policy: str, config: Demo) -> str:
    labels = {
        "skill": f"{config.skill}\n(before weakness)",
        "base": f"{config.policy}\n(before training)",
        TRAINED: f"trained\n({config.steps} updates)",
    }
    return labels[policy]

"""`zerosearch bench`: agents against each other, on the same questions, with every engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Annotated, Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from agents.cli.checks import check_at_least, check_folder, check_input, usage_errors
from agents.cli.files import write_json
from agents.cli.options import Threads
from agents.cli.provenance import commit, machine, provenance, weights_checksum
from agents.cli.threads import use_threads

ENV_ID: Final = "ZeroSearch-v0"
"""The environment that a table need not name."""

_TITLE: Final = "Exact match, 95 % intervals"
_INTERVAL: Final = len("0.00–0.00")
_EDGES: Final = 2  # characters that the style of our tables takes at both ends together
_GAP: Final = 3  # and between two columns

if TYPE_CHECKING:
    from agents.bench.config import BenchConfig
    from agents.bench.plan import Chunk, EpisodeKey
    from agents.bench.rows import Condition, EpisodeRow
    from zs_env.task.questions import Question


@dataclass(frozen=True)
class Bench:
    """Let agents answer the same questions under all conditions of a YAML file, and report.

    A run that was stopped goes on where it was when the same command is given again.

    Attributes:
        workers: Processes at a time, each with one thread; 1 plays in this process.
        chunk_size: Questions played side by side; a kill loses so many a worker at most.
        retry_failed: Play episodes again that failed before.
        dry_run: Say what is done and what would be played, and play nothing.
    """

    file: Annotated[
        Positional[Path], arg(metavar="FILE", help="Describes the benchmark; docs/benchmarks.md.")
    ]
    out: Annotated[
        Path, arg(metavar="DIR", help="Gets episodes.jsonl, results.json and the report.")
    ]
    workers: int = 2
    chunk_size: int = 50
    retry_failed: bool = False
    dry_run: bool = False
    threads: Threads = 0

    def run(self) -> None:
        """Play what is missing, and write results and report."""
        from agents.bench.store import append_rows
        from agents.experiments.run_files import claimed

        console = Console()
        with usage_errors():
            setup = prepare(self)
        if self.dry_run:
            with usage_errors():
                show_plan(self, setup, console)
            return
        with ExitStack() as stack:
            with usage_errors():
                stack.enter_context(claimed(self.out))
                done = begin(self, setup)
            for rows in play(self, setup, done, console):
                append_rows(self.out, rows)
            finish(self, setup, console)


@dataclass(frozen=True)
class Setup:
    """What a checked command stands for; nothing has been written yet.

    Attributes:
        config: What the file says.
        questions: What all agents are asked.
        weights: Checksums of the agents' models, by what the benchmark calls the agents.
        engines: Checksums of the models and files of engines, by the engines' names.
    """

    config: BenchConfig
    questions: tuple[Question, ...]
    weights: dict[str, str]
    engines: dict[str, list[str]]


def prepare(command: Bench) -> Setup:
    """Check every option and read the file.

    Raises:
        ValueError: If an option or the file is wrong.
        OSError: If a file or model is missing.
    """
    from agents.baselines.registry import policy_of
    from agents.bench.config import read_config
    from agents.bench.engines import engine_sources

    check_at_least(1, workers=command.workers, chunk_size=command.chunk_size)
    check_folder(command.out)
    check_input(command.file, "file")
    config = read_config(command.file)
    models = {label: policy_of(name) for label, name in config.agents.items()}
    weights = {label: _checksum(model) for label, model in models.items() if model}
    sources = {name: engine_sources(name) for name in config.engines}
    engines = {name: list(map(_checksum, paths)) for name, paths in sources.items() if paths}
    return Setup(config, config.load_questions(), weights, engines)


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a file, or of the weights in a model folder."""
    from zs_env.search.build_once import default_folder, file_digest

    return weights_checksum(path) if path.is_dir() else file_digest(path, default_folder())


def identity(setup: Setup) -> dict[str, dict[str, Any]]:
    """Return all that decides an episode beside its condition and its question."""
    config = setup.config
    settings = config.env_kwargs() | {
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
    }
    return {
        "settings": settings,
        "agents": dict(config.agents),
        "weights_sha256": setup.weights,
        "engines_sha256": setup.engines,
    }


def begin(command: Bench, setup: Setup) -> Collection[EpisodeKey]:
    """Make the folder this benchmark's, and return the episodes that are there.

    Raises:
        ValueError: If the folder is another benchmark's, or its files cannot be read.
    """
    from agents.bench.store import check_identity, cut_torn_row, drop_failed, read_rows

    check_identity(command.out, identity(setup))
    cut_torn_row(command.out)
    rows = read_rows(command.out, setup.questions)
    if command.retry_failed and drop_failed(command.out, rows):
        rows = read_rows(command.out, setup.questions)
    return rows.keys()


def left(command: Bench, setup: Setup, done: Collection[EpisodeKey]) -> list[Chunk]:
    """Return what is left to play."""
    from agents.bench.plan import missing_chunks

    return list(missing_chunks(setup.config, setup.questions, done, command.chunk_size))


def play(
    command: Bench, setup: Setup, done: Collection[EpisodeKey], console: Console
) -> Iterator[list[EpisodeRow]]:
    """Play what is left under a progress bar, and yield the rows of each chunk as it ends."""
    from agents.cli.display import progress_bar, say

    chunks = left(command, setup, done)
    total = sum(len(chunk.questions) for chunk in chunks)
    say(console, f"{total} episodes to play, {num_episodes(setup) - total} are there")
    for note in notes(setup.config):
        say(console, note)
    with progress_bar(console, "episodes", total) as advance:
        for rows in _played(command, setup.config, chunks):
            yield rows
            advance(len(rows))


def _played(
    command: Bench, config: BenchConfig, chunks: Sequence[Chunk]
) -> Iterator[list[EpisodeRow]]:
    from agents.bench.play import ChunkTask, failed_rows, play_chunk
    from agents.experiments.workers import outcomes

    if command.workers == 1:
        threads = use_threads(command.threads) if chunks else 1
        for chunk in chunks:
            yield play_chunk(ChunkTask(config, chunk, threads))
        return
    tasks = [ChunkTask(config, chunk, num_threads=1) for chunk in chunks]
    for outcome in outcomes(play_chunk, tasks, command.workers):
        if outcome.error:  # the process died: whatever Python can catch is in the rows
            why = outcome.error.strip().splitlines()[-1]
            yield failed_rows(outcome.task.chunk, why)
        else:
            yield outcome.result


def num_episodes(setup: Setup) -> int:
    """Return how many episodes the whole benchmark has."""
    from agents.bench.plan import conditions

    return len(conditions(setup.config)) * len(setup.questions)


def notes(config: BenchConfig) -> list[str]:
    """Return what of the file is not played as one might expect."""
    from agents.bench.engines import writes_noise

    silent = [name for name in config.engines if not writes_noise(name)]
    if not silent or config.noise == (0.0,):
        return []
    return [f"played at noise 0 only, as nobody can ask them for noise: {', '.join(silent)}"]


def show_plan(command: Bench, setup: Setup, console: Console) -> None:
    """Print what is done and what is left."""
    from agents.bench.plan import conditions
    from agents.bench.store import read_rows
    from agents.cli.display import say

    done = read_rows(command.out, setup.questions)
    missing: dict[Condition, int] = {}
    for chunk in left(command, setup, done):
        missing[chunk.condition] = missing.get(chunk.condition, 0) + len(chunk.questions)
    for condition in conditions(setup.config):
        where = f"{condition.agent} · {condition.engine} · noise {condition.noise:g}"
        count = missing.get(condition, 0)
        what = f"{count} to play" if count else "done"
        say(console, f"{where} · seed {condition.seed} · {condition.environment}: {what}")
    for note in notes(setup.config):
        say(console, note)
    say(console, f"{sum(missing.values())} of {num_episodes(setup)} episodes to play")


def finish(command: Bench, setup: Setup, console: Console) -> None:
    """Write results and report, and say where they are and what failed."""
    from agents.bench.failures import failure_lines
    from agents.bench.report import PAGE_FILE, write_report
    from agents.bench.results import summarise
    from agents.bench.rows import RESULTS_FILE
    from agents.bench.store import FAILED
    from agents.cli.display import say
    from agents.pages.visible import visible

    rows = wanted_rows(command, setup)
    results = {
        "benchmark": command.file.stem,
        "config": setup.config.as_json(),
        **summarise(rows),
        "provenance": describe(command, setup),
    }
    write_json(command.out / RESULTS_FILE, results)
    write_report(command.out)
    for table in results_tables(results["conditions"], console.width):
        console.print(table)
    if failed := sum(row.stop_reason == FAILED for row in rows):
        say(
            console, f"{failed} episodes failed and count as wrong; --retry-failed plays them again"
        )
        for line in failure_lines(rows):
            say(console, f"  {visible(line)}")
    say(console, f"report: {command.out / PAGE_FILE}; all numbers: {command.out / RESULTS_FILE}")


def results_tables(conditions: Sequence[Mapping[str, Any]], width: int) -> list[Table]:
    """Return exact match with its interval: a row an agent, a column a condition.

    Where not all conditions fit beside each other, each table has some of them.

    Args:
        conditions: As results.json has them.
        width: Of the terminal, in characters; at least 27, or numbers are cut off.
    """
    agents = list(dict.fromkeys(each["agent"] for each in conditions))
    cells = {(e["agent"], _column(e)): _cell(e["metrics"]["exact_match"]) for e in conditions}
    columns = list(dict.fromkeys(map(_column, conditions)))
    tables: list[Table] = []
    for block in _blocks(columns, width - _EDGES - _fit("agent", *agents, width=width), width):
        table = _empty_table(agents, block, width, "" if tables else _TITLE)
        for agent in agents:
            table.add_row(Text(agent), *(cells.get((agent, each), Text("–")) for each in block))
        tables.append(table)
    return tables


def _blocks(columns: Sequence[str], room: int, width: int) -> list[list[str]]:
    """Return the columns in parts that fit into the room beside the agents."""
    blocks: list[list[str]] = [[]]
    left = room
    for column in columns:
        needed = _GAP + _fit(column, width=width)
        if blocks[-1] and needed > left:
            blocks.append([])
            left = room
        blocks[-1].append(column)
        left -= needed
    return blocks


def _fit(*texts: str, width: int) -> int:
    """Return how wide a column is made: names that take over a third of the width are folded."""
    longest = max(cell_len(line) for text in texts for line in text.splitlines())
    return max(min(longest, width // 3), _INTERVAL)


def _empty_table(agents: Sequence[str], columns: Sequence[str], width: int, title: str) -> Table:
    from agents.cli.display import new_table

    table = new_table(title)
    table.add_column("agent", width=_fit("agent", *agents, width=width), overflow="fold")
    for column in columns:
        size = _fit(column, width=width)
        table.add_column(Text(column), justify="right", width=size, overflow="fold")
    return table


def _column(condition: Mapping[str, Any]) -> str:
    where = "" if condition["environment"] == ENV_ID else condition["environment"]
    noise = f"noise {condition['noise']:g}" if condition["noise"] else ""
    return "\n".join(filter(None, (where, condition["engine"], noise)))


def _cell(mean: Mapping[str, float]) -> Text:
    value = Text(f"{mean['mean']:.3f}", style="bold")
    return value.append(f"\n{mean['low']:.2f}–{mean['high']:.2f}", style="not bold dim")


def wanted_rows(command: Bench, setup: Setup) -> list[EpisodeRow]:
    """Return the episodes that the file asks for, in the order of its conditions."""
    from agents.bench.plan import conditions
    from agents.bench.store import read_rows

    order = {condition: place for place, condition in enumerate(conditions(setup.config))}
    asked = {(each.data_source, each.id) for each in setup.questions}
    found = read_rows(command.out, setup.questions).values()
    rows = [row for row in found if (row.data_source, row.question_id) in asked]
    wanted = [row for row in rows if row.condition in order]
    return sorted(wanted, key=lambda row: order[row.condition])


def describe(command: Bench, setup: Setup) -> dict[str, Any]:
    """Return where the numbers come from, as JSON values."""
    threads = 1 if command.workers > 1 else command.threads
    return {
        **provenance(),
        "commit": commit(),
        "command": join(["zerosearch", "bench", str(command.file), "--out", str(command.out)]),
        "workers": command.workers,
        "machine": machine(threads),
        "weights_sha256": setup.weights,
        "engines_sha256": setup.engines,
    }

"""How results look on a terminal: tables that read well without colour, at 80 columns and up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agents.evaluate import Evaluation


def say(console: Console, text: str) -> None:
    """Print plain text: nothing in it is markup, and the terminal wraps it, not we."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def new_table(title: str = "") -> Table:
    """Return an empty table in the one style of all commands."""
    return Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )


def evaluation_table(evaluation: Evaluation, title: str) -> Table:
    """Return the results by number of hops, and all of them together."""
    table = new_table(title)
    table.add_column("hops")
    for name in ("questions", "exact match", "95 % interval", "F1", "searches", "invalid\nactions"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, part in evaluation.by_hops().items():
        table.add_row(*_evaluation_row(name, part))
    table.add_section()
    table.add_row(*_evaluation_row("all", evaluation))
    return table


def _evaluation_row(name: str, evaluation: Evaluation) -> tuple[str, ...]:
    return (
        name,
        str(len(evaluation.records)),
        f"{evaluation.mean('exact_match'):.3f}",
        interval_text(evaluation),
        f"{evaluation.mean('f1'):.3f}",
        f"{evaluation.mean('searches'):.2f}",
        f"{evaluation.summary()['invalid_share']:.1%}",
    )


def interval_text(evaluation: Evaluation) -> str:
    """Return the 95 % interval of the exact-match rate."""
    low, high = evaluation.exact_match_interval
    return f"{low:.3f} – {high:.3f}"


def comparison_table(
    columns: Sequence[str], rows: Mapping[str, Mapping[str, Evaluation]], title: str
) -> Table:
    r"""Return exact match, with its interval below, of every row in every column.

    Args:
        columns: Headings; "\n" breaks a line.
        rows: For each row's name its evaluations by column; what is missing shows as a dash.
        title: Stands above.
    """
    table = new_table(title)
    table.add_column("exact match")
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    for name, evaluations in rows.items():
        cells = [_cell(evaluations.get(column)) for column in columns]
        table.add_row(Text(name), *cells)
        table.add_row()
    return table


def _cell(evaluation: Evaluation | None) -> Text:
    if evaluation is None:
        return Text("–\n")
    value = Text(f"{evaluation.mean('exact_match'):.3f}", style="bold")
    low, high = evaluation.exact_match_interval
    return value.append(f"\n{low:.2f}–{high:.2f}", style="not bold dim")


@contextmanager
def progress_bar(console: Console, label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while the body runs, on a terminal only; yields what to call with each advance."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda advance: bar.advance(task, advance)

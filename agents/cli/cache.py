"""`zerosearch cache`: look into a file of recorded replies, and carry replies from one to another.

`--cache` of other commands, or an engine called `cached:FILE#ENGINE`, makes such files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg, subcommand

from agents.cli.checks import check_file, usage_errors
from zs_env.search.description import canonical
from zs_env.search.recorded import (
    CacheError,
    Reply,
    Source,
    SourceSummary,
    check_text,
    encode_documents,
    encode_request,
    read_documents,
    read_request,
    request_key,
)
from zs_env.search.store import ReplyStore

CacheArgument = Annotated[Positional[Path], arg(metavar="FILE", help="The file of replies.")]

_DIGITS: Final = 12  # of an engine's digest: enough to tell engines apart
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999: dates go no further
_BATCH: Final = 1000  # replies a transaction, so that others who write wait for moments only


@dataclass(frozen=True)
class Show:
    """List the engines whose replies a file holds, and how many."""

    file: CacheArgument

    def run(self) -> None:
        """Print a table, and what is known of each engine."""
        from agents.cli.display import say

        console = Console()
        with usage_errors(), closing(ReplyStore(self.file, read_only=True)) as store:
            summaries = store.summaries()
        console.print(engine_table(summaries, f"{self.file} · {shown_size(file_size(self.file))}"))
        for each in summaries:
            say(console, f"{each.source.digest[:_DIGITS]}: {each.source.description}")


@dataclass(frozen=True)
class Export:
    """Write everything that a file of replies holds as JSON, a reply a line.

    A line stands for itself: lines may be left out, sorted and joined.
    """

    file: CacheArgument
    output: Annotated[Path, arg(metavar="FILE", help="Gets a JSON object a reply.")]

    def run(self) -> None:
        """Write the file, whole or not at all."""
        from agents.cli.display import say
        from agents.tuning.records import write_records

        with closing(ReplyStore(self.file, read_only=True)) as store:
            with usage_errors():
                store.check()
                check_file(self.output, "output")
                if self.output.resolve() == store.path.resolve():
                    raise ValueError(f"`output` must be another file, got {str(self.output)!r}")
            lines = (as_json(source, reply) for source, reply in store.replies())
            write_records(self.output, lines)
            num = sum(each.num_requests for each in store.summaries())
        say(Console(), f"{shown_count(num, 'reply', 'replies')}: {self.output}")


@dataclass(frozen=True)
class Import:
    """Add the replies of an export to a file of replies, which is made if need be.

    Nothing is added if a line is wrong, which takes reading the file twice. Replies that are there
    already stay as they are.
    """

    file: CacheArgument
    input: Annotated[Path, arg(metavar="FILE", help="What `zerosearch cache export` wrote.")]

    def run(self) -> None:
        """Check every line, then add them."""
        from agents.cli.display import say

        with usage_errors():
            check_file(self.file, "file")
            if self.input.exists() and not self.input.is_file():
                raise ValueError(f"`input` must be a file, got {str(self.input)!r}")
        with closing(ReplyStore(self.file)) as store:
            with usage_errors():
                store.check()
                for _ in read_lines(self.input):
                    pass
            report = merge(store, read_lines(self.input))
        say(Console(), f"{report}: {self.file}")


def as_json(source: Source, reply: Reply) -> dict[str, Any]:
    """Return a reply and whose it is, as JSON values."""
    return {
        "engine": json.loads(source.description),
        "names": list(source.names),
        "created": reply.created,
        "request": asdict(reply.request),
        "documents": [asdict(document) for document in reply.documents],
    }


def from_json(row: Mapping[str, Any]) -> tuple[Source, Reply]:
    """Return the reply that `as_json` gave, and whose it is.

    Raises:
        ValueError: If it is none; the message names the field that is wrong.
    """
    from agents.tuning.records import take

    names = take(row, "names", list)
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"`names` must be texts, got {names!r:.80}")
    created = take(row, "created", int)
    if created < 0:
        raise ValueError(f"`created` must be at least 0, got {created!r}")
    if created > _LAST_SECOND:
        raise ValueError(f"`created` must be at most {_LAST_SECOND}, got {created!r:.80}")
    request = read_request(take(row, "request", dict))
    documents = read_documents(take(row, "documents", list))
    description = canonical(take(row, "engine", dict))
    try:
        check_text("".join([description, *names]), "engine")
        encode_request(request)
        encode_documents(documents)
    except CacheError as error:
        raise ValueError(str(error)) from error
    return Source(description, tuple(names)), Reply(request, documents, created)


def read_lines(path: Path) -> Iterator[tuple[Source, Reply]]:
    """Yield the reply of each line, and whose it is.

    Raises:
        DataError: If a line is none; the message names file and line.
    """
    from agents.tuning.records import located, read_json_lines

    for number, row in read_json_lines(path):
        with located(path, number):
            reply = from_json(row)
        yield reply


@dataclass
class MergeReport:
    """How many replies were added, were there, and were there with other documents."""

    num_added: int = 0
    num_known: int = 0
    num_different: int = 0

    def __str__(self) -> str:
        """Return that in one line."""
        added = shown_count(self.num_added, "reply", "replies")
        different = f", {self.num_different} of them with other documents, which stay"
        return f"{added} added, {self.num_known} were there{different * bool(self.num_different)}"


def merge(store: ReplyStore, replies: Iterator[tuple[Source, Reply]]) -> MergeReport:
    """Add replies to a store, and count what was new.

    Raises:
        CacheError: If the store cannot be written.
    """
    report = MergeReport()
    while batch := list(islice(replies, _BATCH)):
        for source, group in groupby(batch, key=lambda pair: pair[0]):
            _merge_group(store, source, [reply for _, reply in group], report)
    return report


def _merge_group(
    store: ReplyStore, source: Source, replies: list[Reply], report: MergeReport
) -> None:
    keys = [request_key(source, reply.request) for reply in replies]
    known = store.find(keys)
    kept = store.add(source, replies)
    report.num_added += len(kept) - len(known)
    report.num_known += len(replies) - len(kept) + len(known)
    pairs = zip(keys, replies, strict=True)
    report.num_different += sum(kept[key] != reply.documents for key, reply in pairs)


def engine_table(summaries: list[SourceSummary], title: str) -> Table:
    """Return what there is of each engine, and of all of them together."""
    from agents.cli.display import new_table

    table = new_table(title)
    table.add_column("engine", overflow="fold")
    table.add_column("digest", no_wrap=True)
    for name in ("requests", "documents", "oldest", "newest"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in summaries:
        name = ", ".join(each.source.names) or "unnamed"
        table.add_row(Text(name), each.source.digest[:_DIGITS], *_cells([each]))
    table.add_section()
    table.add_row("all", "", *_cells(summaries))
    return table


def _cells(summaries: list[SourceSummary]) -> list[str]:
    oldest = min((each.oldest for each in summaries if each.oldest is not None), default=None)
    newest = max((each.newest for each in summaries if each.newest is not None), default=None)
    return [
        str(sum(each.num_requests for each in summaries)),
        str(sum(each.num_documents for each in summaries)),
        shown_date(oldest),
        shown_date(newest),
    ]


def shown_date(seconds: int | None) -> str:
    """Return the day, in UTC.

    Example:
        >>> shown_date(0), shown_date(None)
        ('1970-01-01', '–')
    """
    return "–" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def shown_count(number: int, one: str, many: str) -> str:
    """Return a number and what it counts.

    Example:
        >>> shown_count(1, "reply", "replies"), shown_count(0, "reply", "replies")
        ('1 reply', '0 replies')
    """
    return f"{number} {one if number == 1 else many}"


def file_size(path: Path) -> int:
    """Return the bytes of a file of replies, with those that were not moved into it yet."""
    log = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)


def shown_size(size: int) -> str:
    """Return a number of bytes as people read it.

    Example:
        >>> shown_size(999), shown_size(2_340_000)
        ('999 B', '2.3 MB')
    """
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


@dataclass(frozen=True)
class Cache:
    """Look into files of recorded replies (`--cache`), and carry replies between them."""

    command: (
        Annotated[Show, subcommand("show")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Import, subcommand("import")]
    )

    def run(self) -> None:
        """Run the command below this one."""
        self.command.run()

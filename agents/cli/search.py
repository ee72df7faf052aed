"""`zerosearch search`: one look at what a search engine finds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from tyro.conf import Positional, UseAppendAction, arg

from agents.cli.checks import check_at_least, usage_errors
from agents.cli.display import say
from agents.cli.options import EngineName, Threads, load_engine
from agents.cli.threads import needs_torch, use_threads
from zs_env.rendering import showable
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.search.registry import makes_noise, search_all


@dataclass(frozen=True)
class Search:
    """Ask a search engine one query, and look at its documents.

    Attributes:
        noise: Ask for noisy documents; real engines ignore it.
        top_k: Documents wanted.
        seed: Key of what the engine draws.
        json: Print one JSON object instead.
    """

    query: Positional[Annotated[str, arg(metavar="QUERY", help="What is searched for.")]]
    engine: EngineName = "simulator"
    question: Annotated[
        str,
        arg(
            metavar="TEXT",
            help="The question behind the query, which a simulator is told; empty means that the "
            "query is the question.",
        ),
    ] = ""
    answer: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(
            metavar="TEXT",
            help="An accepted answer of the question, which a simulator is told; may be repeated.",
        ),
    ] = ()
    noise: bool = False
    kind: Annotated[
        str,
        arg(
            metavar="KIND",
            help=f"Ask for documents that are noisy in this way: {', '.join(NoiseKind)}.",
        ),
    ] = ""
    top_k: int = 3
    seed: int = 0
    json: bool = False
    threads: Threads = 0

    def run(self) -> None:
        """Ask, and print what comes."""
        with usage_errors():
            request = read_request(self)
            if needs_torch(self.engine):
                use_threads(self.threads)
            engine = load_engine(self.engine)
        start = time.perf_counter()
        [documents] = search_all(engine, [request])
        seconds = time.perf_counter() - start
        if request.noisy and not makes_noise(engine):  # it was asked, and found what there is
            request = replace(request, noisy=False, noise_kind=None)
        answered = Answered(self.engine, request, tuple(documents), seconds)
        if self.json:
            sys.stdout.write(json.dumps(answered.as_json()) + "\n")
        else:
            show(answered, Console(highlight=False))


@dataclass(frozen=True, slots=True)
class Answered:
    """What was asked, and what came.

    Attributes:
        engine: Its name.
        request: What was asked.
        documents: What it found.
        seconds: How long it took, without loading.
    """

    engine: str
    request: SearchRequest
    documents: tuple[Document, ...]
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {
            "engine": self.engine,
            **asdict(self.request),
            "seconds": round(self.seconds, 6),
            "documents": [asdict(document) for document in self.documents],
        }


def read_request(config: Search) -> SearchRequest:
    """Return the request that the options describe.

    Raises:
        ValueError: If one is out of its range.
    """
    check_at_least(1, top_k=config.top_k)
    check_at_least(0, seed=config.seed)
    kinds = list(NoiseKind)
    if config.kind and config.kind not in kinds:
        raise ValueError(f"`kind` must be one of {', '.join(kinds)}, got {config.kind!r}")
    return SearchRequest(
        query=config.query,
        question=config.question or config.query,
        golden_answers=tuple(config.answer),
        noisy=config.noise or bool(config.kind),
        seed=config.seed,
        top_k=config.top_k,
        noise_kind=NoiseKind(config.kind) if config.kind else None,
    )


def show(answered: Answered, console: Console) -> None:
    """Print the documents as panels, and a line about them."""
    for number, document in enumerate(answered.documents, start=1):
        console.print(_panel(document, number))
    badge = badge_of(answered.request)
    style = "yellow" if answered.request.noisy else "green"
    line = Text.assemble(
        (f" {badge} ", f"reverse {style}"),
        f" {answered.engine} · {found_text(answered.documents)} · {answered.seconds * 1000:.1f} ms",
    )
    console.print(line, soft_wrap=True)
    if not answered.documents:
        say(console, "nothing found")


def badge_of(request: SearchRequest) -> str:
    """Return in a word or two which documents were asked for.

    Example:
        >>> badge_of(SearchRequest("q", noisy=True, noise_kind=NoiseKind.NEAR_MISS))
        'noisy: near-miss'
    """
    if not request.noisy:
        return "useful"
    return f"noisy: {request.noise_kind}" if request.noise_kind else "noisy"


def found_text(documents: Sequence[Document]) -> str:
    """Return how many documents there are.

    Example:
        >>> found_text([Document("one")])
        '1 document'
    """
    return "1 document" if len(documents) == 1 else f"{len(documents)} documents"


def _panel(document: Document, number: int) -> Panel:
    # Titles are texts too: what a document says must not act on the terminal.
    heading = f"{number}. {showable(document.title)}" if document.title else f"{number}."
    body = Text(showable(document.text))
    return Panel(body, title=Text(heading, style="bold"), title_align="left", padding=(0, 1))

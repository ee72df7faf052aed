"""A language model that says whether documents help, and a file of what it said.

A judge costs time or money, so every verdict is written down before the next batch is asked, and
is not asked for again: neither after a kill nor when the same searches are labelled anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from agents.tuning.records import (
    NOISY,
    USEFUL,
    DataError,
    as_line,
    cut_torn_line,
    located,
    read_json_lines,
    take,
)
from zs_env.lm.generator import SamplingParams, TextGenerator
from zs_env.random import derive
from zs_env.search.engine import Document
from zs_env.task.questions import Question
from zs_env.wrappers import append_line

OPENING: Final = '{"judge": '
"""What every line of a file of verdicts begins with."""

_VERDICTS: Final = {"yes": USEFUL, "no": NOISY}
_REPLY: Final = re.compile(r"\W*(yes|no)\W*")

_PROMPT: Final = """\
A search engine was asked a query on the way to the answer of a question.

Question: {question}
Accepted answers: {answers}
Query: {query}
{documents}

Do these documents help: do they hold an accepted answer, or a fact that is needed to find it?
Reply with one word, yes or no.
Reply:"""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What a judge is asked about.

    Attributes:
        place: File and line that it comes from, for messages.
        question: What was asked.
        query: What was searched for.
        documents: What was found.
    """

    place: str
    question: Question
    query: str
    documents: tuple[Document, ...]

    @property
    def prompt(self) -> str:
        """What the judge reads."""
        return _PROMPT.format(
            question=_one_line(self.question.text),
            answers=_one_line(" | ".join(self.question.golden_answers)),
            query=_one_line(self.query),
            documents="\n".join(
                f"Document {number}: {_one_line(f'{document.title} {document.text}')}"
                for number, document in enumerate(self.documents, start=1)
            ),
        )

    @property
    def key(self) -> str:
        """What the file of verdicts calls it: a SHA-256 of the prompt."""
        return sha256(self.prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Judge:
    """Asks a language model whether documents help.

    Attributes:
        name: What the file of verdicts calls it.
        generator: The language model.
        num_attempts: How often it is asked for a yes or a no, at least 1: the first time without
            sampling, then with another seed each time.
        batch_size: Prompts of one call; a kill loses so many verdicts at most.
        max_new_tokens: Tokens of a reply at most.

    Raises:
        ValueError: If there would be no attempt, or nothing in a batch.
    """

    name: str
    generator: TextGenerator
    num_attempts: int = 3
    batch_size: int = 32
    max_new_tokens: int = 8

    def __post_init__(self) -> None:
        for name in ("num_attempts", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)!r}")

    def rule(
        self,
        exhibits: Sequence[Exhibit],
        file: Path,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> list[str]:
        """Return a label for each exhibit.

        Args:
            exhibits: What to judge. Where nothing was found nobody is asked: it is noisy.
            file: Gets one verdict a line, appended; what it holds is not asked again.
            on_progress: Called with the number of verdicts found, then with that of each batch.

        Raises:
            DataError: If a reply stayed neither yes nor no, or `file` holds something else.
        """
        cut_torn_line(file, OPENING)
        verdicts = dict(self._read(file))
        distinct: dict[str, Exhibit] = {}
        for exhibit in exhibits:
            if exhibit.documents:
                distinct.setdefault(exhibit.key, exhibit)
        waiting = [exhibit for key, exhibit in distinct.items() if key not in verdicts]
        on_progress(len(distinct) - len(waiting))
        for start in range(0, len(waiting), self.batch_size):
            batch = waiting[start : start + self.batch_size]
            verdicts |= self._rule_batch(batch, file)
            on_progress(len(batch))
        return [verdicts[e.key] if e.documents else NOISY for e in exhibits]

    def _read(self, file: Path) -> Iterator[tuple[str, str]]:
        """Yield the verdicts of this judge."""
        for number, row in read_json_lines(file) if file.is_file() else ():
            with located(file, number):
                by, key, label = (take(row, name, str) for name in ("judge", "prompt", "label"))
                if label not in _VERDICTS.values():
                    raise ValueError(f"`label` must be useful or noisy, got {label!r}")
            if by == self.name:
                yield key, label

    def _rule_batch(self, batch: Sequence[Exhibit], file: Path) -> Mapping[str, str]:
        """Return the labels of a batch by key, written down first; a nonsense reply has none."""
        replies: dict[str, str] = {}
        for attempt in range(self.num_attempts):
            waiting = [e for e in batch if parse_reply(replies.get(e.key, "")) is None]
            if waiting:
                replies |= self._ask(waiting, attempt)
        verdicts = {key: label for key, reply in replies.items() if (label := parse_reply(reply))}
        if verdicts:
            rows = [{"judge": self.name, "prompt": k, "label": v} for k, v in verdicts.items()]
            append_line(file, "\n".join(map(as_line, rows)))
        for exhibit in batch:
            if exhibit.key not in verdicts:
                raise DataError(
                    f"{exhibit.place}: the judge {self.name!r} must reply yes or no, got "
                    f"{replies[exhibit.key]!r} after {self.num_attempts} attempts"
                )
        return verdicts

    def _ask(self, exhibits: Sequence[Exhibit], attempt: int) -> dict[str, str]:
        """Return the reply to each exhibit by its key."""
        # The most likely reply first; after nonsense that would only repeat it.
        params = SamplingParams(self.max_new_tokens, 1.0 if attempt else 0.0, ("\n",))
        seeds = [derive(int(exhibit.key[:16], 16), attempt) for exhibit in exhibits]
        try:
            replies = self.generator.complete([e.prompt for e in exhibits], seeds, params)
        except ValueError as error:
            longest = max(exhibits, key=lambda exhibit: len(exhibit.prompt))
            raise DataError(f"{longest.place}: the judge cannot be asked: {error}") from error
        return {e.key: reply for e, reply in zip(exhibits, replies, strict=True)}


def parse_reply(reply: str) -> str | None:
    r"""Return the label that a reply stands for; None if it is not exactly a yes or a no.

    Example:
        >>> parse_reply(" Yes.\n"), parse_reply("no"), parse_reply("yes and no")
        ('useful', 'noisy', None)
    """
    found = _REPLY.fullmatch(reply.casefold())
    return _VERDICTS[found[1]] if found else None

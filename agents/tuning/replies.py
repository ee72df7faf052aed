"""Asking an engine, and keeping what it wrote, word for word where it can be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from agents.tuning.simulator_data import Draft
from zs_env.lm.transformers import TransformersLM
from zs_env.search.engine import Document, SearchEngine, SearchRequest
from zs_env.search.prompts import format_documents, parse_documents, split_documents
from zs_env.search.registry import search_all
from zs_env.search.simulator import SimulatedSearchEngine
from zs_env.task.miniwiki import Fact


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine returned.

    Attributes:
        documents: What an agent would read.
        raw: What a language model wrote; None for other engines.
    """

    documents: tuple[Document, ...]
    raw: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the documents."""
        return tuple(document.text for document in self.documents)

    @property
    def written(self) -> Sequence[str]:
        """The texts before repeated ones were left out, where that is known."""
        return self.texts if self.raw is None else split_documents(self.raw)

    @property
    def is_well_formed(self) -> bool | None:
        """Whether nothing but numbered documents was written; None if that is unknown."""
        return None if self.raw is None else self.raw.strip() == format_documents(self.written)


@dataclass(frozen=True, slots=True)
class Case:
    """A request and the replies to it.

    Attributes:
        request: What was asked.
        reply: What the engine returned that is measured.
        draft: What the request is about, where that is known.
        real: What a real engine returned for the same query; None if it was not asked.
    """

    request: SearchRequest
    reply: Reply
    draft: Draft | None = None
    real: Reply | None = None

    @property
    def fact(self) -> Fact:
        """The fact that is asked for; there must be one."""
        assert self.draft is not None
        assert self.draft.asked is not None
        return self.draft.asked


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast an engine answered.

    Attributes:
        num_requests: Requests it answered.
        seconds: Wall time that took.
        num_tokens: Tokens that it wrote; None if it is no language model at hand.
    """

    num_requests: int
    seconds: float
    num_tokens: int | None

    def as_json(self) -> dict[str, Any]:
        """Return totals and rates as JSON values."""
        seconds = max(self.seconds, 1e-9)
        tokens = None if self.num_tokens is None else self.num_tokens / seconds
        return {
            "num_requests": self.num_requests,
            "seconds": self.seconds,
            "requests_per_second": self.num_requests / seconds,
            "tokens_per_second": tokens,
        }


class Asker:
    """Asks an engine, and takes the time.

    Args:
        engine: What is measured.
        on_progress: Called with the number of requests that were answered.
    """

    def __init__(
        self, engine: SearchEngine, on_progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Begin to count from nothing."""
        self._engine, self._on_progress = engine, on_progress
        self._num_requests, self._num_tokens, self._seconds = 0, 0, 0.0

    def ask(self, requests: Sequence[SearchRequest]) -> list[Reply]:
        """Return the engine's replies, in order.

        Raises:
            SearchEngineError: If the engine could not answer.
        """
        start = perf_counter()
        replies = ask(self._engine, requests)
        self._seconds += perf_counter() - start
        self._num_requests += len(requests)
        self._num_tokens += self._count_tokens(replies)
        self._on_progress(len(requests))
        return replies

    @property
    def speed(self) -> Speed:
        """How fast the engine has been so far."""
        tokens = None if self._tokenizer is None else self._num_tokens
        return Speed(self._num_requests, self._seconds, tokens)

    @property
    def _tokenizer(self) -> TransformersLM | None:
        if not isinstance(self._engine, SimulatedSearchEngine):
            return None
        generator = self._engine.generator
        return generator if isinstance(generator, TransformersLM) else None

    def _count_tokens(self, replies: Sequence[Reply]) -> int:
        """Return the number of tokens in replies, with the one that ends each."""
        if self._tokenizer is None:
            return 0
        return sum(len(self._tokenizer.encode(reply.raw or "")) + 1 for reply in replies)


def ask(engine: SearchEngine, requests: Sequence[SearchRequest]) -> list[Reply]:
    """Return the replies of an engine, with what it wrote where it is a simulator.

    Raises:
        SearchEngineError: If the engine could not answer.
    """
    if not isinstance(engine, SimulatedSearchEngine):
        return [Reply(tuple(documents)) for documents in search_all(engine, requests)]
    return [
        Reply(tuple(parse_documents(raw, request.top_k)), raw)
        for raw, request in zip(engine.replies(requests), requests, strict=True)
    ]

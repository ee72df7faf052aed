"""Requests of many clients, gathered into few calls of one search engine.

One thread calls the engine, so that engines need not be safe for several. While a call runs,
requests pile up and go together into the next; when none runs, the first waits a moment for
company. What nobody waits for any more is left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from zs_env.checks import check_count
from zs_env.search.engine import Document, SearchEngineError, SearchRequest

_log = logging.getLogger(__name__)

Documents: TypeAlias = Sequence[Document]
Answer: TypeAlias = Callable[[Sequence[SearchRequest]], Sequence[Documents]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """How requests are gathered.

    Attributes:
        max_batch_size: Queries in one call of the engine at most.
        max_wait: Seconds that a first query waits for others while the engine is idle.
        max_queue: Queries that may wait for the engine; more are refused.

    Raises:
        ValueError: If one is out of its range.
    """

    max_batch_size: int = 64
    max_wait: float = 0.005
    max_queue: int = 4096

    def __post_init__(self) -> None:
        check_count("max_batch_size", self.max_batch_size, minimum=1)
        check_count("max_queue", self.max_queue, minimum=1)
        if not 0 <= self.max_wait < threading.TIMEOUT_MAX:
            raise ValueError(f"`max_wait` must be at least 0, got {self.max_wait!r}")


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One call of the engine, when it is over.

    Attributes:
        num_requests: How many requests went into it.
        seconds: How long it took.
        failed: Whether it raised.
    """

    num_requests: int
    seconds: float
    failed: bool


class QueueFullError(RuntimeError):
    """More is waiting than may wait."""


class _Item(NamedTuple):
    request: SearchRequest
    future: Future[Documents]


class Batcher:
    """Answers requests in the order in which they come, in a thread of its own."""

    def __init__(
        self,
        answer: Answer,
        limits: BatchLimits | None = None,
        on_call: Callable[[EngineCall], None] = lambda call: None,
    ) -> None:
        """Start the thread.

        Args:
            answer: From requests to one sequence of documents each; called in that thread only.
            limits: How requests are gathered.
            on_call: Gets every call of `answer` when it is over, in that thread.
        """
        self._answer, self._limits, self._on_call = answer, limits or BatchLimits(), on_call
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="zs-batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of queries that wait."""
        return len(self._waiting)

    def submit(self, requests: Sequence[SearchRequest]) -> list[Future[Documents]]:
        """Put requests into the queue: all of them, or none.

        Returns:
            What will hold the documents of each, or the error of the call that it was part of. One
            that is cancelled before its turn is left out.

        Raises:
            QueueFullError: If there is no room for them.
            RuntimeError: If the batcher is closed.
        """
        items = [_Item(request, Future()) for request in requests]
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if len(self._waiting) + len(items) > self._limits.max_queue:
                self._waiting = deque(i for i in self._waiting if not i.future.cancelled())
            if len(self._waiting) + len(items) > self._limits.max_queue:
                raise QueueFullError(f"{len(self._waiting)} queries are waiting")
            self._waiting.extend(items)
            self._changed.notify()
        return [item.future for item in items]

    def close(self, timeout: float | None = None) -> None:
        """Answer what is in the queue, then end the thread; wait for that at most `timeout` s."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._wait_for_work():
            self._answer_all(self._take())

    def _wait_for_work(self) -> bool:
        """Wait until a batch is to be made; return False when there will be none any more."""
        size, wait = self._limits.max_batch_size, self._limits.max_wait
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting and wait:
                self._changed.wait_for(lambda: len(self._waiting) >= size or self._closed, wait)
            return bool(self._waiting)

    def _take(self) -> list[_Item]:
        """Return the next batch, without what was cancelled; it may be empty."""
        batch: list[_Item] = []
        with self._changed:
            while self._waiting and len(batch) < self._limits.max_batch_size:
                item = self._waiting.popleft()
                if item.future.set_running_or_notify_cancel():
                    batch.append(item)
        return batch

    def _answer_all(self, batch: Sequence[_Item]) -> None:
        if not batch:
            return
        try:
            found = self._call([item.request for item in batch])
        except BaseException as error:
            if len(batch) > 1 and is_unanswerable(error):
                middle = len(batch) // 2
                self._answer_all(batch[:middle])
                self._answer_all(batch[middle:])
                return
            if not isinstance(error, SearchEngineError):
                _log.exception("the search engine raised")
            for item in batch:
                item.future.set_exception(error)
        else:
            for item, documents in zip(batch, found, strict=True):
                item.future.set_result(documents)

    def _call(self, requests: Sequence[SearchRequest]) -> Sequence[Documents]:
        start, failed = time.perf_counter(), True
        try:
            found = self._answer(requests)
            failed = False
        finally:
            self._on_call(EngineCall(len(requests), time.perf_counter() - start, failed))
        return found


def is_unanswerable(error: BaseException) -> bool:
    """Return whether an engine failed because of what one request holds, not of its own state.

    Others in the batch would have been answered, and asking again would not help: engines raise
    `SearchEngineError` from a ValueError then, as the simulator does for a text that is too long.
    """
    return isinstance(error, SearchEngineError) and isinstance(error.__cause__, ValueError)

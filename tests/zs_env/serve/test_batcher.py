import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest

from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.serve.batcher import Batcher, BatchLimits, Documents, EngineCall, QueueFullError

WAIT = 20.0


def asks(*queries: str) -> list[SearchRequest]:
    return [SearchRequest(query) for query in queries]


def texts(futures: Sequence[Future[Documents]]) -> list[str]:
    return [document.text for future in futures for document in future.result(WAIT)]


class Echo:
    """Gives each query back as its document, once the gate is open.

    Attributes:
        calls: The queries of each call.
        threads: The threads that called.
        entered: Set when a call has begun.
    """

    def __init__(self, is_open: bool = True) -> None:
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()
        self.gate, self.entered = threading.Event(), threading.Event()
        if is_open:
            self.gate.set()

    def __call__(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        self.calls.append([request.query for request in requests])
        self.threads.add(threading.get_ident())
        self.entered.set()
        assert self.gate.wait(WAIT)
        for request in requests:
            if request.query == "poison":
                raise SearchEngineError("cannot be asked") from ValueError("too long")
            if request.query == "broken":
                raise SearchEngineError("down")
            if request.query == "bug":
                raise SystemExit(3)
        return [[Document(request.query)] for request in requests]


@pytest.fixture
def start() -> Iterator[Callable[..., Batcher]]:
    started: list[tuple[Batcher, Echo]] = []

    def make(echo: Echo, on_call: Callable[[EngineCall], None] = lambda call: None, **limits: int):
        batcher = Batcher(echo, BatchLimits(**limits), on_call)
        started.append((batcher, echo))
        return batcher

    yield make
    for batcher, echo in started:
        echo.gate.set()
        batcher.close(WAIT)


def busy(batcher: Batcher, echo: Echo) -> Future[Documents]:
    """Keep the engine busy with a first query until its gate opens."""
    [future] = batcher.submit(asks("first"))
    assert echo.entered.wait(WAIT)
    return future


def test_what_waits_goes_together_and_in_order(start: Callable[..., Batcher]) -> None:
    echo = Echo(is_open=False)
    batcher = start(echo, max_batch_size=3)
    first = busy(batcher, echo)
    futures = [*batcher.submit(asks("a", "b")), *batcher.submit(asks("c", "d"))]
    assert len(batcher) == 4
    echo.gate.set()
    assert texts([first, *futures]) == ["first", "a", "b", "c", "d"]
    assert echo.calls == [["first"], ["a", "b", "c"], ["d"]]
    assert len(echo.threads) == 1
    assert threading.get_ident() not in echo.threads


def test_first_query_waits_for_company(start: Callable[..., Batcher]) -> None:
    echo = Echo()
    batcher = start(echo, max_batch_size=2, max_wait=WAIT)
    futures = [*batcher.submit(asks("a")), *batcher.submit(asks("b"))]
    assert texts(futures) == ["a", "b"]
    assert echo.calls == [["a", "b"]]


def test_lonely_query_waits_no_longer_than_it_must(start: Callable[..., Batcher]) -> None:
    assert texts(start(Echo(), max_wait=0.001).submit(asks("a"))) == ["a"]
    assert texts(start(Echo(), max_wait=0).submit(asks("a"))) == ["a"]


def test_full_queue_takes_all_of_a_request_or_nothing(start: Callable[..., Batcher]) -> None:
    echo = Echo(is_open=False)
    batcher = start(echo, max_queue=3)
    busy(batcher, echo)
    batcher.submit(asks("a", "b"))
    with pytest.raises(QueueFullError, match="2 queries are waiting"):
        batcher.submit(asks("c", "d"))
    assert len(batcher) == 2
    [last] = batcher.submit(asks("e"))
    echo.gate.set()
    assert texts([last]) == ["e"]


def test_cancelled_queries_are_left_out_and_make_room(start: Callable[..., Batcher]) -> None:
    echo = Echo(is_open=False)
    batcher = start(echo, max_queue=2)
    busy(batcher, echo)
    gone = batcher.submit(asks("a", "b"))
    assert all(future.cancel() for future in gone)
    [left, late] = batcher.submit(asks("c", "d"))
    assert late.cancel()
    echo.gate.set()
    assert texts([left]) == ["c"]
    assert echo.calls == [["first"], ["c"]]


def test_failing_call_fails_its_own_queries_only(start: Callable[..., Batcher]) -> None:
    echo = Echo(is_open=False)
    batcher = start(echo, max_batch_size=2)
    first = busy(batcher, echo)
    a, broken, b, c = batcher.submit(asks("a", "broken", "b", "c"))
    echo.gate.set()
    assert texts([first, b, c]) == ["first", "b", "c"]
    for future in (a, broken):
        with pytest.raises(SearchEngineError, match="down"):
            future.result(WAIT)
    assert echo.calls == [["first"], ["a", "broken"], ["b", "c"]]


def test_query_that_cannot_be_asked_fails_alone(start: Callable[..., Batcher]) -> None:
    echo = Echo(is_open=False)
    batcher = start(echo)
    busy(batcher, echo)
    a, poison, b, c = batcher.submit(asks("a", "poison", "b", "c"))
    echo.gate.set()
    assert texts([a, b, c]) == ["a", "b", "c"]
    with pytest.raises(SearchEngineError, match="cannot be asked"):
        poison.result(WAIT)
    assert echo.calls[1:] == [
        ["a", "poison", "b", "c"],
        ["a", "poison"],
        ["a"],
        ["poison"],
        ["b", "c"],
    ]


def test_thread_outlives_whatever_an_engine_raises(start: Callable[..., Batcher]) -> None:
    batcher = start(Echo(), max_wait=0)
    [bug] = batcher.submit(asks("bug"))
    with pytest.raises(SystemExit):
        bug.result(WAIT)
    assert texts(batcher.submit(asks("a"))) == ["a"]


def test_calls_are_reported(start: Callable[..., Batcher]) -> None:
    calls: list[EngineCall] = []
    batcher = start(Echo(), calls.append, max_wait=0)
    assert texts(batcher.submit(asks("a", "b"))) == ["a", "b"]
    [broken] = batcher.submit(asks("broken"))
    assert broken.exception(WAIT)
    assert [(call.num_requests, call.failed) for call in calls] == [(2, False), (1, True)]
    assert all(call.seconds >= 0 for call in calls)


def test_closing_answers_what_waits_and_takes_no_more(start: Callable[..., Batcher]) -> None:
    echo = Echo(is_open=False)
    batcher = start(echo, max_batch_size=1)
    busy(batcher, echo)
    futures = batcher.submit(asks("a", "b"))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    echo.gate.set()
    assert texts(futures) == ["a", "b"]
    closing.join(WAIT)
    with pytest.raises(RuntimeError, match="the batcher is closed"):
        batcher.submit(asks("c"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_batch_size": 0}, "`max_batch_size` must be an integer of at least 1, got 0"),
        ({"max_queue": 0}, "`max_queue` must be an integer of at least 1, got 0"),
        ({"max_wait": -0.1}, "`max_wait` must be at least 0, got -0.1"),
        ({"max_wait": float("nan")}, "`max_wait` must be at least 0, got nan"),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchLimits(**limits)

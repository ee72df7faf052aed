"""The real server, started through the command line and asked over sockets."""

import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from agents.cli.main import main
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.serve import server as server_module
from zs_env.task.miniwiki import default_world

QUERIES = [f"who founded {fact.subject}" for fact in default_world().facts[:2]]
SEED = 5
PATIENCE = 30.0

GATED = """
import time
from pathlib import Path
from zs_env import Document, SearchEngineError

class Gated:
    # Writes down what it is asked, and waits for as long as there is a file `closed`.
    def search(self, requests):
        with open("asked.txt", "a") as log:
            log.writelines(request.query + "\\n" for request in requests)
        while Path("closed").exists():
            time.sleep(0.01)
        if any(request.query == "down" for request in requests):
            raise SearchEngineError("the index is down")
        return [[Document(request.query)] for request in requests]
"""


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def found_by(engine: str, *queries: str, top_k: int = 2) -> list[list[Document]]:
    requests = [SearchRequest(query, query, seed=SEED, top_k=top_k) for query in queries]
    return make_engine(engine).search(requests)


def contents(document: Document) -> str:
    return f"\n{document.text}"


def scored(documents: list[Document]) -> list[dict[str, Any]]:
    return [
        {"document": {"contents": contents(document)}, "score": score}
        for document, score in zip(documents, (1.0, 0.5), strict=True)
    ]


@pytest.fixture(params=["world", "bm25"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_server_says_once_that_it_is_ready(engine: str, shared_server: Callable[..., Any]) -> None:
    server = shared_server("--engine", engine)
    assert re.fullmatch(rf"serving {engine} at http://127\.0\.0\.1:[1-9]\d+", server.ready)
    health = httpx.get(f"{server.url}/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok", "engine": engine})


def test_search_r1_is_answered(engine: str, shared_server: Callable[..., Any]) -> None:
    body = {"queries": QUERIES, "topk": 2, "return_scores": True, "seed": SEED}
    reply = shared_server("--engine", engine).post(body)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    found = found_by(engine, *QUERIES)
    assert reply.json() == {"result": [scored(documents) for documents in found]}


def test_search_r1_is_answered_without_scores(
    engine: str, shared_server: Callable[..., Any]
) -> None:
    reply = shared_server("--engine", engine).post({"queries": QUERIES, "topk": 2, "seed": SEED})
    bare = [[{"contents": contents(each)} for each in d] for d in found_by(engine, *QUERIES)]
    assert reply.json() == {"result": bare}


def test_skyrl_is_answered(engine: str, shared_server: Callable[..., Any]) -> None:
    body = {"query": QUERIES[0], "topk": 2, "return_scores": True, "seed": SEED}
    reply = shared_server("--engine", engine).post(body)
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {"result": [scored(found_by(engine, QUERIES[0])[0])]}


@pytest.mark.parametrize("path", ["/retrieve", "/", "/any/where"])
def test_gem_is_answered_wherever_it_asks(
    engine: str, path: str, shared_server: Callable[..., Any]
) -> None:
    body = msgpack.packb({"query": QUERIES[0], "topk": 2, "return_scores": True, "seed": SEED})
    reply = shared_server("--engine", engine).post(path=path, content=body)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/msgpack")
    assert msgpack.unpackb(reply.content) == {"result": scored(found_by(engine, QUERIES[0])[0])}


def test_zerosearch_is_answered(engine: str, shared_server: Callable[..., Any]) -> None:
    reply = shared_server("--engine", engine).post({"query": QUERIES[0], "top_k": 2, "seed": SEED})
    assert reply.json() == [{"text": d.text} for d in found_by(engine, QUERIES[0])[0]]


def test_noise_reaches_the_engine(shared_server: Callable[..., Any]) -> None:
    fact = default_world().facts[0]
    body = {"query": QUERIES[0], "top_k": 2, "seed": SEED, "noise": "outdated"}
    reply = shared_server("--engine", "world").post(body)
    request = SearchRequest(QUERIES[0], QUERIES[0], seed=SEED, top_k=2)
    noisy = replace(request, noisy=True, noise_kind=NoiseKind.OUTDATED)
    [documents] = make_engine("world").search([noisy])
    assert [each["text"] for each in reply.json()] == [each.text for each in documents]
    assert documents != found_by("world", QUERIES[0])[0]
    assert fact.subject in documents[0].text


def test_noise_of_the_server_is_for_those_who_cannot_ask_for_it(
    start_server: Callable[..., Any],
) -> None:
    server = start_server("--engine", "world", "--noise", "1", "--top-k", "1")
    [noisy] = server.post({"query": QUERIES[0], "seed": SEED}).json()["result"]
    [useful] = server.post({"query": QUERIES[0], "seed": SEED, "noise": False}).json()["result"]
    assert len(noisy) == len(useful) == 1
    assert useful[0]["contents"] == contents(found_by("world", QUERIES[0], top_k=1)[0][0])
    assert noisy != useful


def test_shipped_simulator_is_served(start_server: Callable[..., Any]) -> None:
    fact = default_world().facts[0]
    query = f"{fact.subject} {fact.relation}"
    fields = {"query": query, "question": f"{query}?", "golden_answers": [fact.object]}
    server = start_server("--threads", "1")
    assert server.ready.startswith("serving simulator at ")
    replies = [
        server.post({**fields, "top_k": 2, "seed": SEED, "noise": noise}).json()
        for noise in (False, False, True)
    ]
    assert replies[0] == replies[1] != replies[2]
    request = SearchRequest(query, f"{query}?", (fact.object,), seed=SEED, top_k=2)
    both = make_engine("simulator").search([request]) + make_engine("simulator").search(
        [replace(request, noisy=True)]
    )
    assert [[each["text"] for each in reply] for reply in replies[1:]] == [
        [document.text for document in documents] for documents in both
    ]
    assert server.stop() == (0, "", "")


class Gate:
    """A server whose engine waits while the gate is closed, and posts that are under way."""

    def __init__(self, folder: Path, start: Callable[..., Any], *options: str) -> None:
        (folder / "gated.py").write_text(GATED)
        self._closed, self._asked = folder / "closed", folder / "asked.txt"
        self._asked.touch()
        self._closed.touch()
        self.server = start("--engine", "gated:Gated", "--max-wait-ms", "0", *options, cwd=folder)
        self._pool = ThreadPoolExecutor(80)

    def post(self, query: str, **kwargs: Any) -> Future[httpx.Response]:
        return self._pool.submit(self.server.post, {"query": query, "top_k": 1}, **kwargs)

    def post_all(self, *queries: str) -> list[Future[httpx.Response]]:
        """Post queries so that the first is with the engine, and the others wait behind it."""
        first = self.post(queries[0])
        until(lambda: self.asked == [queries[0]])
        others = [self.post(query) for query in queries[1:]]
        until(lambda: self.depth == len(others))
        return [first, *others]

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text().splitlines()

    @property
    def depth(self) -> int:
        return int(self.server.metrics()["zerosearch_queue_depth"])

    def open(self) -> None:
        self._closed.unlink()


@pytest.fixture
def gate(tmp_path: Path, start_server: Callable[..., Any]) -> Callable[..., Gate]:
    return lambda *options: Gate(tmp_path, start_server, *options)


def test_concurrent_requests_become_few_calls(gate: Callable[..., Gate]) -> None:
    gated = gate()
    queries = [f"query {number}" for number in range(64)]
    posts = gated.post_all(*queries)
    gated.open()
    replies = [post.result(PATIENCE).json() for post in posts]
    assert replies == [[{"text": query}] for query in queries]  # each its own, and not another's
    metrics = gated.server.metrics()
    assert metrics["zerosearch_batch_size_sum"] == 64
    assert metrics["zerosearch_batch_size_count"] == 2
    assert metrics['zerosearch_requests_total{contract="zerosearch",status="200"}'] == 64
    assert metrics['zerosearch_request_seconds_count{contract="zerosearch"}'] == 64
    assert metrics["zerosearch_queue_depth"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_loses_nothing_that_is_under_way(
    number: signal.Signals, gate: Callable[..., Gate]
) -> None:
    gated = gate("--max-batch-size", "4")
    queries = [f"query {number}" for number in range(16)]
    posts = gated.post_all(*queries)
    gated.server.process.send_signal(number)
    until(lambda: refuses(gated.server.url))
    assert not any(post.done() for post in posts)
    gated.open()
    replies = [post.result(PATIENCE) for post in posts]
    assert [reply.status_code for reply in replies] == [200] * 16
    assert [reply.json() for reply in replies] == [[{"text": query}] for query in queries]
    assert gated.server.ended() == (0, "", "")


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/health")
    except httpx.TransportError:
        return True
    return False


def test_engine_that_hangs_does_not_keep_the_server(gate: Callable[..., Gate]) -> None:
    gated = gate("--drain-seconds", "1")
    [post] = gated.post_all("never")
    code, _, err = gated.server.stop()
    assert (code, len(err.splitlines())) == (0, 1)  # uvicorn says how many it gave up
    reply = post.result(PATIENCE)
    assert (reply.status_code, reply.json()) == (503, {"error": "the server is shutting down"})


def test_client_that_goes_away_is_not_searched_for(gate: Callable[..., Gate]) -> None:
    gated = gate()
    [first] = gated.post_all("first")
    gone = b'{"query": "gone", "top_k": 1}'
    with open_socket(gated.server.url) as connection:
        connection.sendall(head("/retrieve", f"Content-Length: {len(gone)}") + gone)
        until(lambda: gated.depth == 1)
    dropped = 'zerosearch_requests_total{contract="zerosearch",status="499"}'
    until(lambda: gated.server.metrics().get(dropped) == 1)
    last = gated.post("last")
    until(lambda: gated.depth == 2)
    gated.open()
    assert [post.result(PATIENCE).status_code for post in (first, last)] == [200, 200]
    assert gated.asked == ["first", "last"]
    assert gated.server.stop() == (0, "", "")


def test_failures_are_told_apart_by_status(gate: Callable[..., Gate]) -> None:
    gated = gate("--max-queue", "2", "--max-body-bytes", "1000")
    server = gated.server
    posts = gated.post_all("first", "second", "down")
    full = server.post({"queries": ["more"]})
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    assert full.json() == {"error": "too much to do: 2 queries are waiting"}
    gated.open()
    first, *failed = [post.result(PATIENCE) for post in posts]
    assert first.status_code == 200
    for reply in failed:
        assert (reply.status_code, reply.json()) == (503, {"error": "the index is down"})
    wrong = server.post({"query": "a", "topk": "many"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "topk")
    never = server.post({"queries": ["a"] * 3})  # would not fit into an empty queue either
    assert (never.status_code, never.json()["field"]) == (422, "queries")
    long = server.post({"query": "x" * 1000})
    assert (long.status_code, set(long.json())) == (413, {"error"})
    assert server.post({"query": "a", "top_k": 1}).json() == [{"text": "a"}]
    assert "more" not in gated.asked


def test_token_of_the_environment_is_needed(start_server: Callable[..., Any]) -> None:
    server = start_server("--engine", "world", ZS_SERVE_TOKEN="s3cret")
    body = {"query": QUERIES[0], "top_k": 1}
    assert server.post(body).status_code == 401
    assert server.post(body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert server.post(body, headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert "s3cret" not in "".join(map(str, server.stop()))


def open_socket(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def test_endless_body_is_cut_off(shared_server: Callable[..., Any]) -> None:
    server = shared_server("--engine", "world", "--max-body-bytes", "1000")
    chunk = b"%x\r\n%s\r\n" % (400, b"x" * 400)
    with open_socket(server.url) as connection:
        connection.sendall(head("/retrieve", "Transfer-Encoding: chunked") + 3 * chunk)
        reply = b""
        while part := connection.recv(1 << 16):  # to the end: the server hangs up
            reply += part
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert reply.endswith(b'{"error":"the body must have at most 1000 bytes"}')


def test_declared_length_does_not_get_a_body_in(shared_server: Callable[..., Any]) -> None:
    server = shared_server("--engine", "world", "--max-body-bytes", "1000")
    with open_socket(server.url) as connection:
        connection.sendall(head("/retrieve", "Content-Length: 999999999") + b"x" * 1001)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_taken_port_is_told_before_the_engine_loads(
    shared_server: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    port = shared_server("--engine", "world").url.rpartition(":")[2]
    assert main(["serve", "--engine", "missing_module:x", "--port", port]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"zerosearch: error: cannot serve at 127.0.0.1, port {port}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--port 70000", r"`port` must be in \[0, 65535\], got 70000"),
        ("--host host.invalid", "`host` must be an address of this machine, got 'host.invalid'"),
        ("--top-k 0", "`top_k` must be an integer of at least 1, got 0"),
        ("--top-k 101", "`top_k` must be at most 100, got 101"),
        ("--noise 2", r"`noise` must be a probability in \[0, 1\], got 2.0"),
        ("--seed -1", "`seed` must be an integer of at least 0, got -1"),
        ("--max-batch-size 0", "`max_batch_size` must be an integer of at least 1, got 0"),
        ("--max-wait-ms -1", "`max_wait_ms` must be at least 0, got -1.0"),
        ("--max-queue 0", "`max_queue` must be an integer of at least 1, got 0"),
        ("--max-body-bytes 0", "`max_body_bytes` must be an integer of at least 1, got 0"),
        ("--drain-seconds 0", "`drain_seconds` must be at least 1, got 0"),
        ("--engine google --port 0", "`engine` must be simulator, .*, got 'google'"),
    ],
)
def test_mistake_gives_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--engine", "world", *line.split()]) == 2
    [shown] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"zerosearch: error: {message}.*", shown)


def test_empty_token_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZS_SERVE_TOKEN", "")
    assert main(["serve", "--engine", "world", "--port", "0"]) == 2
    assert "`ZS_SERVE_TOKEN` must be printable ASCII" in capsys.readouterr().err


@pytest.mark.parametrize(("token", "warns"), [(None, True), ("s3cret", False)])
def test_open_door_is_warned_of(
    token: str | None,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if token:
        monkeypatch.setenv("ZS_SERVE_TOKEN", token)
    monkeypatch.setattr(server_module, "is_loopback", lambda bound: False)
    monkeypatch.setattr(server_module, "serve", lambda app, bound, *_: bound.close())
    assert main(["serve", "--engine", "world", "--port", "0"]) == 0
    shown = capsys.readouterr().err
    assert ("zerosearch: warning: anybody who reaches 127.0.0.1 may ask" in shown) is warns


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127"), ("::1", "http://[::1]:")])
def test_loopback_is_recognised(host: str, url: str) -> None:
    try:
        bound = server_module.bind(host, 0)
    except OSError as error:
        pytest.skip(str(error))
    with bound:
        assert server_module.is_loopback(bound)
        assert server_module.url_of(bound).startswith(url)

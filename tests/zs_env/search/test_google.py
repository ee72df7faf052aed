"""Google through its sellers, which a server on a real socket stands in for."""

import json
import logging
import pickle
import socketserver
import threading
import time
import traceback
from contextlib import closing
from dataclasses import replace

import pytest

from zs_env.remote.limits import Limits
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.google import SERVICES, GoogleSearchEngine
from zs_env.search.registry import check_engine, make_engine

FAST = Limits(
    max_concurrency=8,
    deadline=60.0,
    try_timeout=20.0,
    max_tries=6,
    first_delay=0.02,
    longest_delay=0.1,
    max_reply_bytes=1 << 20,
)
KEY = "planted/9f8e7d6c+5b4a"  # a URL has to escape it
VARIABLES = {"serpapi": "SERPAPI_API_KEY", "serper": "SERPER_API_KEY"}
ORGANIC = {"serpapi": "organic_results", "serper": "organic"}


def results(body):
    """Return eleven organic results, one of them without a snippet."""
    return [
        {
            "position": n + 1,
            "title": f"Title {n}",
            "link": f"https://example.com/{n}",
            **({"snippet": f"{body['q']} / {n}"} if n != 1 else {}),
        }
        for n in range(11)
    ]


def serpapi(body):
    return {
        "search_metadata": {"status": "Success", "id": "x"},
        "search_parameters": {"engine": "google", "q": body["q"]},
        "answer_box": {"answer": "the answer", "snippet": "the answer"},
        "organic_results": results(body),
    }


def serper(body):
    return {
        "searchParameters": {"q": body["q"], "type": "search", "engine": "google"},
        "answerBox": {"answer": "the answer", "snippet": "the answer"},
        "organic": results(body),
    }


SPEAK = {"serpapi": serpapi, "serper": serper}


@pytest.fixture
def make(make_server, misbehaving, monkeypatch):
    """Return a function that makes a server in a service's place and an engine that asks it."""
    made = []

    def make(service, plan=lambda request: ("well",), *, limits=FAST, answer=None, **settings):
        monkeypatch.setenv(VARIABLES[service], KEY)
        speech = misbehaving.Speech(
            answer=lambda body: json.dumps((answer or SPEAK[service])(body)).encode(),
            key=lambda body: body["q"],
        )
        server = make_server(speech=speech, path="", plan=plan)
        made.append(GoogleSearchEngine(service, base_url=server.url, limits=limits, **settings))
        return made[-1], server

    yield make
    for engine in made:
        engine.close()


def expected(query, places=(0, 2, 3)):
    return [Document(f"{query} / {n}", title=f"Title {n}") for n in places]


def test_serpapi_is_asked_as_its_documentation_says(make):
    engine, server = make("serpapi", country="at", language="de")
    assert engine.search([SearchRequest("Wer war's? a&b")]) == [expected("Wer war's? a&b")]
    [request] = server.requests
    assert (request.method, request.path.partition("?")[0]) == ("GET", "/search.json")
    assert request.body == {
        "engine": "google",
        "q": "Wer war's? a&b",
        "num": "3",
        "gl": "at",
        "hl": "de",
        "api_key": KEY,
    }
    assert "Authorization" not in request.headers


def test_serper_is_asked_as_its_documentation_says(make):
    engine, server = make("serper", country="at", language="de")
    assert engine.search([SearchRequest("Wer war's?")]) == [expected("Wer war's?")]
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/search")
    assert request.body == {"q": "Wer war's?", "num": 3, "gl": "at", "hl": "de"}
    assert request.headers["X-API-KEY"] == KEY
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("service", SERVICES)
def test_batch_comes_back_in_order_and_equal_requests_are_paid_once(service, make):
    engine, server = make(service)
    asked = [SearchRequest(f"query {i % 5}", top_k=1 + i % 2) for i in range(20)]
    assert engine.search(asked) == [expected(r.query, (0, 2)[: r.top_k]) for r in asked]
    assert len(server.requests) == 10


@pytest.mark.parametrize("service", SERVICES)
def test_answer_box_is_left_out(service, make):
    engine, _ = make(service)
    [documents] = engine.search([SearchRequest("who", top_k=99)])
    assert len(documents) == 10
    assert not [d for d in documents if "the answer" in d.text]


@pytest.mark.parametrize("query", ["", "  \n"])
def test_blank_query_finds_nothing_and_costs_nothing(query, make):
    engine, server = make("serper")
    assert engine.search([SearchRequest(query)]) == [[]]
    assert not server.requests


@pytest.mark.parametrize("service", SERVICES)
def test_query_that_no_service_would_take_is_made_one(service, make):
    engine, server = make(service)
    engine.search([SearchRequest("word " * 10_000), SearchRequest("a \ud800 b")])
    queries = sorted(request.body["q"] for request in server.requests)
    assert queries == ["a ? b", ("word " * 10_000)[:2048].strip()]


EMPTY = {
    "serpapi": {
        "search_metadata": {"status": "Success"},
        "search_information": {"organic_results_state": "Fully empty"},
        "error": "Google hasn't returned any results for this query.",
    },
    "serper": {"searchParameters": {}, "organic": []},
}


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_found_is_no_error(service, make):
    engine, server = make(service, answer=lambda body: EMPTY[service])
    assert engine.search([SearchRequest("who")]) == [[]]
    assert len(server.requests) == 1


FAULTS = {
    "500": ("status", 500),
    "429 with a time": ("too_many", 0.1),
    "reset in mid-body": ("reset",),
    "torn body": ("torn",),
    "garbage": ("garbage",),
    "endless": ("endless",),
    "an error with status 200": (
        "garbage",
        b'{"search_metadata": {"status": "Error"}, "error": "Google is not available."}',
    ),
    "a text in place of results": (
        "garbage",
        b'{"organic_results": "error", "organic": "error"}',
    ),
    "a text in place of a result": (
        "garbage",
        b'{"organic_results": ["error"], "organic": ["error"]}',
    ),
    "a snippet that is none": (
        "garbage",
        b'{"organic_results": [{"snippet": 5}], "organic": [{"snippet": 5}]}',
    ),
    "null": ("garbage", b"null"),
    "a list": ("garbage", b"[]"),
    "a text": ("garbage", b'"organic_results"'),
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_that_passes_loses_and_doubles_nothing(service, fault, make, misbehaving):
    engine, server = make(service, misbehaving.fail_first(2, *FAULTS[fault]))
    queries = [f"query {i}" for i in range(4)]
    assert engine.search([SearchRequest(q) for q in queries]) == [expected(q) for q in queries]
    assert sorted(request.body["q"] for request in server.requests) == sorted(3 * queries)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_that_stays_is_an_error_and_shows_no_key(service, fault, make, misbehaving, caplog):
    caplog.set_level(logging.DEBUG)
    engine, server = make(service, lambda request: FAULTS[fault], limits=replace(FAST, max_tries=2))
    with pytest.raises(
        SearchEngineError, match=rf"^Google through {server.url} did not answer in 2 tries: \S"
    ) as caught:
        engine.search([SearchRequest("who")])
    assert_hidden([*traceback.format_exception(caught.value), caplog.text, repr(engine)])


def test_pause_beyond_the_deadline_fails_at_once(make):
    engine, server = make("serpapi", lambda request: ("too_many", 600))
    start = time.monotonic()
    with pytest.raises(SearchEngineError, match="asks to wait 600 s, beyond the deadline"):
        engine.search([SearchRequest("who")])
    assert time.monotonic() - start < 30.0
    assert len(server.requests) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_server_gone_for_good_fails_within_the_deadline(service, make):
    engine, server = make(service, limits=replace(FAST, deadline=1.0, max_tries=1000))
    server.die()
    with pytest.raises(SearchEngineError, match=rf"Google through {server.url} .*1 s passed"):
        engine.search([SearchRequest("who")])


# Secrets


def assert_hidden(texts):
    """Check that no text holds the key, as it is or as a URL has it."""
    forms = ("9f8e7d6c", "planted")
    assert not [text for text in texts if any(form in text for form in forms)]


def everything_said(error):
    """Return all texts of an exception and of those behind it."""
    texts = traceback.format_exception(error)
    while error is not None:
        texts += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return texts


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "behaviour",
    [
        ("well",),
        ("status", 401, f"Invalid API key: {KEY}"),
        ("status", 429, f"{'x' * 150} /search.json?api_key=planted%2F9f8e7d6c%2B5b4a"),
        ("garbage", f"key {KEY}".encode()),
        ("reset",),
        ("torn",),
    ],
)
def test_key_is_sent_and_never_shown(service, behaviour, make, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "zs_env", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    engine, server = make(service, lambda r: behaviour, limits=replace(FAST, max_tries=2))
    said = []
    try:
        engine.search([SearchRequest("who")])
    except SearchEngineError as error:
        said = everything_said(error)
    assert bool(said) == (behaviour != ("well",))
    sent = server.requests[0]
    assert KEY in (sent.body.get("api_key"), sent.headers.get("X-API-KEY"))
    assert "HTTP Request: " in caplog.text or behaviour in (("reset",), ("torn",))
    records = [repr(vars(record)) for record in caplog.records]
    state = [repr(engine), repr(vars(engine)), repr(vars(engine._client)), repr(SERVICES)]
    assert_hidden([*said, caplog.text, *records, *state, repr(pickle.dumps(engine))])


class ClosedProxy(socketserver.StreamRequestHandler):
    """An HTTP proxy that remembers what it is asked, and refuses."""

    def handle(self):
        lines = iter(self.rfile.readline, b"\r\n")
        self.server.asked.append([line.decode().strip() for line in lines])
        self.wfile.write(b"HTTP/1.1 502 Closed\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def proxy(monkeypatch):
    """Return what a proxy is asked, which the environment names for all URLs."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), ClosedProxy) as server:
        server.asked = []
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("HTTPS_PROXY", url)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.asked
        server.shutdown()
        thread.join()


def ask_through_proxy(service, monkeypatch, **settings):
    """Return what is said when the proxy refuses."""
    monkeypatch.setenv(VARIABLES[service], KEY)
    engine = GoogleSearchEngine(service, limits=replace(FAST, max_tries=1), **settings)
    with closing(engine), pytest.raises(SearchEngineError, match="502") as caught:
        engine.search([SearchRequest("who")])
    return everything_said(caught.value)


@pytest.mark.parametrize(
    ("service", "host"), [("serpapi", "serpapi.com"), ("serper", "google.serper.dev")]
)
def test_proxy_is_told_the_host_and_neither_key_nor_query(service, host, proxy, monkeypatch):
    said = ask_through_proxy(service, monkeypatch)
    assert [lines[0] for lines in proxy] == [f"CONNECT {host}:443 HTTP/1.1"]
    assert_hidden([*said, *map(repr, proxy)])


def test_proxy_of_an_unencrypted_service_gets_the_whole_url(proxy, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, logger="httpx")
    said = ask_through_proxy("serpapi", monkeypatch, base_url="http://service.invalid/x")
    [[line, *_]] = proxy
    assert line.startswith("GET http://service.invalid/x/search.json?engine=google&q=who&num=3&")
    assert "HTTP Request: GET http://service.invalid/x/search.json" in caplog.text
    assert_hidden([*said, caplog.text])


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("value", [None, "", f"{KEY} x", f"{KEY}\nx", f"{KEY}é"])
def test_missing_or_impossible_key_is_told_at_once(service, value, monkeypatch):
    monkeypatch.delenv(VARIABLES[service], raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLES[service], value)
    with pytest.raises(ValueError, match=f"`{VARIABLES[service]}` must hold an API key") as caught:
        make_engine(f"{service}:google")
    assert_hidden(everything_said(caught.value))


@pytest.mark.parametrize("service", SERVICES)
def test_key_of_the_other_service_is_no_key(service, monkeypatch):
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, KEY)
    monkeypatch.delenv(VARIABLES[service])
    with pytest.raises(ValueError, match=VARIABLES[service]):
        GoogleSearchEngine(service)


# By name


@pytest.mark.parametrize("service", SERVICES)
def test_engine_by_name_asks_the_url_in_the_services_place(service, make):
    _, server = make(service)
    engine = make_engine(f"{service}:google?base_url={server.url}&country=us")
    assert engine.search([SearchRequest("who")]) == [expected("who")]
    assert server.requests[0].body["gl"] == "us"
    engine.close()


@pytest.mark.parametrize("service", SERVICES)
def test_engine_asks_the_service_itself_unless_told_otherwise(service, monkeypatch):
    monkeypatch.setenv(VARIABLES[service], KEY)
    home = {"serpapi": "https://serpapi.com", "serper": "https://google.serper.dev"}
    assert repr(make_engine(f"{service}:google")) == (
        f"GoogleSearchEngine({service!r}, base_url={home[service]!r})"
    )


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("bing", "must be followed by google, got 'bing'"),
        ("google#m", "must be followed by google"),
        ("google?base_url=ftp://x", "`base_urls` must be like"),
    ],
)
@pytest.mark.parametrize("service", SERVICES)
def test_name_that_cannot_be_is_refused(service, place, message, monkeypatch):
    monkeypatch.setenv(VARIABLES[service], KEY)
    check_engine(f"{service}:{place}")
    with pytest.raises(ValueError, match=message):
        make_engine(f"{service}:{place}")


def test_unknown_service_is_refused():
    with pytest.raises(ValueError, match="`service` must be one of serpapi, serper, got 'bing'"):
        GoogleSearchEngine("bing")


def test_copy_reads_the_key_of_its_own_environment(make, monkeypatch):
    engine, server = make("serper", language="de")
    dumped = pickle.dumps(engine)
    monkeypatch.setenv("SERPER_API_KEY", "another")
    copy = pickle.loads(dumped)
    assert copy.search([SearchRequest("who")]) == [expected("who")]
    assert server.requests[0].headers["X-API-KEY"] == "another"
    assert server.requests[0].body["hl"] == "de"
    copy.close()

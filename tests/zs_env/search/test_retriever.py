"""Retrieval servers in the contracts that are in use, on a real socket that misbehaves."""

import json
import logging
import pickle
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.remote.limits import Limits
from zs_env.search.contracts import CONTRACTS, read_reply
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.search.retriever import API_KEY_VARIABLE, RetrieverSearchEngine

FAST = Limits(
    max_concurrency=8,
    deadline=60.0,
    try_timeout=20.0,
    max_tries=6,
    first_delay=0.02,
    longest_delay=0.1,
    max_reply_bytes=1 << 20,
)
KEY = "sk-planted-9f8e7d6c5b4a"
REQUESTS = [SearchRequest(f"query {i}", top_k=1 + i % 3) for i in range(24)]


def contents(query, n):
    return f'"Title {n}"\n{query} / {n}'


def document(query, n):
    return Document(f"{query} / {n}", title=f"Title {n}")


def hits(query, top_k):
    return [
        {"document": {"id": str(n), "contents": contents(query, n)}, "score": 1.0 / (n + 1)}
        for n in range(top_k)
    ]


# Servers as they are in the wild: what they take, and what they reply.
SERVERS = {
    "search-r1": lambda body: {"result": [hits(q, body["topk"]) for q in body["queries"]]},
    "skyrl": lambda body: {"result": [hits(body["query"], body["topk"])]},
    "gem": lambda body: {"result": hits(body["query"], body["topk"])},
    "zerosearch": lambda body: [{"text": contents(body["query"], n)} for n in range(body["top_k"])],
}
BODIES = {
    "search-r1": {"queries": ["who"], "topk": 2, "return_scores": True},
    "skyrl": {"query": "who", "topk": 2, "return_scores": True},
    "gem": {"query": "who", "topk": 2, "return_scores": True},
    "zerosearch": {"query": "who", "top_k": 2},
}
EXPECTED = [[document(r.query, n) for n in range(r.top_k)] for r in REQUESTS]


@pytest.fixture
def make(make_server, misbehaving, monkeypatch):
    """Return a function that makes servers of a contract and an engine that asks them."""
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    made = []

    def make(contract="search-r1", *plans, limits=FAST, answer=None, **settings):
        binary = contract == "gem"
        write = msgpack.packb if binary else lambda value: json.dumps(value).encode()
        speech = misbehaving.Speech(
            answer=lambda body: write((answer or SERVERS[contract])(body)),
            key=lambda body: str(body.get("queries", body.get("query"))),
            decode=msgpack.unpackb if binary else json.loads,
        )
        servers = [
            make_server(speech=speech, path="/retrieve", plan=plan)
            for plan in plans or (lambda request: ("well",),)
        ]
        urls = [server.url for server in servers]
        made.append(RetrieverSearchEngine(urls, contract=contract, limits=limits, **settings))
        return made[-1], *servers

    yield make
    for engine in made:
        engine.close()


@pytest.mark.parametrize("contract", CONTRACTS)
def test_request_and_reply_are_those_of_the_contract(contract, make):
    engine, server = make(contract)
    assert engine.search([SearchRequest("who", top_k=2)]) == [
        [document("who", 0), document("who", 1)]
    ]
    [request] = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/retrieve", BODIES[contract])
    kind = "application/msgpack" if contract == "gem" else "application/json"
    assert request.headers["Content-Type"] == kind


@pytest.mark.parametrize("contract", CONTRACTS)
def test_batch_comes_back_in_order_each_with_its_own_top_k(contract, make):
    engine, server = make(contract)
    assert engine.search(REQUESTS) == EXPECTED
    assert len(server.requests) == (3 if contract == "search-r1" else len(REQUESTS))
    assert server.num_connections <= FAST.max_concurrency + 1


def test_batch_is_cut_into_requests_that_servers_share(make):
    well = lambda request: ("well",)  # noqa: E731
    engine, *servers = make("search-r1", well, well, max_batch=2)
    assert engine.search(REQUESTS) == EXPECTED
    assert [len(server.requests) for server in servers] == [6, 6]
    sizes = [len(r.body["queries"]) for server in servers for r in server.requests]
    assert sizes == [2] * 12


def test_no_request_asks_nothing(make):
    engine, server = make()
    assert engine.search([]) == []
    assert server.num_connections == 0


def test_documents_without_scores_and_too_many_of_them_are_read_too(make):
    hit = {"id": "1", "title": "Mars", "text": "It is red."}
    engine, _ = make(answer=lambda body: {"result": [[hit] * 9 for _ in body["queries"]]})
    assert engine.search([SearchRequest("who")]) == [[Document("It is red.", title="Mars")] * 3]


def test_newer_gem_server_nests_its_one_result(make):
    engine, _ = make("gem", answer=lambda body: {"result": [hits(body["query"], 1)]})
    assert engine.search([SearchRequest("who")]) == [[document("who", 0)]]


def test_nothing_found_is_no_error(make):
    for contract, reply in {
        "search-r1": {"result": [[]]},
        "skyrl": {"result": [[]]},
        "gem": {"result": []},
        "zerosearch": [],
    }.items():
        engine, _ = make(contract, answer=lambda body, reply=reply: reply)
        assert engine.search([SearchRequest("who")]) == [[]]


PASSING_FAULTS = {
    "500": ("status", 500),
    "429 with a time": ("too_many", 0.1),
    "reset in mid-body": ("reset",),
    "torn body": ("torn",),
    "garbage": ("garbage",),
    "endless": ("endless",),
    "an error with status 200": ("garbage", b'{"error": "index is loading"}'),
    "a text in place of results": ("garbage", b'{"result": "error: out of memory"}'),
    "a text in place of documents": ("garbage", b'{"result": [["error: out of memory"]]}'),
    "a text in place of a list": ("garbage", b'{"result": ["error: out of memory"]}'),
    "documents without text": ("garbage", b'{"result": [[{"document": {"id": 1}}]]}'),
    "a document that is a text": ("garbage", b'{"result": [[{"document": "error"}]]}'),
    "a result too few": ("garbage", b'{"result": []}'),
    "a result too many": ("garbage", b'{"result": [[], []]}'),
    "null": ("garbage", b"null"),
}


@pytest.mark.parametrize("fault", PASSING_FAULTS)
def test_fault_that_passes_loses_and_doubles_nothing(fault, make, misbehaving):
    engine, server = make(
        "search-r1", misbehaving.fail_first(2, *PASSING_FAULTS[fault]), max_batch=1
    )
    assert engine.search(REQUESTS[:6]) == EXPECTED[:6]
    assert Counter(r.body["queries"][0] for r in server.requests) == {
        request.query: 3 for request in REQUESTS[:6]
    }


def in_msgpack(content):
    """Return a JSON reply as MessagePack; what is none stays what it is."""
    return msgpack.packb(json.loads(content)) if isinstance(content, bytes) else content


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("fault", PASSING_FAULTS)
def test_fault_that_stays_is_an_error_and_no_document(contract, fault, make):
    name, *arguments = PASSING_FAULTS[fault]
    if contract == "gem":
        arguments = list(map(in_msgpack, arguments))
    behaviour = (name, *arguments)
    if (contract, fault) == ("gem", "a result too few"):
        pytest.skip("in this contract that is nothing found")
    engine, server = make(
        contract, lambda request: behaviour, limits=replace(FAST, max_tries=2, deadline=5.0)
    )
    with pytest.raises(
        SearchEngineError, match=rf"^the retriever at {server.url} did not answer in 2 tries: \S"
    ):
        engine.search([SearchRequest("who")])


def test_server_that_refuses_is_not_asked_again(make):
    engine, server = make("search-r1", lambda request: ("status", 422, "no such field"))
    with pytest.raises(SearchEngineError, match=r"1 try: .*HTTP 422.*no such field"):
        engine.search(REQUESTS[:1])
    assert len(server.requests) == 1


def test_server_gone_for_good_fails_within_the_deadline(make):
    engine, server = make(limits=replace(FAST, deadline=1.0, max_tries=1000))
    server.die()
    start = time.monotonic()
    with pytest.raises(SearchEngineError, match=rf"the retriever at {server.url} .*1 s passed"):
        engine.search(REQUESTS)
    assert time.monotonic() - start < 4.0


def test_other_server_takes_over(make):
    well = lambda request: ("well",)  # noqa: E731
    engine, one, other = make("skyrl", lambda request: ("status", 500), well)
    assert engine.search(REQUESTS) == EXPECTED
    assert len(other.requests) == len(REQUESTS)
    assert len(one.requests) <= FAST.max_concurrency


@given(
    st.sampled_from(list(CONTRACTS)),
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["result", "document", "contents", "text", "title", "x"]), inner
            )
        ),
    ),
)
def test_reading_a_reply_gives_documents_or_an_error_that_is_retried(contract, reply):
    try:
        found = read_reply(CONTRACTS[contract], reply, 1, 3)
    except (LookupError, TypeError, ValueError):
        return
    [documents] = found
    assert all(isinstance(d.text, str) and isinstance(d.title, str) for d in documents)


def test_lone_surrogates_are_replaced(make):
    for contract in CONTRACTS:
        engine, _ = make(contract)
        [[found]] = engine.search([SearchRequest("a \ud800 b", top_k=1)])
        assert found.text == "a ? b / 0"


# By name


def test_engine_by_name_asks_all_its_servers(make, monkeypatch):
    well = lambda request: ("well",)  # noqa: E731
    _, one, other = make("skyrl", well, well)
    engine = make_engine(f"retriever:{one.url},{other.url}?contract=skyrl")
    assert engine.search(REQUESTS) == EXPECTED
    assert len(one.requests) == len(other.requests) == 12
    engine.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("retriever:some/folder", "`retriever:` must be followed by URLs"),
        ("retriever:http://h/retrieve#model", "`retriever:` must be followed by URLs"),
        ("retriever:http://h/retrieve?contract=rest", "`contract` must be one of .*, got 'rest'"),
        ("retriever:http://h/retrieve?max_batch=0", "`max_batch` must be .* at least 1, got 0"),
        ("retriever:http://h/retrieve?max_batch=x", "`max_batch` must be an integer, got 'x'"),
    ],
)
def test_name_that_cannot_be_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_engine(name)


def test_missing_msgpack_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ImportError, match="contract='gem' needs msgpack"):
        RetrieverSearchEngine("http://h/retrieve", contract="gem")


def test_copy_asks_the_same_server_in_the_same_way(make):
    engine, server = make("zerosearch", max_batch=5)
    other = pickle.loads(pickle.dumps(engine))
    assert other.search(REQUESTS) == EXPECTED
    assert repr(other) == repr(engine) != ""
    assert server.url in repr(engine)
    other.close()


# Secrets


@pytest.mark.parametrize(
    "behaviour",
    [("status", 401, f"wrong key {KEY}"), ("garbage", f"key {KEY}".encode()), ("reset",)],
)
def test_api_key_is_sent_and_never_shown(behaviour, make, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    engine, server = make("search-r1", lambda request: behaviour, limits=replace(FAST, max_tries=2))
    with pytest.raises(SearchEngineError) as caught:
        engine.search(REQUESTS[:1])
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    shown = [*traceback.format_exception(caught.value), caplog.text, repr(engine)]
    shown += [repr(vars(engine)), repr(pickle.dumps(engine))]
    assert not [text for text in shown if KEY[:12] in text]


def test_key_of_another_server_is_not_sent(make, monkeypatch):
    monkeypatch.setenv("ZS_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    engine, server = make()
    engine.search(REQUESTS[:1])
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_of_the_environment_stands_before_this_machine(host, proxy, make, monkeypatch):
    for name in ("ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    engine, server = make()
    engine.close()
    url = server.url.replace("127.0.0.1", host)
    assert host in url
    engine = RetrieverSearchEngine(url, limits=replace(FAST, max_tries=1))
    assert engine.search([SearchRequest("who", top_k=2)]) == [[document("who", n) for n in (0, 1)]]
    engine.close()

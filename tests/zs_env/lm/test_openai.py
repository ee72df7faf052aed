"""The client of OpenAI-compatible servers, against a real socket that misbehaves."""

import asyncio
import copy
import itertools
import logging
import multiprocessing
import pickle
import re
import threading
import time
import traceback
import warnings
from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest

from zs_env.lm.generator import (
    FinishReason,
    LanguageModelError,
    PromptTooLongError,
    SamplingParams,
)
from zs_env.lm.openai import API_KEY_VARIABLE, OpenAIGenerator
from zs_env.remote.limits import Limits
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.search.simulator import SimulatedSearchEngine
from zs_env.serve.batcher import Batcher, BatchLimits, is_unanswerable
from zs_env.vector_env import ZeroSearchVectorEnv

# Short pauses, but time-outs that a busy machine does not reach by itself.
FAST = Limits(
    max_concurrency=16,
    deadline=60.0,
    try_timeout=20.0,
    max_tries=8,
    first_delay=0.02,
    longest_delay=0.1,
    max_reply_bytes=1 << 20,
)
PROMPTS = [f"prompt {i}" for i in range(24)]
SEEDS = [1000 + i for i in range(24)]
PARAMS = SamplingParams(8, 0.7)
KEY = "sk-planted-9f8e7d6c5b4a"

PASSING_FAULTS = {
    "500": ("status", 500),
    "503": ("status", 503),
    "408": ("status", 408),
    "409": ("status", 409),
    "429 without a time": ("status", 429),
    "429 with a time": ("too_many", 0.1),
    "reset in mid-body": ("reset",),
    "torn body": ("torn",),
    "garbage": ("garbage",),
    "no JSON object": ("garbage", b"[1]"),
    "nesting without end": ("garbage", b"[" * 100_000),
    "an error with status 200": ("garbage", b'{"error": {"message": "overloaded"}}'),
    "a text that is none": (
        "garbage",
        b'{"choices": [{"text": null, "finish_reason": "stop"}]}',
    ),
    "no choice": ("garbage", b'{"choices": []}'),
    "aborted": ("finished", "abort"),
    "endless stream": ("endless",),
}


@pytest.fixture
def make(monkeypatch):
    """Return a function that makes a generator; all of them close with the test."""
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    made = []

    def make(*servers, limits=FAST, **options):
        made.append(OpenAIGenerator([server.url for server in servers], limits=limits, **options))
        return made[-1]

    yield make
    for generator in made:
        generator.close()


@pytest.fixture
def expected(misbehaving):
    """Return what a server that behaves well writes for all prompts."""
    return [misbehaving.expected_text(*pair) for pair in zip(PROMPTS, SEEDS, strict=True)]


def tries(server):
    """Return how often each prompt was asked."""
    return Counter(request.prompt for request in server.requests)


def test_completions_come_back_in_order_each_with_its_own_seed(make, make_server, expected):
    server = make_server()
    assert make(server).complete(PROMPTS, SEEDS, PARAMS) == expected
    assert tries(server) == dict.fromkeys(PROMPTS, 1)


def test_no_prompt_asks_nothing(make, make_server):
    server = make_server()
    assert make(server).complete([], [], PARAMS) == []
    assert server.num_connections == 0


def test_connections_are_bounded_and_used_again(make, make_server):
    server = make_server()
    generator = make(server, limits=replace(FAST, max_concurrency=4))
    for _ in range(3):
        generator.complete(PROMPTS, SEEDS, PARAMS)
    assert len(server.requests) == 3 * len(PROMPTS)
    assert server.num_connections <= 5
    assert server.script.num_checks == 1


@pytest.mark.parametrize("fault", PASSING_FAULTS)
def test_fault_that_passes_loses_and_doubles_nothing(
    fault, make, make_server, misbehaving, expected
):
    server = make_server(plan=misbehaving.fail_first(2, *PASSING_FAULTS[fault]))
    assert make(server).complete(PROMPTS, SEEDS, PARAMS) == expected
    assert tries(server) == dict.fromkeys(PROMPTS, 3)


@pytest.mark.parametrize("fault", ["silent", "dribble"])
def test_reply_that_takes_too_long_is_asked_for_again(
    fault, make, make_server, misbehaving, expected
):
    server = make_server(plan=misbehaving.fail_first(1, fault))
    limits = replace(FAST, max_concurrency=24, try_timeout=1.0)
    assert make(server, limits=limits).complete(PROMPTS, SEEDS, PARAMS) == expected
    assert min(tries(server).values()) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_refused_request_is_not_tried_again(code, make, make_server):
    server = make_server(plan=lambda request: ("status", code, "the prompt is too long"))
    with pytest.raises(LanguageModelError, match=rf"{server.url}.*1 try.*HTTP {code}.*too long"):
        make(server).complete(["only one"], [0], PARAMS)
    assert tries(server) == {"only one": 1}


TOO_LONG = {
    "vllm": "This model's maximum context length is 64 tokens. However, your prompt contains at "
    "least 65 input tokens, which exceeds this limit even without any output tokens.",
    "sglang": "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
    "llama.cpp": "request (4390 tokens) exceeds the available context size (4096 tokens), try "
    "increasing it",
    "tgi": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1999",
}


@pytest.mark.parametrize("said", TOO_LONG.values(), ids=TOO_LONG)
@pytest.mark.parametrize("code", [400, 422])
def test_prompt_that_a_server_finds_too_long_is_told_from_a_server_that_fails(
    code, said, make, make_server
):
    server = make_server(plan=lambda request: ("status", code, said))
    with pytest.raises(
        PromptTooLongError, match=rf"{server.url} did not answer in 1 try"
    ) as caught:
        make(server).complete(["only one"], [0], PARAMS)
    assert isinstance(caught.value, ValueError)
    server.script.plan = lambda request: ("status", 401, said)
    with pytest.raises(LanguageModelError) as caught:
        make(server).complete(["only one"], [0], PARAMS)
    assert not isinstance(caught.value, ValueError)


def test_fault_that_stays_ends_after_the_last_try(make, make_server):
    server = make_server(plan=lambda request: ("status", 500))
    with pytest.raises(LanguageModelError, match=rf"{server.url} did not.* 8 tries: .*HTTP 500"):
        make(server).complete(["only one"], [0], PARAMS)
    assert tries(server) == {"only one": 8}


def test_429_storm_is_waited_out_for_as_long_as_the_server_asks(make, make_server, expected):
    arrived = itertools.count()
    server = make_server(
        plan=lambda request: ("too_many", 0.6) if next(arrived) < 16 else ("well",)
    )
    assert make(server).complete(PROMPTS, SEEDS, PARAMS) == expected
    times = sorted(request.time for request in server.requests)
    assert len(times) == 16 + len(PROMPTS)
    assert times[16] >= times[15] + 0.6


def test_pause_beyond_the_deadline_fails_at_once(make, make_server):
    server = make_server(plan=lambda request: ("too_many", 600))
    start = time.monotonic()
    with pytest.raises(LanguageModelError, match=r"HTTP 429.*asks to wait 600 s, beyond"):
        make(server).complete(["only one"], [0], PARAMS)
    assert time.monotonic() - start < 30.0
    assert tries(server) == {"only one": 1}


def test_server_that_dies_in_mid_batch_and_comes_back_loses_and_doubles_nothing(
    make, make_server, expected
):
    server = make_server(plan=lambda request: ("slow", 0.1))
    generator = make(server, limits=replace(FAST, max_concurrency=4, max_tries=100))

    def crash():
        while len(server.requests) < 8:
            time.sleep(0.01)
        server.die()
        time.sleep(1.5)
        server.come_back()

    crashing = threading.Thread(target=crash)
    crashing.start()
    found = generator.complete(PROMPTS, SEEDS, PARAMS)
    crashing.join()
    assert found == expected
    assert 1 <= sum(count - 1 for count in tries(server).values()) <= 4


@pytest.mark.parametrize("behaviour", ["gone", "silent", "dribble", "endless"])
def test_server_gone_for_good_fails_within_the_deadline(behaviour, make, make_server):
    server = make_server(plan=lambda request: (behaviour,))
    limits = replace(FAST, deadline=1.5, try_timeout=0.5, max_tries=1000)
    if behaviour == "gone":
        server.die()
    start = time.monotonic()
    with pytest.raises(LanguageModelError, match=rf"{server.url} .*\d+ tr.*1\.5 s passed; last: "):
        make(server, limits=limits).complete(PROMPTS, SEEDS, PARAMS)
    assert 1.4 < time.monotonic() - start < 4.5


def test_endless_reply_is_cut_off_at_its_bound(make, make_server):
    server = make_server(plan=lambda request: ("endless",))
    limits = replace(FAST, max_tries=1)
    with pytest.raises(LanguageModelError, match="more than 1048576 bytes"):
        make(server, limits=limits).complete(["only one"], [0], PARAMS)


def test_healthy_servers_take_turns(make, make_server, expected):
    servers = make_server(), make_server()
    assert make(*servers).complete(PROMPTS, SEEDS, PARAMS) == expected
    assert [len(server.requests) for server in servers] == [12, 12]


@pytest.mark.parametrize("failure", ["gone", "sick", "500"])
def test_other_server_takes_over(failure, make, make_server, expected):
    one, other = make_server(), make_server()
    if failure == "gone":
        one.die()
    one.script.is_sick = failure == "sick"
    one.script.plan = lambda request: ("status", 500)
    assert make(one, other).complete(PROMPTS, SEEDS, PARAMS) == expected
    assert tries(other) == dict.fromkeys(PROMPTS, 1)
    assert len(one.requests) <= FAST.max_concurrency


def test_prompt_that_no_server_can_answer_is_not_sent_round_without_a_pause(make, make_server):
    servers = [make_server(plan=lambda request: ("status", 500)) for _ in range(2)]
    limits = replace(FAST, max_tries=31, first_delay=0.2, longest_delay=0.2)
    start = time.monotonic()
    with pytest.raises(LanguageModelError, match="31 tries"):
        make(*servers, limits=limits).complete(["only one"], [0], PARAMS)
    assert time.monotonic() - start > 0.5  # 15 pauses of 0.1 s on average
    assert sum(len(server.requests) for server in servers) == 31


def test_server_is_asked_again_once_it_has_cooled_down(make, make_server, expected):
    one, other = make_server(is_sick=True), make_server()
    generator = make(one, other, limits=replace(FAST, cool_down=1.5))
    generator.complete(PROMPTS[:2], SEEDS[:2], PARAMS)
    one.script.is_sick = False
    generator.complete(PROMPTS[:2], SEEDS[:2], PARAMS)
    assert not one.requests
    time.sleep(1.5)
    assert generator.complete(PROMPTS, SEEDS, PARAMS) == expected
    assert one.requests


def test_generator_works_inside_a_running_loop(make, make_server, expected):
    generator = make(make_server())

    async def cell():
        return generator.complete(PROMPTS, SEEDS, PARAMS)

    assert asyncio.run(cell()) == expected


def test_generator_works_from_several_threads(make, make_server, expected):
    generator, found = make(make_server()), []
    threads = [
        threading.Thread(target=lambda: found.append(generator.complete(PROMPTS, SEEDS, PARAMS)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copy_asks_the_same_server_in_the_same_way(duplicate, make, make_server, expected):
    server = make_server()
    generator = make(server, extra_fields={"min_tokens": 2})
    generator.complete(PROMPTS, SEEDS, PARAMS)
    with closing(duplicate(generator)) as other:
        assert other.complete(PROMPTS, SEEDS, PARAMS) == expected
        assert repr(other) == repr(generator)
    assert server.requests[-1].body["min_tokens"] == 2


def test_generator_goes_on_after_a_fork(make, make_server, expected):
    server = make_server()
    generator = make(server)
    generator.complete(PROMPTS, SEEDS, PARAMS)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_complete_all, args=(generator, queue))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and forks, newer Pythons
        child.start()
    found = queue.get()
    child.join(30)
    assert (found, child.exitcode) == (expected, 0)
    assert generator.complete(PROMPTS, SEEDS, PARAMS) == expected


def _complete_all(generator, queue):
    queue.put(generator.complete(PROMPTS, SEEDS, PARAMS))
    generator.close()


def test_closed_generator_opens_again(make, make_server, expected):
    generator = make(make_server())
    for _ in range(2):
        assert generator.complete(PROMPTS, SEEDS, PARAMS) == expected
        generator.close()
    generator.close()


def test_closing_tells_the_threads_that_still_wait(make, make_server):
    server = make_server(plan=lambda request: ("silent",))
    generator, failures = make(server), []

    def ask():
        try:
            generator.complete(PROMPTS, SEEDS, PARAMS)
        except LanguageModelError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        generator.close()  # again and again, for some may only come now
        time.sleep(0.01)
    said = f"the language model at {server.url} did not answer in 0 tries: the connections were"
    assert [failure.startswith(said) for failure in failures] == [True] * 3


def test_forgotten_generator_ends_its_thread(make_server):
    before = threading.active_count()
    server = make_server()
    generator = OpenAIGenerator(server.url, limits=FAST)
    generator.complete(["one"], [0], PARAMS)
    names = {thread.name for thread in threading.enumerate()}
    assert "zs-remote" in names
    del generator
    server.die()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


# What is asked, and what is made of the reply


def test_request_leaves_temperature_alone_to_shape_the_distribution(make, make_server):
    server = make_server()
    make(server).complete(["p"], [2**63 - 1], SamplingParams(9, 0.3))
    body = server.requests[0].body
    assert server.requests[0].path == "/v1/completions"
    assert body == {
        "model": "model",
        "prompt": "p",
        "max_tokens": 9,
        "temperature": 0.3,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": 2**63 - 1,
        "include_stop_str_in_output": True,
        "add_special_tokens": False,
    }


def test_unknown_server_is_sent_the_standard_fields_only(make, make_server):
    server = make_server(owner="someone")
    make(server).complete(["p"], [5], SamplingParams(9, 0.3, ("x",)))
    assert set(server.requests[0].body) == {
        *("model", "prompt", "max_tokens", "temperature", "top_p", "seed")
    }


def test_extra_fields_replace_add_and_leave_out(make, make_server):
    server = make_server(owner="someone")
    extra = {"top_p": 0.9, "reasoning": "low", "max_tokens": None}
    make(server, extra_fields=extra).complete(["p"], [5], PARAMS)
    body = server.requests[0].body
    assert (body["top_p"], body["reasoning"]) == (0.9, "low")
    assert "max_tokens" not in body


def test_seed_stays_within_what_the_server_tells_apart(make, make_server):
    server = make_server(owner="llamacpp")
    make(server).complete(["a", "b"], [2**32 - 1, 2**62], PARAMS)
    assert all(0 <= r.body["seed"] < 2**32 - 1 for r in server.requests)


@pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp", "someone"])
def test_stop_string_is_kept_wherever_the_text_comes_from(owner, make, make_server):
    server = make_server(owner=owner, text=lambda body: "<a>x</a> and <b>y</b>")
    params = SamplingParams(8, 0.0, ("</b>", "</a>"))
    assert make(server).complete(["p"], [0], params) == ["<a>x</a>"]


def test_text_that_ends_by_itself_gets_no_stop_string(make, make_server):
    server = make_server(owner="someone", plan=lambda request: ("finished", "stop"))
    params = SamplingParams(8, 0.0, ("</a>",))
    assert make(server).complete(["p"], [0], params) == ["Doc 1: ha"]


def test_chat_sends_a_message_and_leaves_the_template_to_the_server(make, make_server, expected):
    server = make_server()
    assert make(server, chat=True).complete(PROMPTS, SEEDS, PARAMS) == expected
    assert {request.path for request in server.requests} == {"/v1/chat/completions"}
    body = server.requests[0].body
    assert body["messages"] == [{"role": "user", "content": server.requests[0].prompt}]
    assert "prompt" not in body


def test_lone_surrogates_can_be_sent(make, make_server):
    server = make_server()
    make(server).complete(["a \ud800 b"], [0], PARAMS)
    assert server.requests[0].prompt == "a \ud800 b"


def test_model_has_to_be_named_where_there_are_several(make, make_server):
    server = make_server(models=("a", "b"))
    with pytest.raises(LanguageModelError, match=r"`model` must be given .*: a, b"):
        make(server).complete(["p"], [0], PARAMS)
    make(server, model="b").complete(["p"], [0], PARAMS)
    assert server.requests[0].body["model"] == "b"


def test_server_without_a_list_of_models_is_asked_in_the_standard_way(make, make_server):
    server = make_server(models=())
    make(server, model="m").complete(["p"], [0], PARAMS)
    assert "top_k" not in server.requests[0].body
    with pytest.raises(LanguageModelError, match=r"`model` must be given .*: none"):
        make(server).complete(["p"], [0], PARAMS)


# Token ids


def test_session_sends_the_whole_transcript_of_each_row(make, make_server):
    server = make_server(text=lambda body: "ab")
    session = make(server).session(3)
    params = SamplingParams(8, 1.0)
    session.generate([0, 2], [[1, 2], [7]], [0, 1], params)
    [completion] = session.generate([2], [[8]], [2], params)
    assert server.requests[-1].body["prompt"] == [7, 97, 98, 8]
    assert completion.token_ids == [97, 98]
    assert completion.logprobs == [-0.5, -0.5]
    assert (completion.text, completion.finish_reason) == ("ab", FinishReason.LENGTH)
    session.clear([2])
    session.generate([2], [[5]], [3], params)
    assert server.requests[-1].body["prompt"] == [5]


def test_reason_tells_a_stop_string_from_the_end_of_the_text(make, make_server):
    server = make_server(text=lambda body: "a</s>b")
    params = SamplingParams(8, 1.0, ("</s>",))
    [completion] = make(server).complete_tokens([[1]], [0], params)
    assert (completion.text, completion.finish_reason) == ("a</s>", FinishReason.STOP)


def test_full_context_gives_an_empty_completion_without_asking(make, make_server):
    server = make_server(max_context=4)
    generator = make(server)
    assert generator.max_context == 4
    found = generator.complete_tokens([[1] * 4, [2] * 3], [0, 1], SamplingParams(8, 1.0))
    assert [c.finish_reason for c in found] == [FinishReason.LENGTH] * 2
    assert [bool(c.token_ids) for c in found] == [False, True]
    assert [request.body["prompt"] for request in server.requests] == [[2, 2, 2]]


def test_no_more_is_asked_for_than_there_is_room_for(make, make_server):
    server = make_server(max_context=10)
    make(server).complete_tokens([[1] * 7, [2] * 2], [0, 1], SamplingParams(8, 1.0))
    assert sorted(request.body["max_tokens"] for request in server.requests) == [3, 8]


def test_session_keeps_its_contexts_when_the_server_fails(make, make_server):
    server = make_server(text=lambda body: "a")
    session = make(server).session(1)
    params = SamplingParams(8, 1.0)
    session.generate([0], [[1]], [0], params)
    server.script.plan = lambda request: ("status", 400)
    with pytest.raises(LanguageModelError):
        session.generate([0], [[2]], [0], params)
    server.script.plan = lambda request: ("well",)
    session.generate([0], [[3]], [0], params)
    assert server.requests[-1].body["prompt"] == [1, 97, 3]


def test_token_ids_that_are_none_are_asked_for_again(make, make_server, misbehaving):
    content = (
        b'{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": [1e999],'
        b' "logprobs": {"token_logprobs": [0]}}]}'
    )
    server = make_server(plan=misbehaving.fail_first(1, "garbage", content), text=lambda _: "a")
    [completion] = make(server).complete_tokens([[1]], [0], SamplingParams(8, 1.0))
    assert completion.token_ids == [97]


def test_tokens_need_a_server_that_gives_them(make, make_server):
    with pytest.raises(LanguageModelError, match="does not take and return token ids"):
        make(make_server(owner="someone")).complete_tokens([[1]], [0], SamplingParams(8, 1.0))


def test_logprobs_of_another_temperature_are_refused(make, make_server):
    server = make_server()
    with pytest.raises(ValueError, match=r"`temperature` must be 0 or 1 .* got 0\.5"):
        make(server).complete_tokens([[1]], [0], SamplingParams(8, 0.5))
    make(server, processed_logprobs=True).complete_tokens([[1]], [0], SamplingParams(8, 0.5))


def test_encode_asks_the_server(make, make_server):
    server = make_server()
    assert make(server).encode("ab") == [97, 98]
    assert server.requests[0].path == "/tokenize"
    assert server.requests[0].body["add_special_tokens"] is False


# Secrets


def everything_said(error):
    """Return all texts of an exception and of those behind it."""
    texts = traceback.format_exception(error)
    while error is not None:
        texts += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@pytest.mark.parametrize(
    "behaviour",
    [
        ("status", 401, f"wrong key {KEY}"),
        ("status", 500, f"{'x' * 190}{KEY}"),
        ("garbage", f"key {KEY}".encode()),
        ("garbage", f"{' ' * 3955}{KEY}".encode()),  # cut off in the middle of the key
        ("finished", KEY),
        ("reset",),
    ],
)
def test_api_key_is_sent_and_never_shown(behaviour, make, make_server, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    server = make_server(plan=lambda request: behaviour)
    generator = make(server, limits=replace(FAST, max_tries=2))
    engine = SimulatedSearchEngine(generator)
    with pytest.raises(SearchEngineError) as caught:
        engine.search([SearchRequest("q")])
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    shown = [everything_said(caught.value), caplog.text, repr(generator), repr(vars(generator))]
    shown.append(repr(pickle.dumps(generator)))
    assert not [text for text in shown if KEY[:12] in text]


@pytest.mark.parametrize("value", [f"{KEY} x", f"{KEY}\nx", f"{KEY}é"])
def test_key_that_cannot_be_sent_is_not_shown_either(value, make, make_server, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, value)
    with pytest.raises(ValueError, match="`ZS_API_KEY` must hold an API key") as caught:
        make(make_server()).complete(["p"], [0], PARAMS)
    assert KEY not in everything_said(caught.value)


def test_variable_of_the_key_can_be_chosen(make, make_server, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "not for you")
    server = make_server()
    make(server, api_key_variable="MY_KEY").complete(["p"], [0], PARAMS)
    make(server).complete(["p"], [0], PARAMS)
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == [f"Bearer {KEY}", None]


@pytest.mark.parametrize("url", [f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}"])
def test_url_with_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="`base_urls` must be") as caught:
        OpenAIGenerator(url)
    assert KEY not in everything_said(caught.value)


@pytest.mark.parametrize("password", ["pa/ss", "p[ss", "pa\u2100ss"])
def test_password_that_makes_a_url_unreadable_is_not_repeated_either(password):
    with pytest.raises(ValueError, match="`base_urls` must be") as caught:
        OpenAIGenerator(f"http://me:{password}@host/v1")
    assert not {"pa", "p["} & set(re.findall(r"pa|p\[", str(caught.value).partition("/v1")[2]))


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "ftp://host/v1", "http://", "http://h:x/v1", "http://a host/v1"),
        *("http://host/v1\n", "http://h\x00/v1", "http://host/\ud800"),
    ],
)
def test_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="`base_urls` must be like http://host:port/v1"):
        OpenAIGenerator(url)


# As a search engine


def test_host_that_no_network_can_have_is_told_at_once():
    generator = OpenAIGenerator("http://xn--/v1", limits=FAST)
    with (
        closing(generator),
        pytest.raises(LanguageModelError, match=r"http://xn--/v1 did not answer in 1 try: .*IDNA"),
    ):
        generator.complete(["p"], [0], PARAMS)


def test_message_cannot_act_on_a_terminal_and_can_be_written(make, make_server):
    server = make_server(models=("\x1b[2J\u202e", "\ud800"))
    with pytest.raises(LanguageModelError, match=r"`model` must be given") as caught:
        make(server).complete(["p"], [0], PARAMS)
    assert str(caught.value).isprintable()


def test_simulator_on_a_server_answers(make, make_server):
    server = make_server(text=lambda body: "Doc 1: one\nDoc 2: two")
    found = SimulatedSearchEngine(make(server)).search([SearchRequest("q")] * 3)
    assert found == [[Document("one"), Document("two")]] * 3


@pytest.mark.parametrize("fault", [("garbage", b'{"error": "busy"}'), ("status", 400), ("torn",)])
def test_simulator_never_makes_a_document_of_an_error(fault, make, make_server):
    server = make_server(plan=lambda request: fault)
    engine = SimulatedSearchEngine(make(server, limits=replace(FAST, max_tries=3)))
    with pytest.raises(SearchEngineError, match=rf"the simulator failed: .*{server.url}") as caught:
        engine.search([SearchRequest("q")])
    assert isinstance(caught.value.__cause__, LanguageModelError)


def test_neighbours_of_a_prompt_that_is_too_long_for_the_server_are_answered(make, make_server):
    too_long = ("status", 400, TOO_LONG["vllm"])
    server = make_server(
        plan=lambda request: too_long if "seven" in request.prompt else ("well",),
        text=lambda body: f"Doc 1: {body['seed']}",
    )
    batcher = Batcher(SimulatedSearchEngine(make(server)).search, BatchLimits(max_wait=0.2))
    queries = [f"{number} seven" if number == 7 else str(number) for number in range(16)]
    futures = batcher.submit([SearchRequest(q, seed=i) for i, q in enumerate(queries)])
    error = futures.pop(7).exception(30)
    found = [future.result(30)[0].text for future in futures]
    batcher.close()
    assert found == [str(number) for number in range(16) if number != 7]
    assert is_unanswerable(error)
    assert re.match("the simulator cannot be asked: .*HTTP 400.*maximum context length", str(error))


def test_engine_named_by_urls_asks_both_servers(make_server, monkeypatch):
    monkeypatch.setenv(API_KEY_VARIABLE, KEY)
    servers = [make_server(models=("a", "b")) for _ in range(2)]
    engine = make_engine(f"simulator:{servers[0].url},{servers[1].url}#b")
    assert engine.search([SearchRequest("q")] * 4) != []
    assert [len(server.requests) for server in servers] == [2, 2]
    assert servers[0].requests[0].body["model"] == "b"
    assert servers[0].requests[0].headers["Authorization"] == f"Bearer {KEY}"


def test_environment_loses_no_episode_to_a_server_that_restarts(make, make_server):
    server = make_server(plan=lambda request: ("slow", 0.05), text=lambda body: "Doc 1: one")
    engine = SimulatedSearchEngine(make(server, limits=replace(FAST, max_tries=1000)))
    env = ZeroSearchVectorEnv(num_envs=8, engine=engine)
    env.reset(seed=0)

    def crash():
        while not server.requests:
            time.sleep(0.005)
        server.die()
        time.sleep(0.5)
        server.come_back()

    crashing = threading.Thread(target=crash)
    crashing.start()
    _, _, terminated, truncated, infos = env.step(["<search>who</search>"] * 8)
    crashing.join()
    assert not (terminated | truncated).any()
    assert infos["num_searches"].tolist() == [1] * 8
    assert infos["turn"].tolist() == [1] * 8
    assert all(documents == (Document("one"),) for documents in infos["documents"])


def test_failed_step_can_be_repeated_once_the_server_is_back(make, make_server):
    server = make_server(text=lambda body: "Doc 1: one")
    engine = SimulatedSearchEngine(make(server, limits=replace(FAST, deadline=0.5)))
    env = ZeroSearchVectorEnv(num_envs=2, engine=engine)
    env.reset(seed=0)
    server.die()
    with pytest.raises(SearchEngineError, match="the simulator failed"):
        env.step(["<search>who</search>"] * 2)
    server.come_back()
    *_, infos = env.step(["<search>who</search>"] * 2)
    assert infos["num_searches"].tolist() == [1, 1]

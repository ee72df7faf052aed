"""A language model as the search engine."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from zs_env.lm.generator import Chat, SamplingParams
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.prompts import load_prompt, template_file, tuned_prompt
from zs_env.search.registry import SCHEMES, check_engine, make_engine
from zs_env.search.simulator import (
    MAX_TOKENS_OF_A_TEMPLATE,
    MAX_TOKENS_PER_DOCUMENT,
    SimulatedSearchEngine,
)


class FakeGenerator:
    """Replies with what it was told, in two documents; keeps its calls."""

    def __init__(self, reply=None):
        self.calls = []
        self._reply = reply

    def complete(self, prompts, seeds, params):
        self.calls.append((list(prompts), list(seeds), params))
        if self._reply is not None:
            return [self._reply for _ in prompts]
        return [
            f"Doc 1: {' '.join(prompt.split())}\nDoc 2: {seed}"
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


def requests(num=4):
    return [
        SearchRequest(
            f"query {i}",
            f"question {i}?",
            (f"golden {i}", f"alias {i}"),
            noisy=i % 2 == 1,
            seed=100 + i,
        )
        for i in range(num)
    ]


def test_prompt_carries_the_whole_request():
    """Fault 1: documents conditioned on another row's question."""
    generator = FakeGenerator()
    SimulatedSearchEngine(generator).search(requests())
    (prompts, _, _) = generator.calls[0]
    for i, prompt in enumerate(prompts):
        for part in (f"query {i}\n", f"question {i}?", f"golden {i}", f"alias {i}"):
            assert part in prompt
        assert ("Noisy" in prompt, "Useful" in prompt) == (i % 2 == 1, i % 2 == 0)


def test_seeds_and_order_are_kept():
    generator = FakeGenerator()
    found = SimulatedSearchEngine(generator).search(requests())
    assert generator.calls[0][1] == [100, 101, 102, 103]
    for i, documents in enumerate(found):
        assert f"query {i}" in documents[0].text
        assert documents[1] == Document(f"{100 + i}")


def test_batch_is_one_call():
    generator = FakeGenerator()
    SimulatedSearchEngine(generator).search(requests(9))
    assert len(generator.calls) == 1


def test_no_request_asks_nothing():
    generator = FakeGenerator()
    assert SimulatedSearchEngine(generator).search([]) == []
    assert generator.calls == []


@pytest.mark.parametrize(
    ("reply", "expected"), [("", []), ("Doc 1: a", ["a"]), ("no marker", ["no marker"])]
)
def test_fewer_documents_than_wanted_are_no_error(reply, expected):
    found = SimulatedSearchEngine(FakeGenerator(reply)).search(requests(2))
    assert [[d.text for d in documents] for documents in found] == [expected, expected]


def test_each_request_gets_its_own_top_k():
    generator = FakeGenerator("Doc 1: a\nDoc 2: b\nDoc 3: c\nDoc 4: d")
    wanted = [SearchRequest("q", top_k=1), SearchRequest("q", top_k=3)]
    found = SimulatedSearchEngine(generator).search(wanted)
    assert [len(documents) for documents in found] == [1, 3]
    assert generator.calls[0][2].max_new_tokens == 3 * MAX_TOKENS_PER_DOCUMENT


def test_reply_does_not_depend_on_the_others_top_k():
    model = TransformersLM.from_pretrained(model_folder("simulator"))
    engine = SimulatedSearchEngine(model, max_tokens_per_document=4)
    one, more = replace(requests(1)[0], top_k=1), replace(requests(1)[0], top_k=5)
    assert engine.replies([more, one, one]) == [
        *engine.replies([more]),
        *engine.replies([one, one]),
    ]


def test_half_a_surrogate_pair_reaches_no_tokenizer():
    half = SearchRequest("who \ud83d", "who \ud83d?", ("Ada \ud83d",))
    whole = SearchRequest("who ?", "who ??", ("Ada ?",))
    [found, expected] = make_engine("simulator").search([half, whole])
    assert found == expected != []


def test_prompt_and_temperature_may_be_chosen():
    generator = FakeGenerator()
    engine = SimulatedSearchEngine(generator, prompt=lambda r: r.query.upper(), temperature=0.7)
    engine.search(requests(1))
    prompts, _, params = generator.calls[0]
    assert prompts == ["QUERY 0"]
    assert params == SamplingParams(3 * MAX_TOKENS_PER_DOCUMENT, 0.7)


def test_question_too_long_for_the_model_is_an_error_and_no_empty_result():
    engine = make_engine("simulator")
    with pytest.raises(SearchEngineError, match="cannot be asked"):
        engine.search([SearchRequest("who", question="who " * 4000)])


def test_long_query_still_finds_documents():
    engine = make_engine("simulator")
    assert len(engine.search([SearchRequest("who directed it " * 600)])[0]) > 0


def asked(*args, **options):
    """Return what the model is asked, and how it is to sample."""
    generator = FakeGenerator("Doc 1: a")
    SimulatedSearchEngine(generator, *args, **options).search(requests(2))
    [(prompts, _, params)] = generator.calls
    return prompts, params


def written_as(prompt):
    return [prompt(request) for request in requests(2)]


PROMPTED = load_prompt("prompted")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, written_as(tuned_prompt)),
        ({"prompt": "tuned"}, written_as(tuned_prompt)),
        ({"prompt": "tuned", "chat": True}, [Chat(text) for text in written_as(tuned_prompt)]),
        ({"prompt": template_file("tuned")}, [Chat(text) for text in written_as(tuned_prompt)]),
        ({"prompt": template_file("tuned"), "chat": False}, written_as(tuned_prompt)),
        ({"prompt": "prompted"}, written_as(PROMPTED)),
        ({"prompt": "prompted", "chat": True}, written_as(PROMPTED)),
        ({"prompt": "prompted", "chat": False}, [chat.user for chat in written_as(PROMPTED)]),
        ({"prompt": lambda request: request.query}, ["query 0", "query 1"]),
        (
            {"prompt": lambda request: request.query, "chat": True},
            [Chat("query 0"), Chat("query 1")],
        ),
        (
            {"prompt": lambda request: Chat(request.query, "s")},
            [Chat(f"query {i}", "s") for i in "01"],
        ),
        ({"prompt": lambda request: Chat("q", "s"), "chat": False}, ["s\n\nq"] * 2),
        ({"prompt": lambda request: Chat("q", ""), "chat": False}, ["q"] * 2),
    ],
)
def test_chat_is_asked_for_where_it_is_wanted(options, expected):
    assert asked(**options)[0] == expected


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, MAX_TOKENS_PER_DOCUMENT),
        ({"prompt": tuned_prompt}, MAX_TOKENS_PER_DOCUMENT),
        ({"prompt": "prompted"}, MAX_TOKENS_OF_A_TEMPLATE),
        ({"prompt": str(template_file("tuned"))}, MAX_TOKENS_OF_A_TEMPLATE),
        ({"prompt": "prompted", "max_tokens_per_document": 7}, 7),
    ],
)
def test_templates_get_more_tokens_for_their_longer_documents(options, tokens):
    assert asked(**options)[1].max_new_tokens == 3 * tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "`temperature` must be 0 or more, got -0.1"),
        ({"temperature": float("nan")}, "`temperature` must be 0 or more, got nan"),
        ({"max_tokens_per_document": 0}, "`max_tokens_per_document` must be 1 or more, got 0"),
        ({"prompt": "shouted"}, "`prompt` must be tuned, prompted, .* got 'shouted'"),
    ],
)
def test_wrong_setting_is_refused_when_the_engine_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatedSearchEngine(FakeGenerator(), **options)


def test_template_that_fails_for_a_request_is_an_error_and_no_empty_result(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ golden_answers[0] }}")
    engine = SimulatedSearchEngine(FakeGenerator(), prompt=file)
    with pytest.raises(SearchEngineError, match=r"cannot be asked: .*mine\.jinja:1: "):
        engine.search([SearchRequest("q")])


PLACES = ["simulator:some/folder", "simulator:http://localhost:1/v1", "vllm:some/folder"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "options",
    ["prompt=tuned", "prompt=prompted&temperature=0", "chat=true&tokens=40&temperature=0.7"],
)
def test_options_are_known_without_building_anything(place, options):
    check_engine(f"{place}?{options}")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("temperature=warm", "`temperature` must be a number, got 'warm'"),
        ("temperature=-1", "`temperature` must be 0 or more, got -1.0"),
        ("temperature=inf", "`temperature` must be 0 or more, got inf"),
        ("tokens=0", "`tokens` must be 1 or more, got 0"),
        ("tokens=1.5", "`tokens` must be a number, got '1.5'"),
        ("chat=yes", "`chat` must be true or false, got 'yes'"),
        ("prompt=missing.jinja", r"`prompt` must be .* got 'missing.jinja'"),
        (
            "prompt=tuned&noise=1",
            "options of `[a-z]+:` are chat, prompt, temperature, tokens, got 'noise'",
        ),
    ],
)
def test_wrong_option_is_told_before_anything_is_built(place, options, message):
    with pytest.raises(ValueError, match=message):
        check_engine(f"{place}?{options}")


def test_wrong_template_is_told_before_anything_is_built(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("\n{{ qeury }}")
    with pytest.raises(ValueError, match=r"mine\.jinja:2: 'qeury' is undefined"):
        check_engine(f"simulator:some/folder?prompt={file}")


PAGE = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text(encoding="utf-8")


def snippet(language):
    [found] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_snippet_of_the_page_finds_documents():
    names = {}
    exec(snippet("python"), names)
    assert len(names["documents"]) == 3


def test_template_of_the_page_is_one(tmp_path):
    file = tmp_path / "google.jinja"
    file.write_text(snippet("jinja"), encoding="utf-8")
    request = SearchRequest("query", "Who?", ("Ada", "A. L."), noisy=True)
    prompt = load_prompt(file)(request)
    assert prompt.system == ""
    assert prompt.user == (
        '…its instruction, with noisy, "Who?" and Ada, A. L.…\n\nQuery: query\nNoisy Output:\n'
    )


def test_page_names_every_option():
    for option in SCHEMES["simulator"].options:
        assert f"| `{option}` | `" in PAGE

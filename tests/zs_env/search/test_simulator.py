"""A language model as the search engine."""

import pytest

from zs_env.lm.generator import SamplingParams
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.search.simulator import MAX_TOKENS_PER_DOCUMENT, SimulatedSearchEngine


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
    asked = [SearchRequest("q", top_k=1), SearchRequest("q", top_k=3)]
    found = SimulatedSearchEngine(generator).search(asked)
    assert [len(documents) for documents in found] == [1, 3]
    assert generator.calls[0][2].max_new_tokens == 3 * MAX_TOKENS_PER_DOCUMENT


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

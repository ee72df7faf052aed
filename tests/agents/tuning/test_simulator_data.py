"""What the simulator is trained on, and how it is measured."""

import re
from random import Random

import pytest

from agents.tuning.measure import held_out_drafts, measure_simulator
from agents.tuning.simulator_data import (
    HELD_OUT_SHARE,
    NOISY_SHARE,
    RequestSampler,
    is_held_out,
    simulator_examples,
    states,
    targets,
)
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.empty import EmptySearchEngine
from zs_env.search.engine import SearchRequest
from zs_env.search.prompts import parse_documents, tuned_prompt
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world

WORLD = default_world()
PROMPT = re.compile(
    r"Question: (.*)\nAnswer: (.*)\nQuery: (.*)\n(Noisy|Useful) documents:\n", re.ASCII
)


@pytest.fixture(scope="module")
def drafts():
    sampler = RequestSampler(WORLD, list(WORLD.worlds), seed=3)
    return [sampler.draw() for _ in range(1500)]


@pytest.fixture(scope="module")
def replies(drafts):
    return targets(drafts, BM25SearchEngine(WORLD.passages), Random(0))


@pytest.fixture(scope="module")
def examples(tokenizer):
    return list(simulator_examples(WORLD, tokenizer, 600, seed=0))


def split(tokenizer, example):
    """Return the request and the reply of an example."""
    length = example.weights.count(0.0)
    prompt = tokenizer.decode(example.token_ids[:length])
    question, answers, query, kind = PROMPT.fullmatch(prompt).groups()
    request = SearchRequest(query, question, tuple(answers.split(" | ")), kind == "Noisy")
    return request, example.token_ids[length:]


def test_noisy_targets_never_name_asked_subject_or_object(drafts, replies):
    checked = 0
    for draft, texts in zip(drafts, replies, strict=True):
        if draft.request.noisy and draft.asked:
            checked += 1
            names = (draft.asked.subject, draft.asked.object)
            assert not any(name in text for name in names for text in texts)
    assert checked > 300


def test_noisy_targets_never_name_the_answer(drafts, replies):
    for draft, texts in zip(drafts, replies, strict=True):
        if draft.request.noisy:
            assert not any(draft.request.golden_answers[0] in text for text in texts)


def test_useful_targets_state_the_asked_fact(drafts, replies):
    checked = 0
    for draft, texts in zip(drafts, replies, strict=True):
        if not draft.request.noisy and draft.asked:
            checked += 1
            assert any(states(text, draft.asked) for text in texts)
    assert checked > 300


def test_targets_are_distinct_sentences_of_the_world(drafts, replies):
    passages = set(WORLD.passages)
    for draft, texts in zip(drafts, replies, strict=True):
        assert len(texts) == len(set(texts)) <= draft.request.top_k
        assert set(texts) <= passages


def test_most_noisy_targets_are_full_replies(drafts, replies):
    noisy = [len(t) for d, t in zip(drafts, replies, strict=True) if d.request.noisy]
    assert sum(count == 3 for count in noisy) / len(noisy) > 0.95


def test_requests_are_as_noisy_as_stated_and_mostly_proper(drafts):
    noisy = sum(draft.request.noisy for draft in drafts) / len(drafts)
    proper = sum(draft.asked is not None for draft in drafts) / len(drafts)
    assert noisy == pytest.approx(NOISY_SHARE, abs=0.05)
    assert 0.75 < proper < 0.95


def test_held_out_requests_never_appear_in_training(tokenizer, examples):
    for example in examples:
        request, _ = split(tokenizer, example)
        assert not is_held_out(request)


def test_held_out_share_is_as_stated(drafts):
    share = sum(is_held_out(draft.request) for draft in drafts) / len(drafts)
    assert share == pytest.approx(HELD_OUT_SHARE, abs=0.02)


def test_held_out_requests_do_not_depend_on_seed_or_answers():
    request = SearchRequest("who", "Who?", ("a",), seed=1)
    assert is_held_out(request) == is_held_out(SearchRequest("who", "Who?", ("b",), seed=2))


def test_only_the_reply_is_learned_and_it_ends(tokenizer, examples):
    for example in examples:
        assert example.weights == sorted(example.weights)
        request, reply = split(tokenizer, example)
        assert set(example.weights) == {0.0, 1.0}
        assert reply[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in example.token_ids[:-1]
        found = [d.text for d in parse_documents(tokenizer.decode(reply[:-1]), 3)]
        assert 1 <= len(found) <= request.top_k
        assert set(found) <= set(WORLD.passages)


def test_prompt_is_the_one_that_the_simulator_will_get(tokenizer, examples):
    """Encoded as the back end encodes it."""
    for example in examples[:50]:
        request, reply = split(tokenizer, example)
        ids = tokenizer.encode(tuned_prompt(request), add_special_tokens=False)
        assert example.token_ids == [*ids, *reply]


def test_same_seed_gives_the_same_examples(tokenizer, examples):
    assert list(simulator_examples(WORLD, tokenizer, 50, seed=0)) == examples[:50]
    assert list(simulator_examples(WORLD, tokenizer, 50, seed=1)) != examples[:50]


def test_measured_requests_are_held_out_proper_and_half_noisy():
    drafts = held_out_drafts(WORLD, 60, seed=1)
    assert all(is_held_out(draft.request) for draft in drafts)
    assert all(draft.asked is not None for draft in drafts)
    assert sum(draft.request.noisy for draft in drafts) == 30


def test_measuring_the_exact_engine_finds_no_fault():
    report = measure_simulator(WorldSearchEngine(WORLD), 200, world=WORLD)
    assert report.parsed.value == report.useful_hit.value == report.true_useful.value == 1
    assert report.bridge_hit.value == report.true_noisy.value == 1
    assert report.noisy_leak.value == 0
    assert report.parsed.count == 200


def test_measuring_an_engine_that_ignores_noise_finds_the_leak():
    report = measure_simulator(BM25SearchEngine(WORLD.passages), 200, world=WORLD)
    assert report.useful_hit.value > 0.9
    assert report.noisy_leak.value > 0.9


def test_measuring_an_empty_engine_finds_nothing():
    report = measure_simulator(EmptySearchEngine(), 20, world=WORLD)
    assert report.parsed.value == report.useful_hit.value == report.noisy_leak.value == 0
    assert report.true_useful.count == 0

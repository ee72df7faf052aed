"""What the simulator is trained on, and how it is measured."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tuning.simulator_data import (
    HELD_OUT_SHARE,
    NAMED_KIND_SHARE,
    NOISY_SHARE,
    PARTING_WEIGHT,
    RequestSampler,
    TargetWriter,
    is_held_out,
    parting_weights,
    simulator_examples,
    states,
)
from agents.tuning.tokenizer import train_tokenizer
from zs_env.search.engine import NoiseKind, SearchRequest
from zs_env.search.prompts import parse_documents, tuned_prompt
from zs_env.task.miniwiki import default_world, look_alikes
from zs_env.task.statements import read_statement

WORLD = default_world()
PROMPT = re.compile(
    r"(?:Noisy|Useful) documents(?: \(.*\))? wanted\.\n"
    r"Question: (.*)\nAnswer: (.*)\nQuery: (.*)\n"
    r"(Noisy|Useful) documents(?: \((.*)\))?:\n",
    re.ASCII,
)
MADE_UP = (NoiseKind.OUTDATED, NoiseKind.CONTRADICTORY)
ABOUT_OTHERS = (None, NoiseKind.IRRELEVANT, NoiseKind.NEAR_MISS)


@pytest.fixture(scope="module")
def drafts():
    sampler = RequestSampler(WORLD, list(WORLD.worlds), seed=3)
    return [sampler.draw() for _ in range(1500)]


@pytest.fixture(scope="module")
def replies(drafts):
    return TargetWriter(WORLD, Random(0)).write(drafts)


@pytest.fixture(scope="module")
def examples(tokenizer):
    return list(simulator_examples(WORLD, tokenizer, 600, seed=0))


def split(tokenizer, example):
    """Return the request and the reply of an example."""
    length = example.weights.count(0.0)
    prompt = tokenizer.decode(example.token_ids[:length])
    question, answers, query, flag, kind = PROMPT.fullmatch(prompt).groups()
    request = SearchRequest(
        query,
        question,
        tuple(answers.split(" | ")),
        flag == "Noisy",
        noise_kind=NoiseKind(kind) if kind else None,
    )
    return request, example.token_ids[length:]


def cases(drafts, replies, *kinds):
    """Return the noisy drafts of some kinds that ask for a fact, and their documents."""
    return [
        (draft, texts)
        for draft, texts in zip(drafts, replies, strict=True)
        if draft.request.noisy and draft.asked and draft.request.noise_kind in kinds
    ]


def test_noisy_targets_never_name_asked_subject_or_object(drafts, replies):
    found = cases(drafts, replies, *ABOUT_OTHERS)
    assert len(found) > 300
    for draft, texts in found:
        names = (draft.asked.subject, draft.asked.object, draft.request.golden_answers[0])
        assert not any(name in text for name in names for text in texts)


def test_no_noisy_target_of_any_kind_states_the_asked_fact(drafts, replies):
    for draft, texts in cases(drafts, replies, None, *NoiseKind):
        assert not any(draft.asked.object in text for text in texts)


def alike(fact):
    """Return the names like the subject's that the same relation has in the same part."""
    part = next(world for world in WORLD.worlds.values() if fact in world.facts)
    return look_alikes(
        fact.subject, dict.fromkeys(f.subject for f in part.facts if f.relation == fact.relation)
    )


def test_near_misses_are_about_look_alikes_and_irrelevant_documents_are_not(drafts, replies):
    for kind, wanted in ((NoiseKind.NEAR_MISS, True), (NoiseKind.IRRELEVANT, False)):
        found = [
            any(read_statement(text).subject in alike(draft.asked) for text in texts)
            for draft, texts in cases(drafts, replies, kind)
        ]
        assert len(found) > 20
        # What the real engine adds to the wanted document may be about anybody.
        assert sum(share == wanted for share in found) / len(found) > 0.85


def test_partial_targets_are_about_the_asked_entity():
    sampler = RequestSampler(WORLD, list(WORLD.worlds), seed=3)
    drafts = [sampler.draw() for _ in range(4000)]
    drafts = [draft for draft in drafts if draft.request.noise_kind is NoiseKind.PARTIAL]
    replies = TargetWriter(WORLD, Random(0)).write(drafts)
    found = [
        any(draft.asked.subject in text for text in texts)
        for draft, texts in cases(drafts, replies, NoiseKind.PARTIAL)
    ]
    assert len(found) > 150
    assert sum(found) / len(found) > 0.9


def test_empty_targets_are_empty_and_no_others(drafts, replies):
    for draft, texts in zip(drafts, replies, strict=True):
        empty = draft.request.noise_kind is NoiseKind.EMPTY
        assert not (empty and texts)
        assert texts or empty or draft.asked is None


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
        if draft.request.noise_kind in MADE_UP:
            assert all(map(read_statement, texts))
        else:
            assert set(texts) <= passages


def test_most_noisy_targets_are_full_replies(drafts, replies):
    kinds = [kind for kind in (None, *NoiseKind) if kind is not NoiseKind.EMPTY]
    noisy = [len(texts) for _, texts in cases(drafts, replies, *kinds)]
    assert sum(count == 3 for count in noisy) / len(noisy) > 0.95


def test_requests_are_as_noisy_as_stated_and_mostly_proper(drafts):
    noisy = sum(draft.request.noisy for draft in drafts) / len(drafts)
    proper = sum(draft.asked is not None for draft in drafts) / len(drafts)
    kinds = [draft.request.noise_kind for draft in drafts if draft.request.noisy]
    named = sum(kind is not None for kind in kinds) / len(kinds)
    assert noisy == pytest.approx(NOISY_SHARE, abs=0.05)
    assert named == pytest.approx(NAMED_KIND_SHARE, abs=0.05)
    assert set(kinds) == {None, *NoiseKind}
    assert not any(draft.request.noise_kind for draft in drafts if not draft.request.noisy)
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
        learned = [weight > 0 for weight in example.weights]
        assert learned == sorted(learned)
        request, reply = split(tokenizer, example)
        assert {0.0, 1.0} <= set(example.weights) <= {0.0, 1.0, PARTING_WEIGHT}
        assert reply[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in example.token_ids[:-1]
        found = [d.text for d in parse_documents(tokenizer.decode(reply[:-1]), 3)]
        assert len(found) <= request.top_k
        assert found or not request.noisy or request.noise_kind is NoiseKind.EMPTY
        assert all(map(read_statement, found))


def test_prompt_is_the_one_that_the_simulator_will_get(tokenizer, examples):
    """Encoded as the back end encodes it."""
    for example in examples[:50]:
        request, reply = split(tokenizer, example)
        ids = tokenizer.encode(tuned_prompt(request), add_special_tokens=False)
        assert example.token_ids == [*ids, *reply]


def test_same_seed_gives_the_same_examples(tokenizer, examples):
    assert list(simulator_examples(WORLD, tokenizer, 50, seed=0)) == examples[:50]
    assert list(simulator_examples(WORLD, tokenizer, 50, seed=1)) != examples[:50]


@given(
    st.lists(st.integers(0, 3), max_size=12),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=3),
)
def test_weighted_tokens_are_those_at_which_a_reply_parts_from_a_name(reply, names):
    weights = parting_weights(reply, names)
    for place, weight in enumerate(weights):
        parts = any(
            reply[place - same : place] == name[:same] and reply[place] != name[same]
            for name in names
            for same in range(1, min(len(name), place + 1))
        )
        assert weight == (PARTING_WEIGHT if parts else 1.0)


def test_only_noisy_replies_are_weighted_and_only_where_they_part_from_names():
    tokenizer = train_tokenizer(0, 20)
    num = dict.fromkeys(("Noisy", "Useful"), 0)
    for example in simulator_examples(WORLD, tokenizer, 300, seed=1):
        text = tokenizer.decode(example.token_ids)
        num[text.split(" ")[0]] += PARTING_WEIGHT in example.weights
    assert num["Useful"] == 0
    assert num["Noisy"] > 15

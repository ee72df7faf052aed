"""The real engine: an index over the encyclopaedia."""

from dataclasses import replace

import bm25s
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.engine import Document, SearchRequest
from zs_env.task.miniwiki import RELATIONS, default_world

WORLD = default_world()
REQUESTS = [
    SearchRequest(RELATIONS[fact.relation].queries[i % 3].format(s=fact.subject))
    for i, fact in enumerate(WORLD.facts)
]


@pytest.fixture(scope="module")
def engine():
    return BM25SearchEngine(WORLD.passages)


def test_ranks_as_a_direct_call_of_the_library_does(engine):
    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index(bm25s.tokenize(list(WORLD.passages), stopwords="en", show_progress=False))
    queries = [r.query for r in REQUESTS[:200]]
    tokens = bm25s.tokenize(queries, stopwords="en", show_progress=False)
    found, _ = index.retrieve(tokens, k=3, show_progress=False)
    expected = [[WORLD.passages[i] for i in row] for row in found]
    assert [[d.text for d in reply] for reply in engine.search(REQUESTS[:200])] == expected


@pytest.mark.parametrize("split", list(WORLD.worlds))
@pytest.mark.parametrize("wording", range(3))
def test_asked_fact_is_among_three_documents(engine, split, wording):
    facts = WORLD.world(split).facts
    requests = [
        SearchRequest(RELATIONS[f.relation].queries[wording].format(s=f.subject)) for f in facts
    ]
    hits = [
        any(document.text in fact.passages for document in found)
        for fact, found in zip(facts, engine.search(requests), strict=True)
    ]
    assert sum(hits) / len(hits) >= 0.95


@pytest.mark.parametrize("query", ["", "zzz qqq", "the of", "x", "\ud800", "<search>"])
def test_query_without_a_known_word_finds_nothing(engine, query):
    assert engine.search([SearchRequest(query), REQUESTS[0]])[0] == []


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)))
def test_permuting_a_batch_permutes_results(engine, order):
    requests = [*REQUESTS[:7], SearchRequest("zzz")]
    found = engine.search(requests)
    assert engine.search([requests[i] for i in order]) == [found[i] for i in order]


def test_request_does_not_depend_on_the_others_top_k(engine):
    alone = engine.search(REQUESTS)
    mixed = engine.search([*REQUESTS, replace(REQUESTS[0], top_k=50)])
    assert mixed[:-1] == alone
    assert len(mixed[-1]) == 50


def test_equal_passages_rank_the_same_whatever_is_asked_for_beside_them():
    """Ties are common among short passages."""
    engine = BM25SearchEngine([f"red apple {i}" for i in range(30)])
    few, many = SearchRequest("apple", top_k=3), SearchRequest("apple", top_k=20)
    assert engine.search([few, many])[0] == engine.search([few])[0]


def test_top_k_beyond_the_corpus_returns_what_there_is():
    engine = BM25SearchEngine(["red apple", "green apple", "blue sky"])
    found = engine.search([SearchRequest("apple", top_k=9)])[0]
    assert {document.text for document in found} == {"red apple", "green apple"}


def test_noise_and_golden_answers_are_ignored(engine):
    noisy = replace(REQUESTS[0], noisy=True, golden_answers=("x",), seed=9, question="why")
    assert engine.search([noisy]) == engine.search([REQUESTS[0]])


def test_title_is_searched_and_kept():
    engine = BM25SearchEngine([Document("It is red.", title="Mars"), Document("It is far.")])
    assert engine.search([SearchRequest("mars")])[0] == [Document("It is red.", title="Mars")]


def test_search_of_no_request_returns_nothing(engine):
    assert engine.search([]) == []


def test_empty_corpus_is_refused():
    with pytest.raises(ValueError, match="`passages` must not be empty"):
        BM25SearchEngine([])

"""The real engine: an index over the encyclopaedia, or over the passages of a file."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env.search import bm25
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.corpus import DocumentStore
from zs_env.search.engine import Document, SearchRequest
from zs_env.search.registry import make_engine
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


def test_passages_without_a_word_are_refused():
    with pytest.raises(ValueError, match="must hold a word to search for"):
        BM25SearchEngine(["a", "?"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"k1": -0.1}, r"`k1` must be a number of at least 0, got -0\.1"),
        ({"k1": float("nan")}, "`k1` must be .* got nan"),
        ({"b": 1.5}, r"`b` must be a probability in \[0, 1\], got 1\.5"),
    ],
)
def test_parameter_out_of_range_is_named(parameters, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        BM25SearchEngine(["red"], **parameters)
    with pytest.raises(ValueError, match=message):
        BM25SearchEngine.from_file(tmp_path / "no.jsonl", **parameters, index=tmp_path)


# Over a file


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Return a file with the articles of the encyclopaedia."""
    path = tmp_path_factory.mktemp("corpus") / "articles.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in WORLD.passages))
    return path


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    return tmp_path_factory.mktemp("indices")


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4)])
def test_engine_over_a_file_ranks_as_the_one_in_memory(k1, b, corpus, indices):
    asked = [*REQUESTS[:300], *(replace(request, top_k=7) for request in REQUESTS[300:320])]
    in_memory = BM25SearchEngine(WORLD.passages, k1=k1, b=b)
    named = make_engine(f"bm25:{corpus}?k1={k1}&b={b}&index={indices}")
    assert named.search(asked) == in_memory.search(asked)


def test_index_is_made_once_and_mapped(corpus, indices, monkeypatch):
    first = BM25SearchEngine.from_file(corpus, index=indices)
    monkeypatch.setattr(bm25, "_make_index", lambda *_: pytest.fail("was made again"))
    again = BM25SearchEngine.from_file(str(corpus), index=str(indices))
    assert again.search(REQUESTS[:9]) == first.search(REQUESTS[:9])
    assert isinstance(again._index.scores["data"], np.memmap)
    assert isinstance(again._documents, DocumentStore)


def test_other_parameters_or_content_make_another_index(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "red red apple"}\n{"text": "red sky at night"}')
    engines = [BM25SearchEngine.from_file(path, k1=k1, index=tmp_path) for k1 in (1.5, 0.0, 1.5)]
    assert len(list(tmp_path.glob("bm25-*"))) == 2
    path.write_text('{"text": "green apple"}\n{"text": "sky at night"}')
    engines.append(BM25SearchEngine.from_file(path, index=tmp_path))
    assert len(list(tmp_path.glob("bm25-*"))) == 3
    found = [engine.search([SearchRequest("red")])[0] for engine in engines]
    assert [len(documents) for documents in found] == [2, 2, 2, 0]


def _search(path, index, start, queue):
    start.wait()
    queue.put(BM25SearchEngine.from_file(path, index=index).search(REQUESTS[:3]))


def test_processes_that_want_the_same_index_at_once_all_get_it(corpus, tmp_path):
    context = multiprocessing.get_context("fork")
    start, queue = context.Event(), context.SimpleQueue()
    processes = [
        context.Process(target=_search, args=(corpus, tmp_path, start, queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.set()
    expected = BM25SearchEngine(WORLD.passages).search(REQUESTS[:3])
    assert [queue.get() for _ in processes] == [expected] * 2
    for process in processes:
        process.join(30)
    assert len(list(tmp_path.glob("bm25-*"))) == 1


def test_titles_of_a_file_are_searched_and_kept(tmp_path):
    path = tmp_path / "corpus.jsonl"
    lines = [{"id": 0, "contents": '"Mars"\nIt is red.'}, {"contents": "It is far away."}]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    engine = BM25SearchEngine.from_file(path, index=tmp_path)
    assert engine.search([SearchRequest("mars")]) == [[Document("It is red.", title="Mars")]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bm25:corpus.jsonl?k1=high", "`k1` must be a number, got 'high'"),
        ("bm25:http://localhost/x", "`bm25:` must be followed by a corpus file"),
        ("bm25:corpus.jsonl#model", "`bm25:` must be followed by a corpus file"),
    ],
)
def test_name_that_cannot_be_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        make_engine(name)


# Over real paragraphs

DATA = Path(os.environ.get("ZS_DATA", "no-such-folder")) / "hotpot_distractor.jsonl"


@pytest.mark.skipif(not DATA.is_file(), reason="ZS_DATA does not name a folder of real data")
def test_supporting_paragraphs_of_hotpotqa_are_found_by_the_question(tmp_path):
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    passages = list({(p["title"], p["text"]): p for row in rows for p in row["passages"]}.values())
    path = tmp_path / "paragraphs.jsonl"
    path.write_text("\n".join(map(json.dumps, passages)))
    engine = BM25SearchEngine.from_file(path, index=tmp_path)
    found = engine.search([SearchRequest(row["question"], top_k=5) for row in rows])

    texts = [f"{p['title']} {p['text']}" for p in passages]
    index = bm25s.BM25(k1=1.5, b=0.75)
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize([row["question"] for row in rows], stopwords="en", show_progress=False)
    ids, _ = index.retrieve(tokens, k=5, show_progress=False)
    expected = [[(passages[i]["title"], passages[i]["text"]) for i in each] for each in ids]
    assert [[(d.title, d.text) for d in documents] for documents in found] == expected

    recalls = []
    for row, documents in zip(rows, found, strict=True):
        supporting = {p["title"] for p in row["passages"] if p["supporting"]}
        recalls.append(len(supporting & {d.title for d in documents}) / len(supporting))
    assert sum(recalls) / len(recalls) == pytest.approx(0.75, abs=0.02)

"""Our client of retrieval servers asks our server: nothing may be lost on the way and back."""

import json
from dataclasses import replace

import pytest

from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.engine import Document, SearchRequest
from zs_env.search.registry import make_engine

PASSAGES = (
    Document("It is red.", title="Mars"),
    Document("Venus is hot and red clouds cover it."),
    Document("Red\ngiants are stars.", title='The "big" ones'),
    Document("The Danube is a river."),
)
REQUESTS = [SearchRequest("red", top_k=k) for k in (1, 2, 3)] + [
    SearchRequest("which river"),
    SearchRequest("xylophone"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory, shared_server):
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = [json.dumps({"title": d.title, "text": d.text}) for d in PASSAGES]
    corpus.write_text("\n".join(rows))
    index = corpus.parent / "index"
    return shared_server("--engine", f"bm25:{corpus}?index={index}", "--no-neutralise").url


@pytest.mark.parametrize("contract", ["search-r1", "skyrl", "gem", "zerosearch"])
def test_documents_survive_the_way(url, contract):
    engine = make_engine(f"retriever:{url}/retrieve?contract={contract}")
    assert engine.search(REQUESTS) == BM25SearchEngine(PASSAGES).search(REQUESTS)


def test_requests_are_matched_to_replies_when_many_go_at_once(url):
    engine = make_engine(f"retriever:{url}/retrieve?contract=gem")
    requests = [replace(request, seed=seed) for seed in range(20) for request in REQUESTS]
    assert engine.search(requests) == BM25SearchEngine(PASSAGES).search(REQUESTS) * 20

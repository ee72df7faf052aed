"""Dense retrieval with a tiny random model, real sentence-transformers and real faiss."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("faiss")
pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from zs_env.search import dense
from zs_env.search.dense import DenseSearchEngine
from zs_env.search.engine import Document, SearchRequest
from zs_env.search.records import join_contents
from zs_env.search.registry import make_engine

WORDS = 'mars venus red far near hot cold planet moon is the who what query passage : " it'.split()
DOCUMENTS = [
    Document(f"it is {a} and {b}", title=c if c != "moon" else "")
    for a in ("red", "far", "near", "hot", "cold")
    for b in ("planet", "the moon", "far")
    for c in ("mars", "venus", "moon")
]
QUERIES = ["who is mars", "what is the moon", "cold planet", "", "near venus \ud800"]


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    """Return a function that saves a random model and returns its folder."""

    def make(seed):
        base = tmp_path_factory.mktemp("bert")
        (base / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
        tokenizer = BertTokenizerFast(str(base / "vocab.txt"))
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(WORDS) + 4,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            initializer_range=0.5,
        )
        BertModel(config).save_pretrained(base)
        tokenizer.save_pretrained(base)
        transformer = Transformer(str(base))
        folder = tmp_path_factory.mktemp("model")
        SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(folder))
        return folder

    return make


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = [json.dumps({"title": d.title, "text": d.text}) for d in DOCUMENTS]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def indices(tmp_path_factory):
    return tmp_path_factory.mktemp("indices")


def by_hand(model, queries, top_k, query_prefix="", passage_prefix=""):
    """Return the best documents of each query by brute force."""
    encoder = SentenceTransformer(str(model), device="cpu")
    texts = [passage_prefix + join_contents(document) for document in DOCUMENTS]
    asked = [query_prefix + query.encode("utf-8", "replace").decode() for query in queries]
    passages, questions = (np.asarray(encoder.encode(each)) for each in (texts, asked))
    passages /= np.linalg.norm(passages, axis=1, keepdims=True)
    order = np.argsort(-(questions @ passages.T), axis=1, kind="stable")[:, :top_k]
    return [[DOCUMENTS[i] for i in row] for row in order]


def requests(top_k=4):
    return [SearchRequest(query, top_k=top_k) for query in QUERIES]


def test_engine_ranks_as_brute_force_does(model, corpus, indices):
    engine = make_engine(f"dense:{corpus}?model={model}&index={indices}&device=cpu")
    assert engine.search(requests()) == by_hand(model, QUERIES, 4)


def test_prefixes_are_put_before_queries_and_passages(model, corpus, indices):
    name = f"dense:{corpus}?model={model}&index={indices}&device=cpu"
    engine = make_engine(f"{name}&query_prefix=query:+&passage_prefix=passage:+")
    assert engine.search(requests()) == by_hand(model, QUERIES, 4, "query: ", "passage: ")
    assert engine.search(requests()) != make_engine(name).search(requests())


def test_request_does_not_depend_on_the_others_top_k(model, corpus, indices):
    engine = DenseSearchEngine(corpus, str(model), index=indices, device="cpu")
    mixed = engine.search([*requests(2), replace(requests()[0], top_k=99)])
    assert [len(documents) for documents in mixed] == [2] * len(QUERIES) + [len(DOCUMENTS)]
    assert mixed[:-1] == [documents[:2] for documents in engine.search(requests())]
    assert engine.search([]) == []


def test_index_is_made_once_and_stays_on_disk(model, corpus, indices, monkeypatch):
    first = DenseSearchEngine(corpus, str(model), index=indices, device="cpu")
    monkeypatch.setattr(DenseSearchEngine, "_build", lambda *_: pytest.fail("was made again"))
    again = DenseSearchEngine(corpus, str(model), index=indices, device="cpu")
    assert again.search(requests()) == first.search(requests())
    if sys.platform == "linux":
        made = {path.parent for path in indices.glob("dense-*/index.faiss")}
        assert made & mapped_folders()


def mapped_folders():
    """Return the folders of the indices that this process has mapped into memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split()[-1]).parent for line in lines if line.endswith("index.faiss")}


def test_other_model_prefix_or_type_makes_another_index(make_model, model, corpus, tmp_path):
    settings = [
        {"model": str(model)},
        {"model": str(make_model(1))},
        {"model": str(model), "passage_prefix": "passage: "},
        {"model": str(model), "index_type": "HNSW8"},
        {"model": str(model), "query_prefix": "query: "},
    ]
    for each in settings:
        DenseSearchEngine(corpus, index=tmp_path, device="cpu", **each)
    assert len(list(tmp_path.glob("dense-*"))) == 4  # the query's prefix is not in the index


def test_index_made_in_small_chunks_is_the_same(model, corpus, indices, tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "_CHUNK", 7)
    engine = DenseSearchEngine(corpus, str(model), index=tmp_path, device="cpu", batch_size=3)
    assert engine.search(requests()) == by_hand(model, QUERIES, 4)


def test_index_with_cells_is_trained_and_looks_into_as_many_as_it_is_told(
    model, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(dense, "_NUM_TRAINING", 20)
    settings = {"index": tmp_path, "device": "cpu", "index_type": "IVF4,Flat"}
    one = DenseSearchEngine(corpus, str(model), **settings)
    all_cells = DenseSearchEngine(corpus, str(model), **settings, num_probes=4)
    many = [replace(request, top_k=len(DOCUMENTS)) for request in requests()]
    assert all_cells.search(requests()) == by_hand(model, QUERIES, 4)
    assert all(0 < len(documents) < len(DOCUMENTS) for documents in one.search(many))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("index_type=Shoe", "`index_type` must be what faiss can do, got 'Shoe'"),
        ("batch_size=0", "`batch_size` must be an integer of at least 1, got 0"),
        ("batch_size=x", "`batch_size` must be an integer, got 'x'"),
        ("num_probes=4", "`num_probes` must be what faiss can do, got 4"),
        ("num_probes=0", "`num_probes` must be an integer of at least 1, got 0"),
    ],
)
def test_option_that_cannot_be_is_named(options, message, model, corpus, indices):
    name = f"dense:{corpus}?model={model}&index={indices}&device=cpu&{options}"
    with pytest.raises(ValueError, match=message):
        make_engine(name)


def test_model_has_to_be_named(corpus):
    with pytest.raises(ValueError, match="must name its model"):
        make_engine(f"dense:{corpus}")


@pytest.mark.parametrize("library", ["faiss", "sentence_transformers"])
def test_missing_library_says_how_to_install_it(library, corpus, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"pip install 'zs-env\[dense\]'"):
        DenseSearchEngine(corpus, str(model), index=tmp_path)


def test_model_of_the_hub_is_known_by_its_commit(model, corpus, tmp_path):
    """A hub's cache, as a download leaves it, in a process without a network."""
    cached = tmp_path / "hub" / "models--org--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("c0ffee" * 6)
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / ("c0ffee" * 6)).symlink_to(model)
    code = (
        "import sys; from zs_env.search.registry import make_engine;"
        "from zs_env.search.engine import SearchRequest;"
        "engine = make_engine(sys.argv[1]);"
        "import pickle; sys.stdout.buffer.write(pickle.dumps(engine.search("
        "[SearchRequest(q, top_k=4) for q in eval(sys.argv[2])])))"
    )
    name = f"dense:{corpus}?model=org/tiny&index={tmp_path}&device=cpu"
    done = subprocess.run(
        [sys.executable, "-c", code, name, repr(QUERIES)],
        env=os.environ
        | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    assert pickle.loads(done.stdout) == by_hand(model, QUERIES, 4)
    [entry] = tmp_path.glob("dense-*")
    made_from = json.loads((entry / "made_from.json").read_text())
    assert made_from["model"] == f"org/tiny@{'c0ffee' * 6}"

"""Engines by name, and the seam at which an engine's reply is trusted or not."""

import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import pytest

import zs_env  # noqa: F401 - registers the ids
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.names import Place, read_place
from zs_env.search.registry import ENGINES, check_engine, make_engine, names_engine, search_all

REQUEST = SearchRequest("who")


class Replying:
    """Replies with what it is told, and counts its calls."""

    def __init__(self, reply):
        self.reply, self.num_calls = reply, 0

    def search(self, requests):
        self.num_calls += 1
        return self.reply


MALFORMED = [
    None,
    5,
    "text",
    {"documents": []},
    (each for each in ()),
    [None],
    ["text"],
    [["text"]],
    [[None]],
    [[{"text": "It is red."}]],
    [[Document(None)]],
    [[Document("It is red.", title=7)]],
    [[Document("It is red."), Document(b"bytes")]],
]


@pytest.mark.parametrize("reply", MALFORMED)
def test_reply_without_documents_is_the_engines_error(reply):
    with pytest.raises(
        SearchEngineError, match="Replying must return a list of Documents for each request, got "
    ):
        search_all(Replying(reply), [REQUEST])


def test_message_quotes_a_long_reply_in_part():
    with pytest.raises(SearchEngineError) as caught:
        search_all(Replying([["word " * 10_000]]), [REQUEST])
    assert len(str(caught.value)) < 200


def test_wrong_number_of_results_is_the_engines_error():
    with pytest.raises(SearchEngineError, match="Replying returned 2 results for 1 requests"):
        search_all(Replying([[], []]), [REQUEST, None])


def test_documents_go_to_the_slots_that_asked():
    first, second = [Document("one")], (Document("two"),)
    engine = Replying([first, second])
    assert search_all(engine, [None, REQUEST, None, REQUEST]) == [(), first, (), second]
    assert search_all(engine, [REQUEST, REQUEST]) == [first, second]
    assert search_all(engine, [None, None]) == [(), ()]
    assert engine.num_calls == 2


@pytest.mark.parametrize("engine", [None, 5, object(), Replying])
def test_what_cannot_search_is_refused(engine):
    listed = r"`engine` must be simulator, .*world, .* or an object with"
    with pytest.raises(TypeError, match=listed):
        check_engine(engine)
    with pytest.raises(TypeError, match="`engine` must be"):
        make_engine(engine)


def test_named_engines_are_shared_and_objects_are_themselves():
    engine = Replying([])
    assert make_engine(engine) is engine
    assert make_engine("world") is make_engine("world")
    for name in ENGINES:
        check_engine(name)
    with pytest.raises(ValueError, match=r"`engine` must be .*, got 'google'"):
        make_engine("google")


REQUESTS = [SearchRequest("who founded it", "Who founded it?", ("Someone",), seed=3)]


@pytest.mark.parametrize(
    "engine",
    [
        "world",
        "simulator",
        "simulator:some/folder",
        "simulator:http://localhost:8000/v1",
        "simulator:http://localhost:8000/v1#model",
        "simulator:https://a/v1,http://b/v1#org/model",
        "vllm:some/folder",
    ],
)
def test_engine_by_name_or_place_is_known_and_not_built(engine):
    check_engine(engine)
    assert names_engine(engine)
    assert "vllm" not in sys.modules


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        ("bm25:nope.jsonl", "file"),
        ("bm25:nope.jsonl?k1=1", "file"),
        ("bm25:.", "file"),
        ("dense:nope.jsonl?model=some/encoder", "file"),
        ("simulator:./nope", "folder"),
        ("simulator:/nope?temperature=0", "folder"),
        ("vllm:~/nope", "folder"),
    ],
)
def test_missing_file_is_told_when_the_environment_is_made(engine, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, _, _ = engine.partition("?")
    message = f"^`engine` must name an existing {wanted}, got '{re.escape(place)}'$"
    with pytest.raises(FileNotFoundError, match=message):
        gym.make("ZeroSearch-v0", engine=engine)
    with pytest.raises(FileNotFoundError, match=message):
        check_engine(f"cached:replies.sqlite#{engine}")
    check_engine(f"cached:replies.sqlite?mode=replay-strict#{engine}")
    assert names_engine(engine)


def test_corpus_or_folder_that_is_there_is_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wiki.jsonl").touch()
    for engine in ("bm25:wiki.jsonl", "bm25:~/wiki.jsonl", "dense:wiki.jsonl?model=m"):
        check_engine(engine)
    check_engine(f"simulator:{tmp_path}")


def test_dense_without_its_model_is_told_when_the_environment_is_made(tmp_path):
    (tmp_path / "wiki.jsonl").touch()
    with pytest.raises(ValueError, match="`dense:` must name its model"):
        gym.make("ZeroSearch-v0", engine=f"dense:{tmp_path}/wiki.jsonl")


@pytest.mark.parametrize("engine", ["", ":", "simulator:", "vllm:", "world:x", "google:x"])
def test_unknown_name_is_refused(engine):
    assert not names_engine(engine)
    with pytest.raises(ValueError, match=r"`engine` must be simulator, .* simulator:<place>.* got"):
        check_engine(engine)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:secret@host/v1", "`base_urls` must be"),
        ("http://host/v1?key=secret#model", "options of `simulator:` are .*, got 'key'"),
    ],
)
def test_url_with_a_secret_is_refused_and_not_repeated(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_engine(f"simulator:{url}")
    assert "secret" not in str(caught.value)


def test_url_with_a_secret_is_not_repeated_where_its_scheme_is_misspelt():
    with pytest.raises(ValueError, match=r"`engine` must be .*, got 'retreiver:http://…@host/r'"):
        check_engine("retreiver:http://me:se/cret@host/r")


@pytest.mark.parametrize("engine", ["simulator:some/folder#model", "vllm:http://localhost:8000/v1"])
def test_model_in_this_process_has_neither_url_nor_name_on_a_server(engine):
    with pytest.raises(
        ValueError, match=r"followed by a folder or hub id, with no URL and no #mod"
    ):
        make_engine(engine)


def test_simulator_of_a_folder_is_the_model_in_it():
    named = make_engine(f"simulator:{model_folder('simulator')}")
    assert named is make_engine(f"simulator:{model_folder('simulator')}")
    assert named.search(REQUESTS) == make_engine("simulator").search(REQUESTS)
    assert isinstance(named.generator, TransformersLM)


def test_vllm_where_it_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"pip install 'zs-env\[vllm\]'"):
        make_engine("vllm:some/folder")


@pytest.mark.parametrize("options", ["", "x", "x=", "=y", "x=1&x=2", "x=1&y"])
def test_options_without_a_value_or_twice_are_refused(options):
    with pytest.raises(ValueError, match="options must be like"):
        check_engine(f"simulator:folder?{options}")


def test_unknown_option_is_named():
    with pytest.raises(ValueError, match=r"options of `simulator:` are .*, got 'shoe'"):
        check_engine("simulator:folder?shoe=1")


def test_place_is_read_into_its_parts():
    place = read_place("http://a:1/v1/,https://b/v1?top=3&name=a%20b#some/model")
    assert place == Place(
        urls=("http://a:1/v1", "https://b/v1"),
        model="some/model",
        options={"top": "3", "name": "a b"},
    )


def test_threads_that_ask_for_an_engine_at_the_same_time_get_the_same_one(monkeypatch):
    built = []

    def build():
        time.sleep(0.05)
        built.append(object())
        return built[-1]

    monkeypatch.setitem(ENGINES, "slow", build)
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(make_engine, ["slow"] * 8))
    assert len(built) == 1
    assert set(engines) == set(built)

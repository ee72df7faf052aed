"""A cache around an engine: what is asked, what is written, and what is an error."""

import copy
import os
import pickle
import sqlite3
import threading
from dataclasses import fields, replace
from pathlib import Path

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zs_env  # noqa: F401 - registers the ids
from zs_env.search.cached import CachedSearchEngine, CacheMode
from zs_env.search.engine import Document, NoiseKind, SearchEngineError, SearchRequest
from zs_env.search.recorded import CacheError, Reply, Source, request_key
from zs_env.search.registry import check_engine, make_engine
from zs_env.search.store import APPLICATION_ID, ReplyStore

REQUEST = SearchRequest("who", "Who?", ("Ada",), noisy=True, seed=7, noise_kind=NoiseKind.PARTIAL)
OTHER_FIELDS = {
    "query": "Who",
    "question": "Who",
    "golden_answers": ("Ada", ""),
    "noisy": False,
    "seed": 8,
    "top_k": 2,
    "noise_kind": NoiseKind.EMPTY,
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


class Counting:
    """Numbers its documents, so that no two replies are the same; keeps its batches."""

    def __init__(self, description="counting", reply=None):
        self.batches, self.description, self.reply = [], description, reply

    def describe(self):
        return {"engine": self.description}

    def search(self, requests):
        self.batches.append(list(requests))
        if self.reply is not None:
            return self.reply
        number = sum(map(len, self.batches[:-1]))
        return [
            [Document(f"{request.query} {number + i}", "title")][: request.top_k]
            for i, request in enumerate(requests)
        ]


class Failing(Counting):
    """Fails after it has been asked."""

    def search(self, requests):
        super().search(requests)
        raise SearchEngineError("the index is down")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "cache.sqlite"


def recorded(path, requests=(REQUEST,), **options):
    """Return what an engine replied while it was recorded."""
    engine = CachedSearchEngine(Counting(), path, **options)
    found = engine.search(requests)
    engine.close()
    return found


def num_replies(path):
    return sum(each.num_requests for each in ReplyStore(path).summaries())


# --- record -------------------------------------------------------------------------------------


def test_second_search_asks_nothing_and_finds_the_same(path):
    engine = Counting()
    first = CachedSearchEngine(engine, path).search([REQUEST])
    again = CachedSearchEngine(engine, path)
    assert again.search([REQUEST]) == first == [[Document("who 0", "title")]]
    assert again.search([REQUEST]) == first
    assert len(engine.batches) == 1


def test_what_is_missing_is_asked_with_one_call_and_duplicates_once(path):
    engine = Counting()
    cache = CachedSearchEngine(engine, path)
    cache.search([replace(REQUEST, query="known")])
    queries = ["a", "known", "b", "a", "c", "b"]
    found = cache.search([replace(REQUEST, query=query) for query in queries])
    texts = [documents[0].text for documents in found]
    assert texts == ["a 1", "known 0", "b 2", "a 1", "c 3", "b 2"]
    assert [[request.query for request in batch] for batch in engine.batches] == [
        ["known"],
        ["a", "b", "c"],
    ]


def test_no_request_asks_nothing(path):
    engine = Counting()
    assert CachedSearchEngine(engine, path).search([]) == []
    assert engine.batches == []


def test_many_requests_are_found_again(path):
    requests = [replace(REQUEST, seed=seed) for seed in range(1300)]
    first = recorded(path, requests)
    assert recorded(path, requests) == first
    assert len({documents[0].text for documents in first}) == 1300


@pytest.mark.parametrize("name", [field.name for field in fields(SearchRequest)])
def test_every_field_of_a_request_makes_another(name, path):
    engine = Counting()
    cache = CachedSearchEngine(engine, path)
    cache.search([REQUEST])
    cache.search([replace(REQUEST, **{name: OTHER_FIELDS[name]})])
    assert len(engine.batches) == 2


def test_engine_of_another_description_is_asked_itself(path):
    first, second = Counting("first"), Counting("second")
    for engine in (first, second, first, second):
        CachedSearchEngine(engine, path, name="same").search([REQUEST])
    assert len(first.batches) == len(second.batches) == 1


def test_lists_are_the_callers_own(path):
    cache = CachedSearchEngine(Counting(), path)
    first, second = cache.search([REQUEST, REQUEST])
    first.clear()
    assert len(second) == 1
    assert len(cache.search([REQUEST])[0]) == 1


def test_failed_search_is_not_written(path):
    cache = CachedSearchEngine(Failing(), path, name="engine")
    for _ in range(2):
        with pytest.raises(SearchEngineError, match="the index is down"):
            cache.search([REQUEST])
    assert len(cache._engine.batches) == 2
    assert num_replies(path) == 0


@pytest.mark.parametrize("reply", [None, [], [["text"]], [[Document("a")]] * 2])
def test_malformed_reply_is_not_written(reply, path):
    engine = Counting()
    engine.search = lambda requests: reply
    with pytest.raises(SearchEngineError, match="Counting"):
        CachedSearchEngine(engine, path).search([REQUEST])
    assert num_replies(path) == 0


def test_reply_that_was_written_first_stays(path):
    source = Source('{"engine":"counting"}')
    [[first]], [[second]] = (
        ReplyStore(path).add(source, [Reply(REQUEST, (Document(text),), 5)]).values()
        for text in ("first", "second")
    )
    assert first == second == Document("first")
    assert CachedSearchEngine(Counting(), path).search([REQUEST]) == [[Document("first")]]


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        (object(), TypeError, "`engine` must be simulator"),
        ("google", ValueError, "`engine` must be simulator"),
        (None, ValueError, "`engine` must be given for mode='record'"),
    ],
)
def test_what_cannot_be_asked_is_refused(engine, error, message, path):
    with pytest.raises(error, match=message):
        CachedSearchEngine(engine, path)
    assert not path.parent.exists()


def test_unknown_mode_is_refused(path):
    with pytest.raises(ValueError, match=r"`mode` must be one of record, replay, .*, got 'play'"):
        CachedSearchEngine("world", path, mode="play")


def test_digest_is_refused_where_an_engine_is_asked(path):
    with pytest.raises(ValueError, match=r"`digest` must be empty .* got 'ab'"):
        CachedSearchEngine("world", path, digest="ab")


# --- replay -------------------------------------------------------------------------------------


def test_replay_asks_what_is_missing_and_writes_nothing(path):
    first = recorded(path)
    content, engine = path.read_bytes(), Counting()
    cache = CachedSearchEngine(engine, path, mode="replay")
    other = replace(REQUEST, seed=8)
    assert cache.search([other, REQUEST]) == [[Document("who 0", "title")], *first]
    assert cache.search([other]) == [[Document("who 1", "title")]]
    assert len(engine.batches) == 2
    cache.close()
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [CacheMode.REPLAY, CacheMode.REPLAY_STRICT])
def test_replay_needs_a_file_and_makes_none(mode, path):
    with pytest.raises(FileNotFoundError, match=f"there is no cache at {path}"):
        CachedSearchEngine("world", path, mode=mode)
    assert not path.parent.exists()


def test_strict_replay_does_not_build_the_engine(path):
    first = recorded(path, name="simulator:/nowhere")
    for engine, name in ((None, ""), ("simulator:/nowhere", ""), (None, "simulator:/nowhere")):
        cache = CachedSearchEngine(engine, path, mode="replay-strict", name=name)
        assert cache.search([REQUEST, REQUEST]) == first * 2
        assert cache.describe() == {"engine": "counting"}


def test_strict_replay_of_what_is_missing_names_the_query(path):
    engine = Counting()
    recorded(path)
    cache = CachedSearchEngine(engine, path, mode="replay-strict")
    requests = [REQUEST, replace(REQUEST, query="never\nasked"), replace(REQUEST, query="nor this")]
    with pytest.raises(SearchEngineError) as caught:
        cache.search(requests)
    message = str(caught.value)
    assert str(path) in message
    assert r"'never\nasked' (noisy=True, seed=7, top_k=3), nor those to 1 more" in message
    assert engine.batches == []


def test_strict_replay_of_an_object_takes_its_own_replies(path):
    first = recorded(path)
    CachedSearchEngine(Counting("other"), path).search([replace(REQUEST, seed=8)])
    cache = CachedSearchEngine(Counting(), path, mode="replay-strict")
    assert cache.search([REQUEST]) == first
    with pytest.raises(SearchEngineError, match="does not hold the reply"):
        cache.search([replace(REQUEST, seed=8)])


def test_strict_replay_chooses_among_engines_by_name_or_digest(path):
    for description, name in (("a", "one"), ("b", "two"), ("c", "two")):
        CachedSearchEngine(Counting(description), path, name=name).search([REQUEST])
    digests = {source.description: source.digest for source in ReplyStore(path).sources()}

    def described(**options):
        return CachedSearchEngine(None, path, mode="replay-strict", **options).describe()["engine"]

    assert described(name="one") == "a"
    assert described(digest=digests['{"engine":"b"}'][:8]) == "b"
    assert described(name="two", digest=digests['{"engine":"c"}']) == "c"
    with pytest.raises(CacheError, match=r"holds 3 engines: .* one \(digest"):
        described()
    with pytest.raises(CacheError, match=r"holds 2 engines of 'two'"):
        described(name="two")
    with pytest.raises(CacheError, match=r"holds no engine of 'six'.*two \(digest"):
        described(name="six")


def test_new_name_of_a_recorded_engine_is_written_though_nothing_is_asked(path):
    recorded(path, name="old")
    recorded(path, name="new")
    assert CachedSearchEngine("world", path, mode="replay-strict", name="new")
    assert [source.names for source in ReplyStore(path).sources()] == [("new", "old")]


def test_folder_that_cannot_be_written_is_read(path, monkeypatch):
    first = recorded(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    cache = CachedSearchEngine(None, path, mode="replay-strict")
    assert cache.search([REQUEST]) == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# --- by name ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "cached:cache.sqlite#world",
        "cached:/a/b.sqlite?mode=replay#simulator:http://localhost:8000/v1#org/model",
        "cached:a.sqlite#cached:b.sqlite?mode=replay#bm25",
        "cached:a.sqlite?mode=replay-strict",
        "cached:a.sqlite?mode=replay-strict#my_module:engine",
        "cached:a.sqlite?mode=replay-strict&digest=ab12",
    ],
)
def test_name_is_known_and_opens_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_engine(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cached:a.sqlite", "`cached:` must name an engine for mode=record"),
        ("cached:a.sqlite?mode=replay", "`cached:` must name an engine for mode=replay"),
        ("cached:a.sqlite#google", "`engine` must be simulator.*'google'"),
        ("cached:a.sqlite?mode=play#world", "`mode` must be one of record, .* got 'play'"),
        ("cached:a.sqlite?mod=play#world", "options of `cached:` are digest, mode, got 'mod'"),
        ("cached:a.sqlite?digest=ab#world", "`digest` must be empty"),
        ("cached:#world", "`cached:` must be followed by a file"),
        ("cached:http://host/v1#world", "`cached:` must be followed by a file"),
    ],
)
def test_wrong_name_says_what_is_wrong(name, message):
    with pytest.raises(ValueError, match=message):
        make_engine(name)


def play(engine):
    """Return what an episode in MiniWiki shows."""
    env = gym.make("envs_registry:ZeroSearch-v0", engine=engine, noise=0.5)
    seen = [env.reset(seed=3)]
    for i in range(4):
        seen.append(env.step(f"<search>who is number {i}</search>"))
    env.close()
    return seen


def test_environment_replays_an_engine_by_name(path):
    plain = play("world")
    assert play(f"cached:{path}#world") == plain
    assert play(f"cached:{path}?mode=replay-strict") == plain
    with pytest.raises(CacheError, match="no engine of 'bm25'"):
        play(f"cached:{path}?mode=replay-strict#bm25")


# --- copies, threads ----------------------------------------------------------------------------


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copy_shares_the_file(make_copy, path):
    cache = CachedSearchEngine(Counting(), path, name="engine")
    first = cache.search([REQUEST])
    other = make_copy(cache)
    cache.close()
    assert other.search([REQUEST]) == first
    assert repr(other) == repr(cache) == f"CachedSearchEngine('engine', '{path}', mode='record')"
    other.search([replace(REQUEST, seed=8)])
    assert num_replies(path) == 2


def test_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = CachedSearchEngine(Counting(), "cache.sqlite")
    monkeypatch.chdir("/")
    cache.search([REQUEST])
    assert (tmp_path / "cache.sqlite").is_file()


def test_threads_agree_on_every_reply(path):
    cache, found = CachedSearchEngine(Counting(), path), []
    requests = [replace(REQUEST, seed=seed) for seed in range(20)]

    def search():
        found.append([cache.search([request])[0][0].text for request in requests])

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({tuple(texts) for texts in found}) == 1
    cache.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# --- files that are none, and texts that are none -----------------------------------------------


def write_text(path):
    path.write_text("not a database " * 100)


def write_foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE replies (key, documents)")
    connection.close()


def write_other_application(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 5")
    connection.close()


def write_newer(path):
    recorded(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def write_truncated(path):
    recorded(path, [replace(REQUEST, seed=seed) for seed in range(500)])
    os.truncate(path, path.stat().st_size // 8192 * 4096)


def write_folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text, "file is not a database"),
        (write_foreign, "it is a database of another program"),
        (write_other_application, "it is a database of another program"),
        (write_newer, "it is of version 2, and this program reads 1"),
        (write_truncated, "malformed"),
        (write_folder, "unable to open database file"),
    ],
)
def test_file_that_is_no_cache_is_named_and_left_alone(write, message, path):
    path.parent.mkdir()
    write(path)
    content = path.read_bytes() if path.is_file() else None
    with pytest.raises(CacheError, match=message) as caught:
        CachedSearchEngine(Counting(), path).search([REQUEST])
    assert f"the cache {path} cannot be used" in str(caught.value)
    if content is not None:
        assert path.read_bytes() == content


def test_empty_file_is_a_new_cache_but_cannot_be_replayed(path):
    path.parent.mkdir()
    path.touch()
    with pytest.raises(CacheError, match="it is empty"):
        CachedSearchEngine("world", path, mode="replay")
    assert recorded(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_folder_that_cannot_be_made_is_an_error_with_the_file(path):
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    cache = CachedSearchEngine(Counting(), path / "cache.sqlite")
    with pytest.raises(CacheError, match=f"the cache {path}/cache.sqlite cannot be made: "):
        cache.search([REQUEST])


def test_damaged_reply_is_an_error_with_the_file(path):
    recorded(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE replies SET documents = '[{\"text\": 5}]'")
    connection.close()
    with pytest.raises(CacheError, match=f"{path} .*`documents` must be objects of texts"):
        recorded(path)


def test_lone_surrogates_are_refused_in_requests_and_replies(path):
    engine = Counting(reply=[[Document("a \udc80 b")]])
    cache = CachedSearchEngine(engine, path)
    with pytest.raises(CacheError, match=r"`request` must be text without lone .*\\ud800"):
        cache.search([replace(REQUEST, query="a \ud800 b")])
    assert engine.batches == []
    with pytest.raises(CacheError, match=r"`documents` must be text without lone .*\\udc80"):
        cache.search([REQUEST])
    assert num_replies(path) == 0


requests = st.builds(
    SearchRequest,
    query=TEXTS,
    question=TEXTS,
    golden_answers=st.lists(TEXTS).map(tuple),
    noisy=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    top_k=st.integers(1, 10),
    noise_kind=st.none() | st.sampled_from(NoiseKind),
)
documents = st.lists(st.builds(Document, TEXTS, TEXTS))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    return ReplyStore(tmp_path_factory.mktemp("shared") / "cache.sqlite")


@given(request=requests, documents=documents, name=TEXTS, description=st.dictionaries(TEXTS, TEXTS))
def test_any_text_comes_back_as_it_was(request, documents, name, description, shared_store):
    class Replying(Counting):
        def describe(self):
            return description

    engine = Replying(reply=[documents])
    recording = CachedSearchEngine(engine, shared_store.path, name=name)
    first = recording.search([request])
    strict = CachedSearchEngine(
        None, shared_store.path, mode="replay-strict", digest=recording._source.digest
    )
    assert strict.search([request]) == first
    assert strict.describe() == description
    assert all(type(document) is Document for document in first[0])
    if engine.batches:
        assert first == [documents]
    recording.close()
    strict.close()


@given(first=requests, second=requests)
def test_keys_are_equal_where_requests_are(first, second):
    source = Source("{}")
    assert (request_key(source, first) == request_key(source, second)) == (first == second)
    assert request_key(source, first) != request_key(Source('{"a":1}'), first)


def test_store_lists_everything_in_order(path):
    seeds = [3, 1, 2]
    recorded(path, [replace(REQUEST, seed=seed) for seed in seeds], name="engine")
    store = ReplyStore(path)
    found = list(store.replies())
    assert [reply.request.seed for _, reply in found] == seeds
    assert {source for source, _ in found} == {Source('{"engine":"counting"}', ("engine",))}
    [summary] = store.summaries()
    assert (summary.num_requests, summary.num_documents) == (3, 3)
    assert 0 < summary.oldest <= summary.newest
    assert repr(store) == f"ReplyStore({str(Path(path))!r}, read_only=False)"

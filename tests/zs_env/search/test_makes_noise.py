"""Noise that an engine cannot make is drawn, asked for, and never reported."""

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

from zs_env import Document
from zs_env.search.cached import CachedSearchEngine
from zs_env.search.dense import DenseSearchEngine
from zs_env.search.google import GoogleSearchEngine
from zs_env.search.registry import make_engine, makes_noise

SEARCH = "<search>Who founded it?</search>"


class Listening:
    """Keeps the requests, and says of itself whether it makes noise."""

    def __init__(self, makes_noise):
        self.makes_noise = makes_noise
        self.asked = []

    def describe(self):
        return {"engine": "listening"}

    def search(self, requests):
        self.asked.extend(requests)
        return [[Document("It is red.")] for _ in requests]


class Silent:
    """Says nothing about noise."""

    def search(self, requests):
        return [[] for _ in requests]


def played(engine, **kwargs):
    """Return the infos of an episode whose searches all ask for noisy documents."""
    env = gym.make("ZeroSearch-v0", engine=engine, noise=1.0, **kwargs)
    infos = [env.reset(seed=3)[1]]
    while len(infos) < 4:
        infos.append(env.step(SEARCH)[4])
    return infos


@pytest.mark.parametrize(
    ("name", "able"),
    [
        ("simulator", True),
        ("simulator:http://h/v1#m", True),
        ("world", True),
        ("bm25", False),
        ("bm25:wiki.jsonl?k1=1", False),
        ("dense:wiki.jsonl?model=m", False),
        ("retriever:http://h", False),
        ("serpapi:google", False),
        ("empty", False),
        ("cached:f.sqlite#bm25", False),
        ("cached:f.sqlite?mode=replay#world", True),
        ("cached:f.sqlite?mode=replay-strict&digest=ab", True),
        ("my.module:engine", True),
    ],
)
def test_names_tell_whether_an_engine_makes_noise(name, able):
    assert makes_noise(name) is able


@pytest.mark.parametrize(
    "name", ["world", "bm25", "empty", "retriever:http://127.0.0.1:9/retrieve", "simulator-tiny"]
)
def test_engines_say_of_themselves_what_their_names_say(name):
    assert makes_noise(make_engine(name)) is makes_noise(name)


@pytest.mark.parametrize("kind", [DenseSearchEngine, GoogleSearchEngine])
def test_engines_that_need_more_than_a_name_make_no_noise(kind):
    assert kind.makes_noise is False


def test_engines_of_ones_own_are_believed_and_count_as_able_where_they_say_nothing():
    assert not makes_noise(Listening(makes_noise=False))
    assert makes_noise(Listening(makes_noise=True))
    assert makes_noise(Silent())


@pytest.mark.parametrize("engine", ["bm25", "empty", Listening(makes_noise=False)])
def test_infos_report_no_noise_where_the_engine_makes_none(engine):
    infos = played(engine, noise_kinds=("partial",))
    assert [info["noise"] for info in infos] == [0.0] * 4
    assert [info["noisy"] for info in infos[1:]] == [False] * 3
    assert [info["noise_kind"] for info in infos[1:]] == [""] * 3


@pytest.mark.parametrize("engine", ["world", Listening(makes_noise=True)])
def test_infos_report_noise_where_the_engine_makes_it(engine):
    infos = played(engine, noise_kinds=("partial",))
    assert [info["noise"] for info in infos] == [1.0] * 4
    assert [info["noisy"] for info in infos[1:]] == [True] * 3
    assert [info["noise_kind"] for info in infos[1:]] == ["partial"] * 3


def test_requests_are_the_same_whether_or_not_the_engine_makes_noise():
    able, unable = Listening(makes_noise=True), Listening(makes_noise=False)
    played(able, noise_kinds=("partial", "empty"))
    played(unable, noise_kinds=("partial", "empty"))
    assert able.asked == unable.asked
    assert all(request.noisy for request in unable.asked)


def test_slots_report_no_noise_either():
    env = gym.make_vec(
        "ZeroSearch-v0", num_envs=2, engine="bm25", autoreset_mode=AutoresetMode.DISABLED
    )
    assert env.metadata["makes_noise"] is False
    _, infos = env.reset(seed=0, options={"noise": 1.0})
    assert infos["noise"].tolist() == [0.0, 0.0]
    infos = env.step([SEARCH, SEARCH])[4]
    assert infos["noisy"].tolist() == [False, False]
    assert infos["noise"].tolist() == [0.0, 0.0]


def test_state_keeps_the_noise_that_is_drawn():
    env = gym.make("ZeroSearch-v0", engine="bm25", noise=0.5).unwrapped
    env.reset(seed=0)
    state = env.get_state()
    other = gym.make("ZeroSearch-v0", engine="bm25").unwrapped
    other.set_state(state)
    assert other.episode.noise == 0.5
    assert other.step(SEARCH)[4]["noise"] == 0.0


@pytest.mark.parametrize("engine", ["bm25", "world", Listening(makes_noise=False)])
def test_recording_makes_noise_if_what_it_records_does(tmp_path, engine):
    cached = CachedSearchEngine(engine, tmp_path / "f.sqlite")
    assert makes_noise(cached) is makes_noise(engine)


def test_replay_makes_noise_if_what_was_recorded_did(tmp_path):
    file = tmp_path / "f.sqlite"
    played(CachedSearchEngine("bm25", file))
    assert not makes_noise(CachedSearchEngine("bm25", file, mode="replay-strict"))
    assert not makes_noise(CachedSearchEngine(None, file, mode="replay-strict"))

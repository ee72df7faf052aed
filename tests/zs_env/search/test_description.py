"""What tells one engine from another."""

import json
import subprocess
import sys

import pytest

from zs_env.lm.openai import OpenAIGenerator
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.cached import CachedSearchEngine
from zs_env.search.description import canonical, describe_engine, describe_part, prompt_digest
from zs_env.search.empty import EmptySearchEngine
from zs_env.search.engine import Document
from zs_env.search.prompts import tuned_prompt
from zs_env.search.registry import ENGINES, make_engine
from zs_env.search.simulator import SimulatedSearchEngine
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world


class Model:
    """A language model that knows its name."""

    def __init__(self, name="model"):
        self.name = name

    def describe(self):
        return {"name": self.name}


class Bare:
    """An engine that tells nothing."""

    def search(self, requests):
        return [[] for _ in requests]


class Telling(Bare):
    """An engine that tells what it is told to."""

    def __init__(self, value):
        self.value = value

    def describe(self):
        return self.value


def test_shipped_engines_are_all_different():
    described = {canonical(describe_engine(make_engine(name))) for name in ENGINES}
    assert len(described) == len(ENGINES)


def test_description_is_the_same_in_another_process():
    code = (
        "import json; from zs_env.search.registry import make_engine; "
        "from zs_env.search.prompts import tuned_prompt; "
        "from zs_env.search.description import prompt_digest; "
        "print(json.dumps([make_engine('world').describe(), prompt_digest(tuned_prompt)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [make_engine("world").describe(), prompt_digest(tuned_prompt)]


def test_simulator_tells_prompt_sampling_and_model():
    described = SimulatedSearchEngine(Model(), temperature=0.5).describe()
    assert described == {
        "engine": "simulator",
        "prompt_sha256": prompt_digest(tuned_prompt),
        "temperature": 0.5,
        "max_tokens_per_document": 32,
        "chat": None,
        "model": {"name": "model"},
    }


@pytest.mark.parametrize(
    "other",
    [
        SimulatedSearchEngine(Model("other")),
        SimulatedSearchEngine(Model(), temperature=0.7),
        SimulatedSearchEngine(Model(), max_tokens_per_document=31),
        SimulatedSearchEngine(Model(), prompt=lambda request: tuned_prompt(request) + " "),
        SimulatedSearchEngine(Model(), prompt=lambda request: tuned_prompt(request)[:400]),
    ],
)
def test_simulator_with_another_setting_is_another_engine(other):
    assert describe_engine(other) != describe_engine(SimulatedSearchEngine(Model()))


def test_prompt_is_told_by_what_it_writes():
    assert prompt_digest(lambda request: tuned_prompt(request)) == prompt_digest(tuned_prompt)
    for field in ("question", "golden_answers", "query", "noisy", "noise_kind", "seed", "top_k"):
        one = prompt_digest(lambda request, field=field: str(getattr(request, field)))
        assert one != prompt_digest(lambda request: "")


def test_index_is_told_by_passages_and_parameters():
    passages = ["one", Document("two", "title")]
    same = BM25SearchEngine([Document("one"), Document("two", "title")])
    assert BM25SearchEngine(passages).describe() == same.describe()
    others = [
        BM25SearchEngine(passages[::-1]),
        BM25SearchEngine(["one", "two"]),
        BM25SearchEngine(passages, k1=1.4),
        BM25SearchEngine(passages, b=0.7),
    ]
    assert not [other for other in others if other.describe() == same.describe()]


def test_world_is_told_by_its_facts():
    world = default_world()
    whole, part = WorldSearchEngine(world), WorldSearchEngine(world.world("test"))
    assert whole.describe() == WorldSearchEngine(world).describe() != part.describe()


def test_cache_is_described_as_what_is_in_it(tmp_path):
    inner = EmptySearchEngine()
    cache = CachedSearchEngine(inner, tmp_path / "a.sqlite")
    assert cache.describe() == CachedSearchEngine(cache, tmp_path / "b").describe()
    assert cache.describe() == inner.describe()


def test_engine_that_tells_nothing_is_known_by_its_name():
    assert describe_engine(Bare(), "module:engine") == {"name": "module:engine"}
    assert describe_engine(Telling({"size": 5}), "module:engine") == {"size": 5}
    with pytest.raises(TypeError, match=r"`engine` must have a method describe\(\) .* got Bare"):
        describe_engine(Bare())


def test_generator_that_tells_nothing_is_refused():
    with pytest.raises(TypeError, match=r"`generator` must have a method describe\(\) .* got Bare"):
        describe_engine(SimulatedSearchEngine(Bare()), "name")


@pytest.mark.parametrize("value", [{"a": object()}, {"a": float("nan")}, {"a": {1, 2}}])
def test_description_that_is_not_json_is_refused(value):
    with pytest.raises(TypeError, match=r"describe\(\) of Telling must return JSON values"):
        describe_part("engine", Telling(value))


@pytest.mark.parametrize("value", [None, "text", [1]])
def test_description_that_is_no_dictionary_is_refused(value):
    with pytest.raises(TypeError, match=r"describe\(\) of Telling must return a dictionary, got"):
        describe_engine(Telling(value))


def test_server_is_told_by_place_and_model_and_no_secret(monkeypatch):
    monkeypatch.setenv("ZS_API_KEY", "sk-planted-77")
    extra = {"metadata": "sk-mistake-88"}
    with_extra = OpenAIGenerator("http://localhost:8/v1", "org/model", extra_fields=extra)
    plain = OpenAIGenerator("http://localhost:8/v1", "org/model")
    described = canonical(with_extra.describe())
    assert "sk-" not in described
    assert "org/model" in described
    assert plain.describe() != with_extra.describe()
    assert plain.describe() != OpenAIGenerator("http://localhost:9/v1", "org/model").describe()
    assert plain.describe() != OpenAIGenerator("http://localhost:8/v1").describe()

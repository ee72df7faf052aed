"""Agents by name, and what is said where there is none of that name."""

import importlib
import re
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from agents.baselines import registry
from agents.baselines.function import FunctionAgent
from agents.baselines.prompted import PromptedAgent
from agents.baselines.registry import (
    BASELINES,
    PLAYERS,
    as_agent,
    check_agent,
    make_agent,
    policy_of,
)
from agents.baselines.rules import PlayRules
from agents.bench.config import BenchConfig
from agents.policies.keyed import KeyedPolicyAgent
from agents.policies.text_agent import TextAgent
from zs_env.models import model_folder
from zs_env.task.questions import Question

RULES = PlayRules(questions=(Question("a", "Who?", ("Ada",)),))

OWN = """
class Agent:
    def predict(self, observations, state, episode_start, deterministic=True):
        return ["<answer>mine</answer>"] * len(observations), state

class Told(Agent):
    def __init__(self, rules):
        self.rules = rules

class Model:
    def complete(self, prompts, seeds, params):
        return ["<answer>mine</answer>"] * len(prompts)

agent = Agent()
def make(): return Agent()
def play(story): return "<answer>mine</answer>"
def two(one, other): return ""
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the name of a module that was just written into the current folder."""
    (tmp_path / "own_agents.py").write_text(OWN)
    registry._import.cache_clear()
    registry._make_own.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_agents"
    sys.modules.pop("own_agents", None)


def act(agent):
    return agent.predict(["Question: Who?\n"], None, np.array([True]))[0]


@pytest.mark.parametrize("name", [*PLAYERS, *BASELINES, "rag:skill", "base", "skill"])
def test_shipped_names_are_known(name):
    check_agent(name)
    [action] = act(make_agent(name, RULES))
    assert isinstance(action, str)


def test_every_baseline_of_the_paper_is_there():
    assert set(BASELINES) == {"direct", "cot", "rag", "ra-agent", "search-o1", "r1"}


def test_policies_are_found_by_shipped_name_folder_and_baseline():
    folder = model_folder("skill")
    assert policy_of("skill") == policy_of(str(folder)) == policy_of("rag:skill") == folder
    assert policy_of("direct") == model_folder("base")
    assert isinstance(make_agent(str(folder), RULES), KeyedPolicyAgent)
    for name in ("oracle", "openai:http://localhost:1/v1", "rag:http://localhost:1/v1#m", "a.b:c"):
        assert policy_of(name) is None
    assert policy_of("sb3:runs/ppo.zip?algorithm=A2C") == Path("runs/ppo.zip")


def test_servers_are_named_as_those_of_engines():
    for name, kind in (("openai", TextAgent), ("rag", PromptedAgent)):
        spec = f"{name}:http://localhost:1/v1?tokens=9#model"
        check_agent(spec)
        assert isinstance(make_agent(spec, RULES), kind)


@pytest.mark.parametrize("attribute", ["agent", "Agent", "Told", "make", "Model", "play"])
def test_objects_of_ones_own_play_by_import_path(own, attribute):
    check_agent(f"{own}:{attribute}")
    assert act(make_agent(f"{own}:{attribute}", RULES)) == ["<answer>mine</answer>"]


def test_class_that_wants_the_rules_gets_them_without_the_answers(own):
    agent = make_agent(f"{own}:Told", RULES)
    assert agent.rules == replace(RULES, questions=())
    assert make_agent(f"{own}:Told", RULES) is agent  # it may take long to make


def test_function_is_an_agent(own):
    found = as_agent(importlib.import_module(own).play, "play", RULES)
    assert isinstance(found, FunctionAgent)


@pytest.mark.parametrize("attribute", ["two", "number"])
def test_objects_that_cannot_play_are_refused(own, attribute):
    with pytest.raises(TypeError, match="`agent` must be an agent, a language model, a function"):
        make_agent(f"{own}:{attribute}", RULES)


def test_installed_packages_bring_agents_of_their_own(own, tmp_path):
    """The entry point of a real distribution, as pip would leave it."""
    info = tmp_path / "third_party-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[zs_env.agents]\ntheirs = own_agents:Agent\n")
    importlib.invalidate_caches()
    check_agent("theirs")
    assert policy_of("theirs") is None
    assert act(make_agent("theirs", RULES)) == ["<answer>mine</answer>"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "fly",
            FileNotFoundError,
            r"`agent` must be random, .*direct.*module:attribute, got 'fly'",
        ),
        ("rag:nowhere", FileNotFoundError, "`policy` must name a shipped model or a folder"),
        ("openai", ValueError, "`agent` must be followed by a place, like openai:<place>"),
        ("openai:skill", ValueError, "`agent` must have a URL after openai:, got 'openai:skill'"),
        ("openai:http://me:secret@host/v1", ValueError, "^[^@]*$"),
        ("direct:", ValueError, "`agent` must be direct, or direct:<policy or URL>, got 'direct:'"),
        ("direct?tokens=3", FileNotFoundError, "`agent` must be"),
        ("rag:skill?speed=9", ValueError, "options of `rag:` are tokens, got 'speed'"),
        ("rag:skill?tokens=0", ValueError, "`tokens` must be an integer of at least 1, got '0'"),
        ("rag:skill#m", ValueError, "`rag:` must have a #model after a URL only, got 'm'"),
        ("openai:http://h/v1?chat=no", ValueError, "`chat` must be true or false, got 'no'"),
        ("sb3:nowhere.zip", FileNotFoundError, "`agent` must name a file after sb3:, got"),
        ("json:missing", ValueError, "`agent` must name an attribute of 'json'"),
        ("missing_module:x", ValueError, "`agent` must name a module that exists"),
    ],
)
def test_wrong_names_are_told(name, error, message):
    with pytest.raises(error, match=message):
        check_agent(name)


def test_policy_is_loaded_once_for_several_agents():
    one, other = (make_agent(name, RULES) for name in ("direct", "rag"))
    assert one._policy is other._policy


PAGE = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_page_names_every_agent_and_every_key():
    for name in (*PLAYERS, *BASELINES, *(field.name for field in fields(BenchConfig))):
        assert f"`{name}`" in PAGE, name


def test_function_of_the_page_plays():
    [snippet] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(snippet, names)
    agent = as_agent(names["play"], "play", RULES)
    actions, state = agent.predict(["Question: Where?\n"], None, np.array([True]))
    assert actions == ["<search>capital of France</search>"]
    shown = ["<information>Doc 1: Paris.</information>\n"]
    assert agent.predict(shown, state, np.array([False]))[0] == ["<answer>Paris</answer>"]

"""Going back to where an episode or an environment stood."""

import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env import Document, Episode, Question, Rules
from zs_env.episode import render_documents

QUESTION = Question("q", "Où?", ("Orléans", "Orleans"), "source", 2)
DOCUMENTS = [Document("One."), Document("Two.", title="T")]
ACTIONS = ["<search>a</search>", "<search>b</search> cut", "", "x" * 99, "\ud800<answer></answer>"]


class Echo:
    """Answers with all it is told."""

    def search(self, requests):
        return [[Document(f"{r.query} {r.noisy} {r.seed}")] for r in requests]


def make():
    questions = [{"question": f"Where is {i}?", "answers": [str(i)]} for i in range(50)]
    return gym.make("ZeroSearch-v0", questions=questions, engine=Echo(), noise=0.5).unwrapped


def play(episode, action):
    request = episode.begin_turn(action)
    return episode.end_turn(DOCUMENTS if request else ())


@given(
    st.lists(st.sampled_from(ACTIONS), max_size=4),
    st.sampled_from([*ACTIONS, "<answer>x</answer>"]),
)
def test_episode_goes_on_from_its_state_as_if_nothing_had_happened(before, action):
    rules = Rules(max_turns=9, max_action_length=50)
    episode = Episode(QUESTION, rules, noise=0.5, noise_seed=3)
    for each in before:
        play(episode, each)
    state = episode.get_state()
    twin = Episode.from_state(pickle.loads(pickle.dumps(state)), rules)
    assert twin.get_state() == state
    assert twin.transcript == episode.transcript
    assert twin.group == episode.group
    assert play(twin, action) == play(episode, action)


def test_state_is_plain_data():
    env = make()
    env.reset(seed=0)
    env.step(ACTIONS[0])
    state = env.get_state()
    assert json.loads(json.dumps(state)) == state


def test_finished_episode_stays_finished():
    episode = Episode(QUESTION, Rules())
    play(episode, "<answer>Orléans</answer>")
    twin = Episode.from_state(episode.get_state(), Rules())
    with pytest.raises(RuntimeError, match="the episode is over"):
        twin.begin_turn("x")


def test_state_keeps_the_number_of_turns_of_its_episode():
    env = make()
    env.reset(seed=0, options={"max_turns": 2})
    twin = make()
    twin.set_state(env.get_state())
    twin.step("x")
    assert twin.step("x")[3]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.lists(st.sampled_from(ACTIONS), max_size=3))
def test_environment_goes_on_from_its_state_through_later_episodes(seed, before):
    env, twin = make(), make()
    env.reset(seed=seed)
    for action in before:
        env.step(action)
    twin.set_state(env.get_state())
    script = ["<search>q</search>", "<answer>x</answer>"]
    for _ in range(3):
        assert [twin.step(action) for action in script] == [env.step(action) for action in script]
        assert twin.reset() == env.reset()


def test_state_before_the_first_reset():
    env, twin = make(), make()
    env.reset(seed=5)
    first = env.get_state()
    fresh = make()
    twin.set_state(fresh.get_state())
    assert twin.transcript == []
    assert twin.reset() == fresh.reset()
    twin.set_state(first)
    assert twin.reset() == env.reset()


def test_tree_search_tries_every_action_from_one_place():
    env = make()
    env.reset(seed=1)
    state = env.get_state()
    outcomes = []
    for action in ("<search>a</search>", "<answer>x</answer>", "<search>a</search>"):
        env.set_state(state)
        outcomes.append(env.step(action))
    assert outcomes[0] == outcomes[2] != outcomes[1]
    assert outcomes[0][0] == render_documents(outcomes[0][4]["documents"])


def test_group_goes_on_from_its_state():
    env = gym.make("ZeroSearch-v0", engine="empty", group_size=3).unwrapped
    env.reset(seed=0)
    state = env.get_state()
    groups = [env.reset()[1]["group"] for _ in range(4)]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    env.set_state(state)
    assert [env.reset()[1]["group"] for _ in range(4)] == groups


@pytest.mark.parametrize("before", [None, [], [0], [1, 0, 2]])
def test_macro_environment_goes_on_from_its_state(before):
    env, twin = (gym.make("ZeroSearchMacro-v0", noise=0.5).unwrapped for _ in range(2))
    if before is not None:
        env.reset(seed=3)
    for action in before or ():
        env.step(action)
    state = env.get_state()
    assert json.loads(json.dumps(state)) == state
    twin.reset(seed=8)
    twin.step(0)
    twin.set_state(state)
    assert twin.get_state() == state
    if before is not None:
        np.testing.assert_equal(twin.action_masks(), env.action_masks())
        np.testing.assert_equal(twin.step(1), env.step(1))
    np.testing.assert_equal(twin.reset(), env.reset())


@pytest.mark.parametrize("env_id", ["ZeroSearch-v0", "ZeroSearchMacro-v0"])
def test_broken_state_is_refused_and_changes_nothing(env_id):
    env = gym.make(env_id, engine="world").unwrapped
    env.reset(seed=0)
    state = env.get_state()
    broken = json.loads(json.dumps(state))
    inner = broken.get("text_env", broken)
    del inner["episode"]["noise"]
    inner["stream"] += 1
    with pytest.raises(KeyError):
        env.set_state(broken)
    assert env.get_state() == state

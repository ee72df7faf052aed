"""Macro actions: what is written, what is seen, and that golden answers play no part."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env import Document
from zs_env.macro_env import MacroView, ZeroSearchMacroEnv
from zs_env.task.entities import find_entities, remove_entities

QUESTION = "Where was the director of The Silent Harbor born?"
DOCUMENTS = [
    Document("The Silent Harbor was directed by Zoë Lane."),
    Document("The Silent Harbor was released in 1954 by Zoë Lane."),
]


class Library:
    """Finds the same two documents for every query; keeps the queries."""

    def __init__(self):
        self.queries = []

    def search(self, requests):
        self.queries += [request.query for request in requests]
        return [DOCUMENTS for _ in requests]


def make(answers=("Rome",), **kwargs):
    question = {"question": QUESTION, "answers": list(answers)}
    return gym.make("ZeroSearchMacro-v0", questions=[question], **{"engine": Library()} | kwargs)


def test_entities_are_names_and_numbers_in_order():
    assert find_entities(QUESTION) == ["The Silent Harbor"]
    assert find_entities(DOCUMENTS[1].text) == ["The Silent Harbor", "1954", "Zoë Lane"]
    assert find_entities("In Łódź it was J. R. Smith. He left in May.") == [
        "Łódź",
        "J. R. Smith",
        "May",
    ]
    assert find_entities("who is it") == find_entities("") == []
    assert remove_entities(QUESTION) == "Where was the director of born?"


@given(st.text(max_size=80))
def test_any_text_has_entities_that_are_part_of_it(text):
    for entity in find_entities(text):
        assert entity in text
        assert entity == entity.strip() != ""
        assert "<" not in entity


def test_actions_are_written_as_texts():
    engine = Library()
    env = make(engine=engine)
    env.reset(seed=0)
    texts = [env.step(action)[4]["text"] for action in (0, 1, 6, 7)]
    assert texts == [
        f"<search>{QUESTION}</search>",
        "<search>Zoë Lane Where was the director of born?</search>",
        "<search>The Silent Harbor Where was the director of born?</search>",
        "<answer>1954</answer>",
    ]
    assert engine.queries == [
        QUESTION,
        "Zoë Lane Where was the director of born?",
        "The Silent Harbor Where was the director of born?",
    ]


def test_latest_entities_come_first_and_searched_ones_go_back():
    view = MacroView.begin(QUESTION, 6)
    assert view.entities == ("The Silent Harbor",)
    view = view.after(0, 6, DOCUMENTS)
    assert view.entities == ("Zoë Lane", "1954", "The Silent Harbor")
    view = view.after(1, 6, [Document("Zoë Lane was born in Rome.")])
    assert view.entities == ("Rome", "Zoë Lane", "1954", "The Silent Harbor")
    assert view.searched == ("", "Zoë Lane")


def test_turn_without_documents_changes_no_entity():
    view = MacroView.begin(QUESTION, 6).after(0, 6, DOCUMENTS)
    after = view.after(6, 6, ())
    assert (after.entities, after.documents, after.turn) == (view.entities, view.documents, 2)


def test_masks_are_the_actions_that_have_their_entity():
    env = make(max_turns=2)
    env.reset(seed=0)
    masks = env.unwrapped.action_masks()
    assert masks.dtype == np.bool_
    assert np.flatnonzero(masks).tolist() == [0, 1, 7]
    env.step(0)
    assert np.flatnonzero(env.unwrapped.action_masks()).tolist() == [7, 8, 9]  # too late to search


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), max_size=6), st.integers(1, 6))
def test_some_action_always_makes_sense(actions, max_turns):
    env = ZeroSearchMacroEnv(
        questions=[{"question": "who?", "answers": ["x"]}], engine="empty", max_turns=max_turns
    )
    env.reset(seed=0)
    for action in actions:
        assert env.action_masks().any()
        if any(env.step(action)[2:4]):
            return


@pytest.mark.parametrize("action", range(1, 13))
def test_entities_repeat_where_there_are_fewer_than_actions(action):
    env = make()
    observation, _ = env.reset(seed=0)
    assert observation[-6 * 6 :: 6].tolist() == [1, 0, 0, 0, 0, 0]
    text = env.step(action)[4]["text"]
    if action <= 6:
        assert text == "<search>The Silent Harbor Where was the director of born?</search>"
    else:
        assert text == "<answer>The Silent Harbor</answer>"


@pytest.mark.parametrize("action", range(13))
def test_without_entities_every_action_searches_for_the_question(action):
    env = make(engine="empty")
    env.reset(seed=0, options={"question": {"question": "who is it?", "answers": ["x"]}})
    assert np.flatnonzero(env.unwrapped.action_masks()).tolist() == [0]
    observation, _, _, _, info = env.step(action)
    assert info["query"] == "who is it?"
    assert not observation[-6 * 6 :].any()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_no_action_is_idle(actions):
    """Learners that can idle learn to: see the chapter on actions."""
    env = make()
    env.reset(seed=0)
    for action in actions:
        _, _, terminated, truncated, info = env.step(action)
        assert info["action"] in ("search", "answer")
        if terminated or truncated:
            return


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6))
def test_observation_does_not_depend_on_golden_answers(actions):
    env, twin = make(["Rome"]), make(["Zoë Lane", "1954"])
    observations = [env.reset(seed=0)[0]], [twin.reset(seed=0)[0]]
    for action in actions:
        steps = env.step(action), twin.step(action)
        for seen, step in zip(observations, steps, strict=True):
            seen.append(step[0])
        if steps[0][2] or steps[0][3]:
            break
    np.testing.assert_array_equal(*observations)


def test_scripted_agent_answers_two_hop_questions():
    """Search the question, search who was found, answer what is found then."""
    env = gym.make("ZeroSearchMacro-v0", split="test")
    grades = []
    for seed in range(300):
        info = env.reset(seed=seed)[1]
        if "director-birthplace" in info["question_id"]:
            for action in (0, 1, 7):
                reward = env.step(action)[1]
            grades.append(reward)
    assert len(grades) > 5
    assert np.mean(grades) > 0.9


@pytest.mark.parametrize("action", [13, -1, 1.5, "0"])
def test_wrong_action_is_refused(action):
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"`action` must be in Discrete\(13\), got"):
        env.step(action)


def test_number_of_entities_decides_the_spaces():
    env = make(num_entities=2)
    assert env.action_space.n == 5
    assert env.observation_space.shape == (6 + 64 + 12,)
    with pytest.raises(ValueError, match=r"`num_entities` must be at least 1, got 0"):
        ZeroSearchMacroEnv(num_entities=0)


def test_masks_and_steps_need_a_reset():
    env = make().unwrapped
    for use in (env.action_masks, lambda: env.step(0)):
        with pytest.raises(gym.error.ResetNeeded, match=r"must follow `reset`"):
            use()

"""A text generator as an agent."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agents.agent import Agent
from agents.policies.keyed import KeyedAgent
from agents.policies.text_agent import TextAgent
from zs_env.lm.generator import SamplingParams
from zs_env.task.actions import STOPS


class Echo:
    """Searches for the number of its call; keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def complete(self, prompts, seeds, params):
        self.calls.append((list(prompts), list(seeds), params))
        return [f"<search>{len(self.calls)}</search> tail" for _ in prompts]


def flags(*values):
    return np.array(values, dtype=np.bool_)


def test_transcript_of_a_slot_is_what_was_read_and_what_counted():
    echo = Echo()
    agent: Agent = TextAgent(echo, max_new_tokens=9, temperature=0.7)
    actions, state = agent.predict(["Q1\n", "Q2\n"], None, flags(True, True), False)
    assert actions == ["<search>1</search>"] * 2
    agent.predict(["D1\n", "D2\n"], state, flags(False, False), False)
    prompts, _, params = echo.calls[1]
    assert prompts == ["Q1\n<search>1</search>D1\n", "Q2\n<search>1</search>D2\n"]
    assert params == SamplingParams(9, 0.7, STOPS)


def test_deterministic_play_is_greedy():
    echo = Echo()
    TextAgent(echo).predict(["Q"], None, flags(True))
    assert echo.calls[0][2].temperature == 0


def test_one_call_for_all_live_slots_and_none_without_any():
    echo = Echo()
    agent = TextAgent(echo)
    state = agent.predict(["a", "b", "c"], None, flags(True, True, True))[1]
    actions, state = agent.predict(["", "d", ""], state, flags(False, False, False))
    assert actions == ["", "<search>2</search>", ""]
    agent.predict(["", "", ""], state, flags(False, False, False))
    assert [len(prompts) for prompts, _, _ in echo.calls] == [3, 1]


def test_new_episode_forgets_the_last_one():
    echo = Echo()
    agent = TextAgent(echo)
    state = agent.predict(["a", "b"], None, flags(True, True))[1]
    agent.predict(["c", "d"], state, flags(True, False))
    assert echo.calls[1][0] == ["c", "b<search>1</search>d"]
    assert len({seed for _, seeds, _ in echo.calls for seed in seeds}) == 4


@given(st.permutations(range(4)))
def test_keyed_sampling_does_not_depend_on_the_slot(order):
    def seeds(keys):
        echo = Echo()
        agent = TextAgent(echo, seed=7).keyed(keys)
        assert isinstance(agent, KeyedAgent)
        starts = flags(*[True] * 4)
        state = agent.predict(["a"] * 4, None, starts)[1]
        agent.predict(["b"] * 4, state, ~starts)
        return dict(zip(keys, zip(*[call[1] for call in echo.calls], strict=True), strict=True))

    expected = seeds([10, 11, 12, 13])
    assert seeds([10 + i for i in order]) == expected
    assert len({seed for pair in expected.values() for seed in pair}) == 8

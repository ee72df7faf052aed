"""A token policy as an agent."""

import numpy as np

from agents.policies.agent import PolicyAgent

STOPS = ("</search>", "</answer>")
START, GO_ON = np.ones(3, dtype=bool), np.zeros(3, dtype=bool)


def echo(row, turn, read):
    return f"[{row}.{turn}]"


def text_of(ids):
    return "".join(chr(i) for i in ids if i)


def test_context_is_all_that_was_read_and_written(scripted):
    generator = scripted(echo)
    agent = PolicyAgent(generator, STOPS)
    actions, state = agent.predict(["a", "b", "c"], None, START)
    assert actions == ["[0.0]", "[1.0]", "[2.0]"]
    actions, state = agent.predict(["x", "y", "z"], state, GO_ON)
    assert actions == ["[0.1]", "[1.1]", "[2.1]"]
    contexts = [text_of(ids) for ids in generator.contexts]
    assert contexts == ["a[0.0]x[0.1]", "b[1.0]y[1.1]", "c[2.0]z[2.1]"]


def test_new_episode_forgets_the_old_one(scripted):
    generator = scripted(echo)
    agent = PolicyAgent(generator, STOPS)
    _, state = agent.predict(["a", "b", "c"], None, START)
    agent.predict(["x", "y", "z"], state, np.array([False, True, False]))
    contexts = [text_of(ids) for ids in generator.contexts]
    assert contexts == ["a[0.0]x[0.1]", "y[1.0]", "c[2.0]z[2.1]"]


def test_idle_slots_cost_nothing(scripted):
    generator = scripted(echo)
    agent = PolicyAgent(generator, STOPS)
    _, state = agent.predict(["a", "b", "c"], None, START)
    actions, _ = agent.predict(["", "y", ""], state, GO_ON)
    assert actions == ["", "[1.1]", ""]
    assert generator.calls[1][0] == [1]


def test_deterministic_means_greedy(scripted):
    generator = scripted(echo)
    agent = PolicyAgent(generator, STOPS, max_new_tokens=9, temperature=0.7)
    _, state = agent.predict(["a", "b", "c"], None, START)
    agent.predict(["a", "b", "c"], state, GO_ON, deterministic=False)
    first, second = (call[3] for call in generator.calls)
    assert (first.temperature, second.temperature) == (0.0, 0.7)
    assert (first.max_new_tokens, first.stop) == (9, STOPS)


def test_every_action_of_every_slot_has_a_seed_of_its_own(scripted):
    generator = scripted(echo)
    agent = PolicyAgent(generator, STOPS, seed=4)
    state = None
    for step in range(4):
        started = START if step in (0, 2) else GO_ON  # two episodes of two actions
        _, state = agent.predict(["a", "b", "c"], state, started, False)
    seeds = [seed for call in generator.calls for seed in call[2]]
    assert len(set(seeds)) == 12
    again = scripted(echo)
    PolicyAgent(again, STOPS, seed=4).predict(["a", "b", "c"], None, START, False)
    assert again.calls[0][2] == generator.calls[0][2]


def test_slots_may_idle_all_at_once(make_policy):
    """A real session takes no rows as no work."""
    agent = PolicyAgent(make_policy(), STOPS, max_new_tokens=3)
    _, state = agent.predict(["a", "b", "c"], None, START)
    actions, _ = agent.predict(["", "", ""], state, GO_ON)
    assert actions == ["", "", ""]


def test_sampled_actions_repeat_with_the_seed(make_policy):
    texts = [
        PolicyAgent(make_policy(), STOPS, max_new_tokens=8, seed=seed).predict(
            ["a", "b", "c"], None, START, deterministic=False
        )[0]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]

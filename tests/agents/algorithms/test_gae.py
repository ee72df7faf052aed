"""Generalised advantage estimation over tokens, turns, and both."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.algorithms.gae import Decay, bi_level_gae, gae, token_gae, turn_gae
from agents.batch import Batch
from agents.trajectory import Trajectory, Turn

AXES = ("token", "turn", "bi-level")


NO_DECAY = Decay()


def estimate(axis, batch, values, decay=NO_DECAY, inside=NO_DECAY):
    rewards = batch.token_rewards.to(values.dtype)
    if axis == "token":
        return token_gae(rewards, values, batch.action_mask, decay)
    if axis == "turn":
        return turn_gae(rewards, values, batch.turn_ids, decay)
    return bi_level_gae(rewards, values, batch.turn_ids, decay, inside)


def spread(batch, numbers):
    """Return (B, T) with the numbers at the action tokens, in order, and nonsense elsewhere."""
    tokens = torch.full(batch.logprobs.shape, 77.0, dtype=torch.float64)
    tokens[batch.action_mask] = torch.tensor(numbers, dtype=torch.float64)
    return tokens


@pytest.fixture
def two_turns(episode, stack):
    """Return an episode of turns with two and three tokens, which earn 1 and 2."""
    return stack(episode((1, 2), (2, 3), rewards=[1.0, 2.0]))


VALUES = [0.5, 1.5, 1.0, 2.0, 3.0]

# By hand, with gamma = lambda = 1/2. By tokens the errors are r + v'/2 - v:
#   0 + 0.75 - 0.5 = 0.25, 1 + 0.5 - 1.5 = 0, 0 + 1 - 1 = 0, 0 + 1.5 - 2 = -0.5, 2 - 3 = -1,
#   and each advantage is its error plus a quarter of the next advantage.
# By turns (1, 0.5) and (2, 1): the errors are 1 + 0.5 - 0.5 = 1 and 2 - 1 = 1, the advantages
#   1 + 0.25 = 1.25 and 1, so that the turns return 1.75 and 2; 0.75 and 0 follows after them.
# By both, with 1/2 inside turns too: in the first the errors are 0.25 and 1.75 - 1.5 = 0.25.
TABLE = {
    "token": ([0.25 - 0.046875 / 4, -0.046875, -0.1875, -0.75, -1.0], None),
    "turn": ([1.25, 1.25, 1.0, 1.0, 1.0], [True, False, True, False, False]),
    "bi-level": ([0.3125, 0.25, -0.1875, -0.75, -1.0], None),
}


@pytest.mark.parametrize("axis", AXES)
def test_advantages_are_those_computed_by_hand(axis, two_turns):
    expected, steps = TABLE[axis]
    values = spread(two_turns, VALUES)
    half = Decay(0.5, 0.5)
    found = estimate(axis, two_turns, values, half, half)
    mask = two_turns.action_mask
    assert found.advantages[mask].tolist() == pytest.approx(expected)
    assert found.steps[mask].tolist() == (steps or [True] * 5)
    assert not found.advantages[~mask].any()
    assert not found.returns[~found.steps].any()
    torch.testing.assert_close(found.returns[found.steps], (found.advantages + values)[found.steps])


def test_token_axis_is_stable_baselines3s_on_episodes_without_observations():
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    from gymnasium.spaces import Box

    steps, episodes, generator = 12, 5, np.random.default_rng(0)
    rewards, values = generator.normal(size=(2, steps, episodes)).astype(np.float32)
    buffer = buffers.RolloutBuffer(
        steps, Box(-1, 1, (1,)), Box(-1, 1, (1,)), gae_lambda=0.9, gamma=0.97, n_envs=episodes
    )
    column = np.zeros((episodes, 1), dtype=np.float32)
    for t in range(steps):
        starts = np.full(episodes, t == 0)
        tensors = torch.from_numpy(values[t]), torch.zeros(episodes)
        buffer.add(column, column, rewards[t], starts, *tensors)
    buffer.compute_returns_and_advantage(torch.full((episodes,), 9.0), np.ones(episodes))
    mask = torch.ones(episodes, steps, dtype=torch.bool)
    found = token_gae(
        torch.from_numpy(rewards.T), torch.from_numpy(values.T), mask, Decay(0.97, 0.9)
    )
    torch.testing.assert_close(found.advantages, torch.from_numpy(buffer.advantages.T))
    torch.testing.assert_close(found.returns, torch.from_numpy(buffer.returns.T))


numbers = st.floats(-2, 2, width=32)
turns = st.lists(
    st.tuples(st.integers(0, 4), st.lists(numbers, min_size=1, max_size=4), numbers),
    min_size=1,
    max_size=4,
)
decays = st.builds(Decay, st.floats(0, 1), st.floats(0, 1))


def build(episodes, keep_observations=True):
    """Return the batch and the values of episodes given as (read, values, reward) turns."""
    made = []
    for number, turns in enumerate(episodes):
        trajectory = Trajectory(group=number)
        trajectory.observe([1])
        for read, values, reward in turns:
            trajectory.observe([1] * read * keep_observations)
            start = len(trajectory.token_ids)
            trajectory.act([2] * len(values), [-1.0] * len(values))
            end = len(trajectory.token_ids)
            trajectory.turns.append(Turn("", "search", False, reward, start, end))
        made.append(trajectory)
    batch = Batch.from_trajectories(made)
    return batch, spread(batch, [v for turns in episodes for _, values, _ in turns for v in values])


@settings(max_examples=100)
@given(st.lists(turns, min_size=1, max_size=3), decays, decays)
@pytest.mark.parametrize("axis", AXES)
def test_fault_12_deleting_observation_tokens_changes_no_advantage(axis, episodes, decay, inside):
    """Fault 12: GAE over retrieved tokens. Turns that touch stay turns of their own."""
    found = []
    for keep in (True, False):
        batch, values = build(episodes, keep)
        result = estimate(axis, batch, values, decay, inside)
        found.append((result.advantages[batch.action_mask], result.returns[result.steps]))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@settings(max_examples=100)
@given(st.lists(turns, min_size=1, max_size=3))
@pytest.mark.parametrize("axis", AXES)
def test_without_decay_advantage_plus_value_is_what_is_still_earned(axis, episodes):
    batch, values = build(episodes)
    found = estimate(axis, batch, values)
    following = batch.token_rewards.double().flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(
        found.returns[found.steps], following[found.steps], atol=1e-5, rtol=1e-5
    )


@given(st.lists(turns, min_size=1, max_size=3), st.integers(1, 9), decays)
@pytest.mark.parametrize("axis", AXES)
def test_padding_changes_no_advantage(axis, episodes, width, decay):
    batch, values = build(episodes)
    wide, wide_values = build([*episodes, [(9 * width, [0.0], 0.0)]])
    rows, columns = batch.logprobs.shape
    wide_values[:rows, :columns] = values
    alone = estimate(axis, batch, values, decay)
    padded = estimate(axis, wide, wide_values, decay)
    torch.testing.assert_close(padded.advantages[:rows, :columns], alone.advantages)
    assert not padded.advantages[:rows, columns:].any()


@given(turns, decays)
def test_bi_level_of_one_token_turns_is_the_turn_axis(episode, decay):
    episode = [(read, values[:1], reward) for read, values, reward in episode]
    batch, values = build([episode])
    found = [estimate(axis, batch, values, decay) for axis in ("turn", "bi-level")]
    torch.testing.assert_close(found[0].advantages, found[1].advantages)


@given(turns, decays)
def test_bi_level_of_one_turn_is_the_token_axis(episode, decay):
    batch, values = build([episode[:1]])
    by_token = estimate("token", batch, values, decay)
    by_both = estimate("bi-level", batch, values, Decay(), decay)
    torch.testing.assert_close(by_both.advantages, by_token.advantages)


@pytest.mark.parametrize("axis", AXES)
def test_turn_without_tokens_is_no_step(axis, episode, stack):
    batch = stack(episode((1, 2), (1, 0), (1, 2), rewards=[0.0, 0.0, 1.0]))
    shorter = stack(episode((1, 2), (2, 2), rewards=[0.0, 1.0]))
    found = [estimate(axis, b, spread(b, VALUES[:4]), Decay(0.5, 0.5)) for b in (batch, shorter)]
    torch.testing.assert_close(found[0].advantages, found[1].advantages)


@pytest.mark.parametrize("axis", AXES)
def test_episode_without_an_action_token_has_no_advantage(axis, episode, stack):
    batch = stack(episode((3, 0), rewards=1.0), episode((1, 2), rewards=1.0))
    found = estimate(axis, batch, spread(batch, [0.0, 0.0]))
    assert not found.advantages[0].any()
    assert found.advantages[1].sum() == 2


def test_being_cut_off_is_worth_what_was_earned(episode, stack):
    """No value stands for what might have come: see the module's docstring."""
    found = [
        estimate("token", b, spread(b, VALUES))
        for b in (
            stack(episode((1, 2), (1, 3), rewards=1.0, truncated=flag)) for flag in (True, False)
        )
    ]
    assert torch.equal(found[0].advantages, found[1].advantages)


def test_estimate_looks_at_nothing_off_the_steps():
    rewards, values, steps = torch.tensor(
        [[0.0, float("nan"), 1.0], [0.5, float("nan"), 0.25], [1.0, 0.0, 1.0]]
    )[:, None]
    found = gae(rewards, values, steps > 0, Decay())
    assert found.tolist() == [[0.5, 0.0, 0.75]]

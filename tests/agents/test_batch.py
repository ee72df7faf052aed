"""Trajectories as padded tensors."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.algorithms.grpo import GRPO
from agents.batch import Batch
from agents.trajectory import Trajectory, Turn


def make(length, group=0, reward=0.0):
    """Return a trajectory of `length` tokens, the odd ones sampled; id 0 occurs in it."""
    trajectory = Trajectory(group=group, turns=[Turn("", "answer", False, reward, 0, length)])
    for place in range(length):
        if place % 2:
            trajectory.act([place % 3], [-float(place)])
        else:
            trajectory.observe([place % 3])
    return trajectory


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(lengths)
def test_rows_are_the_trajectories_and_padding_is_off_the_mask(lengths):
    trajectories = [make(n) for n in lengths]
    batch = Batch.from_trajectories(trajectories)
    assert batch.token_ids.shape == (len(lengths), max(lengths))
    for row, (n, trajectory) in enumerate(zip(lengths, trajectories, strict=True)):
        assert batch.lengths[row] == n
        assert batch.token_ids[row, :n].tolist() == trajectory.token_ids
        assert batch.action_mask[row, :n].tolist() == trajectory.action_mask
        assert batch.logprobs[row, :n].tolist() == trajectory.logprobs
        assert not batch.action_mask[row, n:].any()
        assert not batch.logprobs[row, n:].any()


def test_padding_is_told_by_the_length_and_not_by_the_id():
    """Fault 10: `id == pad` breaks where the padding id is also a real one."""
    zeros = Trajectory()
    zeros.act([0, 0, 0], [-1.0, -2.0, -3.0])
    batch = Batch.from_trajectories([zeros, make(5)])
    assert batch.action_mask[0].tolist() == [True, True, True, False, False]


@given(st.integers(1, 60))
def test_padding_width_changes_no_target(width):
    pair = [make(4, reward=1.0), make(7, reward=0.0)]
    alone = GRPO().targets(Batch.from_trajectories(pair))
    wide = GRPO().targets(Batch.from_trajectories([*pair, make(width, group=1)]))
    torch.testing.assert_close(wide.advantages[:2, :7], alone.advantages[:, :7])
    assert not wide.advantages[:2, 7:].any()
    assert not wide.weights[:2, 7:].any()


@given(lengths, st.data())
def test_rows_are_cut_to_the_longest_of_them(lengths, data):
    batch = Batch.from_trajectories([make(n, group=n, reward=n) for n in lengths])
    indices = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1))
    rows = batch.rows(torch.tensor(indices))
    assert rows.token_ids.shape == (len(indices), max(lengths[i] for i in indices))
    for place, i in enumerate(indices):
        n = lengths[i]
        assert rows.rewards[place] == rows.lengths[place] == n
        assert rows.groups[place] == batch.groups[i]
        for name in ("token_ids", "action_mask", "logprobs", "turn_ids", "token_rewards"):
            assert getattr(rows, name)[place, :n].tolist() == getattr(batch, name)[i, :n].tolist()


@settings(max_examples=200)
@given(lengths, st.integers(1, 200), st.data())
def test_buckets_cover_each_row_once_within_the_budget(lengths, max_tokens, data):
    batch = Batch.from_trajectories([make(n) for n in lengths])
    wanted = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    found = list(batch.buckets(max_tokens, torch.tensor(wanted, dtype=torch.long)))
    assert sorted(i for bucket in found for i in bucket.tolist()) == sorted(wanted)
    for bucket in found:
        padded = len(bucket) * int(batch.lengths[bucket].max())
        assert padded <= max_tokens or len(bucket) == 1


@given(lengths)
def test_buckets_keep_similar_lengths_together(lengths):
    batch = Batch.from_trajectories([make(n) for n in lengths])
    buckets = list(batch.buckets(50, torch.arange(len(lengths))))
    seen = [int(batch.lengths[i]) for bucket in buckets for i in bucket]
    assert seen == sorted(lengths)


def test_groups_are_numbered_as_they_appear_and_named_by_id_alone():
    huge = 2**63 - 1
    batch = Batch.from_trajectories([make(2, group) for group in (huge, 5, huge, 0, 5)])
    assert batch.groups.tolist() == [0, 1, 0, 2, 1]


def episode(*parts, rewards, **fields):
    """Return an episode of (observation length, action length) turns with these rewards."""
    trajectory = Trajectory(**fields)
    for (read, written), reward in zip(parts, rewards, strict=True):
        trajectory.observe([1] * read)
        start = len(trajectory.token_ids)
        trajectory.act([2] * written, [-1.0] * written)
        end = len(trajectory.token_ids)
        trajectory.turns.append(Turn("", "search", False, reward, start, end))
    return trajectory


def test_turns_are_numbered_and_paid_at_their_last_token():
    batch = Batch.from_trajectories(
        [
            episode((2, 2), (1, 1), (2, 3), rewards=[0.25, 0.0, 1.0]),
            episode((1, 1), rewards=[0.5], truncated=True),
        ]
    )
    assert batch.turn_ids.tolist() == [
        [-1, -1, 0, 0, -1, 1, -1, -1, 2, 2, 2],
        [-1, 0] + [-1] * 9,
    ]
    assert batch.token_rewards.tolist() == [
        [0, 0, 0, 0.25, 0, 0, 0, 0, 0, 0, 1],
        [0, 0.5] + [0] * 9,
    ]
    assert batch.last_actions.nonzero().tolist() == [[0, 10], [1, 1]]
    assert batch.truncated.tolist() == [False, True]


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ([(1, 2), (1, 0)], 2),  # an empty last turn: the token before it
        ([(1, 0), (1, 2)], 2),  # an empty first turn: the token after it
    ],
)
def test_reward_of_a_turn_without_tokens_falls_to_its_neighbour(parts, place):
    rewards = [0.0 if written else 1.0 for _, written in parts]
    batch = Batch.from_trajectories([episode(*parts, rewards=rewards)])
    assert batch.token_rewards[0].nonzero().flatten().tolist() == [place]


def test_episode_without_an_action_token_keeps_its_reward():
    batch = Batch.from_trajectories([episode((3, 0), rewards=[0.75])])
    assert batch.rewards.tolist() == [0.75]
    assert not batch.token_rewards.any()
    assert not batch.last_actions.any()


turns = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 4), st.floats(-1, 1, width=16)), min_size=1
)


@given(st.lists(turns, min_size=1, max_size=5))
def test_token_rewards_add_up_to_the_rewards_of_episodes_that_acted(episodes):
    batch = Batch.from_trajectories(
        [episode(*[part[:2] for part in e], rewards=[part[2] for part in e]) for e in episodes]
    )
    acted = batch.action_mask.any(1)
    torch.testing.assert_close(batch.token_rewards.sum(1), batch.rewards * acted)
    assert not batch.token_rewards[~batch.action_mask].any()
    assert torch.equal(batch.turn_ids >= 0, batch.action_mask)


def test_more_rewards_reach_the_token_and_the_episode():
    batch = Batch.from_trajectories([episode((1, 2), rewards=[1.0])])
    more = batch.add_rewards(torch.tensor([[0.0, -0.25, -0.5]]))
    assert more.rewards.tolist() == [0.25]
    assert more.token_rewards.tolist() == [[0.0, -0.25, 0.5]]
    assert batch.rewards.tolist() == [1.0]


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_reward_that_is_no_number_is_refused_with_its_question(reward):
    bad = episode((1, 1), (1, 1), rewards=[0.0, reward], question_id="q7")
    message = f"`reward` must be a finite number, got {reward} in turn 1 of episode 1, .*'q7'"
    with pytest.raises(ValueError, match=message):
        Batch.from_trajectories([episode((1, 1), rewards=[1.0]), bad])


def test_no_trajectory_is_refused():
    with pytest.raises(ValueError, match="`trajectories` must not be empty"):
        Batch.from_trajectories([])


def test_moving_a_batch_keeps_every_tensor():
    batch = Batch.from_trajectories([make(3, reward=0.5), make(5)])
    batch = replace(batch, values=torch.ones_like(batch.logprobs))
    moved = batch.to("cpu")
    assert moved.reference_logprobs is None
    for name in set(Batch.__slots__) - {"reference_logprobs"}:
        assert torch.equal(getattr(moved, name), getattr(batch, name))

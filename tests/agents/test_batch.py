"""Trajectories as padded tensors."""

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
        for name in ("token_ids", "action_mask", "logprobs"):
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


def test_no_trajectory_is_refused():
    with pytest.raises(ValueError, match="`trajectories` must not be empty"):
        Batch.from_trajectories([])


def test_moving_a_batch_keeps_every_tensor():
    batch = Batch.from_trajectories([make(3, reward=0.5), make(5)])
    moved = batch.to("cpu")
    for name in Batch.__slots__:
        assert torch.equal(getattr(moved, name), getattr(batch, name))

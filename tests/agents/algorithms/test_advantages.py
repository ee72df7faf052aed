"""Rewards relative to a group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.algorithms.advantages import group_advantages, leave_one_out, whiten

rewards = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.8, 2 / 3, 0.4, 1 / 7])
episodes = st.lists(st.tuples(rewards, st.integers(0, 5)), min_size=1, max_size=40)


def tensors(episodes):
    """Return rewards and groups, numbered from 0 in order of appearance."""
    numbers = {}
    for _, group in episodes:
        numbers.setdefault(group, len(numbers))
    values = torch.tensor([reward for reward, _ in episodes], dtype=torch.float32)
    return values, torch.tensor([numbers[group] for _, group in episodes])


def members(groups):
    return [torch.nonzero(groups == number).flatten() for number in groups.unique()]


@settings(max_examples=200)
@given(episodes, st.booleans())
def test_advantages_add_up_to_zero_in_every_group(episodes, scale):
    values, groups = tensors(episodes)
    advantages = group_advantages(values, groups, scale=scale)
    for group in members(groups):
        assert abs(float(advantages[group].sum())) < 1e-4 * len(group)


@settings(max_examples=200)
@given(episodes, st.floats(-4, 4, width=16))
def test_constant_shift_of_a_group_is_ignored(episodes, shift):
    values, groups = tensors(episodes)
    shifted = values + torch.where(groups == 0, shift, 0.0)
    expected, found = (group_advantages(v, groups, scale=False) for v in (values, shifted))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@given(rewards, st.integers(1, 40), st.booleans(), st.floats(-4, 4, width=32))
def test_equal_rewards_have_no_advantage_at_all(reward, size, scale, shift):
    """Not even what a sum of equal numbers leaves by rounding: dividing would blow it up."""
    values = torch.full((size,), reward + shift, dtype=torch.float32)
    advantages = group_advantages(values, torch.zeros(size, dtype=torch.long), scale=scale)
    assert advantages.tolist() == [0.0] * size


@given(episodes, st.randoms())
def test_order_of_episodes_does_not_matter(episodes, random):
    order = list(range(len(episodes)))
    random.shuffle(order)
    advantages = group_advantages(*tensors(episodes))
    permuted = group_advantages(*tensors([episodes[i] for i in order]))
    torch.testing.assert_close(permuted, advantages[order], atol=1e-4, rtol=1e-4)


@given(episodes)
def test_better_reward_has_the_larger_advantage(episodes):
    values, groups = tensors(episodes)
    advantages = group_advantages(values, groups)
    for group in members(groups):
        order = values[group].argsort()
        assert (advantages[group][order].diff() >= -1e-6).all()


def test_scaled_advantages_have_unit_deviation():
    values = torch.tensor([0.0, 0.0, 1.0, 0.5])
    advantages = group_advantages(values, torch.zeros(4, dtype=torch.long))
    assert advantages.std(correction=0) == pytest.approx(1, abs=1e-4)


def test_group_of_one_has_no_advantage():
    assert group_advantages(torch.tensor([0.7]), torch.tensor([0])).tolist() == [0.0]


@settings(max_examples=200)
@given(episodes)
def test_leave_one_out_compares_with_the_mean_of_the_others(episodes):
    values, groups = tensors(episodes)
    found = leave_one_out(values, groups)
    for i, (value, group) in enumerate(zip(values.tolist(), groups.tolist(), strict=True)):
        others = [float(values[j]) for j in members(groups)[group] if j != i]
        expected = value - sum(others) / len(others) if others else 0.0
        assert float(found[i]) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=200)
@given(episodes)
def test_leave_one_out_adds_up_to_zero_in_every_group(episodes):
    values, groups = tensors(episodes)
    found = leave_one_out(values, groups)
    for group in members(groups):
        assert abs(float(found[group].sum())) < 1e-4


tokens = st.lists(st.tuples(st.floats(-5, 5, width=16), st.booleans()), min_size=1, max_size=30)


@given(tokens)
def test_whitened_values_have_mean_zero_and_deviation_one_on_the_mask(tokens):
    values = torch.tensor([[value for value, _ in tokens]])
    mask = torch.tensor([[kept for _, kept in tokens]])
    found = whiten(values, mask)
    assert not found[~mask].any()
    if len(set(values[mask].tolist())) < 2:
        assert not found.any()
    elif values[mask].std(correction=0) > 0.1:
        assert float(found[mask].mean()) == pytest.approx(0, abs=1e-4)
        assert float(found[mask].std(correction=0)) == pytest.approx(1, abs=1e-3)


@given(tokens, st.floats(-1e3, 1e3, width=32))
def test_fault_12_whitening_does_not_look_off_the_mask(tokens, wild):
    """Fault 12: whitening over retrieved tokens."""
    values = torch.tensor([[value for value, _ in tokens]])
    mask = torch.tensor([[kept for _, kept in tokens]])
    changed = torch.where(mask, values, wild)
    assert torch.equal(whiten(changed, mask), whiten(values, mask))


@given(st.floats(-4, 4, width=32), st.integers(1, 40))
def test_equal_values_whiten_to_nothing_at_all(value, size):
    values = torch.full((1, size), value)
    assert not whiten(values, torch.ones(1, size, dtype=torch.bool)).any()

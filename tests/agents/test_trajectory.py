"""One episode as tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.trajectory import Trajectory, Turn

parts = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 99), max_size=5)), max_size=8)


def build(parts):
    trajectory = Trajectory()
    for is_action, ids in parts:
        if is_action:
            trajectory.act(ids, [-float(i) for i in ids])
        else:
            trajectory.observe(ids)
    return trajectory


@given(parts)
def test_ids_are_appended_in_order(parts):
    assert build(parts).token_ids == [i for _, ids in parts for i in ids]


@given(parts)
def test_mask_tells_who_wrote_each_token(parts):
    trajectory = build(parts)
    assert trajectory.action_mask == [is_action for is_action, ids in parts for _ in ids]
    assert trajectory.num_action_tokens == sum(len(ids) for is_action, ids in parts if is_action)


@given(parts)
def test_logprobs_stand_at_their_tokens_and_nowhere_else(parts):
    trajectory = build(parts)
    rows = zip(trajectory.token_ids, trajectory.action_mask, trajectory.logprobs, strict=True)
    assert all(logprob == (-float(i) if mask else 0.0) for i, mask, logprob in rows)


@pytest.mark.parametrize("logprobs", [[], [-1.0], [-1.0] * 3])
def test_logprobs_that_do_not_match_the_tokens_are_refused(logprobs):
    trajectory = Trajectory()
    with pytest.raises(
        ValueError, match=rf"`logprobs` must have one .* \(2\), got {len(logprobs)}"
    ):
        trajectory.act([1, 2], logprobs)
    assert trajectory.token_ids == trajectory.action_mask == trajectory.logprobs == []


def test_reward_is_the_sum_over_turns():
    turns = [Turn("", "search", False, 0.25, 0, 1), Turn("", "answer", False, 0.5, 2, 3)]
    assert Trajectory(turns=turns).reward == 0.75
    assert Trajectory().reward == 0


def test_trajectories_share_no_list():
    one, other = Trajectory(), Trajectory()
    one.observe([1])
    assert other.token_ids == []

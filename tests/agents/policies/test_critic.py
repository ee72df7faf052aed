"""The critic."""

import pytest
import torch

from agents.batch import Batch
from agents.trajectory import Trajectory


def play(ids, action_places):
    trajectory = Trajectory()
    for place, token in enumerate(ids):
        if place in action_places:
            trajectory.act([token], [-1.0])
        else:
            trajectory.observe([token])
    return trajectory


IDS = [3, 9, 27, 81, 43, 129, 87]
ACTIONS = (2, 3, 6)


@pytest.fixture
def critic(make_policy):
    """Return a critic whose values differ from state to state."""
    critic = make_policy().make_critic()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        critic.head.weight += torch.randn(critic.head.weight.shape, generator=generator)
    return critic


def values(critic, *trajectories):
    with torch.no_grad():
        return critic(Batch.from_trajectories(trajectories)).tolist()


def test_values_begin_at_zero_with_the_policys_body(make_policy):
    policy = make_policy()
    critic = policy.make_critic()
    assert values(critic, play(IDS, ACTIONS)) == [0.0, 0.0, 0.0]
    for name, tensor in policy.model.base_model.state_dict().items():
        assert torch.equal(critic.body.state_dict()[name], tensor)


def test_critic_of_a_frozen_policy_can_be_trained(make_policy):
    critic = make_policy().frozen_copy().make_critic()
    assert all(parameter.requires_grad for parameter in critic.parameters())


@pytest.mark.parametrize("place", ACTIONS)
def test_value_of_a_token_knows_all_before_it_and_nothing_of_it(critic, place):
    """The same token and the ones after it may change; the one before it may not."""
    index = ACTIONS.index(place)
    value = values(critic, play(IDS, ACTIONS))[index]
    for changed in range(len(IDS)):
        other = [*IDS]
        other[changed] += 1
        found = values(critic, play(other, ACTIONS))[index]
        if changed < place:
            assert found != pytest.approx(value, abs=1e-4)
        else:
            assert found == pytest.approx(value, abs=1e-6)


def test_values_are_in_row_major_order_whatever_the_padding(critic):
    rows = [play(IDS, ACTIONS), play(IDS[:4], (1, 3)), play([5, *IDS, 6], (8,))]
    alone = [value for row in rows for value in values(critic, row)]
    assert values(critic, *rows) == pytest.approx(alone, abs=1e-5)


def test_value_is_read_off_the_last_hidden_state_before_the_token(critic):
    with torch.no_grad():
        states = critic.body(input_ids=torch.tensor([IDS])).last_hidden_state[0]
        expected = critic.head(states)[[place - 1 for place in ACTIONS], 0].tolist()
    assert values(critic, play(IDS, ACTIONS)) == pytest.approx(expected, abs=1e-5)


def test_nothing_is_asked_where_nobody_acted(critic):
    assert values(critic, play(IDS, ())) == []

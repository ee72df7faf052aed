"""Token losses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.algorithms.losses import clipped_surrogate, kl_estimate, row_sums, value_losses

CLIP = 0.2
logprobs = st.floats(-10, 0, width=32)


def gradient(new, old, advantage):
    """Return d loss / d log-probability of one token, and whether it counts as clipped."""
    new = torch.tensor([new], requires_grad=True)
    losses, clipped = clipped_surrogate(new - old, torch.tensor([advantage]), CLIP)
    losses.sum().backward()
    return new.grad.item(), clipped.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.1, 2.0, -2.2),  # inside: -ratio * advantage
        (0.9, -2.0, 1.8),
        (1.3, 2.0, 0.0),  # already rewarded enough
        (0.7, -2.0, 0.0),  # already punished enough
        (0.7, 2.0, -1.4),  # moved the wrong way: never clipped
        (1.3, -2.0, 2.6),
    ],
)
def test_gradient_ends_where_a_ratio_has_gone_far_enough(ratio, advantage, expected):
    old = -3.0
    slope, clipped = gradient(old + float(torch.tensor(ratio).log()), old, advantage)
    assert slope == pytest.approx(expected, abs=1e-5)
    assert clipped == (expected == 0.0)


@given(st.lists(st.tuples(logprobs, st.floats(-3, 3, width=32)), min_size=1, max_size=10))
def test_first_on_policy_gradient_is_that_of_reinforce(tokens):
    old = torch.tensor([logprob for logprob, _ in tokens])
    advantages = torch.tensor([advantage for _, advantage in tokens])
    ours, reinforce = (old.clone().requires_grad_() for _ in range(2))
    losses, clipped = clipped_surrogate(ours - old, advantages, CLIP)
    losses.sum().backward()
    (-reinforce * advantages).sum().backward()
    torch.testing.assert_close(ours.grad, reinforce.grad)
    assert not clipped.any()


@given(logprobs, logprobs, st.floats(-3, 3, width=32))
def test_clipped_loss_is_never_below_the_unclipped_one(new, old, advantage):
    losses, _ = clipped_surrogate(torch.tensor([new - old]), torch.tensor([advantage]), CLIP)
    unclipped = -torch.tensor(new - old).exp() * advantage
    assert losses.item() >= unclipped.item() - 1e-5 * abs(unclipped.item()) - 1e-6


@given(logprobs, logprobs)
def test_kl_estimate_is_never_negative(new, reference):
    assert kl_estimate(torch.tensor(new), torch.tensor(reference)).item() >= -1e-6


@given(logprobs)
def test_kl_estimate_is_zero_at_equality(value):
    assert kl_estimate(torch.tensor(value), torch.tensor(value)).item() == 0.0


def test_kl_estimate_averages_to_the_divergence():
    policy = torch.log_softmax(torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64), 0)
    reference = torch.log_softmax(torch.tensor([0.0, 1.0, 0.3, -0.5], dtype=torch.float64), 0)
    estimate = (policy.exp() * kl_estimate(policy, reference)).sum()
    torch.testing.assert_close(estimate, (policy.exp() * (policy - reference)).sum())


@pytest.mark.parametrize(("new", "reference", "sign"), [(-3.0, -1.0, -1), (-1.0, -3.0, 1)])
def test_kl_gradient_points_from_the_reference(new, reference, sign):
    """Minimising follows the negative gradient: up where the policy is below the reference."""
    value = torch.tensor(new, requires_grad=True)
    kl_estimate(value, torch.tensor(reference)).backward()
    assert torch.sign(value.grad).item() == sign


def test_minimising_the_kl_penalty_pulls_a_policy_to_its_reference():
    """Fault 2: with the wrong sign the optimiser maximises the divergence."""
    reference = torch.log_softmax(torch.tensor([0.0, 2.0, -1.0, 0.5]), 0)
    logits = torch.tensor([2.0, -1.0, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=0.5)

    def divergence():
        policy = torch.log_softmax(logits.detach(), 0)
        return float((policy.exp() * (policy - reference)).sum())

    before = divergence()
    for _ in range(300):
        policy = torch.log_softmax(logits, 0)
        optimizer.zero_grad()
        (policy.detach().exp() * kl_estimate(policy, reference)).sum().backward()
        optimizer.step()
    assert before > 1.0
    assert divergence() < 0.01


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"), [(1.25, 1.0, -1.25), (1.3, 1.0, 0.0), (0.75, -1.0, 0.0)]
)
def test_upper_clip_can_be_wider_than_the_lower(ratio, advantage, slope):
    log_ratio = torch.tensor([ratio]).log().requires_grad_()
    losses, _ = clipped_surrogate(log_ratio, torch.tensor([advantage]), CLIP, 0.28)
    losses.sum().backward()
    assert log_ratio.grad.item() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", [0.5, -1.0]), ("k2", [0.125, 0.5]), ("k3", [0.10653066, 0.71828183])],
)
def test_kl_estimates_are_those_computed_by_hand(estimator, expected):
    """Half a nat above the reference and one below: exp(-0.5) - 0.5, and exp(1) - 2."""
    policy, reference = torch.tensor([-1.0, -3.0]), torch.tensor([-1.5, -2.0])
    assert kl_estimate(policy, reference, estimator).tolist() == pytest.approx(expected)


REFERENCE = torch.log_softmax(torch.tensor([0.0, 1.0, 0.3, -0.5], dtype=torch.float64), 0)


def test_k1_averages_to_the_divergence_and_its_gradient_to_nothing():
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    policy = torch.log_softmax(logits, 0)
    k1 = (policy.exp().detach() * kl_estimate(policy, REFERENCE, "k1")).sum()
    torch.testing.assert_close(k1, (policy.exp() * (policy - REFERENCE)).sum())
    k1.backward()
    assert logits.grad.abs().max() < 1e-12


def test_gradient_of_k2_averages_to_that_of_the_divergence():
    found = []
    for name in ("k2", "exact"):
        logits = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
        policy = torch.log_softmax(logits, 0)
        exact = policy.exp() * (policy - REFERENCE)
        sampled = policy.exp().detach() * kl_estimate(policy, REFERENCE, "k2")
        (sampled if name == "k2" else exact).sum().backward()
        found.append(logits.grad)
    torch.testing.assert_close(*found)


def test_row_sums_go_to_every_token_of_the_row():
    values = torch.tensor([1.0, 10.0, 2.0, 20.0])
    assert row_sums(values, torch.tensor([0, 2, 0, 2])).tolist() == [3, 30, 3, 30]
    assert row_sums(torch.zeros(0), torch.zeros(0, dtype=torch.long)).tolist() == []


@pytest.mark.parametrize(
    ("value", "clip_range", "loss", "slope"),
    [
        (1.5, 0.0, 0.125, -0.5),
        (0.25, 0.5, 1.53125, -1.75),  # within the range: as without
        (1.5, 0.5, 1.125, 0.0),  # moved far enough to 2: no gradient, the loss of 0.5
        (-1.0, 0.5, 4.5, -3.0),  # moved the wrong way: never clipped
    ],
)
def test_value_losses_are_those_computed_by_hand(value, clip_range, loss, slope):
    """The old value is 0 and the return 2."""
    values = torch.tensor([value], requires_grad=True)
    found = value_losses(values, torch.zeros(1), torch.tensor([2.0]), clip_range)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope)

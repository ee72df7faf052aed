import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.algorithms.algorithm import CriticView, TokenView
from agents.algorithms.registry import PATHS, make_algorithm
from agents.batch import Batch
from agents.importance import truncated_importance
from agents.learner import Learner
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn

# Probabilities of the sampler and of the trainer, and what follows from a cap of 2 by hand.
TABLE = [
    (0.50, 0.50, 1.0),
    (0.50, 0.25, 0.5),
    (0.25, 0.50, 2.0),
    (0.10, 0.40, 2.0),
    (0.40, 0.60, 1.5),
]


def batch_of(logprobs, prompt=(1, 2)):
    row = Trajectory(group=0, question_id="q", prompt="")
    row.observe(list(prompt))
    row.act(list(range(len(logprobs))), list(logprobs))
    return Batch.from_trajectories([row])


def weights_of(sampled, trained, cap):
    batch = batch_of(sampled)
    own = torch.zeros_like(batch.logprobs)
    own[batch.action_mask] = torch.tensor(trained)
    return truncated_importance(batch, own, cap), batch.action_mask


def test_weights_are_those_of_the_table():
    sampled, trained, expected = zip(*TABLE, strict=True)
    found, mask = weights_of(list(map(math.log, sampled)), list(map(math.log, trained)), 2.0)
    assert found.weights[mask].tolist() == pytest.approx(expected)
    assert found.mean == pytest.approx(7 / 5)
    assert found.clipped_share == pytest.approx(1 / 5)
    assert found.logprob_gap == pytest.approx(math.log(4))
    assert (found.weights[~mask] == 1).all()


LOGPROBS = st.lists(st.tuples(st.floats(-50, 0), st.floats(-50, 0)), min_size=1, max_size=12)


@given(LOGPROBS, st.floats(1, 100))
def test_weights_are_within_bounds_and_rise_with_the_trainer(pairs, cap):
    sampled, trained = zip(*pairs, strict=True)
    found, mask = weights_of(sampled, trained, cap)
    weights = found.weights[mask]
    assert ((weights >= 0) & (weights <= cap * (1 + 1e-6))).all()
    assert 0 <= found.clipped_share <= 1
    higher, _ = weights_of(sampled, [each + 1 for each in trained], cap)
    assert (higher.weights[mask] >= weights).all()


def test_equal_log_probabilities_have_weight_one():
    found, _ = weights_of([-1.0, -2.0], [-1.0, -2.0], 2.0)
    assert (found.weights == 1).all()
    assert found.metrics() == {
        "importance_mean": 1.0,
        "importance_clipped_share": 0.0,
        "logprob_gap": 0.0,
    }


def make_view(weights=None, scale=1.0):
    """Return two episodes of 3 and 4 tokens, some of whose ratios are clipped."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(5)]
    return TokenView(
        logprobs=-draw[0].abs() * 0.3,
        old_logprobs=-draw[1].abs() * 0.3,
        advantages=draw[2] * scale,
        weights=torch.full((7,), 1 / 7, dtype=torch.float64) if weights is None else weights,
        rows=torch.tensor([0, 0, 0, 1, 1, 1, 1]),
        critic=CriticView(draw[3], draw[3], draw[3], torch.zeros(7, dtype=torch.float64)),
    )


@pytest.mark.parametrize("name", PATHS)
def test_advantages_times_weights_are_losses_times_weights(name):
    """Why it suffices to multiply advantages: an algorithm's losses are proportional to them."""
    algorithm = make_algorithm(name, {"kl_coef": 0.0})
    importance = torch.tensor([0.5, 2.0, 1.0, 0.25, 1.5, 2.0, 0.75], dtype=torch.float64)
    whole = algorithm.loss(make_view(scale=importance)).value
    losses = torch.stack([algorithm.loss(make_view(row)).value for row in torch.eye(7).double()])
    assert float(whole) == pytest.approx(float((losses * importance).mean()))
    assert losses.abs().max() > 0.1


@pytest.mark.parametrize("cap", [0.5, -1.0, float("nan")])
def test_cap_below_one_is_refused(cap):
    with pytest.raises(ValueError, match="`importance_cap` must be 0 or at least 1"):
        TrainerConfig(importance_cap=cap)


def play(reward):
    """Return an episode whose log-probabilities are about those of a random policy."""
    row = Trajectory(group=0, question_id="q", prompt="")
    row.observe([5, 6])
    row.act([7, 8, 9], [-3.0, -8.0, -10.0])
    row.turns.append(Turn("x", "answer", False, reward, 2, 5, ""))
    return row


def gradient(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_gradient_is_that_of_the_weighted_policy_gradient(make_policy):
    """With one step, the ratio to the policy's own probabilities is 1, so that nothing clips."""
    cap = 1.5
    policy = make_policy(dtype=torch.float64)
    rows = [play(reward) for reward in (1.0, 0.0)]
    batch = Batch.from_trajectories(rows)
    own = policy.score(batch).logprobs
    sampled = batch.logprobs[:, 1:][batch.action_mask[:, 1:]]
    weights = (own.detach() - sampled).exp().clamp(max=cap)
    assert weights.min() < 1 < weights.max() == cap
    settings = {"num_minibatches": 1, "max_grad_norm": 1e9, "importance_cap": cap}
    algorithm = make_algorithm("grpo", {"kl_coef": 0.0})
    targets = algorithm.targets(batch)
    advantages, shares = (
        each[:, 1:][batch.action_mask[:, 1:]] for each in (targets.advantages, targets.weights)
    )
    (-(weights * advantages * shares * own).sum()).backward()
    expected = gradient(policy).clone()
    policy.module.zero_grad()
    row = Learner(policy, algorithm, TrainerConfig(**settings)).update(rows, 0)
    torch.testing.assert_close(gradient(policy), expected, atol=1e-7, rtol=1e-5)
    assert row["train/importance_mean"] == pytest.approx(float(weights.mean()), rel=1e-5)
    assert row["train/importance_clipped_share"] == pytest.approx(
        float((weights == cap).double().mean())
    )
    assert row["train/logprob_gap"] == pytest.approx(
        float((own.detach() - sampled).abs().max()), rel=1e-5
    )
    assert row["train/ratio"] == pytest.approx(1, abs=1e-6)


def test_without_a_cap_nothing_changes(make_policy):
    found = []
    for cap in ({}, {"importance_cap": 0.0}):
        policy = make_policy()
        row = Learner(policy, make_algorithm("grpo"), TrainerConfig(**cap)).update(
            [play(1.0), play(0.0)], 0
        )
        assert "train/importance_mean" not in row
        found.append(gradient(policy))
    assert torch.equal(*found)

"""Group relative policy optimisation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.algorithms.algorithm import TokenView
from agents.algorithms.grpo import GRPO
from agents.batch import Batch
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn

NO_CLIPPING = 1e9


def make(parts, group=0, reward=0.0):
    """Return a trajectory from lengths: an observation, an action, an observation, …"""
    trajectory = Trajectory(group=group, turns=[Turn("", "answer", False, reward, 0, 0)])
    for place, length in enumerate(parts):
        ids = [(7 * place + 3 * i + length) % 300 + 1 for i in range(length)]
        if place % 2:
            trajectory.act(ids, [-1.0] * length)
        else:
            trajectory.observe(ids)
    return trajectory


def batch_of(*rows):
    return Batch.from_trajectories([make(*row) for row in rows])


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 6), min_size=2, max_size=5),
            st.integers(0, 3),
            st.floats(0, 1, width=16),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_weights_add_up_to_one_and_give_every_episode_the_same_say(rows):
    batch = batch_of(*rows)
    targets = GRPO().targets(batch)
    shares = targets.weights.sum(1)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5)
    assert shares.tolist() == pytest.approx([1 / len(rows)] * len(rows), abs=1e-5)
    assert not targets.weights[~batch.action_mask].any()
    assert not targets.advantages[~batch.action_mask].any()


def test_episode_without_an_action_has_no_say():
    batch = batch_of(([3, 2], 0, 1.0), ([4], 0, 0.0))
    targets = GRPO().targets(batch)
    assert targets.weights.sum(1).tolist() == pytest.approx([1.0, 0.0])
    assert torch.isfinite(targets.advantages).all()


def test_advantages_compare_only_episodes_of_one_group():
    batch = batch_of(([1, 1], 7, 1.0), ([1, 1], 9, 0.0), ([1, 1], 7, 0.0), ([1, 1], 9, 0.0))
    advantages = GRPO(scale_rewards=False).targets(batch).advantages[:, 1]
    assert advantages.tolist() == [0.5, 0.0, -0.5, 0.0]


def test_reference_is_needed_only_for_the_penalty():
    assert GRPO(kl_coef=0.1).needs == {"reference_in_loss"}
    assert GRPO(kl_coef=0.1, kl_in_reward=True).needs == {"reference_in_targets"}
    assert GRPO(kl_coef=0.0).needs == frozenset()


def view(logprobs, advantages=None, reference=None):
    old = logprobs.detach().clone()
    weights = torch.full_like(old, 1 / len(old))
    return TokenView(
        logprobs,
        old,
        torch.zeros_like(old) if advantages is None else advantages,
        weights,
        torch.zeros(len(old), dtype=torch.long),
        reference,
    )


def test_loss_rises_with_the_distance_from_the_reference():
    """Fault 2: the penalty's sign."""
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    near, far = logprobs.detach() + 0.1, logprobs.detach() + 1.0
    loss = GRPO(kl_coef=0.5).loss
    assert (
        loss(view(logprobs, reference=far)).value > loss(view(logprobs, reference=near)).value > 0
    )


def test_loss_gradient_lifts_good_tokens_and_lowers_bad_ones():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    GRPO(kl_coef=0).loss(view(logprobs, torch.tensor([1.0, -1.0]))).value.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.5, 0.5])


def test_gradient_is_zero_off_the_mask(make_policy):
    """Documents, prompts and padding are never learned from."""
    policy = make_policy()
    batch = batch_of(([4, 3, 5, 2], 0, 1.0), ([3, 2], 0, 0.0))
    targets = GRPO().targets(batch)
    outputs = []

    def remember(module, arguments, output):
        output.last_hidden_state.retain_grad()
        outputs.append(output.last_hidden_state)

    policy.model.base_model.register_forward_hook(remember)
    scores = policy.score(batch)
    mask = batch.action_mask[:, 1:]
    advantages, weights = targets.advantages[:, 1:][mask], targets.weights[:, 1:][mask]
    detached, rows = scores.logprobs.detach(), torch.nonzero(mask)[:, 0]
    GRPO(kl_coef=0).loss(
        TokenView(scores.logprobs, detached, advantages, weights, rows)
    ).value.backward()
    touched = outputs[0].grad.abs().sum(-1) > 0
    assert touched.tolist() == mask.tolist()


def gradients(policy):
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def trained(policy, env, **config):
    """Return a trainer after one update whose gradient was left as it came out."""
    settings = {"num_minibatches": 1, "max_grad_norm": NO_CLIPPING, "max_new_tokens": 6} | config
    trainer = Trainer(policy, env, GRPO(kl_coef=0.1), config=TrainerConfig(**settings))
    _, metrics = trainer.update(0.0)
    return trainer, metrics


def test_size_of_a_pass_changes_no_gradient(make_policy, share_env):
    found = []
    for max_tokens in (1, 40, 10_000):
        policy = make_policy(dtype=torch.float64)
        trained(policy, share_env, max_tokens_per_pass=max_tokens)
        found.append(gradients(policy))
    for other in found[1:]:
        assert len(other) == len(found[0]) > 0
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    assert max(float(g.abs().max()) for g in found[0]) > 1e-3


def test_groups_of_equal_rewards_cause_no_step_and_no_nan(make_policy, make_letters_env):
    policy = make_policy()
    before = [p.detach().clone() for p in policy.parameters()]
    env = make_letters_env(score=lambda question, action: 2 / 3)
    trainer, metrics = trained(policy, env)
    assert metrics["train/useful_share"] == 0
    assert all(torch.equal(p, b) for p, b in zip(policy.parameters(), before, strict=True))
    assert all(value == value for value in metrics.values())
    assert trainer.num_updates_done == 1


def test_group_of_equal_rewards_beside_others_adds_nothing(make_policy, make_letters_env):
    """Only its share of the weights remains: the others' gradient is that of the whole batch."""

    def score(question, action):
        return 0.5 if question == "low" else float(len(action) % 3)

    policy = make_policy()
    _, metrics = trained(policy, make_letters_env(num_envs=32, score=score))
    assert 0 < metrics["train/useful_share"] < 1
    assert all(torch.isfinite(g).all() for g in gradients(policy))

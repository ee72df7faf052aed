"""What holds for every algorithm, and what each makes of a batch that one can compute by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.algorithms.dapo import DAPO
from agents.algorithms.dr_grpo import DrGRPO
from agents.algorithms.grpo import GRPO
from agents.algorithms.gspo import GSPO
from agents.algorithms.ppo import PPO
from agents.algorithms.registry import PATHS, make_algorithm
from agents.algorithms.reinforce import REINFORCE
from agents.algorithms.reinforce_pp import REINFORCEpp
from agents.algorithms.rloo import RLOO
from agents.batch import Batch
from agents.trajectory import Trajectory, Turn

SPECS = [*PATHS, "reinforce?baseline=false", "ppo?axis=turn", "ppo?axis=bi-level"]

turns = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=3)
episodes = st.lists(
    st.tuples(turns, st.integers(0, 2), st.floats(0, 1, width=16)), min_size=1, max_size=6
)


def build(rows, width=0):
    """Return a batch with values and a reference; a row is turns, group and reward."""
    made = []
    for parts, group, reward in [*rows, *[([(width, 0)], 99, 0.0)] * bool(width)]:
        trajectory = Trajectory(group=group)
        for read, written in parts:
            trajectory.observe([3] * read)
            start = len(trajectory.token_ids)
            trajectory.act([5] * written, [-1.0 - 0.1 * i for i in range(written)])
            end = len(trajectory.token_ids)
            trajectory.turns.append(Turn("", "search", False, 0.0, start, end))
        trajectory.turns[-1] = replace(trajectory.turns[-1], reward=reward)
        made.append(trajectory)
    batch = Batch.from_trajectories(made)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(batch.logprobs.shape[0], 40, generator=generator)[
        :, : batch.logprobs.shape[1]
    ]
    return replace(
        batch,
        values=noise * batch.action_mask,
        reference_logprobs=(batch.logprobs - noise) * batch.action_mask,
    )


def targets_of(algorithm, batch):
    return algorithm.targets(algorithm.shape_rewards(batch))


@settings(max_examples=50)
@given(episodes)
@pytest.mark.parametrize("spec", SPECS)
def test_targets_are_finite_and_zero_off_the_mask(spec, rows):
    batch = build(rows)
    targets = targets_of(make_algorithm(spec), batch)
    tensors = [targets.advantages, targets.weights]
    if targets.critic is not None:
        tensors += [targets.critic.returns, targets.critic.weights]
    for tensor in tensors:
        assert torch.isfinite(tensor).all()
        assert not tensor[~batch.action_mask].any()
    total = float(targets.weights.sum())
    if spec != "dr-grpo":
        assert total == pytest.approx(float(batch.action_mask.any()), abs=1e-5)
    if targets.critic is not None:
        critics = float(targets.critic.weights.sum())
        assert critics == pytest.approx(float(batch.action_mask.any()), abs=1e-5)


@settings(max_examples=50)
@given(episodes, st.integers(1, 30))
@pytest.mark.parametrize("spec", SPECS)
def test_padding_width_changes_no_target(spec, rows, width):
    """What widens the batch is an episode without an action, in a group of its own."""
    algorithm, narrow, wide = make_algorithm(spec), build(rows, 1), build(rows, width)
    columns = min(narrow.logprobs.shape[1], wide.logprobs.shape[1])
    found = [targets_of(algorithm, batch) for batch in (narrow, wide)]
    for name in ("advantages", "weights"):
        one, two = (getattr(targets, name)[: len(rows), :columns] for targets in found)
        torch.testing.assert_close(two, one)


@pytest.mark.parametrize("spec", [*SPECS, "reinforce-pp?group_baseline=true"])
def test_those_that_compare_groups_learn_nothing_from_groups_of_one(spec):
    algorithm = make_algorithm(spec, {"kl_coef": 0.0})
    rows = [(parts, group, reward) for group, (parts, _, reward) in enumerate(ROWS)]
    targets = targets_of(algorithm, build(rows))
    assert (not targets.useful.numel()) == algorithm.compares_groups
    if algorithm.compares_groups:
        with pytest.raises(ValueError, match=r"`group_size` must be at least 2 for \w+, which"):
            algorithm.check_group_size(1)
    else:
        algorithm.check_group_size(1)
    algorithm.check_group_size(2)


def gradients(algorithm, batch, look, logprobs):
    """Return the gradient of the loss by each log-probability."""
    leaf = logprobs.clone().requires_grad_()
    reference = batch.reference_logprobs if "reference_in_loss" in algorithm.needs else None
    view = look(batch, targets_of(algorithm, batch), leaf, reference)
    algorithm.loss(view).value.backward()
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


ROWS = [
    ([(2, 3), (1, 2)], 0, 1.0),
    ([(2, 1)], 0, 0.0),
    ([(1, 4), (3, 1), (1, 1)], 1, 0.25),
    ([(4, 2)], 1, 1.0),
    ([(2, 2)], 1, 0.5),
]


@pytest.mark.parametrize("spec", SPECS)
def test_gradient_is_zero_off_the_mask_and_there_is_one_on_it(spec, look):
    batch = build(ROWS)
    found = gradients(make_algorithm(spec), batch, look, batch.logprobs)
    assert not found[~batch.action_mask].any()
    assert found[batch.action_mask].any()


@pytest.mark.parametrize("spec", SPECS)
def test_first_on_policy_gradient_is_that_of_reinforce_with_the_same_advantages(spec, look):
    """Ratios are 1 and nothing is clipped; at sequence level every token has the whole's share."""
    algorithm = make_algorithm(spec, {"kl_coef": 0.0})
    batch = build(ROWS)
    targets = targets_of(algorithm, batch)
    share = targets.weights
    if spec == "rloo":
        share = share.sum(1, keepdim=True)
    expected = -targets.advantages * share
    torch.testing.assert_close(gradients(algorithm, batch, look, batch.logprobs), expected)


@pytest.mark.parametrize("spec", SPECS)
def test_loss_of_parts_adds_up_to_the_loss_of_the_whole(spec, look):
    batch = build(ROWS)
    algorithm = make_algorithm(spec)
    targets = targets_of(algorithm, batch)

    def loss(indices):
        rows = batch.rows(indices)
        part = targets.rows(indices, rows.token_ids.shape[1])
        reference = rows.reference_logprobs if "reference_in_loss" in algorithm.needs else None
        return float(algorithm.loss(look(rows, part, rows.logprobs + 0.1, reference)).value)

    parts = [loss(torch.tensor(indices)) for indices in ([3], [0, 4], [2, 1])]
    assert sum(parts) == pytest.approx(loss(torch.arange(5)), abs=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_fault_02_penalty_pulls_to_the_reference(spec, look):
    """Fault 2: the KL penalty's sign. Tokens that left the reference upwards are pushed down."""
    batch = build([([(1, 2)], 0, 0.0), ([(1, 2)], 0, 0.0), ([(1, 2)], 1, 0.0)])
    apart = torch.zeros_like(batch.logprobs)
    apart[0, 1:] = 1.0  # the first episode's tokens are likelier than the reference has them
    batch = replace(batch, reference_logprobs=batch.logprobs - apart, values=apart * 0)
    for in_reward in (False, True):
        settings = {"kl_coef": 0.5, "kl_in_reward": in_reward, "kl_estimator": "k2"}
        found = gradients(make_algorithm(spec, settings), batch, look, batch.logprobs)
        assert (found[0, 1:] > 0).all(), "descending must lower the log-probabilities"


@pytest.mark.parametrize("spec", SPECS)
def test_fault_12_values_and_rewards_off_the_mask_are_not_looked_at(spec):
    """Fault 12: critic, GAE and whitening over retrieved tokens."""
    algorithm, batch = make_algorithm(spec), build(ROWS)
    off = ~batch.action_mask
    wild = replace(batch, values=batch.values + 50.0 * off, logprobs=batch.logprobs + 50.0 * off)
    one, two = (targets_of(algorithm, each) for each in (batch, wild))
    torch.testing.assert_close(two.advantages, one.advantages)
    if one.critic is not None:
        torch.testing.assert_close(two.critic.returns, one.critic.returns)
        torch.testing.assert_close(two.critic.weights, one.critic.weights)


@pytest.mark.parametrize("spec", SPECS)
def test_batch_of_equal_rewards_has_no_advantage_unless_something_else_differs(spec):
    batch = build([([(1, 2)], 0, 2 / 3), ([(2, 3)], 0, 2 / 3), ([(1, 1)], 1, 2 / 3)])
    batch = replace(batch, values=batch.values * 0)
    targets = targets_of(make_algorithm(spec, {"kl_coef": 0.0}), batch)
    if spec == "reinforce?baseline=false":
        assert targets.advantages[batch.action_mask].tolist() == pytest.approx([2 / 3] * 6)
    else:
        assert not targets.advantages.any()


@pytest.mark.parametrize("spec", SPECS)
def test_batch_without_any_action_token_teaches_nothing(spec):
    targets = targets_of(make_algorithm(spec), build([([(2, 0)], 0, 1.0), ([(3, 0)], 0, 0.0)]))
    assert not len(targets.useful)
    assert not targets.weights.any()


def by_hand(stack, episode):
    """Return two groups of two episodes: 1 and 3 action tokens, 2 and 2; rewards 1, 0, 3, 1."""
    return stack(
        episode((1, 1), rewards=1.0),
        episode((1, 2), (1, 1), rewards=0.0),
        episode((1, 2), rewards=3.0, group=1),
        episode((1, 2), rewards=1.0, group=1, truncated=True),
    )


S = math.sqrt
TABLE = {
    # spec: the advantage and the weight of each episode's tokens
    "reinforce": ([-0.25, -1.25, 1.75, -0.25], [1 / 8] * 4),
    "reinforce?baseline=false": ([1, 0, 3, 1], [1 / 8] * 4),
    "rloo": ([1, -1, 2, -2], [1 / 4, 1 / 12, 1 / 8, 1 / 8]),
    "grpo": ([1, -1, 1, -1], [1 / 4, 1 / 12, 1 / 8, 1 / 8]),
    "grpo?scale_rewards=false": ([0.5, -0.5, 1, -1], [1 / 4, 1 / 12, 1 / 8, 1 / 8]),
    "dr-grpo?token_budget=10": ([0.5, -0.5, 1, -1], [1 / 40] * 4),
    "dapo": ([1, -1, 1, -1], [1 / 8] * 4),
    "dapo?skip_truncated=true": ([1, -1, 1, 0], [1 / 6, 1 / 6, 1 / 6, 0]),
    # From three tokens the penalty is 1, at two a half: rewards 1, -1, 2.5, 0.5.
    "dapo?max_tokens=3&soft_tokens=2": ([1, -1, 1, -1], [1 / 8] * 4),
    "gspo": ([1, -1, 1, -1], [1 / 4, 1 / 12, 1 / 8, 1 / 8]),
    # Tokens return 1, 0 0 0, 3 3, 1 1: mean 9/8, mean square 21/8, deviation sqrt(87)/8.
    "reinforce-pp": ([-1 / S(87), -9 / S(87), 15 / S(87), -1 / S(87)], [1 / 8] * 4),
    # Less the group's mean: 1/2, -1/2 three times, 1 twice, -1 twice: mean -1/8, mean square 5/8,
    # deviation sqrt(39)/8.
    "reinforce-pp?group_baseline=true": (
        [5 / S(39), -3 / S(39), 9 / S(39), -7 / S(39)],
        [1 / 8] * 4,
    ),
    # Values of 0: what is earned from each token on, as in REINFORCE++ or not whitened.
    "ppo": ([-1 / S(87), -9 / S(87), 15 / S(87), -1 / S(87)], [1 / 8] * 4),
    "ppo?axis=turn&whiten_advantages=false": ([1, 0, 3, 1], [1 / 8] * 4),
    "ppo?axis=bi-level&whiten_advantages=false": ([1, 0, 3, 1], [1 / 8] * 4),
}


@pytest.mark.parametrize("spec", TABLE)
def test_targets_are_those_computed_by_hand(spec, stack, episode):
    batch = by_hand(stack, episode)
    batch = replace(batch, values=torch.zeros_like(batch.logprobs))
    targets = targets_of(make_algorithm(spec, {"kl_coef": 0.0}), batch)
    advantages, weights = TABLE[spec]
    for found, expected in ((targets.advantages, advantages), (targets.weights, weights)):
        for row, value in enumerate(expected):
            tokens = found[row][batch.action_mask[row]].tolist()
            assert tokens == pytest.approx([value] * len(tokens), abs=1e-5)


# One episode of two tokens: ratios 1.5 and 0.5, advantage 2, weights a half each.
LOSSES = {
    "reinforce": (REINFORCE(kl_coef=0), 2.0 * (1 - (math.log(1.5) + math.log(0.5)) / 2)),
    "grpo": (GRPO(kl_coef=0), -(1.2 * 2 + 0.5 * 2) / 2),
    "dr-grpo": (DrGRPO(), -(1.2 * 2 + 0.5 * 2) / 2),
    "dapo": (DAPO(), -(1.28 * 2 + 0.5 * 2) / 2),
    "reinforce-pp": (REINFORCEpp(kl_coef=0), -(1.2 * 2 + 0.5 * 2) / 2),
    "rloo": (RLOO(kl_coef=0), -0.75 * 2),
    "gspo": (GSPO(), -S(0.75) * 2),
    "gspo clipped": (GSPO(clip_range=0.4), -S(0.75) * 2),  # below 1 a good one is never clipped
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_that_computed_by_hand(name, stack, episode, look):
    algorithm, expected = LOSSES[name]
    batch = stack(episode((1, 2), rewards=1.0))
    targets = algorithm.targets(batch)
    targets = replace(targets, advantages=2.0 * batch.action_mask, weights=0.5 * batch.action_mask)
    logprobs = batch.logprobs + torch.tensor([[0.0, math.log(1.5), math.log(0.5)]])
    assert float(algorithm.loss(look(batch, targets, logprobs)).value) == pytest.approx(expected)


@pytest.mark.parametrize(("clip", "expected"), [(0.0, 0.5), (0.1, 0.5 * 1.9**2)])
def test_critic_loss_is_half_the_squared_error_clipped_if_wanted(
    clip, expected, stack, episode, look
):
    """The value moved from 0 to 1 and should be 2: as good as 1.1 short by clipping, 1 without."""
    algorithm = PPO(kl_coef=0, value_clip_range=clip)
    batch = stack(episode((1, 1), rewards=2.0))
    batch = replace(batch, values=torch.zeros_like(batch.logprobs))
    view = look(batch, algorithm.targets(batch), batch.logprobs, values=torch.ones(1))
    assert float(algorithm.loss(view).statistics["value_loss"]) == pytest.approx(expected)


def test_penalty_in_the_reward_reaches_every_token_and_the_episode(stack, episode):
    batch = stack(episode((1, 2), rewards=1.0))
    batch = replace(batch, reference_logprobs=torch.tensor([[0.0, -2.0, -1.5]]))
    shaped = GRPO(kl_coef=0.5, kl_in_reward=True, kl_estimator="k1").shape_rewards(batch)
    assert shaped.token_rewards.tolist() == [[0.0, -0.5, 0.75]]  # 1 and 0.5 nats above it
    assert shaped.rewards.tolist() == [0.25]


@pytest.mark.parametrize(
    ("length", "penalty"), [(4, 0.0), (6, 0.0), (7, 0.25), (9, 0.75), (10, 1.0), (15, 1.0)]
)
def test_overlong_episode_is_punished_at_its_last_action_token(length, penalty, stack, episode):
    batch = stack(episode((2, 1), (3, length - 1), rewards=0.5))
    shaped = DAPO(max_tokens=10, soft_tokens=4).shape_rewards(batch)
    assert shaped.rewards.tolist() == [0.5 - penalty]
    assert shaped.token_rewards[0, -1] == 0.5 - penalty


@pytest.mark.parametrize(("rewards", "kept"), [([1, 1, 1], False), ([0], False), ([0, 1], True)])
def test_dapo_keeps_groups_whose_rewards_differ(rewards, kept):
    assert DAPO().keep_group(rewards) is kept
    assert GRPO().keep_group(rewards)


def test_turn_axis_refuses_tokens_that_no_turn_owns():
    trajectory = Trajectory()
    trajectory.observe([1])
    trajectory.act([2], [-1.0])
    batch = Batch.from_trajectories([trajectory])
    batch = replace(batch, values=torch.zeros(1, 2))
    with pytest.raises(
        ValueError, match="`turns` must cover every action token if `axis` is 'turn'"
    ):
        PPO(axis="turn").targets(batch)
    assert PPO().targets(batch).advantages.shape == (1, 2)


@pytest.mark.parametrize("spec", SPECS)
def test_needs_say_what_the_penalty_and_the_critic_call_for(spec):
    critic = {"critic"} if spec.startswith("ppo") else set()
    for in_reward, need in ((True, "reference_in_targets"), (False, "reference_in_loss")):
        settings = {"kl_in_reward": in_reward, "kl_estimator": "k2"}
        assert make_algorithm(spec, settings | {"kl_coef": 0.1}).needs == critic | {need}
        assert make_algorithm(spec, settings | {"kl_coef": 0.0}).needs == critic


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GRPO, {"clip_range": -1.0}, "`clip_range` must be 0 or more, got -1.0"),
        (GRPO, {"kl_coef": float("nan")}, "`kl_coef` must be 0 or more, got nan"),
        (GRPO, {"num_epochs": 0}, "`num_epochs` must be at least 1, got 0"),
        (GRPO, {"kl_estimator": "k4"}, "`kl_estimator` must be one of k1, k2, k3, got 'k4'"),
        (GRPO, {"kl_estimator": "k1"}, "`kl_estimator` must be k2 or k3 if `kl_in_reward` is fal"),
        (DrGRPO, {"token_budget": 0}, "`token_budget` must be at least 1, got 0"),
        (DAPO, {"clip_range_high": -0.1}, "`clip_range_high` must be 0 or more, got -0.1"),
        (DAPO, {"max_resamples": -1}, "`max_resamples` must be at least 0, got -1"),
        (DAPO, {"max_tokens": -1}, "`max_tokens` must be at least 0, got -1"),
        (DAPO, {"soft_tokens": 0}, "`soft_tokens` must be at least 1, got 0"),
        (GSPO, {"clip_range": float("inf")}, "`clip_range` must be 0 or more, got inf"),
        (RLOO, {"clip_range": -1}, "`clip_range` must be 0 or more, got -1"),
        (REINFORCE, {"kl_coef": -1}, "`kl_coef` must be 0 or more, got -1"),
        (REINFORCEpp, {"gamma": 1.5}, r"`gamma` must be in \[0, 1\], got 1.5"),
        (PPO, {"axis": "step"}, "`axis` must be one of token, turn, bi-level, got 'step'"),
        (PPO, {"gae_lambda": -0.1}, r"`gae_lambda` must be in \[0, 1\], got -0.1"),
        (PPO, {"token_lambda": 2}, r"`token_lambda` must be in \[0, 1\], got 2"),
        (PPO, {"value_clip_range": -1}, "`value_clip_range` must be 0 or more, got -1"),
    ],
)
def test_bad_hyper_parameter_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)

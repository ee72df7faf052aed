"""Gradient steps: accumulation, the critic, learning rates, and what stops a step."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from agents.algorithms.algorithm import Algorithm, Loss, Targets
from agents.algorithms.grpo import GRPO
from agents.algorithms.ppo import PPO
from agents.algorithms.registry import PATHS, make_algorithm
from agents.algorithms.reinforce import REINFORCE
from agents.batch import Batch
from agents.learner import Learner, NonFiniteLossError
from agents.learner_metrics import explained_variance
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn

NO_CLIPPING = 1e9


def play(*parts, reward=0.0, group=0, logprob=-5.0, **fields):
    """Return an episode of (read, written) turns with ids that depend on where they stand."""
    trajectory = Trajectory(group=group, **fields)
    for read, written in parts:
        here = len(trajectory.token_ids)
        trajectory.observe([(7 * i + 3 * here + group) % 300 + 1 for i in range(read)])
        start = len(trajectory.token_ids)
        ids = [(5 * i + 2 * here + read + written) % 300 + 1 for i in range(written)]
        trajectory.act(ids, [logprob] * written)
        end = len(trajectory.token_ids)
        trajectory.turns.append(Turn("", "search", False, 0.0, start, end))
    trajectory.turns[-1] = replace(trajectory.turns[-1], reward=reward)
    return trajectory


def episodes():
    """Return two groups, one of them with turns and lengths that differ, and an idle episode."""
    return [
        play((3, 2), (2, 3), reward=1.0),
        play((3, 4), reward=0.0),
        play((3, 1), reward=0.5),
        play((4, 2), (1, 1), (2, 2), reward=0.25, group=1),
        play((4, 6), reward=1.0, group=1),
        play((4, 0), reward=0.0, group=1),
    ]


def scored(policy, trajectories):
    """Return the episodes with the policy's own log-probabilities."""
    found = []
    for trajectory in trajectories:
        with torch.no_grad():
            batch = Batch.from_trajectories([trajectory])
            drawn = iter(policy.score(batch).logprobs.tolist())
        logprobs = [next(drawn) if on else 0.0 for on in trajectory.action_mask]
        found.append(replace(trajectory, logprobs=logprobs))
    return found


def make_learner(policy, algorithm=None, **config):
    settings = {"num_minibatches": 1, "max_grad_norm": NO_CLIPPING} | config
    return Learner(policy, algorithm or GRPO(), TrainerConfig(**settings))


def gradients(learner):
    return {
        f"{name}.{key}": parameter.grad.clone()
        for name, module in learner.modules().items()
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("name", [*PATHS, "ppo?axis=turn", "ppo?axis=bi-level"])
def test_split_into_passes_changes_no_gradient(name, make_policy):
    found, rows = [], []
    for max_tokens in (1, 25, 10_000):
        policy = make_policy(dtype=torch.float64)
        learner = make_learner(
            policy,
            make_algorithm(name, {"num_epochs": 1}),
            max_tokens_per_pass=max_tokens,
        )
        rows.append(learner.update(scored(policy, episodes()), 0))
        found.append(gradients(learner))
    for other, row in zip(found[1:], rows[1:], strict=True):
        assert other.keys() == found[0].keys()
        for key, gradient in found[0].items():
            torch.testing.assert_close(other[key], gradient, atol=1e-6, rtol=1e-6, msg=key)
        assert row == pytest.approx(rows[0], abs=1e-5)
    assert max(float(g.abs().max()) for g in found[0].values()) > 1e-3


@pytest.mark.parametrize("num_minibatches", [1, 2, 3])
def test_fault_14_gradient_steps_add_up_to_the_whole(num_minibatches, make_policy):
    """Fault 14: a last part that is smaller than the others. Steps of rate 0 leave the weights."""
    totals = []

    class Summing(REINFORCE):
        def loss(self, view):
            totals.append(float((view.weights * view.advantages).sum()))
            return super().loss(view)

    policy = make_policy()
    made = [*episodes(), play((2, 2), reward=0.75, group=2)]
    learner = make_learner(policy, Summing(kl_coef=0), num_minibatches=num_minibatches)
    learner.update(scored(policy, made), 0)
    batch = Batch.from_trajectories(made)
    targets = REINFORCE(kl_coef=0).targets(batch)
    assert sum(totals) == pytest.approx(float((targets.weights * targets.advantages).sum()))


def test_fault_08_ratios_compare_with_what_the_sampler_said(make_policy):
    """Fault 8: log-probabilities of a text that the policy never wrote."""
    policy = make_policy()
    row = make_learner(policy).update(scored(policy, episodes()), 0)
    assert row["train/ratio"] == pytest.approx(1, abs=1e-4)
    assert row["train/sampler_kl"] == pytest.approx(0, abs=1e-5)
    policy = make_policy()
    unlikely = make_learner(policy).update([replace(t) for t in episodes()], 0)
    assert abs(unlikely["train/ratio"] - 1) > 0.01


def test_critic_starts_at_zero_and_learns_the_returns(make_policy):
    policy = make_policy()
    learner = make_learner(
        policy, PPO(kl_coef=0, num_epochs=4), learning_rate=1e-12, critic_learning_rate=3e-3
    )
    made = scored(policy, episodes())
    rows = [learner.update(made, number) for number in range(15)]
    assert rows[0]["train/explained_variance"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["train/explained_variance"] > 0.6  # first tokens cannot tell episodes apart
    assert rows[-1]["train/value_loss"] < 0.3 * rows[0]["train/value_loss"]


def test_fault_12_critic_is_not_trained_on_observations(make_policy):
    """Fault 12: what is read after the last action, or padded, has no gradient in the critic."""
    policy = make_policy()
    critic = policy.make_critic()
    torch.nn.init.ones_(critic.head.weight)
    states = []
    critic.body.register_forward_hook(lambda *args: states.append(args[2].last_hidden_state))
    batch = Batch.from_trajectories(episodes()[:2])
    values = critic(batch)
    states[0].retain_grad()
    values.sum().backward()
    touched = states[0].grad.abs().sum(-1) > 0
    assert touched.tolist() == batch.action_mask[:, 1:].tolist()


def test_modules_and_optimiser_groups_are_policy_then_critic(make_policy):
    policy = make_policy()
    learner = make_learner(policy, PPO(), learning_rate=1e-4, critic_learning_rate=1e-3)
    assert list(learner.modules()) == ["policy", "critic"]
    assert [group["lr"] for group in learner.optimizer.param_groups] == [1e-4, 1e-4]
    learner.update(scored(policy, episodes()), 0)
    assert [group["lr"] for group in learner.optimizer.param_groups] == [1e-4, 1e-3]
    assert list(make_learner(make_policy()).modules()) == ["policy"]


def test_critic_shares_no_weights_with_the_policy(make_policy):
    policy = make_policy()
    learner = make_learner(policy, PPO(kl_coef=0), critic_learning_rate=1e-12)
    before = weights(learner.critic)
    learner.update(scored(policy, episodes()), 0)
    torch.testing.assert_close(weights(learner.critic), before, atol=1e-9, rtol=0)


def test_gradient_of_the_critic_does_not_scale_down_the_policys(make_policy):
    steps = []
    for factor in (1.0, 1e6):
        policy = make_policy()
        made = [play((3, 2), reward=factor), play((3, 2), reward=0.0)]
        learner = make_learner(policy, PPO(kl_coef=0, num_epochs=1), max_grad_norm=1.0)
        learner.update(scored(policy, made), 0)
        steps.append(gradients(learner))
    for name in steps[0]:
        if name.startswith("policy."):
            torch.testing.assert_close(steps[0][name], steps[1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 0.775, 0.55, 0.325, 0.1]),
        ({"schedule": "linear", "last_rate_share": 0.0}, [1, 0.75, 0.5, 0.25, 0]),
        (
            {"schedule": "cosine", "last_rate_share": 0.0},
            [1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4, 0],
        ),
        ({"num_warmup_updates": 3}, [0.25, 0.5, 0.75, 1, 1]),
        ({"schedule": "linear", "last_rate_share": 0, "num_warmup_updates": 1}, [0.5, 0.75, 0.5]),
    ],
)
def test_learning_rates_follow_the_schedule(config, shares, make_policy):
    learner = make_learner(make_policy(), PPO(), learning_rate=2e-4, **config)
    for number, share in enumerate(shares):
        row = learner.update([], number, progress=number / 4)
        assert row["train/learning_rate"] == pytest.approx(2e-4 * share)
        assert learner.optimizer.param_groups[1]["lr"] == pytest.approx(5e-4 * share)


def test_update_stops_where_the_policy_is_too_far_from_its_sampler(make_policy):
    found = {}
    for target_kl in (None, 1e-4):
        policy = make_policy()
        learner = make_learner(
            policy, GRPO(kl_coef=0, num_epochs=4), learning_rate=1e-2, target_kl=target_kl
        )
        found[target_kl] = learner.update(scored(policy, episodes()), 0)
    assert found[None]["train/num_steps"] == 4
    assert found[None]["train/stopped_early"] == 0
    assert found[1e-4]["train/num_steps"] == 1  # the first step is on policy, the second too far
    assert found[1e-4]["train/stopped_early"] == 1


class Broken(GRPO):
    """Its loss is not finite from a given call on."""

    def loss(self, view):
        loss = super().loss(view)
        return Loss(loss.value * float("nan"), loss.statistics)


class BrokenGradient(GRPO):
    """Its loss is finite and its gradient is not: the slope of a root at 0."""

    def loss(self, view):
        loss = super().loss(view)
        return Loss(loss.value + (loss.value - loss.value.detach()).sqrt(), loss.statistics)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (Broken(kl_coef=0), "loss must be finite, got nan"),
        (BrokenGradient(kl_coef=0), "gradient norms must be finite, got nan"),
    ],
)
def test_number_that_is_not_finite_stops_before_the_step(algorithm, message, make_policy):
    policy = make_policy()
    before = weights(policy.module)
    learner = make_learner(policy, algorithm)
    with pytest.raises(NonFiniteLossError, match=message) as caught:
        learner.update(scored(policy, episodes()), 0)
    assert torch.equal(weights(policy.module), before)
    assert len(caught.value.batch) >= 1
    assert caught.value.batch.action_mask.any()


def test_no_episode_means_no_step(make_policy):
    policy = make_policy()
    before = weights(policy.module)
    row = make_learner(policy).update([], 3)
    assert row["train/num_steps"] == 0
    assert row["train/useful_share"] == 0
    assert torch.equal(weights(policy.module), before)


@pytest.mark.parametrize("name", PATHS)
def test_episodes_without_an_action_mean_no_step(name, make_policy):
    policy = make_policy()
    before = weights(policy.module)
    made = [play((3, 0), reward=1.0), play((2, 0), (1, 0), reward=0.0)]
    row = make_learner(policy, make_algorithm(name)).update(made, 0)
    assert row["train/num_steps"] == 0
    assert torch.equal(weights(policy.module), before)
    assert all(math.isfinite(value) for value in row.values())


@dataclass(frozen=True)
class Misshapen(Algorithm):
    """Returns what a plug-in may return by mistake."""

    what: str

    def targets(self, batch):
        mask = batch.action_mask
        if self.what == "tuple":
            return mask.float(), mask.float()
        if self.what == "flat":
            return Targets(batch.rewards, mask.float())
        wrong = torch.where((batch.groups[:, None] == 1) & mask, torch.nan, mask.float())
        return Targets(wrong, mask / mask.sum())

    def loss(self, view):
        raise AssertionError("no loss is asked for")


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("tuple", TypeError, "`Misshapen.targets` must return Targets, got tuple"),
        ("flat", ValueError, r"must return advantages of shape \(6, \d+\), got \(6,\)"),
        ("nan", NonFiniteLossError, "advantages and weights must be finite, got others in 2 ep"),
    ],
)
def test_targets_of_ones_own_are_checked(make_policy, what, error, message):
    policy = make_policy()
    before = weights(policy.module)
    with pytest.raises(error, match=message):
        make_learner(policy, Misshapen(what)).update(scored(policy, episodes()), 0)
    assert torch.equal(weights(policy.module), before)


@pytest.mark.parametrize("name", PATHS)
def test_group_of_equal_rewards_is_finite(name, make_policy):
    policy = make_policy()
    made = scored(policy, [play((3, n + 1), reward=2 / 3) for n in range(4)])
    row = make_learner(policy, make_algorithm(name)).update(made, 0)
    assert all(math.isfinite(value) for value in row.values())


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_episode_longer_than_the_context_is_learned_from_up_to_its_last_action(name, make_policy):
    """What did not fit was read by nobody: it changes nothing, and is not even looked at."""
    found = []
    for rest in ([], [(400, 0), (3, 0)]):
        policy = make_policy()  # a context of 256
        learner = make_learner(policy, make_algorithm(name, {"kl_coef": 0.0}))
        made = scored(policy, [play((3, 2), *rest, reward=1.0), play((3, 2), reward=0.0)])
        lengths = []
        policy.model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs, seen=lengths: seen.append(kwargs["input_ids"].shape[1]),
            with_kwargs=True,
        )
        learner.update(made, 0)
        assert max(lengths) <= 4
        found.append(gradients(learner))
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, atol=1e-6, rtol=1e-5)


def test_reward_that_is_no_number_is_refused_before_learning(make_policy):
    policy = make_policy()
    before = weights(policy.module)
    made = [*episodes(), play((2, 1), reward=float("nan"), question_id="q9")]
    with pytest.raises(ValueError, match="got nan in turn 0 of episode 6, question 'q9'"):
        make_learner(policy).update(made, 0)
    assert torch.equal(weights(policy.module), before)


def test_penalty_in_the_reward_is_logged_and_changes_the_advantages(make_policy):
    policy = make_policy()
    algorithm = GRPO(kl_coef=0.5, kl_in_reward=True)
    learner = make_learner(policy, algorithm, learning_rate=1e-2)
    made = scored(policy, episodes())
    first = learner.update(made, 0)
    assert first["train/kl"] == pytest.approx(0, abs=1e-5)
    second = learner.update(scored(policy, episodes()), 1)
    assert second["train/kl"] > 1e-3


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one():
    returns = torch.tensor([0.0, 1.0, 0.5])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(returns, torch.full((3,), 0.3)) == pytest.approx(0)
    assert explained_variance(returns, 1 - returns) < 0
    assert explained_variance(torch.ones(3), returns) == 0


@dataclass(frozen=True)
class Shortest(Algorithm):
    """As much as somebody else has to write: raise what earned more than nothing."""

    scale: float = 1.0

    def targets(self, batch):
        mask = batch.action_mask
        return Targets(self.scale * batch.rewards[:, None] * mask, mask / mask.sum())

    def loss(self, view):
        value = -(view.logprobs * view.advantages * view.weights).sum()
        return Loss(value, {"loss": value.detach()})


def test_algorithm_of_ones_own_needs_targets_and_a_loss_only(make_policy):
    policy = make_policy()
    learner = make_learner(policy, Shortest(scale=2.0))
    row = learner.update(scored(policy, episodes()), 0)
    assert row["train/num_steps"] == 1
    assert learner.reference is None
    assert learner.critic is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"critic_learning_rate": 0},
            "`critic_learning_rate` must be greater than 0 and finite, got 0",
        ),
        ({"target_kl": 0.0}, "`target_kl` must be greater than 0, got 0.0"),
        ({"last_rate_share": 1.5}, r"`last_rate_share` must be in \[0, 1\], got 1.5"),
        ({"num_warmup_updates": -1}, "`num_warmup_updates` must be at least 0, got -1"),
        ({"schedule": "step"}, "`schedule` must be one of constant, linear, cosine, got 'step'"),
    ],
)
def test_bad_hyper_parameter_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**config)


def test_episodes_are_told_what_was_made_of_their_tokens(make_policy):
    made = scored(make_policy(), episodes())
    make_learner(make_policy()).update(made, 0)
    batch = Batch.from_trajectories(made)
    advantages = GRPO().targets(batch).advantages
    for row, trajectory in zip(advantages, made, strict=True):
        assert len(trajectory.advantages) == len(trajectory.token_ids)
        assert trajectory.advantages == row[: len(trajectory.token_ids)].tolist()
    assert len({each for trajectory in made for each in trajectory.advantages}) > 3


def test_episode_whose_group_was_renamed_tells_the_one_that_it_copies(make_policy):
    made = scored(make_policy(), episodes())
    make_learner(make_policy()).update([replace(each, group=each.group + 9) for each in made], 0)
    assert all(len(each.advantages) == len(each.token_ids) for each in made)

"""The training loop."""

import math

import pytest
import torch

from agents.algorithms.algorithm import Loss
from agents.algorithms.grpo import GRPO
from agents.trainer import Callback, Trainer
from agents.trainer_config import TrainerConfig
from zs_env.search.curriculum import ExponentialCurriculum


def train(policy, env, num_updates=2, algorithm=None, curriculum=None, callbacks=(), **config):
    """Return the trainer and the metrics of each update."""
    rows = []

    class Keep(Callback):
        def on_update_end(self, trainer, rollout, metrics):
            rows.append(dict(metrics))

    settings = TrainerConfig(**({"max_new_tokens": 6, "learning_rate": 1e-3} | config))
    trainer = Trainer(policy, env, algorithm or GRPO(), config=settings, curriculum=curriculum)
    trainer.learn(num_updates, [Keep(), *callbacks])
    return trainer, rows


def lasting(row):
    """Return what does not depend on the clock."""
    return {key: value for key, value in row.items() if not key.startswith("time/")}


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def test_same_seed_gives_the_same_run(make_policy, share_env):
    policies = [make_policy() for _ in range(3)]
    runs = [
        train(policy, share_env, seed=seed)[1]
        for policy, seed in zip(policies, (5, 5, 6), strict=True)
    ]
    assert [lasting(row) for row in runs[0]] == [lasting(row) for row in runs[1]]
    assert torch.equal(weights(policies[0]), weights(policies[1]))
    assert [lasting(row) for row in runs[0]] != [lasting(row) for row in runs[2]]


def test_run_does_not_depend_on_the_global_random_state(make_policy, share_env):
    runs = []
    for seed in (1, 2):
        policy = make_policy()
        torch.manual_seed(seed)
        runs.append([lasting(row) for row in train(policy, share_env)[1]])
    assert runs[0] == runs[1]


def test_sampler_and_trainer_agree_before_the_first_step(make_policy, share_env):
    _, rows = train(make_policy(), share_env, num_updates=1)
    assert 0 < rows[0]["train/logprob_gap"] < 1e-3


def test_learning_changes_the_weights_and_only_the_policys(make_policy, share_env):
    policy = make_policy()
    before = weights(policy)
    trainer, _ = train(policy, share_env, algorithm=GRPO(kl_coef=0.1))
    assert not torch.equal(weights(policy), before)
    assert torch.equal(weights(trainer.learner.reference), before)


def test_no_reference_is_kept_where_none_is_needed(make_policy, share_env):
    trainer, rows = train(make_policy(), share_env, 1, GRPO(kl_coef=0.0))
    assert trainer.learner.reference is None
    assert "train/kl" not in rows[0]


def test_policy_that_is_its_reference_has_no_divergence(make_policy, share_env):
    _, rows = train(make_policy(), share_env, 2, num_minibatches=1)
    assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["train/kl"] > 1e-4


def test_callbacks_are_called_in_order(make_policy, share_env):
    events = []

    class Log(Callback):
        def __init__(self, name):
            self.name = name

        def on_training_start(self, trainer):
            events.append(f"{self.name} start {trainer.num_updates_done}")

        def on_update_end(self, trainer, rollout, metrics):
            assert len(rollout.trajectories) == 8
            events.append(f"{self.name} update {trainer.num_updates_done}")

        def on_training_end(self, trainer):
            events.append(f"{self.name} end {trainer.num_updates_done}")

    train(make_policy(), share_env, callbacks=[Log("a"), Log("b")])
    assert events == [
        "a start 0",
        "b start 0",
        "a update 1",
        "b update 1",
        "a update 2",
        "b update 2",
        "a end 2",
        "b end 2",
    ]


def test_curriculum_runs_from_its_start_to_its_end(make_policy, make_letters_env):
    env = make_letters_env()
    _, rows = train(make_policy(), env, 3, curriculum=ExponentialCurriculum(0.1, 0.7))
    noises = [options["noise"] for options in env.unwrapped.options]
    assert noises == [row["rollout/noise"] for row in rows]
    assert (noises[0], noises[-1]) == (0.1, 0.7)


def test_without_a_curriculum_the_environments_noise_stays(make_policy, make_letters_env):
    env = make_letters_env()
    train(make_policy(), env, 1)
    assert env.unwrapped.options == [{}]


def test_updates_play_different_episodes(make_policy, share_env):
    policy = make_policy()
    texts = []

    class Keep(Callback):
        def on_update_end(self, trainer, rollout, metrics):
            texts.append([turn.action for t in rollout.trajectories for turn in t.turns])

    train(policy, share_env, learning_rate=1e-12, callbacks=[Keep()])
    assert texts[0] != texts[1]


@pytest.mark.parametrize("num_minibatches", [1, 2, 4])
def test_every_useful_episode_is_seen_once_an_epoch(make_policy, make_letters_env, num_minibatches):
    """Fault 14: the last partial mini-batch. The parts' shares add up to the whole."""
    shares = []

    class Spy(GRPO):
        def loss(self, view):
            shares.append(float(view.weights.sum()))
            return super().loss(view)

    env = make_letters_env(
        num_envs=20, num_turns=2, score=lambda q, action: float(ord(action[:1] or "a"))
    )
    train(make_policy(), env, 1, Spy(kl_coef=0), num_minibatches=num_minibatches)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert len(shares) >= num_minibatches


def test_single_useful_group_is_not_scaled_by_the_number_of_minibatches(
    make_policy, make_letters_env
):
    """Where there are fewer groups than parts, there are fewer gradient steps."""
    norms = []
    for num_minibatches in (1, 4):
        policy = make_policy()
        env = make_letters_env(num_envs=4, group_size=4, num_turns=2, score=lambda q, a: len(a) % 5)
        _, rows = train(policy, env, 1, GRPO(kl_coef=0), num_minibatches=num_minibatches)
        norms.append(rows[0]["train/grad_norm"])
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 0


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_entropy_is_a_mean_whatever_share_is_useful(make_policy, make_letters_env, num_epochs):
    """Groups that teach nothing must not make a policy look more certain than it is."""

    def only_low(question, action):
        return float(ord(action[:1] or "a")) if question == "low" else 0.5

    env = make_letters_env(num_envs=64, score=only_low)
    algorithm = GRPO(kl_coef=0, num_epochs=num_epochs)
    policy = make_policy(initializer_range=1e-4)  # every token equally likely
    _, rows = train(policy, env, 1, algorithm, learning_rate=1e-9)
    assert rows[0]["train/useful_share"] < 0.9
    assert rows[0]["train/entropy"] == pytest.approx(math.log(len(policy.tokenizer)), rel=1e-3)


def test_metrics_are_finite_numbers(make_policy, share_env):
    _, rows = train(make_policy(), share_env)
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        assert all(key.split("/")[0] in ("rollout", "train", "time") for key in row)


def test_rollout_metrics_are_means_over_episodes(make_policy, share_env):
    _, rows = train(make_policy(), share_env, 1)
    assert rows[0]["rollout/turns"] == 2
    assert rows[0]["rollout/searches"] == 1
    assert rows[0]["rollout/answered"] == 1
    assert 0 < rows[0]["rollout/reward"] < 2


def test_loss_that_is_not_wanted_is_not_logged_under_another_name(make_policy, share_env):
    class Silent(GRPO):
        def loss(self, view):
            return Loss(super().loss(view).value, {})

    _, rows = train(make_policy(), share_env, 1, Silent())
    assert "train/loss" not in rows[0]
    assert "train/weight" not in rows[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be greater than 0, got 0.0"),
        ({"temperature": 0.0}, "`temperature` must be greater than 0, got 0.0"),
        ({"max_grad_norm": -1.0}, "`max_grad_norm` must be greater than 0, got -1.0"),
        ({"num_minibatches": 0}, "`num_minibatches` must be at least 1, got 0"),
        ({"max_tokens_per_pass": 0}, "`max_tokens_per_pass` must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, got 0"),
    ],
)
def test_bad_hyper_parameter_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**config)

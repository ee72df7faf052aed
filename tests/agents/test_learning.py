"""Does training maximise reward? A bandit with a known optimum tells within seconds."""

import pytest

from agents.algorithms.grpo import GRPO
from agents.algorithms.registry import PATHS, make_algorithm
from agents.trainer import Callback, Trainer
from agents.trainer_config import TrainerConfig


class Rewards(Callback):
    """Keeps the mean reward of each update."""

    def __init__(self):
        self.means = []

    def on_update_end(self, trainer, rollout, metrics):
        self.means.append(metrics["rollout/reward"])


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.005])
def test_grpo_learns_which_letter_each_question_wants(make_policy, make_letters_env, kind, kl_coef):
    """One token an episode; what is right depends on the question, so it has to be read."""
    policy = make_policy(kind=kind, initializer_range=0.1)
    env = make_letters_env(num_envs=128, group_size=16)
    config = TrainerConfig(learning_rate=3e-3, max_new_tokens=1, seed=1)
    rewards = Rewards()
    Trainer(policy, env, GRPO(kl_coef=kl_coef), config=config).learn(30, [rewards])
    assert sum(rewards.means[:3]) / 3 < 0.4
    assert sum(rewards.means[-5:]) / 5 > 0.8


@pytest.mark.parametrize("name", PATHS)
def test_every_algorithm_learns_the_same(make_policy, make_letters_env, name):
    policy = make_policy(initializer_range=0.1)
    env = make_letters_env(num_envs=128, group_size=16)
    config = TrainerConfig(learning_rate=6e-3, max_new_tokens=1, num_minibatches=1, seed=1)
    rewards = Rewards()
    Trainer(policy, env, make_algorithm(name), config=config).learn(36, [rewards])
    assert sum(rewards.means[:3]) / 3 < 0.4
    assert sum(rewards.means[-5:]) / 5 > 0.8


@pytest.mark.parametrize("axis", ["token", "turn", "bi-level"])
def test_ppo_learns_turns_of_several_tokens_in_every_time_axis(make_policy, make_letters_env, axis):
    """Two turns of two tokens, of which the first earns what the turn earns."""
    policy = make_policy(initializer_range=0.1)
    env = make_letters_env(num_envs=64, group_size=16, num_turns=2)
    config = TrainerConfig(
        learning_rate=6e-3,
        critic_learning_rate=6e-3,
        max_new_tokens=2,
        num_minibatches=1,
        seed=1,
    )
    rewards = Rewards()
    algorithm = make_algorithm("ppo?gae_lambda=0.95&token_lambda=0.95", {"axis": axis})
    Trainer(policy, env, algorithm, config=config).learn(20, [rewards])
    assert sum(rewards.means[:3]) / 3 < 0.5
    assert sum(rewards.means[-5:]) / 5 > 1.1


def test_strong_penalty_keeps_the_policy_at_its_reference(make_policy, make_letters_env):
    """Fault 2, end to end: with the wrong sign the penalty would drive the policy away.

    How far a free policy goes depends on what it happens to sample, so several of them are trained.
    """

    def divergence(kl_coef, seed):
        """Return the mean of the last three updates."""
        policy = make_policy(initializer_range=0.1)
        env = make_letters_env(num_envs=64, group_size=16)
        config = TrainerConfig(learning_rate=3e-3, max_new_tokens=1, num_minibatches=1, seed=seed)
        values = []

        class Keep(Callback):
            def on_update_end(self, trainer, rollout, metrics):
                values.append(metrics["train/kl"])

        Trainer(policy, env, GRPO(kl_coef=kl_coef), config=config).learn(15, [Keep()])
        return sum(values[-3:]) / 3

    free, held = (sum(divergence(kl_coef, seed) for seed in range(4)) for kl_coef in (1e-9, 3.0))
    assert held < 0.2 * free

"""Stable-Baselines3's PPO learns to search: `ZeroSearchMacro-v0`, half a minute on a laptop."""

from collections.abc import Callable

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import zs_env  # noqa: F401 - registers the ids

NUM_STEPS = 60_000
NUM_EPISODES = 500


def mean_f1(choose: Callable) -> float:
    """Return the mean F1 on questions about entities that training never saw.

    Args:
        choose: From an observation to an action.
    """
    env = gym.make("ZeroSearchMacro-v0", split="test")
    grades = []
    for episode in range(NUM_EPISODES):
        observation, info = env.reset(seed=episode)
        while "f1" not in info:
            observation, _, _, _, info = env.step(choose(observation))
        grades.append(info["f1"])
    return sum(grades) / NUM_EPISODES


envs = make_vec_env("ZeroSearchMacro-v0", n_envs=16, seed=0)
model = PPO(
    "MlpPolicy",
    envs,
    n_steps=64,
    batch_size=256,
    learning_rate=1e-3,
    gamma=0.95,
    ent_coef=0.03,
    seed=0,
)
model.learn(NUM_STEPS)

envs.action_space.seed(0)
print(f"random {mean_f1(lambda observation: envs.action_space.sample()):.2f}")
print(
    f"PPO    {mean_f1(lambda observation: model.predict(observation, deterministic=True)[0]):.2f}"
)

"""Stable-Baselines3's PPO, as it comes, learns to search: a minute on a laptop.

An argument, if there is one, is the number of training steps.
"""

import sys
from collections.abc import Callable

import gymnasium as gym
import torch
from stable_baselines3 import PPO

import zs_env  # noqa: F401 - registers the ids

NUM_STEPS = 40_000
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


torch.set_num_threads(1)  # the network is too small to gain from more
model = PPO("MlpPolicy", "ZeroSearchMacro-v0", seed=0, device="cpu")
model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_STEPS)

random_actions = gym.make("ZeroSearchMacro-v0").action_space
random_actions.seed(0)
print(f"random {mean_f1(lambda observation: random_actions.sample()):.2f}")
print(
    f"PPO    {mean_f1(lambda observation: model.predict(observation, deterministic=True)[0]):.2f}"
)

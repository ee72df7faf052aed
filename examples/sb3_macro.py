"""Stable-Baselines3's PPO learns to search: `ZeroSearchMacro-v0`, two minutes on a laptop."""

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import zs_env  # noqa: F401 - registers the ids

NUM_STEPS = 60_000
NUM_EPISODES = 500


def mean_f1(policy) -> float:
    """Return the mean F1 of a policy on questions about entities that training never saw."""
    env = gym.make("ZeroSearchMacro-v0", split="test")
    grades = []
    for episode in range(NUM_EPISODES):
        observation, info = env.reset(seed=episode)
        while "f1" not in info:
            observation, _, _, _, info = env.step(policy(env, observation))
        grades.append(info["f1"])
    return sum(grades) / NUM_EPISODES


envs = make_vec_env("ZeroSearchMacro-v0", n_envs=8, seed=0)
model = PPO(
    "MlpPolicy", envs, n_steps=128, batch_size=256, learning_rate=1e-3, ent_coef=0.01, seed=0
)
model.learn(NUM_STEPS)

gym.make("ZeroSearchMacro-v0").action_space.seed(0)
random_f1 = mean_f1(lambda env, observation: env.action_space.sample())
ppo_f1 = mean_f1(lambda env, observation: model.predict(observation, deterministic=True)[0])
print(f"F1 on test questions: random {random_f1:.2f}, PPO {ppo_f1:.2f}")

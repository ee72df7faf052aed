"""Ask, read, answer: one episode in plain Gymnasium."""

import gymnasium as gym

env = gym.make("envs_registry:ZeroSearch-v0")
observation, info = env.reset(seed=0)
print(observation)

query = observation.removeprefix("Question: ").strip()
observation, reward, terminated, truncated, info = env.step(f"<search>{query}</search>")
print(observation)

observation, reward, terminated, truncated, info = env.step("<answer>I do not know</answer>")
print(f"reward {reward}, golden answers {info['golden_answers']}, {info['stop_reason']}")
env.close()

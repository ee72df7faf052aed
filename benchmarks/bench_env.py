"""What the environment itself costs: microseconds a step with an engine that costs nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from machine import write_result

import zs_env  # noqa: F401  (registers the ids)
from zs_env.search.engine import Document, SearchRequest
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world

QUESTION = {"question": "Who?", "answers": ["Nobody"]}
ACTION = "<think>I wonder.</think><search>who is it</search>"
NUM_STEPS = 2000


class ConstantEngine:
    """Returns three documents of 1 kB whatever is asked."""

    def __init__(self) -> None:
        self._documents = [Document("word " * 200) for _ in range(3)]

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return the same documents for every request."""
        return [self._documents for _ in requests]


def single_step_us() -> float:
    """Return the median time of `step` through `gym.make`."""
    env = gym.make("ZeroSearch-v0", questions=[QUESTION], engine=ConstantEngine(), max_turns=10**9)
    env.reset(seed=0)
    times = []
    for _ in range(NUM_STEPS):
        start = time.perf_counter()
        env.step(ACTION)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def vector_step_us(num_envs: int = 64) -> float:
    """Return the median time of a vector step, per slot."""
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=num_envs,
        questions=[QUESTION],
        engine=ConstantEngine(),
        max_turns=10**9,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    env.reset(seed=0)
    times = []
    for _ in range(NUM_STEPS // 10):
        start = time.perf_counter()
        env.step([ACTION] * num_envs)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6 / num_envs


def world_engine_us() -> float:
    """Return the mean time of a request to the world engine, useful and noisy ones mixed."""
    world = default_world()
    engine = WorldSearchEngine(world)
    names = [fact.subject for fact in world.facts]
    requests = [
        SearchRequest(f"who directed {name}", noisy=index % 2 == 1, seed=index)
        for index, name in enumerate(names)
    ]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        engine.search(requests)
        times.append((time.perf_counter() - start) / len(requests))
    return float(np.median(times)) * 1e6


def main() -> None:
    """Print and write the numbers."""
    numbers = {
        "single_step_us": round(single_step_us(), 1),
        "vector_step_us_per_slot": round(vector_step_us(), 1),
        "world_engine_us_per_request": round(world_engine_us(), 1),
    }
    for name, value in numbers.items():
        print(f"{name:30} {value:8.1f}")
    print(write_result("env", numbers))


if __name__ == "__main__":
    main()

"""What the environment itself costs: microseconds a step with an engine that costs nothing."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

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
NUM_SEARCHES = 5  # in an episode; the next one begins then, so that no transcript grows without end
NUM_EPISODES = 400

# Documents of 1 kB by what is in them that cleaning must look at. "realistic" has all of a web
# page's text: accents, typographic marks, line breaks, citations. "tags" is markup left in it.
_WORDS = "word " * 15
DOCUMENTS = {
    "plain": _WORDS,
    "one_accent": "é" + _WORDS * 20,
    "accents": _WORDS + "the café – so it was. ",
    "quotations": _WORDS + "“the café” – “naïve” – so. ",
    "newlines": _WORDS + "\n",
    "citations": _WORDS + "so it was.[1] ",
    "realistic": _WORDS + "the café – so it was.[12]\n",
    "tags": f"<p>{_WORDS}</p>",
    "chinese": "東京都は日本の首都であり、世界最大の都市圏を形成する。",
}


class ConstantEngine:
    """Returns three documents of 1 kB whatever is asked."""

    def __init__(self, kind: str) -> None:
        size = 1000 // (3 if kind == "chinese" else 1)  # its characters have three bytes
        self._documents = [Document((DOCUMENTS[kind] * 20)[:size]) for _ in range(3)]

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return the same documents for every request."""
        return [self._documents for _ in requests]


def single_step_us(kind: str) -> float:
    """Return the median time of a searching `step` through `gym.make`."""
    env = gym.make("ZeroSearch-v0", questions=[QUESTION], engine=ConstantEngine(kind))
    return step_us(lambda: env.reset(seed=0), lambda: env.step(ACTION), NUM_EPISODES)


def vector_step_us(kind: str, num_envs: int = 64) -> float:
    """Return the median time of a searching vector step, per slot."""
    envs = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=num_envs,
        questions=[QUESTION],
        engine=ConstantEngine(kind),
        autoreset_mode=AutoresetMode.DISABLED,
    )
    actions = [ACTION] * num_envs
    return step_us(envs.reset, lambda: envs.step(actions), NUM_EPISODES // 10) / num_envs


def step_us(reset: Callable[[], object], step: Callable[[], object], num_episodes: int) -> float:
    """Return the median time of the steps of so many episodes."""
    times = []
    for _ in range(num_episodes):
        reset()
        for _ in range(NUM_SEARCHES):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=DOCUMENTS, default=list(DOCUMENTS))
    kinds = parser.parse_args().kinds
    single = {kind: round(single_step_us(kind), 1) for kind in kinds}
    vector = {kind: round(vector_step_us(kind), 1) for kind in kinds}
    for kind in kinds:
        print(f"{kind:12} step {single[kind]:6.1f} us   vector, per slot {vector[kind]:6.1f} us")
    numbers = {
        "single_step_us": single,
        "vector_step_us_per_slot": vector,
        "world_engine_us_per_request": round(world_engine_us(), 1),
    }
    print(f"world engine {numbers['world_engine_us_per_request']} us a request")
    print(write_result("env", numbers))


if __name__ == "__main__":
    main()

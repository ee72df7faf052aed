"""Rollouts in one, two and four waves: where the policy should decode while the engine writes.

    python benchmarks/bench_waves.py [--rounds 5]

The same rollouts of the shipped policy with three engines: the simulator in this process; the
simulator served by a process of its own on this machine; and one that only waits, as for a server
elsewhere. Numbers of waves take turns within each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from machine import write_result

import zs_env  # noqa: F401  (registers the ids)
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollout import Rollout
from agents.trainer_config import TrainerConfig
from agents.waves import collect_in_waves
from zs_env.random import derive
from zs_env.search.engine import Document, SearchEngine, SearchRequest
from zs_env.search.registry import make_engine

WAVES: Final = (1, 2, 4)
GROUP_SIZE: Final = 8


class Elsewhere:
    """An engine whose work is done on another machine, in a time that is the same for any batch."""

    def __init__(self, seconds: float) -> None:
        """Answer after so many seconds."""
        self._seconds, self._engine = seconds, make_engine("world")

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Wait, and return the documents."""
        time.sleep(self._seconds)
        return self._engine.search(requests)


def main() -> None:
    """Play; print and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policy", default="skill")
    parser.add_argument("--num-questions", type=int, default=16)
    parser.add_argument("--latency", type=float, default=0.3, help="of the engine elsewhere, in s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", default="waves", help="name of the file in results/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policy = CausalLMPolicy.load(options.policy)
    found = {}
    with _served(options.threads) as url:
        engines = {
            "in_process": make_engine("simulator"),
            "own_process": make_engine(f"retriever:{url}/retrieve"),
            f"elsewhere_{options.latency}s": Elsewhere(options.latency),
        }
        for name, engine in engines.items():
            found[name] = _compare(policy, engine, options.num_questions, options.rounds)
            print(name, found[name], flush=True)
    settings = {"rounds": options.rounds, "num_episodes": options.num_questions * GROUP_SIZE}
    print(write_result(options.result, settings | {"seconds": found}))


@contextmanager
def _served(threads: int) -> Iterator[str]:
    """Yield the URL of the shipped simulator in a process of its own."""
    command = [sys.executable, "-m", "agents.cli.main", "serve", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def _compare(
    policy: CausalLMPolicy, engine: SearchEngine, num_questions: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Return medians by number of waves; the first round is for warming up."""
    envs = {num: _envs(engine, num_questions, num) for num in WAVES}
    rows: dict[int, list[tuple[float, Rollout]]] = {num: [] for num in WAVES}
    for number in range(rounds + 1):
        for num in WAVES:
            start = time.perf_counter()
            rollout = collect_in_waves(
                policy,
                envs[num],
                seed=derive(0, number),
                max_new_tokens=TrainerConfig.max_new_tokens,
            )
            rows[num].append((time.perf_counter() - start, rollout))
    return {f"{num}_waves": _medians(rows[num][1:], rows[1][1:]) for num in WAVES}


def _medians(
    rows: Sequence[tuple[float, Rollout]], of_one: Sequence[tuple[float, Rollout]]
) -> dict[str, float]:
    speedups = [one / took for (took, _), (one, _) in zip(rows, of_one, strict=True)]
    columns = {
        "total": [took for took, _ in rows],
        "policy": [rollout.policy_seconds for _, rollout in rows],
        "engine": [rollout.engine_seconds for _, rollout in rows],
        "speedup": speedups,
    }
    return {name: round(statistics.median(column), 3) for name, column in columns.items()} | {
        "least_speedup": round(min(speedups), 3),
        "greatest_speedup": round(max(speedups), 3),
    }


def _envs(
    engine: SearchEngine, num_questions: int, num_waves: int
) -> list[gym.vector.VectorEnv[Any, Any, Any]]:
    ends = [num_questions * wave // num_waves for wave in range(num_waves + 1)]
    return [
        gym.make_vec(
            "ZeroSearch-v0",
            num_envs=(end - start) * GROUP_SIZE,
            group_size=GROUP_SIZE,
            engine=engine,
            split="train",
            autoreset_mode=AutoresetMode.DISABLED,
        )
        for start, end in pairwise(ends)
    ]


if __name__ == "__main__":
    main()

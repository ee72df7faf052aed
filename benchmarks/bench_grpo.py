"""What a GRPO update of 16 questions x 8 rollouts costs, and where the time goes."""

from __future__ import annotations

import os
import statistics

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from machine import write_result

import zs_env  # noqa: F401  (registers the ids)
from agents.algorithms.grpo import GRPO
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer import Trainer
from zs_env.search.curriculum import ExponentialCurriculum

NUM_UPDATES = 12
PARTS = ("policy_s", "engine_s", "update_s", "step_s")


def main() -> None:
    """Train for a few updates under the demo's settings; print and write the medians."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=128,
        group_size=8,
        engine="simulator",
        split="train",
        autoreset_mode=AutoresetMode.DISABLED,
    )
    policy = CausalLMPolicy.load("base")
    trainer = Trainer(policy, env, GRPO(), curriculum=ExponentialCurriculum(0.0, 0.5))
    rows = [trainer.update(update / (NUM_UPDATES - 1))[1] for update in range(NUM_UPDATES)]
    numbers = {
        f"median_{part}": round(statistics.median(row[f"time/{part}"] for row in rows), 3)
        for part in PARTS
    }
    numbers["peak_memory_mb"] = round(rows[-1]["time/peak_memory_mb"], 1)
    for name, value in numbers.items():
        print(f"{name:20} {value:8.3f}")
    print(write_result("grpo", {"num_updates": NUM_UPDATES, **numbers}))


if __name__ == "__main__":
    main()

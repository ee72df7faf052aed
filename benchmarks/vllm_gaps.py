"""A short training that vLLM samples for: `python vllm_gaps.py RESULT` where vLLM is.

`bench_sampler_gap.py` runs it so for vLLM in the same process, and imports it for a server.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import gymnasium as gym

import zs_env  # noqa: F401  (registers the ids)
from agents.policies.causal_lm import CausalLMPolicy
from agents.samplers.names import importance_cap, read_sampler_name
from agents.samplers.opening import open_sampler
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from zs_env.models import model_folder

NUM_UPDATES: Final = 3
NUM_QUESTIONS: Final = 4
GROUP_SIZE: Final = 4
TEMPERATURE: Final = 0.9
IN_PROCESS: Final = "vllm?kv_cache_memory_bytes=67108864&max_num_seqs=64"
KEYS: Final = ("train/logprob_gap", "train/importance_mean", "rollout/action_tokens")


def train(engine: str, url: str = "") -> list[dict[str, float]]:
    """Return some metrics of each update of a training of the shipped policy.

    Args:
        engine: What samples, as `--policy-engine`.
        url: Of a server.
    """
    name, policy = read_sampler_name(engine, url), CausalLMPolicy.load("base")
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=NUM_QUESTIONS * GROUP_SIZE,
        group_size=GROUP_SIZE,
        engine="world",
        max_turns=3,
        autoreset_mode="Disabled",
    )
    config = TrainerConfig(
        importance_cap=importance_cap(name.kind, None), temperature=TEMPERATURE, max_new_tokens=32
    )
    rows: list[dict[str, float]] = []

    def record(trainer: Trainer, rollout: Any, metrics: dict[str, float]) -> None:
        rows.append({key: metrics[key] for key in KEYS})

    with TemporaryDirectory() as folder:
        sampler = open_sampler(
            name,
            policy,
            model_folder("base"),
            url=url,
            folder=Path(folder),
            temperature=TEMPERATURE,
        )
        assert sampler is not None
        try:
            Trainer(policy, env, config=config, sampler=sampler).learn(NUM_UPDATES, record)
        finally:
            sampler.close()
    return rows


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(train(IN_PROCESS)), encoding="utf-8")

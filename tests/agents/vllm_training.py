"""Trains the shipped policy with vLLM in the same process and writes what happened as JSON.

    python vllm_training.py results.json

A program of its own because vLLM needs other versions than the tests do, and rearranges the
process that it runs in. The tests read the results.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import torch

import zs_env  # noqa: F401 - registers the environments
from agents.audit import audit
from agents.policies.causal_lm import CausalLMPolicy
from agents.samplers.names import read_sampler_name
from agents.samplers.opening import open_sampler
from agents.trainer import Callback, Trainer
from agents.trainer_config import TrainerConfig
from zs_env.models import model_folder

CONFIG = TrainerConfig(importance_cap=2.0, temperature=0.9, max_new_tokens=32)
NAME = "vllm?kv_cache_memory_bytes=67108864&max_num_seqs=64"


def random_states():
    """Return the states of all global generators, in text."""
    return [str(random.getstate()), str(np.random.get_state()), str(torch.get_rng_state().tolist())]


def temporary_files():
    """Return what this package and vLLM put into the temporary folder."""
    folder = Path(tempfile.gettempdir())
    return {*folder.glob("zerosearch-*"), *folder.glob("vllm_dist_*")}


class Record(Callback):
    """Audits every batch, before anything is learned from it, and keeps the metrics."""

    def __init__(self):
        self.audits, self.rows = [], []

    def on_rollout_end(self, trainer, rollout):
        report = audit(
            trainer.policy,
            rollout.trajectories,
            metadata=trainer.env.metadata,
            max_new_tokens=CONFIG.max_new_tokens,
            temperature=CONFIG.temperature,
            tolerance=1e-4,
        )
        self.audits.append(report.summary() | {"passed": report.passed})

    def on_update_end(self, trainer, rollout, metrics):
        self.rows.append(metrics)


def ids_of(rollout):
    return [trajectory.token_ids for trajectory in rollout.trajectories]


def main(results_path):
    policy = CausalLMPolicy.load("base")
    env = gym.make_vec(
        "ZeroSearch-v0", num_envs=16, group_size=4, engine="world", autoreset_mode="Disabled"
    )
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    before, files = random_states(), temporary_files()
    sampler = open_sampler(
        read_sampler_name(NAME), policy, model_folder("base"), folder=Path("unused")
    )
    trainer, record = Trainer(policy, env, config=CONFIG, sampler=sampler), Record()
    trainer.learn(3, record)
    played = [ids_of(trainer._play(seed, {})) for seed in (7, 7, 8)]
    sampler.close()
    results = {
        "audits": record.audits,
        "rows": record.rows,
        "random_states_are_kept": random_states() == before,
        "same_seed_same_ids": played[0] == played[1],
        "other_seed_other_ids": played[0] != played[2],
        "num_children": len(psutil.Process().children(recursive=True)),
        "files_left": len(temporary_files() - files),
    }
    Path(results_path).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])

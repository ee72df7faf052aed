"""Decoding and learning of models of real sizes on one GPU, with random weights in bfloat16.

    python benchmarks/bench_gpu.py [--device cuda] [--sizes 0.5b 3b]

The architectures are Qwen2.5's, made on the spot, so that nothing is downloaded. Told are tokens a
second, the share of the device's peak arithmetic, and peak memory with and without log-probs in
chunks; then what an update of the shipped models costs there. `--device cpu --sizes tiny` shows
that the script runs.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from machine import peak_mb, write_result
from synthetic import Size, play
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

import zs_env  # noqa: F401  (registers the ids)
from agents.algorithms.grpo import GRPO
from agents.learner import Learner
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.search.simulator import SimulatedSearchEngine

PEAK_FLOPS: Final = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 products a second, by NVIDIA's data sheets (SXM)."""

ALL_AT_ONCE: Final = 2**40
NUM_UPDATES: Final = 5  # of the shipped models


@dataclass(frozen=True)
class Work:
    """A model, and what is done with it.

    Attributes:
        hidden: Width of the residual stream.
        intermediate: Width of the MLPs.
        layers: Decoder layers.
        heads: Heads of queries.
        kv_heads: Heads of keys and values.
        vocab: Logits of a token.
        batches: Rows that are decoded together.
        new_tokens: Tokens that each of them gets, after as many that it reads.
        episodes: Of an update.
        tokens_per_pass: Padded tokens of one forward and backward pass.
        logit_chunk: Tokens whose logits exist at the same time.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int = 151_936
    batches: tuple[int, ...] = (64, 256)
    new_tokens: int = 256
    episodes: int = 64
    tokens_per_pass: int = 16_384
    logit_chunk: int = 2048


SIZES: Final = {
    "tiny": Work(64, 128, 2, 2, 1, 4096, (4, 8), 8, 8, 256, 64),
    "0.5b": Work(896, 4864, 24, 14, 2),
    "3b": Work(2048, 11_008, 36, 16, 2, tokens_per_pass=8192),
}


def main() -> None:
    """Measure every size; print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["0.5b", "3b"])
    parser.add_argument("--result", default="gpu", help="name of the file in results/")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    peak = next((flops for key, flops in PEAK_FLOPS.items() if key in (name or "")), None)
    found: dict[str, Any] = {"device": name, "peak_tflops": peak and peak / 1e12, "models": {}}
    for size in options.sizes:
        found["models"][size] = _measure(SIZES[size], device, peak)
        print(size, found["models"][size], flush=True)
    found["shipped_models"] = _shipped(device)
    print("shipped models", found["shipped_models"])
    print(write_result(options.result, found))


def _measure(work: Work, device: torch.device, peak: float | None) -> dict[str, Any]:
    policy = _policy(work, device, work.logit_chunk)
    play(policy, Size(8, 1, 8, 4))  # kernels are chosen and loaded
    decoding = {f"batch_{rows}": _decode(policy, work, rows) for rows in work.batches}
    size = Size(work.episodes, 2, work.new_tokens // 2, work.new_tokens // 2)
    episodes = play(policy, size)
    learning = _learn(policy, work, episodes, peak)
    del policy
    _clear(device)
    whole = _learn(_policy(work, device, ALL_AT_ONCE), work, episodes, peak)
    _clear(device)
    return {"decode": decoding, "update": learning, "update_logits_at_once": whole}


def _policy(work: Work, device: torch.device, logit_chunk: int) -> CausalLMPolicy:
    config = Qwen2Config(
        hidden_size=work.hidden,
        intermediate_size=work.intermediate,
        num_hidden_layers=work.layers,
        num_attention_heads=work.heads,
        num_key_value_heads=work.kv_heads,
        vocab_size=work.vocab,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    # The shipped tokenizer knows fewer ids; nothing that is measured depends on their texts.
    tokenizer = AutoTokenizer.from_pretrained(model_folder("base"))
    with device:
        model: Any = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    return CausalLMPolicy(model, tokenizer, logit_chunk=logit_chunk)


def _decode(policy: CausalLMPolicy, work: Work, rows: int) -> dict[str, float]:
    """Return sampled tokens a second, the time for reading the prompts included."""
    seconds, memory = _timed(
        policy.module.device,
        lambda: play(policy, Size(rows, 1, work.new_tokens, work.new_tokens)),
    )
    return {
        "tokens_per_second": round(rows * work.new_tokens / seconds),
        "peak_memory_mb": round(memory),
    }


def _learn(
    policy: CausalLMPolicy, work: Work, episodes: list[Trajectory], peak: float | None
) -> dict[str, float | None]:
    """Return what an update without a reference costs; the first one is for warming up."""
    settings = TrainerConfig(max_tokens_per_pass=work.tokens_per_pass, learning_rate=1e-12)
    learner = Learner(policy, GRPO(kl_coef=0), settings)
    learner.update(episodes, 0)
    seconds, memory = _timed(policy.module.device, lambda: learner.update(episodes, 1))
    tokens = sum(len(each.token_ids) for each in episodes)
    flops = _flops(policy, work, episodes)
    return {
        "tokens_per_second": round(tokens / seconds),
        "tflops": round(flops / seconds / 1e12, 3),
        "share_of_peak": round(flops / seconds / peak, 3) if peak else None,
        "peak_memory_mb": round(memory),
    }


def _flops(policy: CausalLMPolicy, work: Work, episodes: list[Trajectory]) -> float:
    """Return the arithmetic of an update: forward, and twice as much backward.

    Logits are needed of action tokens alone; attention is counted as far as it is causal.
    """
    head = work.vocab * work.hidden
    body = sum(p.numel() for p in policy.parameters()) - head
    tokens = sum(len(each.token_ids) for each in episodes)
    actions = sum(each.num_action_tokens for each in episodes)
    pairs = sum(len(each.token_ids) ** 2 / 2 for each in episodes)
    forward = 2 * body * tokens + 2 * head * actions + 4 * work.layers * work.hidden * pairs
    return 3 * forward


def _timed(device: torch.device, action: Callable[[], object]) -> tuple[float, float]:
    """Return seconds, and peak memory in MiB: on a GPU of the action, on a CPU of the process."""
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    action()
    if is_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if is_gpu else peak_mb()
    return seconds, peak


def _clear(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _shipped(device: torch.device) -> dict[str, float]:
    """Return what updates of the demo take with policy and simulator on the device."""
    simulator = TransformersLM.from_pretrained(
        model_folder("simulator"), device, dtype=torch.float32
    )
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=128 if device.type == "cuda" else 8,
        group_size=8,
        engine=SimulatedSearchEngine(simulator),
        split="train",
        autoreset_mode=AutoresetMode.DISABLED,
    )
    trainer = Trainer(CausalLMPolicy.load("base", device), env)
    rows = [trainer.update(0.0)[1] for _ in range(NUM_UPDATES if device.type == "cuda" else 1)]
    parts = ("policy_s", "engine_s", "update_s", "step_s")
    return {part: round(min(row[f"time/{part}"] for row in rows), 3) for part in parts} | {
        "reward_first": round(float(rows[0]["rollout/reward"]), 3),
        "reward_last": round(float(rows[-1]["rollout/reward"]), 3),
    }


if __name__ == "__main__":
    main()

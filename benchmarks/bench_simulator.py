"""Replies of the shipped simulator a second: our decoder, Hugging Face's, and vLLM's.

    python benchmarks/bench_simulator.py [--vllm-python .vllm-env/bin/python]

64 requests with prompts of different lengths, in one batch, to one model; rounds of all alternate,
so that a busy machine hurts them alike. The last row asks through a vector environment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from machine import write_result
from transformers import AutoModelForCausalLM, AutoTokenizer

import zs_env  # noqa: F401  (registers the ids)
from agents.tuning.requests import RequestSource, Sort
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.search.engine import SearchRequest
from zs_env.search.prompts import tuned_prompt
from zs_env.search.simulator import MAX_TOKENS_PER_DOCUMENT, SimulatedSearchEngine
from zs_env.task.miniwiki import default_world

NUM_REQUESTS: Final = 64
NUM_ROUNDS: Final = 7
MAX_TOKENS: Final = 3 * MAX_TOKENS_PER_DOCUMENT
VLLM_PROGRAM: Final = Path(__file__).parent / "vllm_replies.py"


def main() -> None:
    """Ask all in turn; print and write the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm-python")
    python = parser.parse_args().vllm_python
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    requests = _requests()
    engine = SimulatedSearchEngine(
        TransformersLM.from_pretrained(model_folder("simulator")), temperature=0
    )
    contestants: dict[str, Callable[[], Any]] = {
        "ours": lambda: engine.search(requests),
        "hugging_face_generate": _hugging_face(requests),
        "vector_environment": _environment(engine, requests),
    }
    seconds = {name: statistics.median(took) for name, took in _in_turns(contestants).items()}
    if python:
        seconds["vllm"] = _vllm(python, requests)
    numbers = {name: round(NUM_REQUESTS / took, 1) for name, took in seconds.items()}
    for name, value in numbers.items():
        print(f"{name:24} {value:8.1f} replies/s   {value / numbers['ours']:.2f} x ours")
    print(write_result("simulator", {"num_requests": NUM_REQUESTS, "replies_per_second": numbers}))


def _requests() -> list[SearchRequest]:
    drafts = RequestSource(default_world()).draw(Sort.USEFUL, NUM_REQUESTS, seed=0)
    return [draft.request for draft in drafts]


def _in_turns(contestants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of every round, the first of which is for warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(NUM_ROUNDS + 1):
        for name, ask in contestants.items():
            start = time.perf_counter()
            ask()
            seconds[name].append(time.perf_counter() - start)
    return {name: took[1:] for name, took in seconds.items()}


def _hugging_face(requests: Sequence[SearchRequest]) -> Callable[[], Any]:
    """Return what asks through `generate`, with one padded batch and greedy decoding."""
    folder = model_folder("simulator")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    prompts = [tuned_prompt(request) for request in requests]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)

    def ask() -> list[str]:
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=MAX_TOKENS, do_sample=False)
        replies: list[str] = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :])
        return replies

    return ask


def _environment(
    engine: SimulatedSearchEngine, requests: Sequence[SearchRequest]
) -> Callable[[], Any]:
    """Return what asks the same through one step of a vector environment."""
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=len(requests),
        engine=engine,
        split="test",
        autoreset_mode=AutoresetMode.DISABLED,
    )
    questions = [
        {"question": request.question, "golden_answers": list(request.golden_answers)}
        for request in requests
    ]
    actions = [f"<search>{request.query}</search>" for request in requests]

    def ask() -> Any:
        env.reset(seed=0, options={"question": questions, "noise": 0.0})
        return env.step(actions)

    return ask


def _vllm(python: str, requests: Sequence[SearchRequest]) -> float:
    """Return the median of vLLM's rounds, in a process with its own environment."""
    job = {
        "model": str(model_folder("simulator")),
        "prompts": [tuned_prompt(request) for request in requests],
        "max_tokens": MAX_TOKENS,
        "num_rounds": NUM_ROUNDS,
    }
    with tempfile.TemporaryDirectory() as folder:
        job_file, result_file = Path(folder, "job.json"), Path(folder, "result.json")
        job_file.write_text(json.dumps(job), encoding="utf-8")
        subprocess.run([python, str(VLLM_PROGRAM), str(job_file), str(result_file)], check=True)
        return statistics.median(json.loads(result_file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

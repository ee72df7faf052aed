"""What reinforcement learning adds to a policy that imitation has taught all it could.

    python benchmarks/beyond_skill.py [--seeds 3]

`skill` has seen perfect play of up to six turns in which two searches of five bring noise. Here
three of four do, and there are twelve turns: who wins has to persist. GRPO trains it for 40 updates
while noise rises from 0.5 to 0.75; then both answer all test questions with the same noise. Runs
that are there (runs/beyond-skill-seed*) are not trained again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Final

import torch
from machine import write_result

from agents.cli.train import Train
from agents.evaluate import Evaluation, evaluate
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from zs_env.task.actions import STOPS
from zs_env.task.miniwiki import default_world

MAX_TURNS: Final = 12
NOISE: Final = 0.75
EXAMS: Final = {
    "simulator, noise 0.75": ("simulator", NOISE),
    "world, noise 0.75": ("world", NOISE),
    "BM25": ("bm25", 0.0),
}


def main() -> None:
    """Train, evaluate, print a table and write the numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    num_seeds = parser.parse_args().seeds
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    rows = [_examine("skill", "skill")]
    for seed in range(num_seeds):
        rows.append(_examine(f"trained, seed {seed}", str(_train(seed))))
    for row in rows:
        cells = [f"{row['exams'][exam]['exact_match']:.3f}" for exam in EXAMS]
        print(f"| {row['policy']} | " + " | ".join(cells) + " |")
    print(write_result("beyond_skill", {"rows": rows}))


def _train(seed: int) -> Path:
    out = Path(f"runs/beyond-skill-seed{seed}")
    if not (out / "checkpoint" / "model.safetensors").is_file():
        config = Train(
            policy="skill",
            max_turns=MAX_TURNS,
            noise_start=0.5,
            noise_end=NOISE,
            learning_rate=1e-4,
            steps=40,
            eval_every=0,
            seed=seed,
            out=str(out),
        )
        config.run()
    return out


def _examine(name: str, policy: str) -> dict[str, Any]:
    agent = PolicyAgent(CausalLMPolicy.load(policy), STOPS)
    exams = {exam: _exam(agent, *setting).summary() for exam, setting in EXAMS.items()}
    print(name, {exam: found["exact_match"] for exam, found in exams.items()}, flush=True)
    return {"policy": name, "exams": exams}


def _exam(agent: PolicyAgent, engine: str, noise: float) -> Evaluation:
    return evaluate(
        agent,
        default_world().questions("test"),
        env_kwargs={"engine": engine, "max_turns": MAX_TURNS},
        noise=noise,
    )


if __name__ == "__main__":
    main()

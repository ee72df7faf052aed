"""What as much further imitation does for `base` as reinforcement learning in the demo.

    python benchmarks/control.py

`base` is fine-tuned for the wall time that the recorded demo trained for, once on more of the
spoilt transcripts that made it weak and once on perfect play, which no reinforcement learner gets
to see. The comparison goes beside the model, into its card.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agents.cli.files import write_json
from agents.cli.provenance import machine, provenance
from agents.evaluate import evaluate
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from agents.tuning.build import HABITS, POLICY
from agents.tuning.cards import write_card
from agents.tuning.control import CONTROL_FILE
from agents.tuning.policy_data import SKILL, WEAK, Habits, policy_examples
from agents.tuning.sft import SFTConfig, finetune
from zs_env.models import model_folder
from zs_env.task.actions import STOPS
from zs_env.task.miniwiki import default_world

DEMO = Path(__file__).parent.parent / "docs" / "demo" / "demo.json"
TRIAL_EXAMPLES = 1600
SEED = 100  # no transcript that `zerosearch models build` made

LESSONS: Mapping[str, tuple[Habits, SFTConfig]] = {
    "more of its own transcripts": (WEAK, HABITS),
    "transcripts of perfect play": (SKILL, POLICY),
}


def main() -> None:
    """Fine-tune and evaluate; write `control.json` and the card again."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    demo = json.loads(DEMO.read_text(encoding="utf-8"))
    seconds = demo["training"]["seconds"]
    rows = [_row_of_demo("base", 0.0, demo, "base")]
    for name, (habits, config) in LESSONS.items():
        rows.append({"name": name, **_imitate(habits, config, seconds)})
        print(rows[-1], flush=True)
    rows.append(_row_of_demo("GRPO in the simulator", seconds, demo, "trained"))
    folder = model_folder("base")
    text = (
        "A control: further fine-tuning for the wall time that the recorded demo trains for, "
        "questions of the test split answered greedily with BM25 (`python benchmarks/control.py`). "
        "Perfect play restores what was planted, as it must; a reinforcement learner never sees it."
    )
    threads = machine(torch.get_num_threads())
    write_json(
        folder / CONTROL_FILE, {"text": text, "rows": rows, "machine": threads, **provenance()}
    )
    print(write_card(folder))


def _row_of_demo(name: str, seconds: float, demo: Mapping[str, Any], policy: str) -> dict[str, Any]:
    result = next(
        row for row in demo["evaluations"] if (row["policy"], row["engine"]) == (policy, "bm25")
    )
    kept = {key: result[key] for key in ("exact_match", "exact_match_ci", "num_questions")}
    return {"name": name, "seconds": seconds, **kept}


def _imitate(habits: Habits, config: SFTConfig, seconds: float) -> dict[str, Any]:
    """Fine-tune base for about so many seconds, and evaluate it."""
    took = _finetune(habits, config, TRIAL_EXAMPLES)[1]
    policy, took = _finetune(habits, config, round(TRIAL_EXAMPLES * seconds / took))
    found = evaluate(
        PolicyAgent(policy, STOPS),
        default_world().questions("test"),
        env_kwargs={"engine": "bm25"},
    ).summary()
    kept = {key: found[key] for key in ("exact_match", "exact_match_ci", "num_questions")}
    return {"seconds": round(took, 1), **kept}


def _finetune(habits: Habits, config: SFTConfig, num: int) -> tuple[CausalLMPolicy, float]:
    """Return base after `num` more transcripts, and how many seconds the training took."""
    policy = CausalLMPolicy.load("base")
    examples = list(policy_examples(policy.tokenizer, habits, num, SEED))
    start = time.perf_counter()
    finetune(policy.model, examples, replace(config, seed=SEED))
    return policy, time.perf_counter() - start


if __name__ == "__main__":
    main()

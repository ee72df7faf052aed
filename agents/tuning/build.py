"""Make the shipped models from nothing: one command, fixed seeds, two CPU cores.

    zerosearch models build --out zs_env/models

Four stages: a tokenizer; a copier (the induction network after a short warm-up), from which both
others start; the simulator; and the search agents, `skill` first and then `base`, the same model
after a few bad lessons. Simulator and agents are trained side by side, one thread each, so that
the numbers do not depend on how many cores there are.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from agents.tuning.induction import TinyShape, induction_model
from agents.tuning.policy_data import SKILL, WEAK, policy_examples
from agents.tuning.sft import Example, SFTConfig, finetune
from agents.tuning.simulator_data import simulator_examples
from agents.tuning.tokenizer import train_tokenizer
from zs_env.task.miniwiki import default_world


@dataclass(frozen=True)
class BuildConfig:
    """Size of each stage; the defaults make the shipped models.

    Attributes:
        copy_examples: Repeated random strings for the warm-up.
        simulator_examples: Requests with their documents.
        skill_examples: Perfect transcripts.
        habit_examples: Spoilt transcripts.
        seed: Key of data, initial weights and order.
    """

    copy_examples: int = 2400
    simulator_examples: int = 96_000
    skill_examples: int = 32_000
    habit_examples: int = 4_000
    seed: int = 0


COPY = SFTConfig(final_learning_rate=1e-3, warmup_steps=10)
SIMULATOR = SFTConfig()
POLICY = SFTConfig()
HABITS = SFTConfig(learning_rate=4e-4, final_learning_rate=8e-5)


def build(out: Path, config: BuildConfig | None = None) -> None:
    """Train all models and write them to `out`/{simulator,skill,base}.

    Args:
        out: Folder of the models; existing ones are replaced.
        config: Size of each stage; None makes the shipped models.
    """
    config = config or BuildConfig()
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(config.seed)
    copier = induction_model(TinyShape(), tokenizer.eos_token_id, config.seed)
    examples = copy_examples(config.copy_examples, len(tokenizer), config.seed)
    finetune(copier, examples, replace(COPY, seed=config.seed), _Reporter("copier"))
    save_model(copier, tokenizer, out / "copier", torch.float32)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=stage, args=(out, config))
        for stage in (build_simulator, build_policies)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = [worker.exitcode for worker in workers if worker.exitcode]
    if failed:
        raise RuntimeError(f"a training process ended with exit code {failed[0]}")
    shutil.rmtree(out / "copier")


def build_simulator(out: Path, config: BuildConfig) -> None:
    """Train the simulator from the copier in `out`."""
    torch.set_num_threads(1)
    model, tokenizer = load_model(out / "copier")
    examples = list(
        simulator_examples(default_world(), tokenizer, config.simulator_examples, config.seed)
    )
    finetune(model, examples, replace(SIMULATOR, seed=config.seed), _Reporter("simulator"))
    save_model(model, tokenizer, out / "simulator")


def build_policies(out: Path, config: BuildConfig) -> None:
    """Train the search agents from the copier in `out`."""
    torch.set_num_threads(1)
    model, tokenizer = load_model(out / "copier")
    examples = list(policy_examples(tokenizer, SKILL, config.skill_examples, config.seed + 1))
    finetune(model, examples, replace(POLICY, seed=config.seed), _Reporter("skill"))
    save_model(model, tokenizer, out / "skill")
    examples = list(policy_examples(tokenizer, WEAK, config.habit_examples, config.seed + 2))
    finetune(model, examples, replace(HABITS, seed=config.seed), _Reporter("base"))
    save_model(model, tokenizer, out / "base")


def copy_examples(num: int, vocab_size: int, seed: int) -> Sequence[Example]:
    """Return `num` strings of 20 to 60 random tokens, each followed by itself."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(num):
        length = int(torch.randint(20, 61, (1,), generator=generator))
        ids = torch.randint(0, vocab_size, (length,), generator=generator).tolist()
        # The first repeated token cannot be foreseen; the others can only be copied.
        examples.append(Example(ids + ids, [0.0] * (length + 1) + [1.0] * (length - 1)))
    return examples


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a model in float32 with its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a copy of `model` in `dtype`; the model itself keeps its own."""
    module: Any = model
    original = module.dtype
    module.to(dtype).save_pretrained(folder)
    module.to(original)
    tokenizer.save_pretrained(folder)


class _Reporter:
    """Prints a line every 500 steps; a class, since a closure cannot cross processes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, step: int, num_steps: int, loss: float, seconds: float) -> None:
        if step % 500 == 0 or step == num_steps:
            line = f"{self._name}: step {step}/{num_steps}  loss {loss:.3f}  {seconds:.0f} s"
            print(line, flush=True)

"""Make the shipped models from nothing: one command, fixed seeds, two CPU cores.

    zerosearch models build --out zs_env/models

A tokenizer first; then, each in a process with one thread of its own, so that the numbers do not
depend on how many cores there are, the simulators of three sizes and the search agents: `skill`,
and from it `base`, the same model after a few bad lessons. All begin as a copier, the induction
network after a short warm-up on repeated random strings.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
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
from zs_env.lm.alignment import aligned
from zs_env.task.miniwiki import default_world

SMALL = TinyShape()


@dataclass(frozen=True)
class SimulatorPlan:
    """How one simulator is made.

    Attributes:
        shape: Of its network.
        share: Of `BuildConfig.simulator_examples` that it sees: larger networks learn more from
            each, and take longer.
        sft: Hyper-parameters; wider networks want smaller steps.
    """

    shape: TinyShape
    share: float
    sft: SFTConfig


SIMULATORS: Mapping[str, SimulatorPlan] = {
    "simulator-medium": SimulatorPlan(
        TinyShape(hidden_size=256, num_heads=4, num_key_value_heads=2, intermediate_size=768),
        share=0.65,
        sft=SFTConfig(learning_rate=1.2e-3),
    ),
    "simulator": SimulatorPlan(SMALL, share=1.0, sft=SFTConfig()),
    "simulator-tiny": SimulatorPlan(
        TinyShape(hidden_size=64, intermediate_size=192),
        share=1.0,
        sft=SFTConfig(learning_rate=3e-3),
    ),
}


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
    simulator_examples: int = 192_000
    skill_examples: int = 32_000
    habit_examples: int = 4_000
    seed: int = 0


COPY = SFTConfig(final_learning_rate=1e-3, warmup_steps=10)
POLICY = SFTConfig()
HABITS = SFTConfig(learning_rate=4e-4, final_learning_rate=8e-5)


def build(out: Path, config: BuildConfig | None = None, num_processes: int = 2) -> None:
    """Train all models and write them to folders in `out`: the keys of `SIMULATORS`, skill, base.

    Args:
        out: Folder of the models; existing ones are replaced.
        config: Size of each stage; None makes the shipped models.
        num_processes: Models trained at a time; changes nothing but the time.
    """
    config = config or BuildConfig()
    out.mkdir(parents=True, exist_ok=True)
    stages = [(name, out, config) for name in ("policies", *SIMULATORS)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_processes, maxtasksperchild=1) as pool:
        pool.starmap(build_stage, stages, chunksize=1)


def build_stage(name: str, out: Path, config: BuildConfig) -> None:
    """Train one simulator, a key of `SIMULATORS`, or the "policies"."""
    torch.set_num_threads(1)
    if name == "policies":
        build_policies(out, config)
    else:
        build_simulator(name, out, config)


def build_copier(
    name: str, shape: TinyShape, config: BuildConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return the network that all models of one shape begin as, with the common tokenizer."""
    tokenizer = train_tokenizer(config.seed)
    model = induction_model(shape, tokenizer.eos_token_id, config.seed)
    examples = copy_examples(config.copy_examples, len(tokenizer), config.seed)
    finetune(model, examples, replace(COPY, seed=config.seed), _Reporter(f"{name} (copier)"))
    return model, tokenizer


def build_simulator(name: str, out: Path, config: BuildConfig) -> None:
    """Train one simulator."""
    plan = SIMULATORS[name]
    model, tokenizer = build_copier(name, plan.shape, config)
    num_examples = max(1, round(plan.share * config.simulator_examples))
    examples = list(simulator_examples(default_world(), tokenizer, num_examples, config.seed))
    finetune(model, examples, replace(plan.sft, seed=config.seed), _Reporter(name))
    save_model(model, tokenizer, out / name)


def build_policies(out: Path, config: BuildConfig) -> None:
    """Train the search agents."""
    model, tokenizer = build_copier("skill", SMALL, config)
    examples = list(policy_examples(tokenizer, SKILL, config.skill_examples, config.seed + 1))
    finetune(model, examples, replace(POLICY, seed=config.seed), _Reporter("skill"))
    save_model(model, tokenizer, out / "skill")
    # From the rounded weights, so that `base` can be made again from what ships.
    model = aligned(AutoModelForCausalLM.from_pretrained(out / "skill", dtype=torch.float32))
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

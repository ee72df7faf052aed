"""`zerosearch train`: reinforcement learning from a start policy, and a folder that records it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import usage_errors
from agents.cli.options import (
    DEFAULT_ENGINE,
    CacheFile,
    CacheModeName,
    EngineName,
    PolicyEngineName,
    PolicyName,
    PolicyURL,
    Questions,
    SimulatorModelName,
    Split,
    Threads,
    noise_warnings,
    simulator_engine,
)
from agents.cli.threads import use_threads
from agents.policies.model_options import ChatChoice, DtypeName
from agents.trainer_config import Schedule
from zs_env.search.names import without_userinfo

if TYPE_CHECKING:
    from agents.cli.train_resume import RunRecord
    from agents.distributed import Processes


OF_ALGORITHMS: Final = frozenset({"kl_coef", "clip_range"})
"""Options of the algorithm, of which not every algorithm has each."""


@dataclass(frozen=True)
class Train:
    """Train a policy to search, with documents that get noisier as it learns.

    The run's folder gets

    - config.json, metrics.jsonl with a row an update, sampled episodes in transcripts.jsonl,
    - learning_curve.png, TensorBoard events, checkpoints/ to resume from,
    - the latest weights in checkpoint/ and the best in best/, in Hugging Face format.

    Attributes:
        algorithm: How to learn: a name with options, if wanted, such as grpo?num_epochs=2, or
            module:Class.
        env_id: A registered text environment.
        steps: Number of updates.
        num_questions: Questions an update.
        group_size: Episodes a question and update.
        num_waves: Parts of an update's questions that are played at the same time: the policy
            decodes for one of them while the engine writes for another. More than 1 pays where
            the engine computes elsewhere, such as behind a URL.
        max_turns: Actions an episode lasts at most.
        top_k: Documents a search brings.
        prompt: What an episode opens with: miniwiki (the bare question), zerosearch (which tells
            a language model the rules), or a template holding {question}.
        seed: Key of questions, noise and sampling.
        noise_start: Probability of noisy documents in the first update.
        noise_end: The same in the last update.
        noise_base: How late noise rises: above 1 late, 1 evenly, below 1 early.
        eval_every: Updates between evaluations; the first and the last update have one too. 0
            means never.
        eval_questions: Questions an evaluation; 0 means all.
        eval_split: Where they come from; a file has one part only, which training asks, too.
        checkpoint_every: Updates between checkpoints; where training stops there is always one.
        keep_checkpoints: Checkpoints that stay, the newest. With 2, a damaged one costs little.
        learning_rate: Of AdamW, at its highest.
        critic_learning_rate: The same for the critic, where the algorithm has one.
        schedule: How the learning rates go from their highest to their last value.
        last_rate_share: Share of the highest learning rates that the last update has; not of a
            constant one.
        num_warmup_updates: Updates over which the learning rates rise.
        max_grad_norm: Gradients of the policy, and those of the critic, are scaled down to it.
        target_kl: Divergence from the sampler beyond which an update takes no further gradient
            step. Left out, it takes them all.
        importance_cap: Bound of the weights, at least 1, by which tokens count that another
            engine has sampled; 0 for no weights. Left out, it is 2 with vLLM and 0 without.
        kl_coef: Weight of the KL penalty towards the start policy; 0 needs no reference. Left
            out, it is the algorithm's own, and so is `clip_range`.
        clip_range: Distance from 1 beyond which a probability ratio earns nothing more.
        num_minibatches: Gradient steps an update.
        max_tokens_per_pass: Padded tokens of one forward and backward pass; bounds memory only.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling, above 0.
        dtype: Type of the model's weights: float32, bfloat16, or auto, which is float32 but for
            weights that LoRA leaves alone on a GPU.
        chat: Whether the question is put into the tokenizer's chat template: true, false, or
            auto, which means where there is one.
        gradient_checkpointing: Compute each layer again in the backward pass rather than keep
            what it made: less memory, a third more time.
        logit_chunk: Tokens whose logits exist at the same time in training.
        rollout_batch_size: Episodes that are sampled in one forward pass, at most.
        lora_rank: Rank of LoRA's matrices, which alone are trained; 0 trains all weights.
        lora_alpha: What LoRA adds is scaled by this over the rank.
        lora_targets: Names of the layers with an adapter, with commas between, or all-linear.
        dry_run: Print models, data and a plan of the memory, and load no weights.
    """

    algorithm: str = "grpo"
    env_id: str = "ZeroSearch-v0"
    engine: EngineName = DEFAULT_ENGINE
    simulator_model: SimulatorModelName = ""
    policy: PolicyName = "base"
    questions: Questions = "miniwiki"
    split: Split = "train"
    steps: int = 30
    num_questions: int = 16
    group_size: int = 8
    num_waves: int = 1
    max_turns: int = 6
    top_k: int = 3
    prompt: str = "miniwiki"
    seed: int = 0
    out: Annotated[
        str, arg(metavar="DIR", help="The run's folder; an earlier run in it is replaced.")
    ] = "runs/{algorithm}-{engine}-seed{seed}"
    resume: Annotated[
        str,
        arg(
            metavar="DIR",
            help="Go on with the run in this folder, which knows its options. Given again, they "
            "must be the same, but for those that decide no number: --policy (its weights must "
            "be the same), --policy-url, hosts and ports in --engine, --cache, --cache-mode, "
            "--log-formats, --num-waves, --keep-checkpoints and --checkpoint-every.",
        ),
    ] = ""
    recipe: Annotated[
        str,
        arg(
            metavar="FILE",
            help="A YAML file with options by their names, such as those in examples/recipes; "
            "what is given beside it comes before it.",
        ),
    ] = ""
    dry_run: bool = False
    noise_start: float = 0.0
    noise_end: float = 0.5
    noise_base: float = 4.0
    eval_every: int = 10
    eval_questions: int = 200
    eval_split: str = "validation"
    checkpoint_every: int = 1
    keep_checkpoints: int = 2
    log_formats: Annotated[
        str,
        arg(
            metavar="NAMES",
            help="What to write beside metrics.jsonl, with commas between: csv (metrics.csv), "
            "tensorboard, stdout (a table an update), wandb (Weights & Biases).",
        ),
    ] = "tensorboard"
    learning_rate: float = 1.5e-4
    critic_learning_rate: float = 5e-4
    schedule: Schedule = "constant"
    last_rate_share: float = 0.1
    num_warmup_updates: int = 0
    max_grad_norm: float = 1.0
    target_kl: float | None = None
    kl_coef: float | None = None
    clip_range: float | None = None
    num_minibatches: int = 2
    max_tokens_per_pass: int = 2048
    max_new_tokens: int = 48
    temperature: float = 1.0
    policy_engine: PolicyEngineName = "transformers"
    policy_url: PolicyURL = ""
    importance_cap: float | None = None
    device: Annotated[
        str, arg(metavar="DEVICE", help="Where the policy is trained: cpu, cuda, cuda:1, …")
    ] = "cpu"
    dtype: DtypeName = "auto"
    chat: ChatChoice = "auto"
    gradient_checkpointing: bool = False
    logit_chunk: int = 2048
    rollout_batch_size: int = 256
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_targets: str = "all-linear"
    cache: CacheFile = ""
    cache_mode: CacheModeName = "record"
    threads: Threads = 0

    @property
    def out_dir(self) -> Path:
        """The run's folder, with the placeholders of the default filled in."""
        text = self.out
        for name in ("algorithm", "engine", "seed"):
            # An engine may be a path or a URL, whose slashes would make folders.
            value = re.sub(r"[^\w.-]+", "-", str(getattr(self, name)))
            text = text.replace(f"{{{name}}}", value)
        return Path(text)

    @property
    def loads_engine(self) -> bool:
        """Whether the engine is loaded at all, and not only what was recorded of it."""
        return not self.cache or self.cache_mode != "replay-strict"

    @property
    def asked_engine(self) -> str:
        """The engine's name; empty if it is not loaded."""
        return self.engine if self.loads_engine else ""

    def saved(self) -> Train:
        """Return the options of the run to be resumed.

        Raises:
            CommandError: If there is none.
        """
        from agents.cli.train_resume import read_run

        with usage_errors():
            return read_run(Path(self.resume)).config

    def run(self) -> None:
        """Train, and say where the results are."""
        from agents.cli.train_resume import read_run, resumed
        from agents.cli.train_setup import show_plan
        from agents.distributed import join

        if self.dry_run:
            with usage_errors():
                show_plan(with_simulator(self), Console())
            return
        with usage_errors():
            run = read_run(Path(self.resume)) if self.resume else None
            given = with_simulator(self, run.config.engine if run else DEFAULT_ENGINE)
            config = given if run is None else resumed(given, run)
            processes = join(config.device)
        with processes:
            self._run(run, config, processes)

    def _run(self, run: RunRecord | None, config: Train, processes: Processes) -> None:
        from agents.cli.display import say
        from agents.cli.train_resume import check_algorithm, check_data, restore
        from agents.cli.train_run import execute
        from agents.cli.train_setup import closed_on_failure, prepare

        console = Console(quiet=not processes.is_first)
        with usage_errors():
            threads = use_threads(config.threads)
            if run is not None:
                check_algorithm(config, run)
                check_data(config, run)
            setup = prepare(config, processes)
            if run is not None:
                with closed_on_failure(setup.trainer.sampler):
                    setup = restore(config, run, setup, console)
        done = setup.trainer.num_updates_done
        for warning in warnings_of(config):
            say(console, f"warning: {warning}")
        noise = max(config.noise_start, config.noise_end)
        for warning in noise_warnings(config.engine, setup.engine, noise):
            say(console, warning)
        say(
            console,
            f"{config.algorithm} · policy {config.policy} · engine {config.engine} · "
            f"torch threads: {threads}\n{config.steps} updates of {config.num_questions} × "
            f"{config.group_size} episodes{f', {done} done' if done else ''}; "
            f"results: {config.out_dir}\n",
        )
        execute(config, setup, console, threads)


def warnings_of(config: Train) -> Iterator[str]:
    """Yield what may be a mistake, in lines."""
    if config.dtype == "bfloat16" and not config.lora_rank:
        yield (
            "weights in bfloat16 lose every step that is less than a 512th of them; "
            "--dtype float32 keeps them all"
        )


def with_simulator(config: Train, former: str = DEFAULT_ENGINE) -> Train:
    """Return the options with the engine that `--simulator-model` stands for.

    The engine `simulator`, which is the default, may stand beside it: the model says which one.

    Args:
        config: The options.
        former: The engine of the run to be resumed, which is there if none is given anew.

    Raises:
        ValueError: If another engine is named, too.
    """
    if not config.simulator_model:
        return config
    engine = simulator_engine(config.simulator_model)
    if config.engine not in (DEFAULT_ENGINE, former, engine):
        shown = without_userinfo(repr(config.engine))
        raise ValueError(f"`engine` must be simulator beside `simulator_model`, got {shown}")
    return replace(config, engine=engine, simulator_model="")

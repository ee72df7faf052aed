"""`zerosearch train`: reinforcement learning from a start policy, and a folder that records it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import check_at_least, check_folder, check_probability, usage_errors
from agents.cli.files import write_json
from agents.cli.options import (
    CacheFile,
    CacheModeName,
    EngineName,
    PolicyName,
    Threads,
    load_cached_engine,
    load_policy,
    load_questions,
)
from agents.cli.provenance import provenance, weights_checksum
from agents.cli.threads import use_threads

if TYPE_CHECKING:
    from agents.algorithms.algorithm import Algorithm
    from agents.evaluate import Evaluation
    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.policy import Policy
    from agents.trainer import Callback, Trainer
    from zs_env.search.engine import SearchEngine
    from zs_env.task.questions import Question

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Train:
    """Train a policy to search, with documents that get noisier as it learns.

    The run's folder gets

    - config.json, metrics.jsonl with a row an update, sampled episodes in transcripts.jsonl,
    - learning_curve.png, TensorBoard events, and checkpoint/ in Hugging Face format.

    Attributes:
        algorithm: How to learn: grpo.
        env_id: A registered text environment.
        steps: Number of updates.
        num_questions: Questions an update.
        group_size: Episodes a question and update.
        max_turns: Actions an episode lasts at most.
        seed: Key of questions, noise and sampling.
        noise_start: Probability of noisy documents in the first update.
        noise_end: Probability of noisy documents in the last update.
        noise_base: How late noise rises: above 1 late, 1 evenly, below 1 early.
        eval_every: Updates between evaluations; the first and the last update have one too. 0
            means never.
        eval_questions: Questions of the validation split an evaluation; 0 means all.
        checkpoint_every: Updates between checkpoints and figures; the last update always has one.
        learning_rate: Of AdamW.
        kl_coef: Weight of the KL penalty towards the start policy; 0 needs no reference.
        clip_range: Distance from 1 beyond which a probability ratio earns nothing more.
        num_minibatches: Gradient steps an update.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling, above 0.
    """

    algorithm: str = "grpo"
    env_id: str = "ZeroSearch-v0"
    engine: EngineName = "simulator"
    policy: PolicyName = "base"
    steps: int = 30
    num_questions: int = 16
    group_size: int = 8
    max_turns: int = 6
    seed: int = 0
    out: Annotated[
        str, arg(metavar="DIR", help="The run's folder; an earlier run in it is replaced.")
    ] = "runs/{algorithm}-{engine}-seed{seed}"
    noise_start: float = 0.0
    noise_end: float = 0.5
    noise_base: float = 4.0
    eval_every: int = 10
    eval_questions: int = 200
    checkpoint_every: int = 10
    learning_rate: float = 1.5e-4
    kl_coef: float = 0.005
    clip_range: float = 0.2
    num_minibatches: int = 2
    max_new_tokens: int = 48
    temperature: float = 1.0
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

    def run(self) -> None:
        """Train, and say where the results are."""
        from agents.cli.display import say

        console = Console()
        with usage_errors():
            threads = use_threads(self.threads)
            setup = prepare(self)
        say(
            console,
            f"{self.algorithm} · policy {self.policy} · engine {self.engine} · "
            f"torch threads: {threads}\n{self.steps} updates of {self.num_questions} × "
            f"{self.group_size} episodes; results: {self.out_dir}\n",
        )
        execute(self, setup, console, threads)


@dataclass(frozen=True)
class Setup:
    """What a checked configuration stands for, loaded; nothing has been written yet."""

    policy: CausalLMPolicy
    engine: SearchEngine
    trainer: Trainer
    eval_questions: tuple[Question, ...]
    weights_checksum: str


def prepare(config: Train) -> Setup:
    """Check every option and load what they name.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        FileNotFoundError: If there is no model where one should be.
    """
    from agents.policies.causal_lm import find_policy
    from agents.trainer import Trainer
    from agents.trainer_config import TrainerConfig
    from zs_env.search.curriculum import ExponentialCurriculum

    _check(config)
    algorithm = make_algorithm(config)
    curriculum = ExponentialCurriculum(config.noise_start, config.noise_end, config.noise_base)
    shared = {f.name: getattr(config, f.name) for f in fields(TrainerConfig) if f.name in _NAMES}
    settings = TrainerConfig(**shared)
    questions = load_questions("miniwiki", "validation", config.eval_questions, config.seed)
    engine = load_cached_engine(config.engine, config.cache, config.cache_mode)
    env = make_env(config, engine)
    policy = load_policy(config.policy)
    trainer = Trainer(policy, env, algorithm, config=settings, curriculum=curriculum)
    checksum = weights_checksum(find_policy(config.policy))
    return Setup(policy, engine, trainer, questions, checksum)


_NAMES = frozenset(field.name for field in fields(Train))


def _check(config: Train) -> None:
    check_probability(noise_start=config.noise_start, noise_end=config.noise_end)
    check_at_least(
        1,
        steps=config.steps,
        num_questions=config.num_questions,
        group_size=config.group_size,
        max_turns=config.max_turns,
        checkpoint_every=config.checkpoint_every,
    )
    check_at_least(
        0,
        eval_every=config.eval_every,
        eval_questions=config.eval_questions,
        kl_coef=config.kl_coef,
        clip_range=config.clip_range,
        seed=config.seed,
    )
    _check_out(config.out_dir)


def _check_out(out: Path) -> None:
    """Check that a run can be written to `out`.

    Raises:
        ValueError: If it cannot be written, or holds a model rather than a run.
    """
    check_folder(out)
    if (out / CONFIG_FILE).exists() and not _is_run(out):
        raise ValueError(
            f"`out` must be a new folder or that of an earlier run, got {str(out)!r}, whose "
            f"{CONFIG_FILE} is not a run's"
        )


def _is_run(out: Path) -> bool:
    """Return whether `out` is a run's folder, even one that ended before its first row."""
    if (out / METRICS_FILE).exists():
        return True
    try:
        return "start_weights_sha256" in json.loads((out / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False


def make_algorithm(config: Train) -> Algorithm:
    """Return the algorithm that `config` names, with those of its parameters that `config` has.

    Raises:
        ValueError: If there is none of that name.
    """
    from agents.algorithms.grpo import ALGORITHMS

    if config.algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise ValueError(f"`algorithm` must be one of {known}, got {config.algorithm!r}")
    kind = ALGORITHMS[config.algorithm]
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind) if f.name in _NAMES})


def make_env(config: Train, engine: SearchEngine) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Return the environment to train in.

    Raises:
        ValueError: If an argument is out of its range.
        gym.error.Error: If the id is not registered.
    """
    import zs_env  # noqa: F401 - registers the ids

    return gym.make_vec(
        config.env_id,
        num_envs=config.num_questions * config.group_size,
        group_size=config.group_size,
        engine=engine,
        split="train",
        max_turns=config.max_turns,
        autoreset_mode=AutoresetMode.DISABLED,
    )


def execute(config: Train, setup: Setup, console: Console, threads: int) -> None:
    """Train as `config` says and write everything into its folder."""
    from agents.callbacks import MetricsCallback, ProgressCallback
    from agents.metrics import MetricsWriter

    out = config.out_dir
    start_folder(out)
    write_json(out / CONFIG_FILE, describe(config, setup, threads))
    with ExitStack() as stack:
        writer = stack.enter_context(MetricsWriter(out))
        progress = stack.enter_context(ProgressCallback(console, config.steps, config.engine))
        before, after = _callbacks(config, setup)
        setup.trainer.learn(config.steps, [before, MetricsCallback(writer), *after, progress])
    setup.trainer.env.close()


def start_folder(out: Path) -> None:
    """Make the run's folder, without what an earlier run left there.

    Raises:
        OSError: If it cannot be made.
    """
    from agents.callbacks import CHECKPOINT_FOLDER, CURVE_FILE, TRANSCRIPTS_FILE

    out.mkdir(parents=True, exist_ok=True)
    # Files of other folders that happen to be called so may be precious.
    if _is_run(out):
        for name in (CONFIG_FILE, METRICS_FILE, TRANSCRIPTS_FILE, CURVE_FILE):
            (out / name).unlink(missing_ok=True)
        for name in (CHECKPOINT_FOLDER, "tensorboard"):
            shutil.rmtree(out / name, ignore_errors=True)


def describe(config: Train, setup: Setup, threads: int) -> dict[str, Any]:
    """Return all that decides the results of a run, as JSON values."""
    return {
        "config": asdict(config) | {"out": str(config.out_dir), "threads": threads},
        "start_weights_sha256": setup.weights_checksum,
        **provenance(),
    }


def _callbacks(config: Train, setup: Setup) -> tuple[Callback, Sequence[Callback]]:
    """Return what runs before the row of an update is written, and what runs after."""
    from agents.callbacks import (
        CheckpointCallback,
        EvaluateCallback,
        PlotCallback,
        TranscriptCallback,
    )

    out, last, every = config.out_dir, config.steps, config.checkpoint_every
    evaluate = EvaluateCallback(
        config.engine,
        lambda policy: _evaluate(config, setup, policy),
        every=config.eval_every,
        last=last,
    )
    return evaluate, (
        TranscriptCallback(out, lambda ids: str(setup.policy.tokenizer.decode(ids))),
        CheckpointCallback(out, every=every, last=last),
        PlotCallback(out, every=every, last=last),
    )


def _evaluate(config: Train, setup: Setup, policy: Policy) -> Evaluation:
    from agents.evaluate import evaluate
    from agents.policies.agent import PolicyAgent

    stops = setup.trainer.env.metadata["action_stops"]
    return evaluate(
        PolicyAgent(policy, stops, max_new_tokens=config.max_new_tokens),
        setup.eval_questions,
        env_id=config.env_id,
        env_kwargs={"engine": setup.engine, "max_turns": config.max_turns},
        seed=config.seed,
    )

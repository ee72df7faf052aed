"""`zerosearch train`: reinforcement learning from a start policy, and a folder that records it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import (
    CommandError,
    check_at_least,
    check_folder,
    check_probability,
    usage_errors,
)
from agents.cli.files import write_json
from agents.cli.options import (
    DEFAULT_ENGINE,
    CacheFile,
    CacheModeName,
    EngineName,
    PolicyName,
    Questions,
    SimulatorModelName,
    Split,
    Threads,
    load_cached_engine,
    load_questions,
    question_source,
    simulator_engine,
)
from agents.cli.provenance import provenance, weights_checksum
from agents.cli.threads import use_threads
from agents.policies.model_options import ChatChoice, DtypeName, ModelOptions
from agents.trainer_config import Schedule

if TYPE_CHECKING:
    from agents.algorithms.algorithm import Algorithm
    from agents.checkpoint import Checkpoint
    from agents.distributed import Processes
    from agents.evaluate import Evaluation
    from agents.learner import NonFiniteLossError
    from agents.metrics import Logger
    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.policy import Policy
    from agents.trainer import Callback, Trainer
    from zs_env.search.engine import SearchEngine
    from zs_env.task.questions import Question

CONFIG_FILE: Final = "config.json"
METRICS_FILE: Final = "metrics.jsonl"
FAILED_FOLDER: Final = "failed"

HARMLESS: Final = frozenset(
    "resume policy cache cache_mode log_formats keep_checkpoints checkpoint_every".split()
)
"""Options that may change when a run is resumed: they decide no number of it.

The start policy may have moved, but its weights must be the same.
"""


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
        target_kl: Divergence from the sampler beyond which an update takes no further gradient
            step. Left out, it takes them all.
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
            "be the same), --cache, --cache-mode, --log-formats, --keep-checkpoints and "
            "--checkpoint-every.",
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
    target_kl: float | None = None
    kl_coef: float | None = None
    clip_range: float | None = None
    num_minibatches: int = 2
    max_tokens_per_pass: int = 2048
    max_new_tokens: int = 48
    temperature: float = 1.0
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

    def saved(self) -> Train:
        """Return the options of the run to be resumed.

        Raises:
            CommandError: If there is none.
        """
        with usage_errors():
            return read_run(Path(self.resume)).config

    def run(self) -> None:
        """Train, and say where the results are."""
        from agents.distributed import join

        if self.dry_run:
            with usage_errors():
                show_plan(with_simulator(self), Console())
            return
        with usage_errors():
            run = read_run(Path(self.resume)) if self.resume else None
            given = with_simulator(self)
            config = given if run is None else resumed(given, run)
            processes = join(config.device)
        with processes:
            self._run(run, config, processes)

    def _run(self, run: RunRecord | None, config: Train, processes: Processes) -> None:
        from agents.cli.display import say

        console = Console(quiet=not processes.is_first)
        with usage_errors():
            threads = use_threads(config.threads)
            setup = prepare(config, processes)
            if run is not None:
                setup = restore(config, run, setup, console)
        done = setup.trainer.num_updates_done
        for warning in warnings_of(config):
            say(console, f"warning: {warning}")
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


def with_simulator(config: Train) -> Train:
    """Return the options with the engine that `--simulator-model` stands for.

    Raises:
        ValueError: If another engine is named, too.
    """
    if not config.simulator_model:
        return config
    engine = simulator_engine(config.simulator_model)
    if config.engine not in (DEFAULT_ENGINE, engine):
        raise ValueError(
            f"`engine` must be left out beside `simulator_model`, got {config.engine!r}"
        )
    return replace(config, engine=engine, simulator_model="")


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder tells of how it was started.

    Attributes:
        config: Its options; `out` is the folder, wherever it is now.
        description: All of config.json.
    """

    config: Train
    description: Mapping[str, Any]


def read_run(folder: Path) -> RunRecord:
    """Return how the run in a folder was started.

    Raises:
        ValueError: If there is none, or another version started it.
    """
    if not _is_run(folder):
        raise ValueError(f"`resume` must be the folder of a run, got {str(folder)!r}")
    try:
        description = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config = Train(**description["config"] | {"out": str(folder)})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`resume` must be a run of this version, got {str(folder)!r}: {error}"
        ) from error
    return RunRecord(config, description)


def resumed(given: Train, run: RunRecord) -> Train:
    """Return the options to resume a run with.

    Args:
        given: What the command line says, with the run's own options for what it does not say.
        run: What the folder says.

    Raises:
        ValueError: If they differ in an option that decides numbers of the run.
    """
    for name in (field.name for field in fields(Train)):
        new, old = getattr(given, name), getattr(run.config, name)
        if new != old and name not in HARMLESS:
            raise ValueError(
                f"`{name}` must be {old!r}, as in the run that `resume` names, got {new!r}"
            )
    return replace(given, resume="", recipe="")


def restore(config: Train, run: RunRecord, setup: Setup, console: Console) -> Setup:
    """Take training to the last checkpoint of a run, if it has one.

    Raises:
        ValueError: If the start weights have changed, or files of the run were lost.
        CheckpointError: If there are checkpoints, and all of them are damaged.
    """
    from agents.callbacks import CHECKPOINTS_FOLDER, check_files
    from agents.checkpoint import newest_checkpoint
    from agents.cli.display import say

    def warn(message: str) -> None:
        say(console, f"warning: {message}")

    wanted = run.description["start_weights_sha256"]
    if setup.weights_checksum != wanted:
        raise ValueError(
            f"`policy` must be the weights that the run started from, with the SHA-256 {wanted}, "
            f"got {config.policy!r} with {setup.weights_checksum}"
        )
    for name, old, new in differences(run.description, provenance()):
        warn(f"{name} was {old} and is {new}: numbers may differ")
    checkpoint = newest_checkpoint(config.out_dir / CHECKPOINTS_FOLDER, warn)
    if checkpoint is None:
        return setup
    check_files(config.out_dir, checkpoint.state["files"])
    setup.trainer.restore(checkpoint)
    return replace(setup, resumed_from=checkpoint)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old value and new value of whatever results depend on and has changed.

    Example:
        >>> list(differences({"versions": {"torch": "2.8"}}, {"versions": {"torch": "2.9"}}))
        [('versions: torch', '2.8', '2.9')]
    """
    for group, values in new.items():
        for name, value in values.items():
            before = old.get(group, {}).get(name)
            if before != value:
                yield f"{group}: {name}", before, value


@dataclass(frozen=True)
class Setup:
    """What a checked configuration stands for, loaded; nothing has been written yet.

    Attributes:
        policy: What is trained.
        engine: What answers queries.
        trainer: What trains it.
        eval_questions: What evaluations ask.
        weights_checksum: SHA-256 of the start weights.
        resumed_from: The checkpoint that a resumed run goes on from, if there is one.
    """

    policy: CausalLMPolicy
    engine: SearchEngine
    trainer: Trainer
    eval_questions: tuple[Question, ...]
    weights_checksum: str
    resumed_from: Checkpoint | None = None


def prepare(config: Train, processes: Processes | None = None) -> Setup:
    """Check every option and load what they name.

    Args:
        config: The options.
        processes: Those that train together; None is this one alone.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        FileNotFoundError: If there is no model where one should be.
    """
    from agents.distributed import ALONE
    from agents.policies.folders import find_policy
    from agents.trainer import Trainer
    from agents.trainer_config import TrainerConfig
    from zs_env.search.curriculum import ExponentialCurriculum

    _check(config)
    processes = processes or ALONE
    check_device(processes.device(config.device))
    algorithm = chosen_algorithm(config)
    curriculum = ExponentialCurriculum(config.noise_start, config.noise_end, config.noise_base)
    settings, options = (taken(kind, config) for kind in (TrainerConfig, ModelOptions))
    questions = _eval_questions(config)
    engine = load_cached_engine(config.engine, config.cache, config.cache_mode)
    env = make_env(config, engine, len(processes.share(config.num_questions, "num_questions")))
    if not processes.sharded:
        check_memory(config)
    policy = load_start_policy(config, options, processes.device(config.device))
    trainer = Trainer(
        policy, env, algorithm, config=settings, curriculum=curriculum, processes=processes
    )
    checksum = weights_checksum(find_policy(config.policy))
    return Setup(policy, engine, trainer, questions, checksum)


def chosen_algorithm(config: Train) -> Algorithm:
    """Return the algorithm with its hyper-parameters.

    Raises:
        ValueError: If there is none of that name, or a value is out of its range.
    """
    from agents.algorithms.registry import make_algorithm

    overrides = {name: getattr(config, name) for name in ("kl_coef", "clip_range")}
    return make_algorithm(config.algorithm, overrides)


def load_start_policy(config: Train, options: ModelOptions, device: str) -> CausalLMPolicy:
    """Load what training starts from.

    Raises:
        ValueError: If it is an adapter, or an option does not suit it.
        FileNotFoundError: If it is not there.
    """
    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.folders import ADAPTER_CONFIG_FILE, find_policy

    folder = find_policy(config.policy)
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        # What is below it is not what training would start from: the penalty's reference.
        raise ValueError(
            f"`policy` must be a whole model to start from, got the LoRA adapter {folder}: merge "
            "it first (zerosearch models merge)"
        )
    try:
        return CausalLMPolicy.load(config.policy, device, options)
    except torch_out_of_memory() as error:
        raise ValueError(out_of_memory(config, error)) from error


def taken(kind: Any, config: Train) -> Any:
    """Return a dataclass whose fields have the values of the options of the same names."""
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind) if f.name in _NAMES})


def torch_out_of_memory() -> type[RuntimeError]:
    """Return what torch raises where a device has too little memory."""
    import torch

    return torch.OutOfMemoryError


def out_of_memory(config: Train, error: RuntimeError) -> str:
    """Return the line that tells of too little memory."""
    reason = str(error).partition(". ")[0]
    return (
        f"the memory of {config.device} is full ({reason}); what helps: --gradient-checkpointing, "
        "a lower --max-tokens-per-pass, --logit-chunk or --rollout-batch-size, --lora-rank; "
        "--dry-run tells what needs how much"
    )


def show_plan(config: Train, console: Console) -> None:
    """Print what training would need, and load no weights.

    Raises:
        ValueError: If an option is out of its range, or the memory cannot do.
        FileNotFoundError: If there is no configuration of a model where one should be.
    """
    from agents.cli.plan import make_plan, print_plan

    _check(config)
    check_device_name(config.device)
    plan = make_plan(config)
    print_plan(plan, console)
    plan.memory.check(plan.device)


def check_memory(config: Train) -> None:
    """Check that what is certain to be needed fits into the memory of the device.

    Raises:
        ValueError: If not.
    """
    from agents.cli.plan import plan_memory

    plan_memory(config).check(config.device)


def _eval_questions(config: Train) -> tuple[Question, ...]:
    if not config.eval_every:
        return ()
    return load_questions(config.questions, config.eval_split, config.eval_questions, config.seed)


_NAMES = frozenset(field.name for field in fields(Train))


def _check(config: Train) -> None:
    check_probability(noise_start=config.noise_start, noise_end=config.noise_end)
    check_at_least(
        1,
        steps=config.steps,
        num_questions=config.num_questions,
        group_size=config.group_size,
        max_turns=config.max_turns,
        top_k=config.top_k,
        checkpoint_every=config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
    )
    check_at_least(
        0,
        eval_every=config.eval_every,
        eval_questions=config.eval_questions,
        seed=config.seed,
    )
    log_formats(config)
    _check_out(config.out_dir)


def log_formats(config: Train) -> tuple[str, ...]:
    """Return the names of what the run's numbers are written to.

    Raises:
        ValueError: If one is unknown.
    """
    from agents.log_formats import check_formats

    given = (name.strip() for name in config.log_formats.split(","))
    return check_formats(("json", *filter(None, given)))


def check_device(device: str) -> None:
    """Check that torch knows a device, and that it is there.

    Raises:
        ValueError: If not.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`device` must be one that is there, got {device!r}: {reason}") from error


def check_device_name(device: str) -> None:
    """Check that torch knows such devices, whether or not one is there.

    Raises:
        ValueError: If not.
    """
    import torch

    try:
        torch.device(device)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`device` must be one that torch knows, got {device!r}: {reason}"
        ) from error


def _check_out(out: Path) -> None:
    """Check that a run can be written to `out`.

    Raises:
        ValueError: If it cannot be written, or holds a model rather than a run.
    """
    check_folder(out)
    for name in (CONFIG_FILE, "checkpoints"):
        if (out / name).exists() and not _is_run(out):
            raise ValueError(
                f"`out` must be a new folder or that of an earlier run, got {str(out)!r}, whose "
                f"{name} is not a run's"
            )


def _is_run(out: Path) -> bool:
    """Return whether `out` is a run's folder, even one that ended before its first row."""
    if (out / METRICS_FILE).exists():
        return True
    try:
        return "start_weights_sha256" in json.loads((out / CONFIG_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False


def make_env(
    config: Train, engine: SearchEngine, num_questions: int | None = None
) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Return the environment to train in, of a part of the questions of an update if wanted.

    Raises:
        ValueError: If an argument is out of its range.
        gym.error.Error: If the id is not registered.
    """
    import zs_env  # noqa: F401 - registers the ids

    return gym.make_vec(
        config.env_id,
        num_envs=(num_questions or config.num_questions) * config.group_size,
        group_size=config.group_size,
        engine=engine,
        split=config.split,
        max_turns=config.max_turns,
        **_asked(config),
        autoreset_mode=AutoresetMode.DISABLED,
    )


def _asked(config: Train) -> dict[str, Any]:
    """Return what the environment is to ask, and how, but for what is its default anyway."""
    # Other packages' environments need not know question sets, prompts or numbers of documents.
    asked: dict[str, Any] = {}
    if config.questions != Train.questions:
        asked["questions"] = question_source(config.questions, config.split)
    return asked | _shown(config)


def _shown(config: Train) -> dict[str, Any]:
    """Return how the environment is to show things, but for what is its default anyway."""
    names = ("prompt", "top_k")
    return {n: getattr(config, n) for n in names if getattr(config, n) != getattr(Train, n)}


def execute(config: Train, setup: Setup, console: Console, threads: int) -> bool:
    """Train as `config` says and write everything into its folder.

    Returns:
        Whether all updates are done; False if SIGTERM ended training early.

    Raises:
        KeyboardInterrupt: If Ctrl-C ended training early; what was done is saved.
        CommandError: If the loss was not finite; its batch is saved.
    """
    from agents.cli.display import say
    from agents.signals import StopOnSignal

    out, trainer = config.out_dir, setup.trainer
    with StopOnSignal() as stop:
        if trainer.processes.is_first:
            if setup.resumed_from is None:
                start_folder(out)
            write_json(out / CONFIG_FILE, describe(config, setup, threads))
        learn(config, setup, console, stop)
    trainer.env.close()
    if trainer.num_updates_done == config.steps and stop.received is None:
        return True
    say(
        console,
        f"stopped after update {trainer.num_updates_done} of {config.steps}; go on with: "
        f"zerosearch train --resume {shlex.quote(str(out))}",
    )
    if stop.received is signal.SIGINT:
        raise KeyboardInterrupt
    return False


def learn(config: Train, setup: Setup, console: Console, stop: Callback) -> None:
    """Do the updates that are left."""
    from agents.audit import AuditError
    from agents.callbacks import ProgressCallback
    from agents.distributed import PeerError
    from agents.learner import NonFiniteLossError
    from agents.metrics import Logger

    trainer = setup.trainer
    with ExitStack() as stack:
        callbacks = [_checkpoints(config, setup), stop]
        if trainer.processes.is_first:
            first = trainer.num_updates_done + 1 if trainer.num_updates_done else 0
            logger = stack.enter_context(Logger(config.out_dir, log_formats(config), first))
            progress = stack.enter_context(ProgressCallback(console, config.steps, config.engine))
            callbacks = [*_callbacks(config, setup, logger), progress, stop]
        try:
            trainer.learn(None if trainer.num_updates_done else config.steps, callbacks)
        except NonFiniteLossError as error:
            raise CommandError(save_failed(config.out_dir, trainer, error)) from error
        except (AuditError, PeerError) as error:
            raise CommandError(str(error)) from error
        except torch_out_of_memory() as error:
            raise CommandError(out_of_memory(config, error)) from error


def save_failed(out: Path, trainer: Trainer, error: NonFiniteLossError) -> str:
    """Write the batch whose loss was not finite, and return the line that tells so."""
    from agents.checkpoint import write_batch

    update = trainer.num_updates_done + 1
    file = out / FAILED_FOLDER / f"update-{update:06}.safetensors"
    write_batch(file, error.batch, {"update": str(update), "error": str(error)})
    return f"update {update} failed: {error}; its batch is in {file}"


def start_folder(out: Path) -> None:
    """Make the run's folder, without what an earlier run left there.

    Raises:
        OSError: If it cannot be made.
    """
    from agents.callbacks import (
        BEST_FOLDER,
        CHECKPOINT_FOLDER,
        CHECKPOINTS_FOLDER,
        CURVE_FILE,
        TRANSCRIPTS_FILE,
    )
    from agents.log_formats import CSV_FILE, TENSORBOARD_FOLDER

    out.mkdir(parents=True, exist_ok=True)
    # Files of other folders that happen to be called so may be precious.
    if not _is_run(out):
        return
    folders = (CHECKPOINTS_FOLDER, CHECKPOINT_FOLDER, BEST_FOLDER, TENSORBOARD_FOLDER)
    for name in (*folders, FAILED_FOLDER):
        shutil.rmtree(out / name, ignore_errors=True)
    # Last what makes it a run: one that is cut off here must not be taken for another's.
    for name in (CURVE_FILE, TRANSCRIPTS_FILE, CSV_FILE, METRICS_FILE, CONFIG_FILE):
        (out / name).unlink(missing_ok=True)


def describe(config: Train, setup: Setup, threads: int) -> dict[str, Any]:
    """Return all that decides the results of a run, as JSON values."""
    from agents.recipe import describe

    options = asdict(config) | {"out": str(config.out_dir), "threads": threads}
    for name in ("resume", "recipe", "dry_run"):
        del options[name]
    return {
        "config": options,
        "algorithm": describe(setup.trainer.algorithm),
        "start_weights_sha256": setup.weights_checksum,
        "num_processes": setup.trainer.processes.size,
        **provenance(),
    }


def _callbacks(config: Train, setup: Setup, logger: Logger) -> list[Callback]:
    """Return what happens during an update and at its end, in its order."""
    from agents.audit import AuditCallback
    from agents.callbacks import (
        EvaluateCallback,
        MetricsCallback,
        PlotCallback,
        TranscriptCallback,
    )

    out = config.out_dir
    return [
        AuditCallback(audit_tolerance(setup.policy)),
        EvaluateCallback(
            config.engine,
            lambda policy: _evaluate(config, setup, policy),
            every=config.eval_every,
        ),
        MetricsCallback(logger),
        TranscriptCallback(out, lambda ids: str(setup.policy.tokenizer.decode(ids))),
        _checkpoints(config, setup),
        PlotCallback(out),
    ]


def audit_tolerance(policy: CausalLMPolicy) -> float:
    """Return which distance of log-probabilities of sampler and trainer is no violation."""
    import torch

    from agents.audit.auditing import TOLERANCE, TOLERANCE_BFLOAT16

    return TOLERANCE_BFLOAT16 if policy.model.dtype == torch.bfloat16 else TOLERANCE


def _checkpoints(config: Train, setup: Setup) -> Callback:
    from agents.callbacks import Best, CheckpointCallback

    best = setup.resumed_from.state["best"] if setup.resumed_from else None
    return CheckpointCallback(
        config.out_dir,
        every=config.checkpoint_every,
        keep=config.keep_checkpoints,
        best_key=f"eval/{config.engine}/exact_match",
        best=Best(**best) if best else None,
    )


def _evaluate(config: Train, setup: Setup, policy: Policy) -> Evaluation:
    from agents.evaluate import evaluate
    from agents.policies.agent import PolicyAgent

    stops = setup.trainer.env.metadata["action_stops"]
    return evaluate(
        PolicyAgent(policy, stops, max_new_tokens=config.max_new_tokens),
        setup.eval_questions,
        env_id=config.env_id,
        env_kwargs={"engine": setup.engine, "max_turns": config.max_turns, **_shown(config)},
        seed=config.seed,
    )

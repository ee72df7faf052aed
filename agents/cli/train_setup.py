"""From the options of `zerosearch train` to a trainer: everything is checked, nothing written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from rich.console import Console

from agents.cli.checks import check_at_least, check_positive, check_probability
from agents.cli.options import (
    check_device,
    load_cached_engine,
    load_questions,
    question_source,
)
from agents.cli.provenance import weights_checksum
from agents.cli.train import OF_ALGORITHMS, Train
from agents.cli.train_folder import SAMPLER_FOLDER, check_out
from agents.policies.model_options import ModelOptions
from agents.samplers.names import importance_cap, read_sampler_name

if TYPE_CHECKING:
    from agents.algorithms.algorithm import Algorithm
    from agents.checkpoint import Checkpoint
    from agents.distributed import Launch, Processes
    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.lora import LoraPolicy
    from agents.samplers.sampler import Sampler
    from agents.trainer import Trainer
    from agents.trainer_config import TrainerConfig
    from zs_env.search.curriculum import ExponentialCurriculum
    from zs_env.search.engine import SearchEngine
    from zs_env.task.questions import Question


@dataclass(frozen=True)
class Setup:
    """What a checked configuration stands for, loaded; nothing has been written yet.

    Attributes:
        policy: What is trained.
        engine: What answers queries.
        trainer: What trains it.
        eval_questions: What evaluations ask.
        weights_checksum: SHA-256 of the start weights.
        former: What the folder of a resumed run told of it; empty for a new one.
        resumed_from: The checkpoint that a resumed run goes on from, if there is one.
    """

    policy: CausalLMPolicy
    engine: SearchEngine
    trainer: Trainer
    eval_questions: tuple[Question, ...]
    weights_checksum: str
    former: Mapping[str, Any] = field(default_factory=dict)
    resumed_from: Checkpoint | None = None

    def engine_label(self, engine: str) -> str:
        """Return what the run's numbers call its engine: its name when the run began.

        Its server may have moved since, and the rows of metrics.jsonl must go together.

        Args:
            engine: What it is called now.
        """
        if not self.former:
            return engine
        label: str = self.former.get("engine_label", self.former["config"]["engine"])
        return label


@dataclass(frozen=True)
class TrainSettings:
    """What the options say, checked as far as it can be while nothing is loaded.

    Attributes:
        algorithm: With its hyper-parameters.
        trainer: The hyper-parameters that do not depend on it.
        model: How the policy is loaded.
        curriculum: How noise rises.
        waves: Questions of this process and update, by wave.
    """

    algorithm: Algorithm
    trainer: TrainerConfig
    model: ModelOptions
    curriculum: ExponentialCurriculum
    waves: tuple[int, ...]


def read_settings(config: Train, processes: Processes | Launch) -> TrainSettings:
    """Return what the options say; training and its plan refuse the same.

    Args:
        config: The options.
        processes: Those that train together, or would.

    Raises:
        ValueError: If an option is out of its range, or does not suit another.
        FileNotFoundError: If there is no model where one should be.
    """
    from agents.distributed import share_of
    from agents.policies.folders import check_whole
    from agents.samplers.opening import check_sampler
    from agents.trainer_config import TrainerConfig
    from zs_env.search.curriculum import ExponentialCurriculum

    _check(config)
    algorithm, model = chosen_algorithm(config), taken(ModelOptions, config)
    if "critic" in algorithm.needs:
        model.check_critic()
    check_whole(config.policy)
    check_sampler(read_sampler_name(config.policy_engine, config.policy_url), processes.size)
    share = share_of(config.num_questions, processes.rank, processes.size, "num_questions")
    return TrainSettings(
        algorithm,
        taken(TrainerConfig, with_importance_cap(config)),
        model,
        ExponentialCurriculum(config.noise_start, config.noise_end, config.noise_base),
        _waves(config.num_waves, len(share)),
    )


def _waves(num_waves: int, num_questions: int) -> tuple[int, ...]:
    """Return how many of a process's questions are in each wave.

    Raises:
        ValueError: If there are fewer questions than waves.
    """
    if num_waves > num_questions:
        raise ValueError(
            f"`num_waves` must be at most the questions of a process and update, {num_questions}, "
            f"got {num_waves}"
        )
    ends = [num_questions * wave // num_waves for wave in range(num_waves + 1)]
    return tuple(end - start for start, end in pairwise(ends))


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

    processes = processes or ALONE
    settings = read_settings(config, processes)
    check_device(processes.device(config.device))
    questions = _eval_questions(config)
    check_memory(config)
    device = processes.device(config.device)
    sharing = load_sharing_policy(config, settings.model, device)
    engine = load_cached_engine(config.engine, config.cache, config.cache_mode, sharing)
    envs = make_envs(config, engine, settings.waves)
    policy = sharing or load_start_policy(config, settings.model, device)
    checksum = weights_checksum(find_policy(config.policy))
    sampler = load_sampler(config, policy, processes)
    with closed_on_failure(sampler):
        trainer = Trainer(
            policy,
            envs,
            settings.algorithm,
            config=settings.trainer,
            curriculum=settings.curriculum,
            processes=processes,
            sampler=sampler,
        )
    return Setup(policy, engine, trainer, questions, checksum)


@contextmanager
def closed_on_failure(sampler: Sampler | None) -> Iterator[None]:
    """Close what plays in the policy's place if the body of the `with` fails."""
    with ExitStack() as stack:
        if sampler is not None:
            stack.callback(sampler.close)
        yield
        stack.pop_all()


def chosen_algorithm(config: Train) -> Algorithm:
    """Return the algorithm with its hyper-parameters.

    Raises:
        ValueError: If there is none of that name, or a value is out of its range.
    """
    from agents.algorithms.registry import make_algorithm

    overrides = {name: getattr(config, name) for name in sorted(OF_ALGORITHMS)}
    algorithm = make_algorithm(config.algorithm, overrides)
    algorithm.check_group_size(config.group_size)
    return algorithm


def load_start_policy(config: Train, options: ModelOptions, device: str) -> CausalLMPolicy:
    """Load what training starts from.

    Raises:
        ValueError: If an option does not suit it.
        FileNotFoundError: If it is not there.
    """
    from agents.policies.causal_lm import CausalLMPolicy

    try:
        return CausalLMPolicy.load(config.policy, device, options)
    except torch_out_of_memory() as error:
        raise ValueError(out_of_memory(config, error)) from error


def load_sharing_policy(config: Train, options: ModelOptions, device: str) -> LoraPolicy | None:
    """Load the policy if the engine's model is an adapter for it, too; return None else.

    Raises:
        ValueError: As `load_start_policy`.
        FileNotFoundError: If a model is not there.
    """
    from agents.policies.lora import LoraPolicy
    from agents.policies.sharing import adapter_to_share

    if not (config.lora_rank and config.loads_engine):
        return None
    if adapter_to_share(config.engine, config.policy) is None:
        return None
    policy = load_start_policy(config, options, device)
    assert isinstance(policy, LoraPolicy)
    return policy


def load_sampler(config: Train, policy: CausalLMPolicy, processes: Processes) -> Sampler | None:
    """Return what plays episodes in the policy's place; None where the policy does so itself.

    Raises:
        ValueError: If an option does not suit, or the engine cannot be used.
        ImportError: If vLLM is named and not installed.
    """
    from agents.policies.folders import find_policy
    from agents.samplers.opening import open_sampler
    from zs_env.lm.generator import LanguageModelError

    try:
        return open_sampler(
            read_sampler_name(config.policy_engine, config.policy_url),
            policy,
            find_policy(config.policy),
            url=config.policy_url,
            folder=config.out_dir / SAMPLER_FOLDER,
            temperature=config.temperature,
            num_processes=processes.size,
        )
    except LanguageModelError as error:
        raise ValueError(
            f"`policy_engine` must be one that can be used, got {config.policy_engine!r}: {error}"
        ) from error


def with_importance_cap(config: Train) -> Train:
    """Return the options with the bound of importance weights that the engine calls for."""
    kind = read_sampler_name(config.policy_engine, config.policy_url).kind
    return replace(config, importance_cap=importance_cap(kind, config.importance_cap))


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
    from agents.distributed import check_launch, read_launch

    check_launch()
    plan = make_plan(config)
    if read_launch().rank == 0:  # a launcher starts the same command several times
        print_plan(plan, console)
    plan.memory.check(plan.device)


def check_memory(config: Train) -> None:
    """Check that what is certain to be needed fits into the memory of the device.

    Raises:
        ValueError: If not.
    """
    from agents.cli.plan import plan_memory

    plan_memory(config).check(config.device)


def played_together(config: Train, num_processes: int) -> int:
    """Return how many episodes of an update one of so many processes plays, at the most."""
    return -(-config.num_questions // num_processes) * config.group_size


def evaluated_together(config: Train, num_processes: int) -> int:
    """Return how many episodes of an evaluation are played side by side, at the most.

    No more than the process that evaluates, the first one, plays in an update: an evaluation is
    to need no memory that training does not need. 0 if there are no evaluations.
    """
    from agents.evaluate import DEFAULT_NUM_ENVS

    if not config.eval_every:
        return 0
    trained = max(1, config.num_questions // num_processes) * config.group_size
    return min(config.eval_questions or DEFAULT_NUM_ENVS, DEFAULT_NUM_ENVS, trained)


def _eval_questions(config: Train) -> tuple[Question, ...]:
    if not config.eval_every:
        return ()
    return load_questions(config.questions, config.eval_split, config.eval_questions, config.seed)


_NAMES = frozenset(field.name for field in fields(Train))


def _check(config: Train) -> None:
    check_probability(noise_start=config.noise_start, noise_end=config.noise_end)
    check_positive(noise_base=config.noise_base)
    check_at_least(
        1,
        steps=config.steps,
        num_questions=config.num_questions,
        group_size=config.group_size,
        num_waves=config.num_waves,
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
    read_sampler_name(config.policy_engine, config.policy_url)
    log_formats(config)
    check_out(config.out_dir)


def log_formats(config: Train) -> tuple[str, ...]:
    """Return the names of what the run's numbers are written to.

    Raises:
        ValueError: If one is unknown.
    """
    from agents.log_formats import check_formats

    given = (name.strip() for name in config.log_formats.split(","))
    return check_formats(("json", *filter(None, given)))


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


def make_envs(
    config: Train, engine: SearchEngine, waves: Sequence[int]
) -> list[gym.vector.VectorEnv[Any, Any, Any]]:
    """Return the environments to train in, one a wave, of so many questions each.

    Raises:
        ValueError: If an argument is out of its range.
        gym.error.Error: If the id is not registered.
    """
    return [_make_env(config, engine, num_questions) for num_questions in waves]


def _make_env(
    config: Train, engine: SearchEngine, num_questions: int
) -> gym.vector.VectorEnv[Any, Any, Any]:
    import zs_env  # noqa: F401 - registers the ids

    return gym.make_vec(
        config.env_id,
        num_envs=num_questions * config.group_size,
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
    return asked | shown(config)


def shown(config: Train) -> dict[str, Any]:
    """Return how the environment is to show things, but for what is its default anyway."""
    names = ("prompt", "top_k")
    return {n: getattr(config, n) for n in names if getattr(config, n) != getattr(Train, n)}

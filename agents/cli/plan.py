"""What `zerosearch train --dry-run` tells: models, data, tokens and memory, without any weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from agents.cli.options import load_questions
from agents.memory_plan import (
    GIB,
    MemoryPlan,
    ModelShape,
    Share,
    Workload,
    Writer,
    available_memory,
    plan,
    total_memory,
)
from agents.policies.model_options import ALL_LINEAR, ModelOptions, is_meant
from zs_env.models import MODELS, model_folder
from zs_env.search.names import Place, read_place
from zs_env.search.registry import check_engine, names_engine
from zs_env.search.simulator import MAX_TOKENS_OF_A_TEMPLATE, MAX_TOKENS_PER_DOCUMENT
from zs_env.task.prompts import fill, make_prompt
from zs_env.task.public_sets import PUBLIC_SETS
from zs_env.task.question_sets import check_public_split

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agents.cli.train import Train
    from agents.cli.train_setup import TrainSettings

QUESTION: Final = "which of the two directors of the film was born in the city of Port Vardale?"
"""Stands for any question where the length of one is wanted."""

_FRAME: Final = 24
"""Tokens around the documents of a search: tags, titles and line breaks."""

_CHARACTERS: Final = 4
"""Of an English token, where there is no tokenizer to ask."""

_VLLM_SHARE: Final = 0.92
"""Of a GPU that vLLM 0.32 takes unless told otherwise."""

_BYTES: Final = {"float32": 4, "bfloat16": 2}

_CLIPPED: Final = 512
"""Tokens of a document of any length, of which environments show 2048 characters."""


@dataclass(frozen=True)
class Tokens:
    """What is read and written in an update, at the most.

    Attributes:
        prompt: Tokens of an opening.
        action: Tokens of an action.
        documents: Tokens that a search brings.
        context: Tokens of a whole episode.
        num_episodes: Episodes an update.
        max_turns: Actions of an episode.
    """

    prompt: int
    action: int
    documents: int
    context: int
    num_episodes: int
    max_turns: int


@dataclass(frozen=True)
class Plan:
    """What a training would be.

    Attributes:
        policy: The model that is trained.
        simulator: The model that writes documents; None if that is not in this process.
        engine: The engine's name.
        questions: What is asked, in words.
        learning: How it learns from that, in words.
        tokens: What is read and written.
        memory: What is needed on the device.
        device: Where it is trained.
    """

    policy: ModelShape
    simulator: ModelShape | None
    engine: str
    questions: str
    learning: str
    tokens: Tokens
    memory: MemoryPlan
    device: str


def make_plan(config: Train) -> Plan:
    """Return what training would be; only configurations of models are read.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        FileNotFoundError: If a configuration is missing.
    """
    from agents.cli.train_setup import check_device_name, read_settings
    from agents.distributed import read_launch
    from agents.policies.folders import find_config

    settings = read_settings(config, read_launch())
    check_device_name(config.device)
    shape = read_shape(find_config(config.policy), settings.model)
    is_named = names_engine(config.engine)  # all else with a colon is an import path
    if ":" not in config.engine or (is_named and config.loads_engine):
        check_engine(config.engine)  # importing is left to training: it may do anything
    tokens = count_tokens(config)
    return Plan(
        policy=shape,
        simulator=simulator_shape(config.engine) if config.loads_engine else None,
        engine=config.engine,
        questions=describe_questions(config),
        learning=describe_learning(settings),
        tokens=tokens,
        memory=plan(shape, make_workload(config, tokens, shape)),
        device=config.device,
    )


def plan_memory(config: Train) -> MemoryPlan:
    """Return what training needs of the device's memory; only configurations of models are read.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        FileNotFoundError: If a configuration is missing.
    """
    from agents.policies.folders import find_config

    shape = read_shape(find_config(config.policy), _options(config))
    return plan(shape, make_workload(config, count_tokens(config), shape))


def _options(config: Train) -> ModelOptions:
    from agents.cli.train_setup import taken

    options: ModelOptions = taken(ModelOptions, config)
    return options


def make_workload(config: Train, tokens: Tokens, shape: ModelShape) -> Workload:
    """Return how a model is trained by each of the processes that were launched, if any were."""
    import torch

    from agents.cli.train_setup import chosen_algorithm, evaluated_together, played_together
    from agents.distributed import Sharing, read_launch
    from agents.samplers.names import OWN, read_sampler_name

    needs, options = chosen_algorithm(config).needs, _options(config)
    kind, dtype = (
        torch.device(config.device).type,
        options.dtype_on(torch.device(config.device).type),
    )
    launch = read_launch()
    sharing = Sharing.NOTHING if config.lora_rank else launch.sharing
    samples = read_sampler_name(config.policy_engine, config.policy_url).kind == OWN
    played, evaluated = (
        most(config, launch.size) for most in (played_together, evaluated_together)
    )
    num_episodes = max(played, evaluated) if samples else evaluated
    return Workload(
        weight_bytes=_BYTES[dtype],
        needs_reference=bool(needs & {"reference_in_targets", "reference_in_loss"}),
        needs_critic="critic" in needs,
        num_episodes=num_episodes,
        only_evaluates=not samples and evaluated > 0,
        rollout_batch_size=config.rollout_batch_size,
        tokens_read=_read_at_once(
            shape,
            min(config.rollout_batch_size, num_episodes),
            max(tokens.prompt, tokens.documents),
            lean=kind == "cpu" and dtype == "float32" and not config.lora_rank,
        ),
        context=min(tokens.context, shape.max_context),
        tokens_per_pass=config.max_tokens_per_pass,
        logit_chunk=config.logit_chunk,
        gradient_checkpointing=config.gradient_checkpointing,
        keeps_scores=kind == "cpu",
        steps_at_once=kind != "cpu",
        num_shards=launch.size if sharing is Sharing.FSDP else 1,
        num_zero_shards=launch.size if sharing is Sharing.DEEPSPEED else 1,
        writer=make_writer(config, max(played, evaluated)) if config.loads_engine else None,
        guests=tuple(guests(config, shape)),
    )


def _read_at_once(shape: ModelShape, num_rows: int, num_new: int, lean: bool) -> int:
    """Return how many new tokens of all rows are read at once."""
    from zs_env.lm.lean import FAMILY
    from zs_env.lm.reading import TOKENS_AT_ONCE

    num_tokens = num_rows * num_new
    if lean and shape.architecture in {kind.__name__ for kind in FAMILY}:
        return min(num_tokens, max(TOKENS_AT_ONCE, num_new))
    return num_tokens


def make_writer(config: Train, num_episodes: int) -> Writer | None:
    """Return what the simulator needs of the policy's device; None if it is elsewhere.

    Args:
        config: The options.
        num_episodes: Episodes that ask it at the same time, at most.

    Raises:
        FileNotFoundError: If a model should be there, and is not.
    """
    import torch

    from agents.policies.sharing import adapter_to_share

    kind = torch.device(config.device).type
    shape, options = simulator_shape(config.engine), _options(config)
    shares = bool(config.lora_rank and adapter_to_share(config.engine, config.policy))
    if shape is None or _is_vllm(config.engine) or (kind != "cpu" and not shares):
        return None  # a model of its own in this process is on the CPU
    adapter = _adapter_parameters(config.engine)
    most = options.rollout_batch_size if shares else ModelOptions.rollout_batch_size
    num_rows, prompt = min(most, num_episodes), count_request(config)
    return Writer(
        shape=shape,
        weight_bytes=_BYTES[options.dtype_on(kind) if shares else "float32"],
        num_own_parameters=adapter + (0 if shares else shape.num_parameters),
        shares_model=shares,
        num_rows=num_rows,
        tokens_read=_read_at_once(shape, num_rows, prompt, lean=not adapter),
        context=min(prompt + config.top_k * document_tokens(config.engine), shape.max_context),
    )


def guests(config: Train, shape: ModelShape) -> Iterator[Share]:
    """Yield what vLLM takes of the device: to sample for the policy, and as the simulator."""
    from agents.samplers.names import IN_PROCESS, read_sampler_name

    name = read_sampler_name(config.policy_engine, config.policy_url)
    if name.kind == IN_PROCESS:
        yield _vllm("vLLM samples", config, shape, name.options)
    if _is_vllm(config.engine) and config.loads_engine:
        found = simulator_shape(config.engine)
        assert found is not None
        yield _vllm("vLLM simulates", config, found, {})


def _vllm(name: str, config: Train, shape: ModelShape, options: Mapping[str, Any]) -> Share:
    import torch

    from agents.samplers.opening import CPU_CACHE_BYTES

    kind = torch.device(config.device).type
    dtype = options.get("dtype") or _options(config).dtype_on(kind)
    size = 4 if dtype == "float32" else 2
    cache = options.get("kv_cache_memory_bytes", CPU_CACHE_BYTES if kind == "cpu" else None)
    if cache is not None:
        num = shape.num_parameters
        return Share(name, num * size + cache, f"{num:,} × {size} + {cache:,} of keys and values")
    share = options.get("gpu_memory_utilization", _VLLM_SHARE)
    total = total_memory(config.device)
    if total is None:
        return Share(name, 0, f"{share:g} of the device, which is not here")
    return Share(name, share * total, f"{share:g} × {total / GIB:.1f} GiB, all of the device")


# --- models -------------------------------------------------------------------------------------


def read_shape(folder: Path, options: ModelOptions) -> ModelShape:
    """Return the shape of the model whose config.json is in a folder.

    Raises:
        ValueError: If it is no causal LM's that can be sampled, or LoRA has no layer there.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from zs_env.lm.reading import cache_size, check_config, context_length

    try:
        config: Any = AutoConfig.from_pretrained(folder)
        check_config(config)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise ValueError(
            f"`policy` must be a causal language model, got {folder / 'config.json'}: {error}"
        ) from error
    text = config.get_text_config()
    return ModelShape(
        architecture=type(model).__name__,
        num_parameters=_count(model),
        num_body_parameters=_count(model.get_decoder()),
        num_largest=max(parameter.numel() for parameter in model.parameters()),
        num_adapter_parameters=count_adapter(model, options),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        num_heads=text.num_attention_heads,
        kv_size=math.prod(cache_size(config)),
        vocab_size=text.vocab_size,
        max_context=context_length(config),
    )


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_adapter(model: PreTrainedModel, options: ModelOptions) -> int:
    """Return the number of LoRA's parameters in a model, which may be on the meta device.

    Raises:
        ValueError: If it lacks layers that are to have an adapter.
    """
    import torch

    if not options.lora_rank:
        return 0
    head, targets = model.get_output_embeddings(), options.targets
    linear = {n: each for n, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    sizes = [
        module.in_features + module.out_features
        for name, module in linear.items()
        if (
            module is not head
            if targets == ALL_LINEAR
            else any(is_meant(name, target) for target in targets)
        )
    ]
    if not sizes or options.missing_targets(list(linear)):
        raise ValueError(
            f"`lora_targets` must name linear layers of the model, got {options.lora_targets!r}"
        )
    return options.lora_rank * sum(sizes)


def simulator_shape(engine: str) -> ModelShape | None:
    """Return the shape of the model that writes documents in this process, if one does.

    Raises:
        FileNotFoundError: If it should be there, and is not.
    """
    from agents.policies.folders import find_config

    if engine in MODELS:
        return read_shape(model_folder(engine), ModelOptions())
    place = _simulator_place(engine)
    if place is None or place.urls:
        return None
    return read_shape(find_config(place.name), ModelOptions())


def _adapter_parameters(engine: str) -> int:
    """Return the numbers in the adapter of an engine's model; 0 if it has none."""
    from agents.policies.folders import ADAPTER_CONFIG_FILE
    from agents.weights import Weights

    place = _simulator_place(engine)
    if place is None or not (Path(place.name) / ADAPTER_CONFIG_FILE).is_file():
        return 0
    return Weights.read(Path(place.name)).num_parameters


def _is_vllm(engine: str) -> bool:
    return engine.startswith("vllm:")


def _simulator_place(engine: str) -> Place | None:
    scheme, _, rest = engine.partition(":")
    return read_place(rest) if scheme in ("simulator", "vllm") and rest else None


# --- data and tokens ----------------------------------------------------------------------------


def describe_questions(config: Train) -> str:
    """Return what is asked, in words; public sets are not downloaded to count them.

    Raises:
        ValueError: If there is no such set, or it has no such split.
    """
    num = _count_questions(config, config.split)
    if config.eval_every:
        _count_questions(config, config.eval_split)
    names = ", ".join(name.strip() for name in config.questions.split(","))
    return f"{names} ({config.split})" + ("" if num is None else f": {num:,} questions")


def _count_questions(config: Train, split: str) -> int | None:
    """Return how many questions a split has; None where that takes a download.

    Raises:
        ValueError: If there is no such set, or it has no such split.
    """
    names = [name.strip() for name in config.questions.split(",")]
    public = [PUBLIC_SETS[name] for name in names if name in PUBLIC_SETS]
    for each in public:
        check_public_split(each, split)
    return None if public else len(load_questions(config.questions, split, 0, config.seed))


def describe_learning(settings: TrainSettings) -> str:
    """Return by what rule and in which steps the policy learns, in words."""
    algorithm, trainer = settings.algorithm, settings.trainer
    rates = f"learning rate {trainer.learning_rate:g}"
    if "critic" in algorithm.needs:
        rates += f" and {trainer.critic_learning_rate:g} of the critic"
    falls: str = trainer.schedule
    if falls != "constant":
        falls += f", down to {trainer.last_rate_share:g} of that"
    kl_coef = getattr(algorithm, "kl_coef", None)
    return ", ".join(
        (
            f"{type(algorithm).__name__}",
            f"{rates} ({falls})",
            f"warm-up {trainer.num_warmup_updates} updates",
            f"epochs {algorithm.num_epochs}",
            f"minibatches {trainer.num_minibatches}",
            "no KL coefficient" if kl_coef is None else f"KL coefficient {kl_coef:g}",
        )
    )


def count_tokens(config: Train) -> Tokens:
    """Return what is read and written in an update, at the most.

    Raises:
        ValueError: If there is no such prompt.
    """
    prompt = count_prompt(config, fill(make_prompt(config.prompt), QUESTION))
    documents = config.top_k * document_tokens(config.engine) + _FRAME
    turn = config.max_new_tokens + documents
    return Tokens(
        prompt=prompt,
        action=config.max_new_tokens,
        documents=documents,
        context=prompt + config.max_turns * turn,
        num_episodes=config.num_questions * config.group_size,
        max_turns=config.max_turns,
    )


def count_prompt(config: Train, text: str) -> int:
    """Return the tokens of an opening, by the policy's own tokenizer if it is there."""
    from agents.policies.chat import decide_chat, opening_ids
    from agents.policies.folders import find_config

    tokenizer = _tokenizer(find_config(config.policy))
    if tokenizer is None:
        return len(text) // _CHARACTERS
    chat = decide_chat(_options(config).wants_chat, tokenizer)
    return len(opening_ids(text, tokenizer, chat))


def count_request(config: Train) -> int:
    """Return the tokens of what a simulator in this process reads for a query.

    Raises:
        ValueError: If there is no such prompt.
    """
    from agents.policies.folders import find_config
    from zs_env.lm.chat import prompt_text
    from zs_env.search.engine import SearchRequest
    from zs_env.search.prompts import load_prompt

    place = _simulator_place(config.engine)
    folder = find_config(place.name) if place else model_folder(config.engine)
    prompt = load_prompt(place.options.get("prompt", "tuned") if place else "tuned")
    asked = prompt(SearchRequest(QUESTION, QUESTION, ("Port Vardale",), top_k=config.top_k))
    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        read = len(asked if isinstance(asked, str) else asked.plain) // _CHARACTERS
    else:
        read = len(tokenizer.encode(prompt_text(asked, tokenizer), add_special_tokens=False))
    return read


def _tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder; None if there is none."""
    from transformers import AutoTokenizer

    from agents.policies.folders import has_tokenizer

    return AutoTokenizer.from_pretrained(folder) if has_tokenizer(folder) else None


def document_tokens(engine: str) -> int:
    """Return how many tokens a document of an engine has, at the most.

    Example:
        >>> [document_tokens(name) for name in ("simulator", "simulator:x?tokens=80", "bm25")]
        [32, 80, 512]
    """
    place = _simulator_place(engine)
    if place is None:
        return MAX_TOKENS_PER_DOCUMENT if engine in MODELS else _CLIPPED
    templated = place.options.get("prompt", "tuned") != "tuned"
    default = MAX_TOKENS_OF_A_TEMPLATE if templated else MAX_TOKENS_PER_DOCUMENT
    return int(place.options.get("tokens", default))


# --- showing it ---------------------------------------------------------------------------------


def print_plan(shown: Plan, console: Console) -> None:
    """Print a plan: a few lines, then the memory as a table."""
    from agents.cli.display import new_table, say

    for line in plan_lines(shown):
        say(console, line)
    table = new_table()
    for name in ("memory", "when", "GiB", "bytes"):
        table.add_column(name, justify="right" if name == "GiB" else "left")
    for share in shown.memory.shares:
        table.add_row(share.name, share.when, f"{share.num_bytes / GIB:.2f}", share.formula)
    peak = "lasting parts, and the largest of sampling, learning and AdamW's step"
    table.add_row("at the most", "", f"{shown.memory.peak / GIB:.2f}", peak)
    available = available_memory(shown.device)
    free = "?" if available is None else f"{available / GIB:.2f}"
    table.add_row(f"free on {shown.device}", "", free, "")
    console.print(table)
    if available is not None and shown.memory.certain <= available < shown.memory.peak:
        say(console, "warning: long episodes may not fit")


def plan_lines(shown: Plan) -> list[str]:
    """Return all of a plan but its memory, in lines."""
    tokens, policy = shown.tokens, shown.policy
    lines = [f"policy: {_model_line(policy)}"]
    if policy.num_adapter_parameters:
        lines.append(f"trained: {policy.num_adapter_parameters:,} parameters (LoRA)")
    if shown.simulator is None:
        lines.append(f"engine: {shown.engine}")
    else:
        lines.append(f"simulator: {shown.engine}, {_model_line(shown.simulator)}")
    lines.append(f"questions: {shown.questions}")
    lines.append(f"learning: {shown.learning}")
    lines.append(
        f"an episode: {tokens.prompt} tokens of prompt + {tokens.max_turns} turns × "
        f"({tokens.action} written + {tokens.documents} read) = {tokens.context:,} at the most"
    )
    if tokens.context > policy.max_context:
        lines.append(f"warning: the model reads {policy.max_context:,} tokens only")
    written = tokens.num_episodes * tokens.max_turns * tokens.action
    lines.append(
        f"an update: {tokens.num_episodes:,} episodes, {written:,} tokens written and "
        f"{tokens.num_episodes * tokens.context:,} in all, at the most"
    )
    return lines


def _model_line(shape: ModelShape) -> str:
    return (
        f"{shape.architecture}, {shape.num_parameters:,} parameters, {shape.num_layers} layers, "
        f"{shape.vocab_size:,} tokens, context {shape.max_context:,}"
    )

"""What training a model needs of a device's memory, by formulas, before anything is loaded.

Weights, gradients and moments are exact. A cache of keys and values is as large as if no episode
ended early. Activations are an estimate for decoders with gated MLPs, of what autograd keeps.
Sampling, learning and the optimiser's step take turns, so that the largest of the three counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GIB: Final = 2**30
_LOGIT_BYTES: Final = 20
"""For each logit: itself, its log-probability, their gradients and a probability, in float32."""

_DRAW_BYTES: Final = 16
"""For each logit that is sampled from: itself, in float32 too, divided, and its probability."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory depends on, of a model that need not be loaded.

    Attributes:
        architecture: Name of its class.
        num_parameters: All of them, tied ones once.
        num_body_parameters: The same without a head of its own.
        num_largest: Those of the largest weight.
        num_adapter_parameters: Of LoRA's matrices; 0 where all weights are trained.
        num_layers: Decoder layers.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside an MLP.
        num_heads: Heads of queries.
        kv_size: Width of a layer's keys.
        vocab_size: Logits of a token.
        max_context: Tokens that it can read.
    """

    architecture: str
    num_parameters: int
    num_body_parameters: int
    num_largest: int
    num_adapter_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    kv_size: int
    vocab_size: int
    max_context: int


class When(StrEnum):
    """When a part of the memory is needed."""

    ALWAYS = "always"  # whatever is played
    SAMPLING = "sampling"
    LEARNING = "learning"
    STEPPING = "stepping"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the memory.

    Attributes:
        name: What it is for.
        num_bytes: How much it is.
        formula: How that was found.
        when: In which part of an update it is needed.
    """

    name: str
    num_bytes: float
    formula: str
    when: When = When.ALWAYS


@dataclass(frozen=True, slots=True)
class Writer:
    """A simulator on the same device as the policy.

    Attributes:
        shape: Of its model.
        weight_bytes: Of one of its model's numbers: 4 or 2.
        num_own_parameters: Those that it does not share with the policy: all, or its adapter's,
            which are in float32.
        shares_model: Whether it has an adapter on the policy's model.
        num_rows: Requests of one forward pass.
        tokens_read: Of their prompts, those that are read at once.
        context: Tokens of the longest prompt and its reply.
    """

    shape: ModelShape
    weight_bytes: int
    num_own_parameters: int
    shares_model: bool
    num_rows: int
    tokens_read: int
    context: int


@dataclass(frozen=True, slots=True)
class Workload:
    """How a model is trained.

    Attributes:
        weight_bytes: Of one of the model's numbers: 4 or 2.
        needs_reference: Whether the loss or the targets need a frozen reference.
        needs_critic: Whether there is a critic.
        num_episodes: Episodes that are played side by side.
        rollout_batch_size: Of them, those that are sampled in one forward pass.
        tokens_read: New tokens of these that are read at once.
        context: Tokens of the longest episode.
        tokens_per_pass: Padded tokens of one forward and backward pass.
        logit_chunk: Tokens whose logits exist at the same time.
        gradient_checkpointing: Whether the backward pass computes each layer again.
        keeps_scores: Whether attention keeps a number for each pair of tokens, as ours does on a
            CPU.
        steps_at_once: Whether the optimiser computes all weights at the same time, as torch's
            `foreach` does off the CPU.
        num_shards: Processes that share out weights, gradients and moments; 1 if none do.
        num_zero_shards: Processes that share out the moments alone; 1 if none do.
        writer: The simulator; None if it is elsewhere.
        guests: What vLLM takes in this process, where it is.
        only_evaluates: Whether the episodes are those of evaluations, as another engine plays
            those that are trained on.
    """

    weight_bytes: int
    needs_reference: bool
    needs_critic: bool
    num_episodes: int
    rollout_batch_size: int
    tokens_read: int
    context: int
    tokens_per_pass: int
    logit_chunk: int
    gradient_checkpointing: bool
    keeps_scores: bool
    steps_at_once: bool = False
    num_shards: int = 1
    num_zero_shards: int = 1
    writer: Writer | None = None
    guests: tuple[Share, ...] = ()
    only_evaluates: bool = False

    @property
    def num_moment_shards(self) -> int:
        """Processes that share out the moments, alone or with what they are of."""
        return max(self.num_shards, self.num_zero_shards)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All parts of the memory that training needs."""

    shares: tuple[Share, ...]

    @property
    def certain(self) -> float:
        """Bytes that are needed whatever is played."""
        return sum(share.num_bytes for share in self.shares if share.when is When.ALWAYS)

    @property
    def peak(self) -> float:
        """Bytes at the most."""
        return self.certain + max(
            sum(share.num_bytes for share in self.shares if share.when is when)
            for when in (When.SAMPLING, When.LEARNING, When.STEPPING)
        )

    def check(self, device: str) -> None:
        """Check that what is certain to be needed fits.

        Raises:
            ValueError: If a device has less than that, as far as it can be asked.
        """
        available = available_memory(device)
        if available is not None and self.certain > available:
            parts = ", ".join(
                f"{share.name} {share.num_bytes / GIB:.1f}"
                for share in self.shares
                if share.when is When.ALWAYS
            )
            raise ValueError(
                f"`device` must have {self.certain / GIB:.1f} GiB of free memory ({parts}), got "
                f"{device!r} with {available / GIB:.1f} GiB; --lora-rank and --dtype save most"
            )


def plan(shape: ModelShape, work: Workload) -> MemoryPlan:
    """Return what training a model of this shape needs."""
    return MemoryPlan(
        (
            *_lasting(shape, work),
            *_sampling(shape, work),
            *_learning(shape, work),
            _stepping(shape, work),
        )
    )


def _lasting(shape: ModelShape, work: Workload) -> Iterator[Share]:
    size, all_of_it, adapter = work.weight_bytes, shape.num_parameters, shape.num_adapter_parameters
    # An adapter is in float32 whatever the model is in.
    trained, trained_size = (adapter, 4) if adapter else (all_of_it, size)
    part, among = work.num_shards, _among(work.num_shards)
    weights = f"{all_of_it:,} × {size}" + (f" + {adapter:,} × 4" if adapter else "")
    yield Share("weights", (all_of_it * size + adapter * 4) / part, weights + among)
    yield Share("gradients", trained * trained_size / part, f"{trained:,} × {trained_size}{among}")
    moments = f"{trained:,} × 2 × {trained_size}{_among(work.num_moment_shards)}"
    yield Share("optimiser", trained * 2 * trained_size / work.num_moment_shards, moments)
    if among:
        yield Share("whole copy", all_of_it * size, f"{all_of_it:,} × {size}, which samples")
    if work.needs_reference and adapter:
        yield Share("reference", 0, "the same weights, adapter off")
    elif work.needs_reference:
        yield Share("reference", all_of_it * size, f"{all_of_it:,} × {size}")
    if work.needs_critic:
        body = shape.num_body_parameters
        each, how = 2 / part + 2 / work.num_moment_shards, f"4{among}"
        if work.num_zero_shards > 1:
            how = f"(2 + 2{_among(work.num_zero_shards)})"
        yield Share("critic", body * size * each, f"{body:,} × {size} × {how}")
    if work.writer is not None:
        yield _simulator(work.writer)
    yield from work.guests


def _simulator(writer: Writer) -> Share:
    num, size = writer.num_own_parameters, 4 if writer.shares_model else writer.weight_bytes
    shared = "the policy's model + " if writer.shares_model else ""
    return Share("simulator", num * size, f"{shared}{num:,} × {size}")


def _sampling(shape: ModelShape, work: Workload) -> Iterator[Share]:
    batch = min(work.rollout_batch_size, work.num_episodes)
    kind = "episodes of evaluations" if work.only_evaluates else "episodes"
    rows, token = work.num_episodes + batch, 2 * shape.num_layers * shape.kv_size
    yield Share(
        "keys and values",
        rows * work.context * token * work.weight_bytes,
        f"({work.num_episodes} {kind} + {batch} being sampled) × {work.context} tokens × 2 × "
        f"{shape.num_layers} layers × {shape.kv_size} × {work.weight_bytes}",
        When.SAMPLING,
    )
    yield _reading("reading", shape, work.tokens_read, work, work.keeps_scores)
    draws = f"{batch} × {shape.vocab_size} × {_DRAW_BYTES}"
    yield Share("draws", batch * shape.vocab_size * _DRAW_BYTES, draws, When.SAMPLING)
    if work.writer is not None:
        yield from _writing(work.writer, work)


def _reading(
    name: str, shape: ModelShape, num_tokens: int, work: Workload | Writer, scores: bool = False
) -> Share:
    """Return what one layer makes of all tokens that are new, and the mask."""
    inner, formula = 3 * shape.intermediate_size, f"3 × {shape.intermediate_size}"
    if scores and 2 * shape.num_heads * work.context > inner:
        inner, formula = (
            2 * shape.num_heads * work.context,
            f"2 × {shape.num_heads} heads × context",
        )
    numbers, size = work.context + 4 * shape.hidden_size + inner, work.weight_bytes
    formula = (
        f"{num_tokens} tokens × ({work.context} of context + 4 × {shape.hidden_size} + {formula}) "
        f"× {size}"
    )
    return Share(name, num_tokens * numbers * size, formula, When.SAMPLING)


def _writing(writer: Writer, work: Workload) -> Iterator[Share]:
    shape = writer.shape
    token = 2 * shape.num_layers * shape.kv_size * writer.weight_bytes
    yield Share(
        "simulator's keys and values",
        writer.num_rows * writer.context * token,
        f"{writer.num_rows} requests × {writer.context} tokens × 2 × {shape.num_layers} layers × "
        f"{shape.kv_size} × {writer.weight_bytes}",
        When.SAMPLING,
    )
    yield _reading("simulator's reading", shape, writer.tokens_read, writer, work.keeps_scores)


def _learning(shape: ModelShape, work: Workload) -> Iterator[Share]:
    tokens = max(work.tokens_per_pass, work.context)
    numbers, formula = _activations(shape, work)
    yield Share(
        "activations",
        tokens * numbers * work.weight_bytes,
        f"{tokens} tokens × ({formula}) × {work.weight_bytes}",
        When.LEARNING,
    )
    chunk = min(work.logit_chunk, tokens)
    logits = f"{chunk} tokens × {shape.vocab_size} × {_LOGIT_BYTES}"
    yield Share("logits", chunk * shape.vocab_size * _LOGIT_BYTES, logits, When.LEARNING)
    if not shape.num_adapter_parameters:
        size, num = work.weight_bytes, shape.num_largest
        yield Share("a gradient to add", num * size, f"{num:,} × {size}", When.LEARNING)
    if work.num_shards > 1:
        yield _gathered(shape, work)


def _gathered(shape: ModelShape, work: Workload) -> Share:
    """Return what FSDP puts together for a pass: this layer, the next one, and all outside."""
    layer = (shape.num_body_parameters - shape.num_largest) // shape.num_layers
    num = shape.num_parameters - (shape.num_layers - 2) * layer
    formula = f"{num:,} × 2 × {work.weight_bytes}, weights and gradients"
    return Share("gathered", num * 2 * work.weight_bytes, formula, When.LEARNING)


def _stepping(shape: ModelShape, work: Workload) -> Share:
    """Return what AdamW computes beside its moments: a root of each, or of the largest weight."""
    adapter = shape.num_adapter_parameters
    trained, size = (adapter, 4) if adapter else (shape.num_parameters, work.weight_bytes)
    largest = min(shape.num_largest, trained)
    if not work.steps_at_once:
        return Share("AdamW's step", largest * 2 * size, f"{largest:,} × 2 × {size}", When.STEPPING)
    formula = f"{trained:,} × {size}{_among(work.num_moment_shards)} (foreach)"
    return Share("AdamW's step", trained / work.num_moment_shards * size, formula, When.STEPPING)


def _among(num_shards: int) -> str:
    return f" / {num_shards}" if num_shards > 1 else ""


def _activations(shape: ModelShape, work: Workload) -> tuple[int, str]:
    """Return the numbers that are kept of each token, and how that was found.

    A layer keeps what its two norms, its rotations, its projections and its MLP read; where keys
    and values are repeated for the heads that share them, these, too. The layer that is passed
    back through has gradients of all that beside it.
    """
    layers, hidden, inner = shape.num_layers, shape.hidden_size, shape.intermediate_size
    hiddens, keys = (8, 2) if work.keeps_scores else (12, 6)
    layer = hiddens * hidden + keys * shape.kv_size + 4 * inner
    parts = f"{hiddens} × {hidden} + {keys} × {shape.kv_size} + 4 × {inner}"
    if work.keeps_scores:
        layer += shape.num_heads * work.context
        parts += f" + {shape.num_heads} × {work.context}"
    if work.gradient_checkpointing:
        numbers, formula = (
            layers * hidden + 2 * layer,
            f"{layers} layers × {hidden} + 2 × ({parts})",
        )
    else:
        numbers, formula = (layers + 1) * layer, f"({layers} layers + 1) × ({parts})"
    # The loss looks at policy and critic together.
    return (2 * numbers, f"2 × {formula}") if work.needs_critic else (numbers, formula)


def total_memory(device: str) -> int | None:
    """Return the bytes of a GPU; None where there is none."""
    import torch

    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info(torch.device(device))[1])


def available_memory(device: str) -> int | None:
    """Return the bytes that are free on a device; None where it is not there, or cannot tell."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    if kind != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(free) * 1024
    except (OSError, StopIteration):
        pass  # not Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None

"""What training a model needs of a device's memory, by formulas, before anything is loaded.

Weights, gradients and moments are exact. A cache of keys and values is as large as if no episode
ended early. Activations are an estimate for decoders with gated MLPs, of what autograd keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

GIB: Final = 2**30
_LOGIT_BYTES: Final = 20
"""For each logit: itself, its log-probability, their gradients and a probability, in float32."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory depends on, of a model that need not be loaded.

    Attributes:
        architecture: Name of its class.
        num_parameters: All of them, tied ones once.
        num_body_parameters: The same without a head of its own.
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
    num_adapter_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    kv_size: int
    vocab_size: int
    max_context: int


@dataclass(frozen=True, slots=True)
class Writer:
    """A simulator on the same device as the policy.

    Attributes:
        shape: Of its model.
        weight_bytes: Of one of its model's numbers: 4 or 2.
        num_own_parameters: Those that it does not share with the policy: all, or its adapter's,
            which are in float32.
        shares_model: Whether it has an adapter on the policy's model.
        batch_size: Requests of one forward pass, at most.
        context: Tokens of the longest prompt and its reply.
    """

    shape: ModelShape
    weight_bytes: int
    num_own_parameters: int
    shares_model: bool
    batch_size: int
    context: int


@dataclass(frozen=True, slots=True)
class Workload:
    """How a model is trained.

    Attributes:
        weight_bytes: Of one of the model's numbers: 4 or 2.
        needs_reference: Whether the loss or the targets need a frozen reference.
        needs_critic: Whether there is a critic.
        num_episodes: Episodes an update.
        rollout_batch_size: Of them, those that are sampled in one forward pass.
        context: Tokens of the longest episode.
        tokens_per_pass: Padded tokens of one forward and backward pass.
        logit_chunk: Tokens whose logits exist at the same time.
        gradient_checkpointing: Whether the backward pass computes each layer again.
        keeps_scores: Whether attention keeps a number for each pair of tokens, as ours does on a
            CPU.
        writer: The simulator; None if it is elsewhere.
    """

    weight_bytes: int
    needs_reference: bool
    needs_critic: bool
    num_episodes: int
    rollout_batch_size: int
    context: int
    tokens_per_pass: int
    logit_chunk: int
    gradient_checkpointing: bool
    keeps_scores: bool
    writer: Writer | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the memory.

    Attributes:
        name: What it is for.
        num_bytes: How much it is.
        formula: How that was found.
        stays: Whether it is needed all the time, whatever is played.
    """

    name: str
    num_bytes: float
    formula: str
    stays: bool


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All parts of the memory that training needs."""

    shares: tuple[Share, ...]

    @property
    def certain(self) -> float:
        """Bytes that are needed whatever is played."""
        return sum(share.num_bytes for share in self.shares if share.stays)

    @property
    def peak(self) -> float:
        """Bytes at the most: sampling and learning take turns."""
        sampling, learning = (
            sum(share.num_bytes for share in self.shares if share.name in names)
            for names in (_SAMPLING, _LEARNING)
        )
        return self.certain + max(sampling, learning)

    def check(self, device: str) -> None:
        """Check that what is certain to be needed fits.

        Raises:
            ValueError: If a device has less than that, as far as it can be asked.
        """
        available = available_memory(device)
        if available is not None and self.certain > available:
            parts = ", ".join(
                f"{share.name} {share.num_bytes / GIB:.1f}" for share in self.shares if share.stays
            )
            raise ValueError(
                f"`device` must have {self.certain / GIB:.1f} GiB of free memory ({parts}), got "
                f"{device!r} with {available / GIB:.1f} GiB; --lora-rank and --dtype save most"
            )


_SAMPLING: Final = ("keys and values", "simulator's keys and values")
_LEARNING: Final = ("activations", "logits")


def plan(shape: ModelShape, work: Workload) -> MemoryPlan:
    """Return what training a model of this shape needs."""
    return MemoryPlan((*_lasting(shape, work), *_passing(shape, work)))


def _lasting(shape: ModelShape, work: Workload) -> Iterator[Share]:
    size, all_of_it, adapter = work.weight_bytes, shape.num_parameters, shape.num_adapter_parameters
    # An adapter is in float32 whatever the model is in.
    trained, trained_size = (adapter, 4) if adapter else (all_of_it, size)
    weights = f"{all_of_it:,} × {size}" + (f" + {adapter:,} × 4" if adapter else "")
    yield Share("weights", all_of_it * size + adapter * 4, weights, True)
    yield Share("gradients", trained * trained_size, f"{trained:,} × {trained_size}", True)
    moments = f"{trained:,} × 2 × {trained_size}"
    yield Share("optimiser", trained * 2 * trained_size, moments, True)
    if work.needs_reference and adapter:
        yield Share("reference", 0, "the same weights, adapter off", True)
    elif work.needs_reference:
        yield Share("reference", all_of_it * size, f"{all_of_it:,} × {size}", True)
    if work.needs_critic:
        body = shape.num_body_parameters
        yield Share("critic", body * 4 * size, f"{body:,} × {size} × 4", True)
    if work.writer is not None:
        yield _simulator(work.writer)


def _simulator(writer: Writer) -> Share:
    num, size = writer.num_own_parameters, 4 if writer.shares_model else writer.weight_bytes
    shared = "the policy's model + " if writer.shares_model else ""
    return Share("simulator", num * size, f"{shared}{num:,} × {size}", True)


def _passing(shape: ModelShape, work: Workload) -> Iterator[Share]:
    batch = min(work.rollout_batch_size, work.num_episodes)
    rows, token = work.num_episodes + batch, 2 * shape.num_layers * shape.kv_size
    yield Share(
        "keys and values",
        rows * work.context * token * work.weight_bytes,
        f"({work.num_episodes} episodes + {batch} being sampled) × {work.context} tokens × 2 × "
        f"{shape.num_layers} layers × {shape.kv_size} × {work.weight_bytes}",
        False,
    )
    if work.writer is not None:
        yield _simulator_cache(work.writer, work.num_episodes)
    tokens = max(work.tokens_per_pass, work.context)
    numbers, formula = _activations(shape, work)
    yield Share(
        "activations",
        tokens * numbers * work.weight_bytes,
        f"{tokens} tokens × ({formula}) × {work.weight_bytes}",
        False,
    )
    chunk = max(min(work.logit_chunk, tokens), batch)
    logits = f"{chunk} tokens × {shape.vocab_size} × {_LOGIT_BYTES}"
    yield Share("logits", chunk * shape.vocab_size * _LOGIT_BYTES, logits, False)


def _simulator_cache(writer: Writer, num_episodes: int) -> Share:
    shape, rows = writer.shape, min(writer.batch_size, num_episodes)
    token = 2 * shape.num_layers * shape.kv_size * writer.weight_bytes
    return Share(
        "simulator's keys and values",
        rows * writer.context * token,
        f"{rows} requests × {writer.context} tokens × 2 × {shape.num_layers} layers × "
        f"{shape.kv_size} × {writer.weight_bytes}",
        False,
    )


def _activations(shape: ModelShape, work: Workload) -> tuple[int, str]:
    """Return the numbers that are kept of each token, and how that was found.

    A layer keeps what its two norms, its rotations, its projections and its MLP read.
    """
    layers, hidden = shape.num_layers, shape.hidden_size
    layer = 12 * hidden + 6 * shape.kv_size + 4 * shape.intermediate_size
    parts = f"12 × {hidden} + 6 × {shape.kv_size} + 4 × {shape.intermediate_size}"
    if work.keeps_scores:
        layer += shape.num_heads * work.context
        parts += f" + {shape.num_heads} × {work.context}"
    if work.gradient_checkpointing:
        return layers * hidden + layer, f"{layers} layers × {hidden} + {parts}"
    return layers * layer, f"{layers} layers × ({parts})"


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

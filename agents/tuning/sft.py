"""Supervised fine-tuning of a small causal LM on the CPU or one GPU: a weighted next-token loss.

Every example is a list of token ids with one loss weight a token. Batches are drawn from buckets
of similar length, in an order fixed by the seed, so that a run can be repeated exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from agents.tuning.sft_config import SFTConfig
from zs_env.lm.attention import GROUPED_ATTENTION, causal_mask

__all__ = [
    "Example",
    "SFTConfig",
    "batches",
    "collate",
    "finetune",
    "learning_rate_at",
    "make_optimizer",
    "weighted_loss",
]


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids and, for each, the weight of predicting it (0 for what is only read).

    Attributes:
        token_ids: At least two ids.
        weights: As many numbers; the first is never used, for nothing predicts the first token.
        name: Where it comes from, for messages.
    """

    token_ids: list[int]
    weights: list[float]
    name: str = ""


def batches(examples: Sequence[Example], batch_size: int, seed: int) -> Iterator[list[Example]]:
    """Yield each example once, neighbours of similar length together, batches in random order.

    Lengths are sorted only inside pools of 50 batches: sorting all of them would show the model
    short examples and long ones in different batches for the whole run.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator).tolist()
    pool = 50 * batch_size
    for start in range(0, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lambda i: len(examples[i].token_ids))
        groups = [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
        for index in torch.randperm(len(groups), generator=generator).tolist():
            yield [examples[i] for i in groups[index]]


def collate(batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (B, T) and weights (B, T), padded on the right with weight 0."""
    length = max(len(example.token_ids) for example in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    weights = torch.zeros(len(batch), length)
    for row, example in enumerate(batch):
        ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        weights[row, : len(example.weights)] = torch.tensor(example.weights)
    return ids, weights


def weighted_loss(model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of -log p(token) over the batch; a scalar."""
    mask = causal_mask(ids.shape[1] - 1, torch.float32, ids.device)
    hidden = model.base_model(
        input_ids=ids[:, :-1], attention_mask=mask, use_cache=False
    ).last_hidden_state
    targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
    wanted = torch.nonzero(weights).flatten()
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[wanted])
    losses = functional.cross_entropy(logits.float(), targets[wanted], reduction="none")
    return (losses * weights[wanted]).sum() / weights.sum()


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], config: SFTConfig
) -> torch.optim.AdamW:
    """Return the optimiser of fine-tuning."""
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )


def learning_rate_at(config: SFTConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0: a linear warm-up, then a linear fall.

    Example:
        >>> config = SFTConfig(1.0, 0.0, warmup_steps=2)
        >>> [learning_rate_at(config, step, 6) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate + done * (config.final_learning_rate - config.learning_rate)


def finetune(
    model: PreTrainedModel,
    examples: Sequence[Example],
    config: SFTConfig,
    report: Callable[[int, int, float, float], None] | None = None,
) -> None:
    """Train `model` in place for one epoch over `examples`.

    Args:
        model: Any causal LM with tied or untied head.
        examples: Training examples.
        config: Hyper-parameters.
        report: Called every 100 steps with (step, number of steps, mean loss, seconds).
    """
    model.set_attn_implementation(GROUPED_ATTENTION)
    model.train()
    optimizer = make_optimizer(model.parameters(), config)
    num_steps = -(-len(examples) // config.batch_size)
    start, losses = time.perf_counter(), []
    device = next(model.parameters()).device
    for step, batch in enumerate(batches(examples, config.batch_size, config.seed)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(config, step, num_steps)
        ids, weights = (tensor.to(device) for tensor in collate(batch))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.autocast):
            loss = weighted_loss(model, ids, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
        if report and (step + 1) % 100 == 0:
            report(step + 1, num_steps, sum(losses[-100:]) / 100, time.perf_counter() - start)
    model.eval()

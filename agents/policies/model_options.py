"""How a policy's model is loaded and trained; nothing here loads torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

DtypeName = Literal["auto", "float32", "bfloat16"]
ChatChoice = Literal["auto", "true", "false"]

ALL_LINEAR = "all-linear"

NO_CRITIC: Final = "`algorithm` must do without a critic where `lora_rank` is above 0, such as grpo"
"""Told where LoRA and an algorithm do not suit each other."""


@dataclass(frozen=True)
class ModelOptions:
    """How a policy's model is loaded and trained.

    Attributes:
        dtype: Type of the model's weights: float32, bfloat16, or auto, which is float32 but for
            weights that LoRA leaves alone on another device than the CPU.
        chat: Whether the question is put into the tokenizer's chat template: true, false, or
            auto, which means where there is one.
        gradient_checkpointing: Compute each layer again in the backward pass rather than keep
            what it made.
        logit_chunk: Tokens whose logits over the whole vocabulary exist at the same time in
            training; more tokens are computed again in the backward pass.
        rollout_batch_size: Episodes that are sampled in one forward pass, at most.
        lora_rank: Rank of LoRA's matrices; 0 trains all weights.
        lora_alpha: What LoRA adds is scaled by this over the rank.
        lora_targets: Names of the layers with an adapter, with commas between, or all-linear.
        seed: Key of LoRA's first weights.
    """

    dtype: DtypeName = "auto"
    chat: ChatChoice = "auto"
    gradient_checkpointing: bool = False
    logit_chunk: int = 2048
    rollout_batch_size: int = 256
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_targets: str = ALL_LINEAR
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: If one is out of its range.
        """
        for name, kinds in (("dtype", DtypeName), ("chat", ChatChoice)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise ValueError(f"`{name}` must be one of {known}, got {getattr(self, name)!r}")
        for name, lowest in (("logit_chunk", 1), ("rollout_batch_size", 1), ("lora_rank", 0)):
            if getattr(self, name) < lowest:
                value = getattr(self, name)
                raise ValueError(f"`{name}` must be at least {lowest}, got {value!r}")
        if not 0 < self.lora_alpha < math.inf:
            value = self.lora_alpha
            raise ValueError(f"`lora_alpha` must be greater than 0 and finite, got {value!r}")
        if not self.targets:
            raise ValueError(f"`lora_targets` must name layers, got {self.lora_targets!r}")
        for name in () if self.lora_rank else ("lora_alpha", "lora_targets"):
            if getattr(self, name) != getattr(type(self), name):
                value = getattr(self, name)
                raise ValueError(f"`{name}` needs a `lora_rank` above 0, got {value!r}")

    def check_critic(self) -> None:
        """Refuse a critic beside an adapter: it would be a whole model, which LoRA is to save.

        Raises:
            ValueError: If there is an adapter.
        """
        if self.lora_rank:
            raise ValueError(NO_CRITIC)

    @property
    def wants_chat(self) -> bool | None:
        """Whether contexts begin as chats; None where the tokenizer is to decide."""
        return {"auto": None, "true": True, "false": False}[self.chat]

    @property
    def targets(self) -> str | list[str]:
        """The layers with an adapter, as peft takes them."""
        names = [name.strip() for name in self.lora_targets.split(",") if name.strip()]
        return ALL_LINEAR if names == [ALL_LINEAR] else names

    def missing_targets(self, layers: Sequence[str]) -> list[str]:
        """Return those of `targets` that name none of a model's layers; peft lets them be."""
        names = [] if isinstance(self.targets, str) else self.targets
        return [name for name in names if not any(is_meant(layer, name) for layer in layers)]

    def dtype_on(self, device_type: str) -> Literal["float32", "bfloat16"]:
        """Return the type of the model's weights on a kind of device."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.lora_rank and device_type != "cpu" else "float32"


def is_meant(layer: str, target: str) -> bool:
    """Return whether a layer's name is a target, or ends in one, as peft sees it.

    Example:
        >>> is_meant("layers.0.self_attn.q_proj", "q_proj"), is_meant("layers.0.q_proj", "proj")
        (True, False)
    """
    return f".{layer}".endswith(f".{target}")

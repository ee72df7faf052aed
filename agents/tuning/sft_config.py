"""Hyper-parameters of supervised fine-tuning; nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SFTConfig:
    """Hyper-parameters of one training stage; `SFTOptions` tells what each of them is."""

    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-4
    batch_size: int = 16
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0
    autocast: bool = True


@dataclass(frozen=True)
class SFTOptions(SFTConfig):
    """What decides the weights that simulator tuning ends with, beside its data and its start.

    Attributes:
        learning_rate: Of AdamW after the warm-up; 2e-3 suits the shipped tiny models, 2e-4 LoRA,
            1e-5 a large model tuned in full.
        final_learning_rate: At the last step; it falls linearly.
        batch_size: Rows of the input a gradient step, over all processes.
        warmup_steps: Steps in which the learning rate rises.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are scaled down to this norm.
        seed: Key of the order, of the augmentations and of LoRA's first weights.
        autocast: Compute in bfloat16; weights and gradients stay in float32.
        epochs: Passes over the training rows.
        max_steps: Gradient steps at most; 0 means as many as the epochs have.
        max_tokens_per_pass: Padded tokens of one forward and backward pass; bounds memory only.
        pack: Tokens of a row that several examples share; 0 gives every example its own row. The
            loss stays the same.
        chat_template: Ask in the form of the tokenizer's chat template.
        off_topic: Rows added, as a share of the training rows, whose query and documents belong
            to another question, so that documents follow the query and not the answer.
        shuffled: Share of the training rows whose documents change their order.
        lora_rank: Rank of LoRA's matrices in all linear layers; 0 tunes all weights.
        lora_alpha: What LoRA adds is scaled by this over the rank.
        lora_dropout: Share of LoRA's inputs that are dropped.
        lora_merge: Write LoRA's result as a plain model rather than an adapter.
        eval_every: Steps between validations, before the first step and after the last too; 0
            means never, and then the last weights are kept rather than the best.
        eval_rows: Rows of the validation split that are looked at; 0 means all.
        patience: Stop after so many validations in a row without a new best; 0 means never.
        save_dtype: Type of the written weights: auto (that of the model tuned), float32,
            bfloat16 or float16; adapters are always float32.
    """

    learning_rate: float = 2e-4
    final_learning_rate: float = 1e-5
    epochs: int = 1
    max_steps: int = 0
    max_tokens_per_pass: int = 8192
    pack: int = 0
    chat_template: bool = False
    off_topic: float = 0.0
    shuffled: float = 0.0
    lora_rank: int = 0
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_merge: bool = False
    eval_every: int = 200
    eval_rows: int = 500
    patience: int = 5
    save_dtype: str = "auto"

    def __post_init__(self) -> None:
        """Check every value; see the class for what each must be.

        Raises:
            ValueError: If one is out of its range.
        """
        self._check_positive("learning_rate", "max_grad_norm", "lora_alpha")
        self._check_minimum(1, "batch_size", "epochs", "max_tokens_per_pass")
        self._check_minimum(0, "final_learning_rate", "warmup_steps", "weight_decay", "seed")
        self._check_minimum(0, "max_steps", "pack", "lora_rank", "eval_every", "eval_rows")
        self._check_minimum(0, "patience")
        for name in ("off_topic", "shuffled", "lora_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be a share in [0, 1], got {getattr(self, name)!r}")
        if self.lora_merge and not self.lora_rank:
            raise ValueError("`lora_merge` must come with a `lora_rank` above 0, got rank 0")
        if self.save_dtype not in SAVE_DTYPES:
            known = ", ".join(SAVE_DTYPES)
            raise ValueError(f"`save_dtype` must be one of {known}, got {self.save_dtype!r}")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be greater than 0, got {getattr(self, name)!r}")

    def _check_minimum(self, minimum: int, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= minimum:
                value = getattr(self, name)
                raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}")


SAVE_DTYPES = ("auto", "float32", "bfloat16", "float16")

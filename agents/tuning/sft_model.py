"""The model that fine-tuning changes: loaded whole or with LoRA, written as a folder at the end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from agents.tuning.sft_config import SFTOptions
from zs_env.lm.alignment import aligned
from zs_env.lm.attention import GROUPED_ATTENTION
from zs_env.lm.transformers import load_causal, no_progress_bars
from zs_env.models import MODELS, model_folder

if TYPE_CHECKING:
    from peft import PeftModel

EXTRA: Final = "pip install 'zs-env[train]'"
_PLAIN_ATTENTION: Final = ("llama", "qwen2", "qwen3", "mistral")
"""Types of models whose attention is what our grouped attention computes, and no more."""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A model to be tuned.

    Attributes:
        path: Folder or hub id that it came from.
        causal: The causal LM; with LoRA its linear layers hold the adapters.
        tokenizer: Its tokenizer.
        adapter: The same model as peft knows it; None without LoRA.
        stored_dtype: Type of the weights at `path`.
    """

    path: str
    causal: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: PeftModel | None
    stored_dtype: torch.dtype

    @property
    def max_context(self) -> float:
        """Tokens that the model can read; infinite where its configuration knows no limit."""
        config = self.causal.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        return math.inf if limit is None else int(limit)

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that are tuned, by name; tied ones once."""
        named = self.causal.named_parameters()
        return {name: parameter for name, parameter in named if parameter.requires_grad}


def resolve_model(name: str) -> str:
    """Return where a model is: the folder of a shipped one, an absolute folder, or a hub id."""
    if name in MODELS:
        return str(model_folder(name))
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model.

    Raises:
        OSError: If there is none.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    return tokenizer


def load_model(path: str, tokenizer: PreTrainedTokenizerBase, options: SFTOptions) -> TunedModel:
    """Return the model to be tuned, on the CPU.

    Weights that are tuned are in float32; those that LoRA leaves alone are in bfloat16 if the
    options compute in it.

    Raises:
        ValueError: If the model is no causal LM, its weights are damaged, or LoRA finds no linear
            layer.
        OSError: If there is no model.
        ImportError: If LoRA is wanted and peft is not installed.
    """
    stored = AutoConfig.from_pretrained(path).dtype or torch.float32
    frozen_half = options.lora_rank > 0 and options.autocast
    causal = _load_causal(path, torch.bfloat16 if frozen_half else torch.float32)
    adapter = add_lora(causal, options) if options.lora_rank else None
    return TunedModel(path, causal, tokenizer, adapter, stored)


def _load_causal(path: str, dtype: torch.dtype) -> PreTrainedModel:
    try:
        return aligned(load_causal(path, dtype))
    except SafetensorError as error:
        raise ValueError(f"`model` must be readable, got {path}: {error}") from error


def add_lora(causal: PreTrainedModel, options: SFTOptions) -> PeftModel:
    """Put LoRA's matrices into all linear layers of `causal`, in place; see arXiv 2106.09685.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If the model has no linear layer.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(f"`lora_rank` above 0 needs peft: {EXTRA}") from error
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules="all-linear",
    )
    with seeded(options.seed), _no_future_warnings():
        return get_peft_model(causal, config)


@contextmanager
def _no_future_warnings() -> Iterator[None]:
    """Keep peft from warning of what newer releases of Transformers will no longer let it do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let the body draw from torch's generators as `seed` says, and put them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def choose_attention(causal: PreTrainedModel, device: torch.device) -> None:
    """Use the grouped attention on a CPU, where it is faster, for models that it is right for."""
    config: Any = causal.config
    plain = config.model_type in _PLAIN_ATTENTION and not getattr(config, "attention_dropout", 0.0)
    if device.type == "cpu" and plain:
        causal.set_attn_implementation(GROUPED_ATTENTION)


def save_model(model: TunedModel, options: SFTOptions, folder: Path) -> None:
    """Write the tuned model and its tokenizer in Hugging Face format.

    Args:
        model: What was tuned; it is changed to the type it is written in.
        options: Say whether LoRA's result is merged, and in which type weights are written.
        folder: Made if missing.
    """
    with no_progress_bars():
        if model.adapter is None:
            _write(model.causal, model, options, folder)
        else:
            model.adapter.save_pretrained(str(folder))
            if options.lora_merge:
                _write(_merged(model.path, folder), model, options, folder)
    model.tokenizer.save_pretrained(folder)


def _write(causal: PreTrainedModel, model: TunedModel, options: SFTOptions, folder: Path) -> None:
    dtype = model.stored_dtype
    if options.save_dtype != "auto":
        dtype = getattr(torch, options.save_dtype)
    module: Any = causal
    module.to(dtype).save_pretrained(folder)


def _merged(path: str, folder: Path) -> PreTrainedModel:
    """Return the model at `path` with the adapter in `folder` added, whose files are removed.

    The sum is taken in float32: what was tuned beside bfloat16 weights would be rounded away.
    """
    from peft import PeftModel

    with _no_future_warnings():
        adapter = PeftModel.from_pretrained(_load_causal(path, torch.float32), str(folder))
    merged: Any = adapter.merge_and_unload()
    for file in folder.iterdir():
        file.unlink()
    result: PreTrainedModel = merged
    return result

"""A policy of which only a LoRA adapter is trained (arXiv 2106.09685); needs peft.

The model below the adapter never changes. So the frozen reference of a KL penalty is that same
model with the adapter switched off, and a checkpoint holds the adapter alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.batch import Batch
from agents.policies.causal_lm import CausalLMPolicy, load_lm, settings_of
from agents.policies.critic import Critic
from agents.policies.folders import (
    ADAPTER_CONFIG_FILE,
    base_of_adapter,
    find_policy,
    is_hub_id,
)
from agents.policies.model_options import NO_CRITIC, ModelOptions
from agents.policies.policy import TokenScores
from agents.tuning.sft_model import EXTRA, seeded
from zs_env.lm.transformers import TransformersSession, no_progress_bars

if TYPE_CHECKING:
    from peft import PeftModel


class LoraPolicy(CausalLMPolicy):
    """A policy that trains the adapter of a model, which is frozen itself."""

    def __init__(
        self, adapter: PeftModel, tokenizer: PreTrainedTokenizerBase, **settings: Any
    ) -> None:
        """Wrap a model with an adapter.

        Args:
            adapter: The model as peft knows it.
            tokenizer: Its tokenizer.
            settings: The further arguments of `CausalLMPolicy`.
        """
        causal: Any = adapter.get_base_model()
        super().__init__(causal, tokenizer, **settings)
        self.adapter = adapter
        self._module = AdapterWeights(causal)

    @property
    def module(self) -> torch.nn.Module:
        """The adapter's weights, and nothing of the model."""
        return self._module

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return the adapter's weights."""
        return self._module.parameters()

    def make_critic(self) -> Critic:
        """Refuse: a critic would be a whole further model, which is what LoRA is to save.

        Raises:
            ValueError: Always.
        """
        raise ValueError(NO_CRITIC)

    def frozen_copy(self) -> CausalLMPolicy:
        """Return the model below the adapter; it shares all weights with this policy.

        An adapter that is new adds nothing, so that this is then the policy as it is now.
        """
        return LoraReference(self)

    def save(self, folder: Path) -> None:
        """Write the adapter in peft's format, and the tokenizer; `merge` makes a whole model."""
        # peft would ask the hub whether the model's vocabulary has grown, which never happens.
        self.adapter.save_pretrained(str(folder), save_embedding_layers=False)
        self._save_tokenizer(folder)

    def _unsaid(self) -> dict[str, Any]:
        """Return what a folder's other files would not tell, or tell otherwise."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return super()._unsaid() | ({} if dtype == "float32" else {"dtype": dtype})

    def save_whole(self, folder: Path) -> None:
        """Write the model with the adapter added to it; the policy's own weights stay apart."""
        with no_progress_bars():
            self.model.save_pretrained(folder, state_dict=merged_weights(self.model))


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights that a model would have with its adapter added to them.

    Args:
        model: A model whose layers have an adapter each, or none.

    Returns:
        Tensors by the names that they have in the model without an adapter. What is added up is
        in the adapter's type, and on the CPU.
    """
    from peft.tuners.lora import LoraLayer

    adapted: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    merged = {}
    for name, tensor in model.state_dict().items():
        owner, _, rest = name.partition(".base_layer.")
        if rest == "weight":
            tensor = (tensor + adapted[owner].get_delta_weight("default")).cpu()
        if ".lora_" not in name:
            merged[f"{owner}.{rest}" if rest else name] = tensor
    return merged


class LoraReference(CausalLMPolicy):
    """The model below the adapter of a policy."""

    def __init__(self, policy: LoraPolicy) -> None:
        """Share everything with `policy`."""
        super().__init__(policy.model, policy.tokenizer, **policy._settings())
        self._adapter = policy.adapter

    @property
    def module(self) -> torch.nn.Module:
        """Nothing: the model is no part of what changes, and need not be kept."""
        return torch.nn.Module()

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return nothing."""
        return ()

    def score(self, batch: Batch, temperature: float = 1.0) -> TokenScores:
        """Score as the model does without the adapter."""
        with self._adapter.disable_adapter(), torch.no_grad():
            return super().score(batch, temperature)

    def session(self, num_rows: int) -> TransformersSession:
        """Refuse: a session would go on with the adapter once it is switched on again.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("the reference of a LoRA policy scores, and does not sample")


class AdapterWeights(torch.nn.Module):
    """The trainable parameters of a model, and none of the others."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Hold what `model` trains, under the same names with / in place of dots."""
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)


def load_lora_policy(
    name: str | Path, device: str | torch.device, options: ModelOptions
) -> LoraPolicy:
    """Return the policy in a folder with an adapter, or a model with a new adapter.

    Args:
        name: As for `find_policy`.
        device: Where it goes.
        options: How it is loaded and trained; those of LoRA are for a new adapter.

    Raises:
        FileNotFoundError: If there is no model, or not that below the adapter.
        ValueError: If a new adapter is wanted where there is one, or an option does not suit.
        ImportError: If peft is not installed.
    """
    _check_peft()
    folder = find_policy(name)
    if not (folder / ADAPTER_CONFIG_FILE).is_file():
        lm = load_lm(folder, device, options)
        adapter = _new_adapter(lm.model, _origin(name, folder), options)
        return LoraPolicy(adapter, lm.tokenizer, **settings_of(folder, options))
    if options.lora_rank:
        raise ValueError(
            f"`policy` must be a whole model where `lora_rank` is above 0, got the adapter "
            f"{folder}: merge it first (zerosearch models merge)"
        )
    return _load_adapter(folder, device, options)


def _check_peft() -> None:
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError(f"LoRA needs peft: {EXTRA}") from error


def _origin(name: str | Path, folder: Path) -> str:
    """Return what tells others where the model below an adapter is."""
    return str(name) if is_hub_id(name) else str(folder.resolve())


def _new_adapter(causal: PreTrainedModel, origin: str, options: ModelOptions) -> PeftModel:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_rank,
        # peft calls it an integer, and divides by it.
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        target_modules=options.targets,
    )
    with seeded(options.seed), no_future_warnings():
        try:
            adapter: PeftModel = get_peft_model(causal, config)
        except ValueError as error:
            raise ValueError(
                f"`lora_targets` must name linear layers of the model, got "
                f"{options.lora_targets!r}: {error}"
            ) from error
    tuner: Any = adapter.base_model
    if missing := options.missing_targets(tuner.targeted_module_names):
        raise ValueError(
            f"`lora_targets` must name linear layers of the model, got {options.lora_targets!r}: "
            f"there is no {missing[0]}"
        )
    # peft takes it from where the weights were, which may be a cache of this machine.
    adapter.peft_config["default"].base_model_name_or_path = origin
    return adapter


def _load_adapter(folder: Path, device: str | torch.device, options: ModelOptions) -> LoraPolicy:
    from peft import PeftModel

    base = base_of_adapter(folder)
    try:
        below = find_policy(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is an adapter for {base}: {error}") from error
    lm = load_lm(below, device, options)
    with no_future_warnings():
        adapter = PeftModel.from_pretrained(lm.model, str(folder), is_trainable=True)
    return LoraPolicy(adapter, lm.tokenizer, **settings_of(folder, options))


def merge(name: str | Path, out: Path) -> None:
    """Write a policy whose adapter is added to its model, as a plain model.

    Args:
        name: As for `find_policy`: a folder with an adapter.
        out: Gets the model in Hugging Face format, in the type that its files had.

    Raises:
        FileNotFoundError: If there is no adapter, or not the model below it.
        ValueError: If it is a whole model already.
    """
    _check_peft()
    folder = find_policy(name)
    if not (folder / ADAPTER_CONFIG_FILE).is_file():
        raise ValueError(f"`policy` must be a LoRA adapter, got the whole model {folder}")
    # Added up in float32: beside bfloat16 weights much of an adapter would be rounded away twice.
    policy = _load_adapter(folder, "cpu", ModelOptions(dtype="float32"))
    stored = _stored_dtype(find_policy(base_of_adapter(folder)))
    merged: Any = policy.adapter.merge_and_unload()
    with no_progress_bars():
        merged.to(stored).save_pretrained(out)
    policy._save_tokenizer(out)


def _stored_dtype(folder: Path) -> torch.dtype:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder)
    dtype: torch.dtype = config.dtype or torch.float32
    return dtype


@contextmanager
def no_future_warnings() -> Iterator[None]:
    """Keep peft from warning of what newer releases of Transformers will no longer let it do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield

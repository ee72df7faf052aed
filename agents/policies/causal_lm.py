"""A Hugging Face causal LM as a policy: the same weights sample and are trained."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.batch import Batch
from agents.policies.chat import decide_chat, end_of_turn, opening_ids
from agents.policies.critic import Critic
from agents.policies.folders import ADAPTER_CONFIG_FILE, POLICIES, POLICY_FILE, find_policy
from agents.policies.logits import token_scores
from agents.policies.model_options import ModelOptions
from agents.policies.policy import TokenScores
from agents.policies.states import action_states
from zs_env.lm.transformers import TransformersLM, TransformersSession, no_progress_bars

__all__ = ["POLICIES", "CausalLMPolicy", "find_policy"]


class CausalLMPolicy:
    """A policy over a decoder-only model; see `agents.policies.policy.Policy`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_batch_size: int = ModelOptions.rollout_batch_size,
        *,
        chat: bool | None = None,
        logit_chunk: int = ModelOptions.logit_chunk,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Wrap a loaded model; dropout must be off for sampled and scored numbers to agree.

        Args:
            model: Any decoder-only model whose cache holds keys and values.
            tokenizer: Its tokenizer.
            max_batch_size: Rows that are sampled in one forward pass, at most.
            chat: Whether contexts begin in the tokenizer's chat template; None means where there
                is one. The template's end of turn then ends a text, too.
            logit_chunk: Tokens whose logits exist at the same time in training.
            gradient_checkpointing: Whether the backward pass computes each layer again.

        Raises:
            ValueError: If `chat` is true and the tokenizer has no template.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.chat = decide_chat(chat, tokenizer)
        self._logit_chunk, self._recompute = logit_chunk, gradient_checkpointing
        self._generator = TransformersLM(model, tokenizer, max_batch_size)
        if self.chat and (end := end_of_turn(tokenizer)) is not None:
            settings: Any = model.generation_config
            settings.eos_token_id = sorted(self._generator.end_ids() | {end})

    @classmethod
    def load(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        options: ModelOptions | None = None,
    ) -> CausalLMPolicy:
        """Load a policy.

        Args:
            name: As for `find_policy`. A folder with a LoRA adapter gives a policy that trains
                the adapter.
            device: Where it goes.
            options: How it is loaded and trained; None means the defaults.

        Raises:
            FileNotFoundError: If there is no model in the folder.
            ValueError: If its weights are damaged, or an option does not suit it.
            ImportError: If it needs peft, which is not installed.
        """
        folder, options = find_policy(name), options or ModelOptions()
        if options.lora_rank or (folder / ADAPTER_CONFIG_FILE).is_file():
            from agents.policies.lora import load_lora_policy

            return load_lora_policy(name, device, options)
        lm = load_lm(folder, device, options)
        return cls(lm.model, lm.tokenizer, **settings_of(folder, options))

    def session(self, num_rows: int) -> TransformersSession:
        """Return empty contexts."""
        return self._generator.session(num_rows)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        return self._generator.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of the observation that opens an episode.

        Raises:
            ValueError: If the chat template refuses it.
        """
        return opening_ids(text, self.tokenizer, self.chat)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return str(self.tokenizer.decode(list(token_ids)))

    def end_ids(self) -> frozenset[int]:
        """Return the ids that end a text."""
        return self._generator.end_ids()

    @property
    def max_context(self) -> int:
        """Number of tokens that a context can hold."""
        return self._generator.max_context

    @property
    def max_batch_size(self) -> int:
        """Rows that are sampled in one forward pass, at most."""
        return self._generator.max_batch_size

    def score(self, batch: Batch, temperature: float = 1.0) -> TokenScores:
        """Score the action tokens of `batch` in row-major order.

        Only their logits are computed, and not all at once: no layer is as wide as the vocabulary,
        and most tokens of a transcript are documents.
        """
        batch = batch.to(self.model.device)
        states = action_states(self.model.get_decoder(), batch, recompute=self._recompute)
        chosen = batch.token_ids[:, 1:][batch.action_mask[:, 1:]]
        return token_scores(self.model, states, chosen, temperature, self._logit_chunk)

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return the trainable parameters."""
        parameters: Iterable[torch.nn.Parameter] = self.model.parameters()
        return parameters

    @property
    def module(self) -> torch.nn.Module:
        """What holds the weights."""
        model: torch.nn.Module = self.model
        return model

    def make_critic(self) -> Critic:
        """Return a critic that starts from the policy's weights."""
        return Critic(self.model, gradient_checkpointing=self._recompute).eval()

    def frozen_copy(self) -> CausalLMPolicy:
        """Return an independent copy without gradients."""
        model = copy.deepcopy(self.model).requires_grad_(False)
        return CausalLMPolicy(model, self.tokenizer, **self._settings())

    def _settings(self) -> dict[str, Any]:
        """Return all arguments of `__init__` but the model and its tokenizer."""
        return {
            "max_batch_size": self.max_batch_size,
            "chat": self.chat,
            "logit_chunk": self._logit_chunk,
            "gradient_checkpointing": self._recompute,
        }

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer in Hugging Face format."""
        with no_progress_bars():
            self.model.save_pretrained(folder)
        self._save_tokenizer(folder)

    def save_whole(self, folder: Path) -> None:
        """Write all weights that sampling needs in Hugging Face format, and no tokenizer."""
        with no_progress_bars():
            self.model.save_pretrained(folder)

    def _save_tokenizer(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        if said := self._unsaid():
            text = json.dumps(said) + "\n"
            (folder / POLICY_FILE).write_text(text, encoding="utf-8")

    def _unsaid(self) -> dict[str, Any]:
        """Return what a folder's other files would not tell, or tell otherwise."""
        return {} if self.chat == bool(self.tokenizer.chat_template) else {"chat": self.chat}


def load_lm(folder: Path, device: str | torch.device, options: ModelOptions) -> TransformersLM:
    """Load the model in a folder, in the type that the options say.

    Raises:
        ValueError: If its weights are damaged, or it is of a kind that is no causal LM.
    """
    dtype = getattr(torch, options.dtype_on(torch.device(device).type))
    try:
        return TransformersLM.from_pretrained(folder, device, dtype=dtype)
    except SafetensorError as error:
        raise ValueError(f"`policy` must be a readable model, got {folder}: {error}") from error


def settings_of(folder: Path, options: ModelOptions) -> dict[str, Any]:
    """Return the arguments of a policy, but for the model and its tokenizer.

    Raises:
        ValueError: If the folder's own file cannot be read.
    """
    return {
        "max_batch_size": options.rollout_batch_size,
        "chat": _saved_chat(folder) if options.wants_chat is None else options.wants_chat,
        "logit_chunk": options.logit_chunk,
        "gradient_checkpointing": options.gradient_checkpointing,
    }


def _saved_chat(folder: Path) -> bool | None:
    """Return what a policy's own file says of how its contexts begin; None if it says nothing."""
    file = folder / POLICY_FILE
    if not file.exists():
        return None
    try:
        chat: bool | None = json.loads(file.read_text(encoding="utf-8")).get("chat")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} must be a JSON object: {error!r}") from error
    return None if chat is None else bool(chat)

"""A Hugging Face causal LM as a policy: the same weights sample and are trained."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agents.batch import Batch
from agents.policies.critic import Critic
from agents.policies.policy import TokenScores
from agents.policies.states import action_states
from zs_env.lm.transformers import TransformersLM, TransformersSession, no_progress_bars
from zs_env.models import model_folder

POLICIES: Final = ("base", "skill")
"""The shipped models that are policies."""


class CausalLMPolicy:
    """A policy over a decoder-only model; see `agents.policies.policy.Policy`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_batch_size: int = 256,
    ) -> None:
        """Wrap a loaded model; dropout must be off for sampled and scored numbers to agree."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._generator = TransformersLM(model, tokenizer, max_batch_size)

    @classmethod
    def load(cls, name: str | Path, device: str | torch.device = "cpu") -> CausalLMPolicy:
        """Load a shipped model by its name, or a model folder.

        Raises:
            FileNotFoundError: If there is no model in the folder.
            ValueError: If its weights are damaged.
        """
        folder = find_policy(name)
        # Training needs float32 master weights, also where sampling could do with less.
        try:
            lm = TransformersLM.from_pretrained(folder, device, dtype=torch.float32)
        except SafetensorError as error:
            raise ValueError(f"`policy` must be a readable model, got {folder}: {error}") from error
        return cls(lm.model, lm.tokenizer)

    def session(self, num_rows: int) -> TransformersSession:
        """Return empty contexts."""
        return self._generator.session(num_rows)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        return self._generator.encode(text)

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

    def score(self, batch: Batch, temperature: float = 1.0) -> TokenScores:
        """Score the action tokens of `batch` in row-major order.

        Only their logits are computed: the vocabulary is the widest layer of a small model, and
        most tokens of a transcript are documents.
        """
        batch = batch.to(self.model.device)
        wanted = batch.action_mask[:, 1:]
        states = action_states(self.model.base_model, batch)
        logits = self.model.get_output_embeddings()(states).float()
        if temperature not in (0, 1):
            logits = logits / temperature
        logprobs = torch.log_softmax(logits, -1)
        chosen = logprobs.gather(-1, batch.token_ids[:, 1:][wanted][:, None])[:, 0]
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        return TokenScores(chosen, entropy)

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
        return Critic(self.model).eval()

    def frozen_copy(self) -> CausalLMPolicy:
        """Return an independent copy without gradients."""
        model = copy.deepcopy(self.model).requires_grad_(False)
        return CausalLMPolicy(model, self.tokenizer, self._generator.max_batch_size)

    def save(self, folder: Path) -> None:
        """Write weights, configuration and tokenizer in Hugging Face format."""
        with no_progress_bars():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def find_policy(name: str | Path) -> Path:
    """Return the model folder that `name` means.

    Args:
        name: A shipped policy (`base`, `skill`), a model folder, or a run folder, whose last
            checkpoint is meant.

    Raises:
        FileNotFoundError: If no model is there.
    """
    # A Path is a folder even if it is called like a shipped model.
    if isinstance(name, str) and name in POLICIES:
        return model_folder(name)
    for folder in (Path(name), Path(name) / "checkpoint"):
        has_tokenizer = (folder / "tokenizer.json").is_file() or list(folder.glob("vocab*"))
        has_model = (folder / "config.json").is_file() and list(folder.glob("*.safetensors"))
        if has_model and has_tokenizer:
            return folder
    raise FileNotFoundError(
        f"`policy` must name a shipped model or a folder with one, got {name!s}"
    )

"""The batched decoder: any Hugging Face causal LM, as policy and as simulator, on CPU or GPU.

Contexts are append-only lists of ids. A session keeps every row's keys and values between calls,
so that a turn costs only its new tokens; rows that finish early leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from zs_env.lm.attention import GROUPED_ATTENTION, hidden_score
from zs_env.lm.cache import RaggedCache
from zs_env.lm.chat import prompt_text
from zs_env.lm.generator import Chat, Completion, FinishReason, SamplingParams
from zs_env.lm.identity import model_digest, state_digest
from zs_env.lm.sampling import sample
from zs_env.random import uniforms

COMPACT_BELOW = 0.7
"""Rows that have finished leave the batch once fewer than this share of it is still active."""


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep Transformers from drawing progress bars, which a model of this size does not need."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@dataclass(slots=True)
class _Row:
    """One row of a session: its place in the batch at hand, and what was sampled so far."""

    index: int
    prompt: Sequence[int]
    past: torch.Tensor
    seed: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class TransformersLM:
    """A causal LM that continues ids (`TokenGenerator`) and text (`TextGenerator`)."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_batch_size: int = 256,
    ) -> None:
        """Wrap a loaded model; it may go on being trained between calls.

        Args:
            model: Any decoder-only model whose cache holds keys and values.
            tokenizer: Its tokenizer.
            max_batch_size: Rows of one forward pass, at least 1; larger requests are split.
        """
        if max_batch_size < 1:
            raise ValueError(f"`max_batch_size` must be at least 1, got {max_batch_size!r}")
        self.model, self.tokenizer, self.max_batch_size = model, tokenizer, max_batch_size
        if model.device.type == "cpu":
            model.set_attn_implementation(GROUPED_ATTENTION)
        self._stop_ids: dict[tuple[str, ...], frozenset[int]] = {}
        self._source: str | Path | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        max_batch_size: int = 256,
    ) -> TransformersLM:
        """Load a model folder (or hub id) in `dtype`: float32 on a CPU, bfloat16 on a GPU."""
        device = torch.device(device)
        if dtype is None:
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        with no_progress_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        lm = cls(model.to(device).eval(), AutoTokenizer.from_pretrained(path), max_batch_size)
        lm._source = Path(path).absolute() if Path(path).is_dir() else path
        return lm

    @property
    def max_context(self) -> int:
        """Number of tokens that a context can hold."""
        return int(self.model.config.max_position_embeddings)

    def describe(self) -> dict[str, Any]:
        """Return what completions depend on: a digest of the model, and its type of numbers.

        Of a model that was loaded, the files are told: it must not have been trained since.
        """
        if self._source is None:
            return {"model": state_digest(self.model, self.tokenizer)}
        return {"model": model_digest(self._source), "dtype": str(self.model.dtype)}

    @property
    def has_chat_template(self) -> bool:
        """Whether a `Chat` is more than its plain text here."""
        return bool(self.tokenizer.chat_template)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with no special token added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def session(self, num_rows: int) -> TransformersSession:
        """Return `num_rows` empty contexts that keep their cache."""
        return TransformersSession(self, num_rows)

    def complete(
        self, prompts: Sequence[str | Chat], seeds: Sequence[int], params: SamplingParams
    ) -> list[str]:
        """Return the continuation of each prompt; see `TextGenerator`.

        Raises:
            ValueError: If a prompt does not fit into the model's context, or its chat template
                refuses it.
        """
        if not prompts:
            return []
        encoded = [self.encode(prompt_text(prompt, self.tokenizer)) for prompt in prompts]
        longest = max(map(len, encoded))
        if longest >= self.max_context:
            raise ValueError(
                f"`prompts` must be shorter than {self.max_context} tokens, got one of {longest}"
            )
        rows = self._rows(encoded, seeds)
        return [completion.text for completion in self.run(rows, params, keep=None)]

    def _rows(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[_Row]:
        empty = self.empty_past()
        return [
            _Row(index, prompt, empty, seed)
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]

    def empty_past(self) -> torch.Tensor:
        """Return the packed cache of an empty context: (layers, 2, heads, 0, head_dim)."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None)
        head_dim = head_dim or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, heads, 0, head_dim)
        return torch.empty(shape, dtype=self.model.dtype, device=self.model.device)

    @torch.inference_mode()
    def run(
        self,
        rows: Sequence[_Row],
        params: SamplingParams,
        keep: Callable[[_Row, torch.Tensor], None] | None,
    ) -> list[Completion]:
        """Continue every row; `keep(row, past)` receives each finished row's packed cache."""
        order = sorted(rows, key=lambda row: row.past.shape[3] + len(row.prompt))
        for start in range(0, len(order), self.max_batch_size):
            _Decoding(self, order[start : start + self.max_batch_size], params, keep).run()
        if not rows:
            return []  # batch_decode would take no rows for one empty row
        texts = self.tokenizer.batch_decode([self._visible(row) for row in rows])
        return [
            Completion(row.token_ids, row.logprobs, text, row.finish_reason or FinishReason.LENGTH)
            for row, text in zip(rows, texts, strict=True)
        ]

    def _visible(self, row: _Row) -> list[int]:
        return row.token_ids[:-1] if row.finish_reason is FinishReason.EOS else row.token_ids

    def end_ids(self) -> frozenset[int]:
        """Return the ids that end a text."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    def stop_candidates(self, stop: tuple[str, ...]) -> frozenset[int]:
        """Return the ids whose text holds the last character of a stop string.

        Only after one of these can a text have come to contain a stop string, so that only then
        it has to be decoded.
        """
        if stop not in self._stop_ids:
            last = {text[-1] for text in stop if text}
            if any(not char.isascii() for char in last):
                last.add("\ufffd")  # what a token of only some of a character's bytes decodes to
            pieces = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
            found = (i for i, piece in enumerate(pieces) if last.intersection(piece))
            self._stop_ids[stop] = frozenset(found)
        return self._stop_ids[stop]


class TransformersSession:
    """Contexts that share a model and keep their keys and values (`TokenSession`)."""

    def __init__(self, lm: TransformersLM, num_rows: int) -> None:
        """Begin with `num_rows` empty contexts."""
        self._lm = lm
        self._pasts = [lm.empty_past()] * num_rows
        # The last sampled id of a row has no keys yet: it is read with the next new tokens.
        self._pending: list[list[int]] = [[] for _ in range(num_rows)]

    def generate(
        self,
        rows: Sequence[int],
        new_tokens: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> list[Completion]:
        """Append ids to the given rows and continue them; see `TokenSession`.

        A row whose context is full gives an empty completion with reason `length`, then and in
        every later call until it is cleared.
        """
        batch = [
            _Row(row, [*self._pending[row], *tokens], self._pasts[row], seed)
            for row, tokens, seed in zip(rows, new_tokens, seeds, strict=True)
        ]
        completions = self._lm.run(batch, params, self._keep)
        for row, unread, completion in zip(rows, batch, completions, strict=True):
            # Nothing sampled means that nothing was read: what did not fit must not be forgotten.
            self._pending[row] = completion.token_ids[-1:] or list(unread.prompt)
        return completions

    def clear(self, rows: Sequence[int]) -> None:
        """Empty the contexts of some rows."""
        for row in rows:
            self._pasts[row], self._pending[row] = self._lm.empty_past(), []

    def _keep(self, row: _Row, past: torch.Tensor) -> None:
        self._pasts[row.index] = past


class _Decoding:
    """One batch on its way from its new tokens to its last sampled one."""

    def __init__(
        self,
        lm: TransformersLM,
        rows: Sequence[_Row],
        params: SamplingParams,
        keep: Callable[[_Row, torch.Tensor], None] | None,
    ) -> None:
        self._lm, self._params, self._keep = lm, params, keep
        self._device = lm.model.device
        fits = [row for row in rows if row.past.shape[3] + len(row.prompt) < lm.max_context]
        self._rows = fits
        self._ends = lm.end_ids()
        self._candidates = lm.stop_candidates(params.stop) | self._ends
        self._longest_stop = max(map(len, params.stop), default=0)

    def run(self) -> None:
        """Read the new tokens, then sample until every row has finished."""
        if not self._rows:
            return
        self._begin()
        logits = self._prefill()
        for step in range(self._params.max_new_tokens):
            ids, logprobs = sample(logits, self._uniforms[:, step], self._params.temperature)
            self._record(ids.tolist(), logprobs.tolist())
            active = [i for i, row in enumerate(self._rows) if row.finish_reason is None]
            if not active or step + 1 == self._params.max_new_tokens:
                break
            ids = self._compact(active, ids)
            logits = self._forward(ids[:, None], self._positions[:, None], self._mask_of_one())
            self._positions += 1
        self._release(range(len(self._rows)))

    def _begin(self) -> None:
        """Lay out the cache, and draw every uniform number that the batch can need."""
        rows, params = self._rows, self._params
        self._width = max(len(row.prompt) for row in rows)
        # The last sampled token is never read here, so it needs no column.
        columns = self._width + params.max_new_tokens - 1
        self._cache = RaggedCache.from_rows([row.past for row in rows], columns)
        keys = np.array([row.seed for row in rows], dtype=np.int64)
        drawn = uniforms(keys, params.max_new_tokens)
        self._uniforms = torch.from_numpy(drawn).to(self._device, torch.float64)
        lengths = [row.past.shape[3] + len(row.prompt) for row in rows]
        self._positions = torch.tensor(lengths, device=self._device)

    def _prefill(self) -> torch.Tensor:
        """Read the new tokens, padded on the left; return the logits after the last ones."""
        ids = torch.zeros(len(self._rows), self._width, dtype=torch.long)
        real = torch.zeros(len(self._rows), self._width, dtype=torch.bool)
        for index, row in enumerate(self._rows):
            ids[index, self._width - len(row.prompt) :] = torch.tensor(row.prompt)
            real[index, self._width - len(row.prompt) :] = True
        start = self._cache.num_columns
        self._cache.used[:, start : start + self._width] = real.to(self._device)
        offsets = torch.arange(self._width, device=self._device) - self._width
        positions = (self._positions[:, None] + offsets).clamp_(min=0)
        seen = self._cache.used[:, None, None, : start + self._width]
        causal = torch.ones(self._width, start + self._width, dtype=torch.bool, device=self._device)
        visible = seen & causal.tril_(start)
        self._build_mask()
        return self._forward(
            ids.to(self._device), positions, _additive(visible, self._lm.model.dtype)
        )

    def _build_mask(self) -> None:
        self._mask = _additive(self._cache.used[:, None, None, :], self._lm.model.dtype)

    def _mask_of_one(self) -> torch.Tensor:
        return self._mask[..., : self._cache.num_columns + 1]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits after the last column, (B, V)."""
        model: Any = self._lm.model
        hidden = model.base_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._cache.num_columns += ids.shape[1]
        logits: torch.Tensor = model.get_output_embeddings()(hidden[:, -1])
        return logits

    def _record(self, ids: list[int], logprobs: list[float]) -> None:
        for row, token, logprob in zip(self._rows, ids, logprobs, strict=True):
            if row.finish_reason is None:
                row.token_ids.append(token)
                row.logprobs.append(logprob)
                if token in self._candidates:
                    row.finish_reason = self._finish_reason(row)
                if row.past.shape[3] + len(row.prompt) + len(row.token_ids) >= self._lm.max_context:
                    row.finish_reason = row.finish_reason or FinishReason.LENGTH

    def _finish_reason(self, row: _Row) -> FinishReason | None:
        if row.token_ids[-1] in self._ends:
            return FinishReason.EOS
        # Each id decodes to at least one byte, so this many ids hold any stop string whole
        # (in UTF-8 a character has at most four bytes).
        tail = self._lm.tokenizer.decode(row.token_ids[-4 * self._longest_stop :])
        return FinishReason.STOP if any(text in tail for text in self._params.stop) else None

    def _compact(self, active: list[int], ids: torch.Tensor) -> torch.Tensor:
        """Let finished rows leave the batch where that pays; return the ids still wanted."""
        if len(active) >= COMPACT_BELOW * len(self._rows):
            return ids
        remaining = set(active)
        self._release([i for i in range(len(self._rows)) if i not in remaining])
        indices = torch.tensor(active, device=self._device)
        self._cache.keep_rows(indices)
        self._rows = [self._rows[i] for i in active]
        self._positions = self._positions[indices]
        self._uniforms = self._uniforms[indices]
        self._build_mask()
        return ids[indices]

    def _release(self, indices: Sequence[int]) -> None:
        """Hand the packed caches of rows to their session, without what followed their end."""
        if self._keep is None:
            return
        for i, past in zip(indices, self._cache.take_rows(indices), strict=True):
            row = self._rows[i]
            length = row.past.shape[3] + len(row.prompt) + len(row.token_ids) - 1
            self._keep(row, past[..., :length, :].clone())


def _additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where `visible` and a very negative number elsewhere."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, hidden_score(dtype))

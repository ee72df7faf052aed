"""The batched decoder: any Hugging Face causal LM, as policy and as simulator, on CPU or GPU.

Contexts are append-only lists of ids. A session keeps every row's keys and values between calls,
so that a turn costs only its new tokens; rows that finish early leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from zs_env.lm.alignment import aligned
from zs_env.lm.attention import GROUPED_ATTENTION
from zs_env.lm.chat import prompt_text
from zs_env.lm.decoding import Decoding, MayEnd, Row
from zs_env.lm.generator import Chat, Completion, FinishReason, SamplingParams
from zs_env.lm.identity import model_digest, state_digest
from zs_env.lm.lean import FAMILY, is_recognised
from zs_env.lm.reading import (
    HuggingFaceReader,
    LeanReader,
    Reader,
    cache_size,
    check_config,
    check_reads,
    context_length,
    lean_agrees,
)

_NO_CHARACTER: Final = "\ufffd"


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


class TransformersLM:
    """A causal LM that continues ids (`TokenGenerator`) and text (`TextGenerator`)."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_batch_size: int = 256,
        *,
        source: str | Path | None = None,
    ) -> None:
        """Wrap a loaded model; it may go on being trained between calls.

        Args:
            model: Any decoder-only model whose cache holds keys and values.
            tokenizer: Its tokenizer.
            max_batch_size: Rows of one forward pass, at least 1; larger requests are split.
            source: Absolute folder or hub id whose files hold the weights; None if none do.

        Raises:
            ValueError: If `max_batch_size` is below 1, or the model does not keep keys and values
                of every token, as recurrent ones do not, or reads otherwise with our cache.
        """
        if max_batch_size < 1:
            raise ValueError(f"`max_batch_size` must be at least 1, got {max_batch_size!r}")
        check_config(model.config)
        self.model, self.tokenizer, self.max_batch_size = model, tokenizer, max_batch_size
        # It computes what SDPA does; models with more in their attention do not support that.
        if model.device.type == "cpu" and model._supports_sdpa:
            model.set_attn_implementation(GROUPED_ATTENTION)
        if not isinstance(model, FAMILY):
            check_reads(model, self.empty_past())
        self._stop_ids: dict[tuple[str, ...], frozenset[int]] = {}
        self._source = source
        self._lean_agrees: bool | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        max_batch_size: int = 256,
    ) -> TransformersLM:
        """Load a model.

        Args:
            path: A model folder, or a hub id.
            device: Where it goes.
            dtype: Type of its weights; None means float32 on a CPU and bfloat16 elsewhere.
            max_batch_size: Rows of one forward pass, at least 1; larger requests are split.

        Raises:
            ValueError: If some weights are missing, or of another shape than the configuration
                says: they would be random.
        """
        device = torch.device(device)
        if dtype is None:
            dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        model: Any = load_causal(path, dtype)
        model = aligned(model.to(device)).eval()
        source = Path(path).absolute() if Path(path).is_dir() else path
        return cls(model, AutoTokenizer.from_pretrained(path), max_batch_size, source=source)

    @property
    def max_context(self) -> int:
        """Number of tokens that a context can hold."""
        return context_length(self.model.config)

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
            ValueError: If a prompt is empty or does not fit into the model's context, or its chat
                template refuses it.
        """
        if not prompts:
            return []
        texts = [prompt_text(prompt, self.tokenizer) for prompt in prompts]
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        longest = max(map(len, encoded))
        if longest >= self.max_context:
            raise ValueError(
                f"`prompts` must be shorter than {self.max_context} tokens, got one of {longest}"
            )
        if not all(encoded):
            raise ValueError("`prompts` must have at least one token each, got an empty one")
        empty = self.empty_past()
        rows = [Row(prompt, empty, seed) for prompt, seed in zip(encoded, seeds, strict=True)]
        return [completion.text for completion in self.run(rows, params, keep=False)]

    def empty_past(self) -> torch.Tensor:
        """Return the packed cache of an empty context: (layers, 2, 0, heads, head_dim)."""
        config: Any = self.model.config.get_text_config()
        shape = (config.num_hidden_layers, 2, 0, *cache_size(config))
        return torch.empty(shape, dtype=self.model.dtype, device=self.model.device)

    def reader(self, num_positions: int) -> Reader:
        """Return what reads tokens at positions below a number, with the weights of this moment."""
        if self._reads_lean():
            return LeanReader(self.model, num_positions)
        return HuggingFaceReader(self.model)

    def _reads_lean(self) -> bool:
        if self.model.device.type != "cpu" or not is_recognised(self.model):
            return False
        if self._lean_agrees is None:
            self._lean_agrees = lean_agrees(self.model, self.empty_past())
        return self._lean_agrees

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], params: SamplingParams, *, keep: bool) -> list[Completion]:
        """Continue every row, and let each `keep` its packed cache if that is wanted."""
        order = sorted(rows, key=lambda row: row.end)
        for start in range(0, len(order), self.max_batch_size):
            self._run_batch(order[start : start + self.max_batch_size], params, keep)
        visible = [
            row.token_ids[:-1] if row.finish_reason is FinishReason.EOS else row.token_ids
            for row in rows
        ]
        # `batch_decode` would take no rows for one empty row.
        texts = self.tokenizer.batch_decode(visible) if rows else []
        return [
            Completion(row.token_ids, row.logprobs, text, row.finish_reason or FinishReason.LENGTH)
            for row, text in zip(rows, texts, strict=True)
        ]

    def _run_batch(self, rows: Sequence[Row], params: SamplingParams, keep: bool) -> None:
        max_context = self.max_context
        fits = [row for row in rows if row.end < max_context]
        if fits:
            may_end = self.may_end(params.stop)
            Decoding(self.reader, fits, params, max_context, may_end).run(keep=keep)

    def may_end(self, stop: tuple[str, ...]) -> MayEnd:
        """Return what can end a text that is to stop after one of `stop`."""
        ends = self.end_ids()
        # Each id decodes to at least one byte, so this many ids hold any stop string whole
        # (in UTF-8 a character has at most four bytes).
        num_tail = 4 * max(map(len, stop), default=0)

        def reason(token_ids: list[int]) -> FinishReason | None:
            if token_ids[-1] in ends:
                return FinishReason.EOS
            tail = self.tokenizer.decode(token_ids[-num_tail:])
            return FinishReason.STOP if any(text in tail for text in stop) else None

        return MayEnd(self.stop_candidates(stop) | ends, reason)

    def end_ids(self) -> frozenset[int]:
        """Return the ids that end a text."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    def stop_candidates(self, stop: tuple[str, ...]) -> frozenset[int]:
        """Return the ids whose text can be what a stop string ends in or ends within.

        Only after one of these can a text have come to contain a stop string, so that only then
        it has to be decoded.
        """
        if stop not in self._stop_ids:
            pieces = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
            found = (i for i, piece in enumerate(pieces) if _may_complete(piece, stop))
            self._stop_ids[stop] = frozenset(found)
        return self._stop_ids[stop]


def load_causal(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model folder (or hub id) on the CPU, all of it.

    Raises:
        ValueError: If some weights are missing, or of another shape than the configuration says.
    """
    with no_progress_bars():
        # What has another shape is told beside what is missing, rather than as a RuntimeError.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    model: PreTrainedModel = loaded[0]
    _check_complete(path, loaded[1])
    return model


def _check_complete(path: str | Path, report: Mapping[str, Any]) -> None:
    """Check that no weight of a model was made up, as Transformers does with those it misses.

    Raises:
        ValueError: If one was.
    """
    for kind, names in (
        ("missing", report["missing_keys"]),
        ("of another shape", [name for name, *_ in report["mismatched_keys"]]),
    ):
        if names:
            raise ValueError(
                f"`path` must be a whole model, got {path}, where {len(names)} weights are {kind}, "
                f"such as {min(names)}"
            )


def _may_complete(piece: str, stop: Sequence[str]) -> bool:
    """Tell whether a token's text may hold the end of a stop string.

    Example:
        >>> [_may_complete(piece, ["</a>"]) for piece in ("</a>x", "x</a>", ">", "b>", "a")]
        [True, True, True, False, False]
    """
    if _NO_CHARACTER in piece:  # a token of only some of a character's bytes
        return any(text[-1:] in piece or not text.isascii() for text in stop)
    spaced = f" {piece}"  # some tokenizers drop a space where a text begins
    ends = [spaced[:end] for end in range(1, len(spaced) + 1)]
    return any(
        text.endswith((end, end[1:] or end)) or end.endswith(text)
        for text in stop
        if text and text[-1] in spaced  # nearly always the end of it, and so told at once
        for end in ends
    )


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
        every later call until it is cleared. After an error while sampling, the contexts of these
        rows are lost.

        Raises:
            ValueError: If a row would have nothing to read.
        """
        batch = [
            Row([*self._pending[row], *tokens], self._pasts[row], seed)
            for row, tokens, seed in zip(rows, new_tokens, seeds, strict=True)
        ]
        if not all(row.prompt for row in batch):
            raise ValueError("`new_tokens` must hold at least one id for an empty context")
        for index in rows:
            self._pasts[index] = self._lm.empty_past()  # or memory would hold old and new ones
        completions = self._lm.run(batch, params, keep=True)
        for index, row in zip(rows, batch, strict=True):
            self._pasts[index] = row.past
            # Nothing sampled means that nothing was read: what did not fit must not be forgotten.
            self._pending[index] = row.token_ids[-1:] or list(row.prompt)
        return completions

    def clear(self, rows: Sequence[int]) -> None:
        """Empty the contexts of some rows."""
        for row in rows:
            self._pasts[row], self._pending[row] = self._lm.empty_past(), []

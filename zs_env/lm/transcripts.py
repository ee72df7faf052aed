"""Sessions for back ends that keep no cache of ours: each turn sends the whole transcript again.

A back end with a prefix cache of its own, as vLLM is, still reads only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zs_env.lm.generator import Completion, SamplingParams


class TokenCompleter(Protocol):
    """A language model that continues whole prompts of token ids."""

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], params: SamplingParams
    ) -> list[Completion]:
        """Return the continuation of each prompt (at least one id), in order.

        A prompt that fills the model's context gives an empty completion with reason `length`.
        """
        ...


class TranscriptSession:
    """A batch of growing contexts that are plain lists of ids (`TokenSession`)."""

    def __init__(self, lm: TokenCompleter, num_rows: int) -> None:
        """Begin with `num_rows` empty contexts."""
        self._lm = lm
        self._contexts: list[list[int]] = [[] for _ in range(num_rows)]

    def generate(
        self,
        rows: Sequence[int],
        new_tokens: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> list[Completion]:
        """Append ids to the given rows and continue them; see `TokenSession`.

        If it raises, no context has changed, and the turn can be tried again.
        """
        contexts = [
            [*self._contexts[row], *tokens] for row, tokens in zip(rows, new_tokens, strict=True)
        ]
        completions = self._lm.complete_tokens(contexts, seeds, params)
        for row, context, completion in zip(rows, contexts, completions, strict=True):
            self._contexts[row] = [*context, *completion.token_ids]
        return completions

    def clear(self, rows: Sequence[int]) -> None:
        """Empty the contexts of some rows."""
        for row in rows:
            self._contexts[row] = []

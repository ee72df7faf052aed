"""What samples in a policy's place: an inference engine with a copy of its weights.

The policy stays what is trained. Its tokenizer encodes and decodes here, too, so that what an
engine is sent and returns is ids, and the sampled ids are those that are trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from zs_env.lm.generator import Completion, FinishReason, SamplingParams, TokenGenerator
from zs_env.lm.transcripts import TokenCompleter, TranscriptSession

if TYPE_CHECKING:
    from agents.policies.causal_lm import CausalLMPolicy

WEIGHTS_FOLDER: Final = "zerosearch-weights"
"""In the folder that is given, which may hold more; it is removed and made again."""


class Sampler(TokenGenerator, Protocol):
    """A token generator that has a copy of what is trained."""

    def sync(self) -> None:
        """Take over the policy's weights of this moment; before that, sessions have old ones.

        Raises:
            LanguageModelError: If that cannot be done.
        """
        ...

    def close(self) -> None:
        """Let go of everything; nothing that was started goes on."""
        ...


class PolicyEngine(TokenCompleter, Protocol):
    """An inference engine that can be given weights."""

    def load_weights(self, folder: Path) -> None:
        """Take over the weights in a folder, and forget all that was computed with others."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class EngineSampler:
    """A `Sampler` that samples with an engine."""

    def __init__(self, policy: CausalLMPolicy, engine: PolicyEngine, folder: Path) -> None:
        """Set up the sampler; the engine has what weights it has until `sync`.

        Args:
            policy: Whose weights, and whose way of reading text.
            engine: What samples.
            folder: Weights pass through it; the engine sees it under the same path.
        """
        self._policy, self._engine = policy, engine
        self._folder = folder.absolute() / WEIGHTS_FOLDER

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        return self._policy.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of the observation that opens an episode."""
        return self._policy.encode_prompt(text)

    def session(self, num_rows: int) -> TranscriptSession:
        """Return empty contexts; the engine's prefix cache saves reading them anew."""
        return TranscriptSession(self, num_rows)

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], params: SamplingParams
    ) -> list[Completion]:
        """Return the continuation of each prompt; see `TokenCompleter`.

        Raises:
            LanguageModelError: If the engine does not answer.
        """
        completions = self._engine.complete_tokens(prompts, seeds, params)
        return [replace(each, text=self._text(each)) for each in completions]

    def _text(self, completion: Completion) -> str:
        """Return what the policy makes of sampled ids, whatever the engine does."""
        ids = completion.token_ids
        ended = completion.finish_reason is FinishReason.EOS
        return self._policy.decode(ids[:-1] if ended else ids)

    def sync(self) -> None:
        """Write the policy's weights, and let the engine load them.

        Raises:
            LanguageModelError: If the engine cannot.
            OSError: If they cannot be written.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self._policy.save_whole(self._folder)
        self._engine.load_weights(self._folder)

    def close(self) -> None:
        """Close the engine, and remove the weights that were written for it."""
        self._engine.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # it may be gone, or hold what is not ours
            self._folder.parent.rmdir()

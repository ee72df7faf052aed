"""Two small protocols for language models: token ids in and out, or text in and out.

A back end that keeps a key-value cache between calls offers `TokenSession`s; one that cannot
simply re-reads the transcript. Sampling is counter-based (see `sampling.py`): the same seed,
context and position give the same token, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable


class LanguageModelError(RuntimeError):
    """A language model could not answer; the message names it, how often it was tried, and why."""


class PromptTooLongError(LanguageModelError, ValueError):
    """A server says that a prompt does not fit into its model's context: another try is no use."""


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"  # the text ends with one of the stop strings
    EOS = "eos"  # the model sampled its end-of-text token
    LENGTH = "length"  # max_new_tokens were sampled, or the model's context is full


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample.

    Attributes:
        max_new_tokens: Upper bound of sampled tokens a completion, at least 1.
        temperature: Divides the logits; 0 means greedy.
        stop: Strings that end a completion when its text contains one; kept in the ids.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, got {self.max_new_tokens!r}")
        if not self.temperature >= 0.0:
            raise ValueError(f"`temperature` must be 0 or more, got {self.temperature!r}")


@dataclass(frozen=True, slots=True)
class Completion:
    """What one prompt was continued with.

    Attributes:
        token_ids: Sampled ids, the stop or end-of-text token included.
        logprobs: Log-probability of each id under the distribution it was sampled from
            (for greedy decoding: under temperature 1); same length as `token_ids`.
        text: The decoded ids, without the end-of-text token.
        finish_reason: Why sampling ended.
    """

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: FinishReason


class TokenSession(Protocol):
    """A batch of growing contexts, one a row, that share a key-value cache."""

    def generate(
        self,
        rows: Sequence[int],
        new_tokens: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> list[Completion]:
        """Append `new_tokens[i]` (at least one id) to row `rows[i]`, then sample from it.

        The sampled ids become part of the row's context.

        Args:
            rows: Which contexts, each once.
            new_tokens: Ids to append to each of them.
            seeds: Key of each one's sampling.
            params: How to sample, and until when.

        Returns:
            A completion for each of `rows`, in their order.
        """
        ...

    def clear(self, rows: Sequence[int]) -> None:
        """Empty the contexts of some rows, for new episodes."""
        ...


class TokenGenerator(Protocol):
    """A language model that continues token ids."""

    def session(self, num_rows: int) -> TokenSession:
        """Return `num_rows` empty contexts."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, with no special token added."""
        ...


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt that is a user's message; the model replies in its chat template.

    Attributes:
        user: The message.
        system: A system message before it. None leaves that to the template, which may bring one
            of its own; an empty one keeps it from doing so.
    """

    user: str
    system: str | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages as chat templates and servers take them."""
        user = {"role": "user", "content": self.user}
        return [user] if self.system is None else [{"role": "system", "content": self.system}, user]

    @property
    def plain(self) -> str:
        """What a model without a chat template reads."""
        return f"{self.system}\n\n{self.user}" if self.system else self.user


class TextGenerator(Protocol):
    """A language model that continues text: all a simulator needs."""

    def complete(
        self, prompts: Sequence[str | Chat], seeds: Sequence[int], params: SamplingParams
    ) -> list[str]:
        """Return the continuation of each prompt, in order.

        A text is continued as it is. A `Chat` is put into the model's chat template, once, and
        replied to; a model in this process that has no template continues its `plain` text.

        Raises:
            ValueError: If a prompt is known not to fit into the model's context.
            LanguageModelError: If the model could not answer; never a text about an error.
        """
        ...


@dataclass(frozen=True, slots=True)
class CountedText:
    """A completion as a text, and what it took.

    Attributes:
        text: The completion.
        num_tokens: Tokens that were sampled for it; None if that is not known.
    """

    text: str
    num_tokens: int | None


@runtime_checkable
class CountingGenerator(Protocol):
    """A text generator that also tells how many tokens it sampled."""

    def complete_counted(
        self, prompts: Sequence[str | Chat], seeds: Sequence[int], params: SamplingParams
    ) -> list[CountedText]:
        """Return what `complete` returns, each with its number of tokens; raises as it does."""
        ...

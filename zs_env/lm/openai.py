"""Any OpenAI-compatible server as a language model: vLLM, SGLang, llama.cpp, or a commercial one.

Synchronous outside and asynchronous inside: a call sends all its prompts at once, each with its
own seed, and returns when the last is answered. What `complete` returns means the same as with
every other back end: no sampling beyond temperature, stop strings kept in the text, the same
completion for the same prompt and seed. (Another back end has another random number generator, so
seeds do not carry over; and servers that batch are repeatable up to ties of floating point.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from zs_env.lm.dialects import ServerFacts, read_models
from zs_env.lm.generator import (
    Chat,
    Completion,
    CountedText,
    FinishReason,
    LanguageModelError,
    PromptTooLongError,
    SamplingParams,
)
from zs_env.lm.transcripts import TranscriptSession
from zs_env.remote.client import Call, Probe, RemoteClient
from zs_env.remote.failures import RemoteError, TryError
from zs_env.remote.limits import Limits

T = TypeVar("T")

API_KEY_VARIABLE: Final = "ZS_API_KEY"
"""Not OPENAI_API_KEY: a key for one company must not reach whatever server a URL names."""

# An aborted request or a content filter ends a text that the model did not end.
_FINISHED: Final = frozenset({"stop", "length"})

_REFUSED: Final = frozenset({400, 413, 422})
# As OpenAI and vLLM, SGLang, llama.cpp and text-generation-inference say it.
_TOO_LONG: Final = re.compile(
    r"maximum (?:context|model) length|longer than the (?:model's|maximum)"
    r"|exceeds? the available context|must have less than \d+ tokens|\btoo long\b",
    re.IGNORECASE,
)


class OpenAIGenerator:
    """Continue text (`TextGenerator`), and token ids where the server can (`TokenGenerator`).

    The generator can be pickled, copied, used from several threads and inside a running event
    loop. Its connections close with it.
    """

    def __init__(
        self,
        base_urls: str | Sequence[str],
        model: str | None = None,
        *,
        chat: bool = False,
        api_key_variable: str | None = API_KEY_VARIABLE,
        extra_fields: Mapping[str, Any] | None = None,
        processed_logprobs: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """Set up the generator; nothing is asked before the first call.

        Args:
            base_urls: Like "http://localhost:8000/v1". Of several, which must serve the same
                model, the healthy ones take turns.
            model: Name of the model; None means the only one that the server has.
            chat: Send every prompt as a user's message to `/chat/completions`, where the server
                applies the model's chat template; else only each `Chat`, and a text as it is to
                `/completions`.
            api_key_variable: Environment variable that holds the API key; None means no key.
            extra_fields: Fields of every request that are added or replaced; a None leaves one
                out. Not for secrets.
            processed_logprobs: Whether vLLM was started with `--logprobs-mode
                processed_logprobs`, so that log-probabilities are those of the temperature.
            limits: Bounds in time, tries and size; None means `Limits()`.

        Raises:
            ValueError: If a URL is none, or has a password, query or fragment.
        """
        probe = Probe("models", partial(read_models, model=model))
        self._client = RemoteClient(base_urls, probe, limits or Limits(), api_key_variable)
        self._model, self._chat, self._api_key_variable = model, chat, api_key_variable
        self._extra, self._processed = dict(extra_fields or {}), processed_logprobs

    def __repr__(self) -> str:
        """Return where the model is, and nothing that could be secret."""
        name = type(self).__name__
        return f"{name}({list(self._client.base_urls)}, {self._model!r}, chat={self._chat})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the generator was made from; a copy opens its own connections."""
        settings: dict[str, Any] = {
            "chat": self._chat,
            "api_key_variable": self._api_key_variable,
            "extra_fields": self._extra,
            "processed_logprobs": self._processed,
            "limits": self._client.limits,
        }
        return partial(type(self), **settings), (self._client.base_urls, self._model)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._client.close()

    def describe(self) -> dict[str, Any]:
        """Return what completions depend on: where the model is, and its name; no key."""
        # More fields are no place for secrets, but nobody looks at a digest to find one.
        extra = hashlib.sha256(json.dumps(self._extra, sort_keys=True).encode()).hexdigest()
        return {
            "urls": list(self._client.base_urls),
            "model": self._model,
            "chat": self._chat,
            "extra_fields_sha256": extra,
        }

    @property
    def max_context(self) -> int | None:
        """Number of tokens that a context can hold, as the server says; None if it does not.

        Raises:
            LanguageModelError: If the server does not answer.
        """
        call: Call[ServerFacts, int | None]
        call = Call("", lambda _: None, lambda facts, _: facts.max_context)
        return self._ask([call])[0]

    def complete(
        self, prompts: Sequence[str | Chat], seeds: Sequence[int], params: SamplingParams
    ) -> list[str]:
        """Return the continuation of each prompt, up to and with the first stop string.

        The server has the chat template: one that has none refuses every `Chat`.

        A server that cuts stop strings off is not told of them: it goes on to its end, and the
        text is cut here.

        Raises:
            LanguageModelError: If a server does not answer within the limits, or refuses.
            PromptTooLongError: If it refuses because a prompt does not fit into the context.
        """
        return self._complete(prompts, seeds, params, _read_text)

    def complete_counted(
        self, prompts: Sequence[str | Chat], seeds: Sequence[int], params: SamplingParams
    ) -> list[CountedText]:
        """Return what `complete` does, with the number of tokens that the server counted.

        Raises:
            LanguageModelError: As `complete`.
            PromptTooLongError: As `complete`.
        """
        return self._complete(prompts, seeds, params, _read_counted)

    def _complete(
        self,
        prompts: Sequence[str | Chat],
        seeds: Sequence[int],
        params: SamplingParams,
        read: Callable[..., T],
    ) -> list[T]:
        pairs = zip(prompts, seeds, strict=True)
        return self._ask([self._text_call(*pair, params, read) for pair in pairs])

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], params: SamplingParams
    ) -> list[Completion]:
        """Return the continuation of each prompt of token ids; see `TokenCompleter`.

        The text ends with the stop string, even where the last token goes on after it.

        Raises:
            ValueError: If the server's log-probabilities would be of another temperature.
            LanguageModelError: If a server does not answer within the limits, refuses, or does
                not take and return token ids, as vLLM does.
        """
        if params.temperature not in (0.0, 1.0) and not self._processed:
            raise ValueError(
                "`temperature` must be 0 or 1 for log-probabilities of a server without "
                f"`processed_logprobs`, got {params.temperature!r}"
            )
        return self._ask(
            [
                Call("completions", partial(self._token_body, ids, seed, params), _read_tokens)
                for ids, seed in zip(prompts, seeds, strict=True)
            ]
        )

    def session(self, num_rows: int) -> TranscriptSession:
        """Return `num_rows` empty contexts; the server's prefix cache saves reading them anew."""
        return TranscriptSession(self, num_rows)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with no special token added.

        Raises:
            LanguageModelError: If the server does not answer, or has no `/tokenize`, as vLLM has.
        """
        call: Call[ServerFacts, list[int]] = Call(
            "../tokenize",
            lambda facts: {"model": facts.model, "prompt": text, "add_special_tokens": False},
            lambda _, reply: [int(token) for token in reply["tokens"]],
        )
        return self._ask([call])[0]

    def _ask(self, calls: Sequence[Call[ServerFacts, T]]) -> list[T]:
        try:
            return self._client.call_all(calls)
        except RemoteError as error:
            kind = PromptTooLongError if _is_too_long(error) else LanguageModelError
            raise kind(f"the language model at {error}") from error

    def _text_call(
        self, prompt: str | Chat, seed: int, params: SamplingParams, read: Callable[..., T]
    ) -> Call[ServerFacts, T]:
        chat = prompt if isinstance(prompt, Chat) else Chat(prompt) if self._chat else None
        asked = {"prompt": prompt} if chat is None else {"messages": chat.messages}
        return Call(
            "completions" if chat is None else "chat/completions",
            partial(self._body, asked, seed, params),
            partial(read, chat=chat is not None, stop=params.stop),
        )

    def _token_body(
        self, ids: Sequence[int], seed: int, params: SamplingParams, facts: ServerFacts
    ) -> dict[str, Any] | None:
        if not facts.dialect.gives_token_ids:
            raise TryError("the server does not take and return token ids", is_final=True)
        if facts.max_context is not None and len(ids) >= facts.max_context:
            return None
        tokens = {"prompt": list(ids), "return_token_ids": True, "logprobs": 0}
        if facts.max_context is not None:  # older servers refuse more than there is room for
            room = facts.max_context - len(ids)
            params = replace(params, max_new_tokens=min(params.max_new_tokens, room))
        return self._body(tokens, seed, params, facts)

    def _body(
        self, prompt: Mapping[str, Any], seed: int, params: SamplingParams, facts: ServerFacts
    ) -> dict[str, Any]:
        """Return a request's body: what is asked, then how it is to be sampled."""
        dialect = facts.dialect
        stop = {"stop": list(params.stop)} if params.stop and dialect.keeps_stops else {}
        body = {
            "model": facts.model,
            **prompt,
            "max_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": 1.0,
            "seed": seed % dialect.num_seeds,
            **stop,
            **dialect.fields,
            **self._extra,
        }
        return {name: value for name, value in body.items() if value is not None}


def _read_text(facts: ServerFacts, reply: Any, *, chat: bool, stop: Sequence[str]) -> str:
    """Return the text of a reply; raises as `Call.read` may."""
    choice = _only_choice(reply)
    text = choice["message"]["content"] if chat else choice["text"]
    if chat and text is None:
        text = ""  # a chat model that said nothing
    if not isinstance(text, str):
        raise TypeError(f"the text is {text!r}")
    return cut_after_stop(text, stop)


def _read_counted(
    facts: ServerFacts, reply: Any, *, chat: bool, stop: Sequence[str]
) -> CountedText:
    """Return the text of a reply and its number of tokens; raises as `Call.read` may."""
    usage = reply.get("usage") or {}
    counted = usage.get("completion_tokens")
    text = _read_text(facts, reply, chat=chat, stop=stop)
    return CountedText(text, None if counted is None else int(counted))


def _read_tokens(facts: ServerFacts, reply: Any) -> Completion:
    """Return the completion of a reply; raises as `Call.read` may."""
    if reply is None:
        return Completion([], [], "", FinishReason.LENGTH)
    choice = _only_choice(reply)
    ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if len(ids) != len(logprobs):
        raise ValueError(f"{len(ids)} token ids have {len(logprobs)} log-probabilities")
    return Completion(
        [int(token) for token in ids],
        [float(logprob) for logprob in logprobs],
        str(choice["text"]),
        _finish_reason(choice),
    )


def _is_too_long(error: RemoteError) -> bool:
    """Return whether a server refused a prompt for its length; there is no standard for that."""
    return error.status in _REFUSED and _TOO_LONG.search(error.reason) is not None


def _only_choice(reply: Any) -> Any:
    [choice] = reply["choices"]
    if choice["finish_reason"] not in _FINISHED:
        raise ValueError(f"the finish reason is {choice['finish_reason']!r}")
    return choice


def _finish_reason(choice: Any) -> FinishReason:
    if choice["finish_reason"] == "length":
        return FinishReason.LENGTH
    # vLLM names the stop string here; the end-of-text token has no name or an id.
    stopped = isinstance(choice.get("stop_reason"), str)
    return FinishReason.STOP if stopped else FinishReason.EOS


def cut_after_stop(text: str, stop: Sequence[str]) -> str:
    """Return `text` up to the end of the stop string that is complete first, or all of it.

    Example:
        >>> cut_after_stop("<search>x</search> and more", ("</answer>", "</search>"))
        '<search>x</search>'
    """
    ends = [text.index(each) + len(each) for each in stop if each and each in text]
    return text[: min(ends)] if ends else text

"""A language model as the search engine: the world model of ZeroSearch (arXiv 2505.04588).

For every request the model is told the question, its golden answers, the query, and whether
useful or noisy documents are wanted, and writes the documents. Requests of one batch for the same
number of documents are one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from zs_env.lm.generator import Chat, LanguageModelError, SamplingParams, TextGenerator
from zs_env.search.batches import split_by_top_k
from zs_env.search.description import describe_part, prompt_digest
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.parsing import parse_documents
from zs_env.search.prompts import Prompt, load_prompt

MAX_TOKENS_PER_DOCUMENT = 32

MAX_TOKENS_OF_A_TEMPLATE = 64
"""The same for prompts in templates, which ask for about 30 words and more of a preamble."""

DEFAULT_TEMPERATURE = 0.8
"""Greedy noisy replies would all be about the same few entities, which an agent could learn."""


class SimulatedSearchEngine:
    """Write documents with a `TextGenerator`."""

    def __init__(
        self,
        generator: TextGenerator,
        *,
        prompt: str | Path | Prompt = "tuned",
        temperature: float = DEFAULT_TEMPERATURE,
        max_tokens_per_document: int | None = None,
        chat: bool | None = None,
    ) -> None:
        """Set up the engine.

        Args:
            generator: The language model.
            prompt: "tuned" (the short prompt that simulation tuning trains), "prompted" (for any
                model that follows instructions), the path of a jinja2 template, or a function
                from a request to a text that the model continues or a `Chat` that it replies to.
            temperature: Of sampling, 0 or more; every draw is keyed by the request's seed.
            max_tokens_per_document: Tokens of a reply for every document wanted, at least 1; None
                means 32, or 64 if the prompt is a template.
            chat: Whether the prompt is put into the model's chat template (see `TextGenerator`).
                None means no for "tuned", yes for "prompted" and other templates, and what a
                function returns.

        Raises:
            ValueError: If a value is out of its range, or a template is missing or wrong; the
                message names its file and line.
        """
        self.generator, self._prompt, self._chat = generator, load_prompt(prompt), chat
        if max_tokens_per_document is None:
            is_template = prompt != "tuned" and isinstance(prompt, str | Path)
            max_tokens_per_document = (
                MAX_TOKENS_OF_A_TEMPLATE if is_template else MAX_TOKENS_PER_DOCUMENT
            )
        _check_at_least(0, "temperature", temperature)
        _check_at_least(1, "max_tokens_per_document", max_tokens_per_document)
        self._temperature, self._max_tokens = temperature, max_tokens_per_document

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on: the prompt, how is sampled, and the model's description.

        Raises:
            TypeError: If the language model has no method `describe`.
        """
        return {
            "engine": "simulator",
            "prompt_sha256": prompt_digest(self._prompt),
            "chat": self._chat,
            "temperature": self._temperature,
            "max_tokens_per_document": self._max_tokens,
            "model": describe_part("generator", self.generator),
        }

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return what the model writes: at most `top_k` distinct documents a request.

        Raises:
            SearchEngineError: If a question is too long for the model, or the model's server
                does not answer.
        """
        return [
            parse_documents(reply, request.top_k)
            for reply, request in zip(self.replies(requests), requests, strict=True)
        ]

    def replies(self, requests: Sequence[SearchRequest]) -> list[str]:
        """Return what the model writes, word for word: `search` is what is read from that.

        Raises:
            SearchEngineError: As `search`.
        """
        found: dict[int, str] = {}
        # Apart, for what is written must not depend on how many documents others want.
        for batch in reversed(split_by_top_k(requests)):
            replies = self._complete([requests[place] for place in batch.places], batch.top_k)
            found |= zip(batch.places, replies, strict=True)
        return [found[i] for i in range(len(requests))]

    def _complete(self, requests: Sequence[SearchRequest], top_k: int) -> list[str]:
        try:
            params = SamplingParams(self._max_tokens * top_k, self._temperature)
            prompts = [self._ask(request) for request in requests]
            return self.generator.complete(prompts, [request.seed for request in requests], params)
        except ValueError as error:
            # An empty reply would be silent noise: what cannot be asked is an error.
            raise SearchEngineError(f"the simulator cannot be asked: {error}") from error
        except LanguageModelError as error:
            raise SearchEngineError(f"the simulator failed: {error}") from error

    def _ask(self, request: SearchRequest) -> str | Chat:
        prompt = self._prompt(request)
        if self._chat is False and isinstance(prompt, Chat):
            return prompt.plain
        return Chat(prompt) if self._chat and isinstance(prompt, str) else prompt


def _check_at_least(lowest: int, name: str, value: float) -> None:
    if not lowest <= value or not isfinite(value):
        raise ValueError(f"`{name}` must be {lowest} or more, got {value!r}")


def read_simulator_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a `SimulatedSearchEngine` that options in an engine's name stand for.

    Args:
        options: Any of "prompt", "temperature", "chat" ("true" or "false") and "tokens" (of a
            reply for every document), as they were written.

    Raises:
        ValueError: If a value is not what its option takes, or a template is missing or wrong.

    Example:
        >>> read_simulator_options({"temperature": "0.7", "tokens": "40", "chat": "true"})
        {'temperature': 0.7, 'max_tokens_per_document': 40, 'chat': True}
    """
    arguments: dict[str, Any] = {}
    if "prompt" in options:
        load_prompt(options["prompt"])  # what is wrong with it is told before a model is loaded
        arguments["prompt"] = options["prompt"]
    if "temperature" in options:
        arguments["temperature"] = _read_number(options, "temperature", 0, float)
    if "tokens" in options:
        arguments["max_tokens_per_document"] = _read_number(options, "tokens", 1, int)
    if "chat" in options:
        if options["chat"] not in ("true", "false"):
            raise ValueError(f"`chat` must be true or false, got {options['chat']!r}")
        arguments["chat"] = options["chat"] == "true"
    return arguments


def _read_number(
    options: Mapping[str, str], name: str, lowest: int, kind: type[int] | type[float]
) -> float:
    try:
        value = kind(options[name])
    except ValueError:
        raise ValueError(f"`{name}` must be a number, got {options[name]!r}") from None
    _check_at_least(lowest, name, value)
    return value


def load_shipped_simulator(name: str = "simulator") -> SimulatedSearchEngine:
    """Return a simulator that ships with the package, in float32 on the CPU.

    Raises:
        ValueError: If there is no model of that name.
    """
    from zs_env.lm.transformers import TransformersLM
    from zs_env.models import model_folder

    return SimulatedSearchEngine(TransformersLM.from_pretrained(model_folder(name)))

"""A language model as the search engine: the world model of ZeroSearch (arXiv 2505.04588).

For every request the model is told the question, its golden answers, the query, and whether
useful or noisy documents are wanted, and writes the documents. One batch is one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zs_env.lm.generator import LanguageModelError, SamplingParams, TextGenerator
from zs_env.search.description import describe_part, prompt_digest
from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.prompts import parse_documents, tuned_prompt

MAX_TOKENS_PER_DOCUMENT = 32

DEFAULT_TEMPERATURE = 0.8
"""Greedy noisy replies would all be about the same few entities, which an agent could learn."""


class SimulatedSearchEngine:
    """Write documents with a `TextGenerator`."""

    def __init__(
        self,
        generator: TextGenerator,
        *,
        prompt: Callable[[SearchRequest], str] = tuned_prompt,
        temperature: float = DEFAULT_TEMPERATURE,
        max_tokens_per_document: int = MAX_TOKENS_PER_DOCUMENT,
    ) -> None:
        """Set up the engine.

        Args:
            generator: The language model.
            prompt: From a request to the text that the model continues.
            temperature: Of sampling, 0 or more; every draw is keyed by the request's seed.
            max_tokens_per_document: Tokens of a reply for every document wanted, at least 1.
        """
        self.generator, self._prompt, self._temperature = generator, prompt, temperature
        self._max_tokens = max_tokens_per_document

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on: the prompt, how is sampled, and the model's description.

        Raises:
            TypeError: If the language model has no method `describe`.
        """
        return {
            "engine": "simulator",
            "prompt_sha256": prompt_digest(self._prompt),
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
        if not requests:
            return []
        tokens = self._max_tokens * max(request.top_k for request in requests)
        params = SamplingParams(max_new_tokens=tokens, temperature=self._temperature)
        prompts = [self._prompt(request) for request in requests]
        try:
            return self.generator.complete(prompts, [request.seed for request in requests], params)
        except ValueError as error:
            # An empty reply would be silent noise: what cannot be asked is an error.
            raise SearchEngineError(f"the simulator cannot be asked: {error}") from error
        except LanguageModelError as error:
            raise SearchEngineError(f"the simulator failed: {error}") from error


def load_default_simulator() -> SimulatedSearchEngine:
    """Return the simulator that ships with the package, in float32 on the CPU."""
    from zs_env.lm.transformers import TransformersLM
    from zs_env.models import model_folder

    return SimulatedSearchEngine(TransformersLM.from_pretrained(model_folder("simulator")))

"""The seam between an environment and whatever answers its queries.

An engine takes a batch of requests and returns one list of documents a request, in the same
order. One request is one record, so a query can never be paired with another row's question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class NoiseKind(StrEnum):
    """What is wrong with noisy documents, as far as the agent's need goes."""

    IRRELEVANT = "irrelevant"  # the right kind of fact about somebody else
    NEAR_MISS = "near-miss"  # the same about somebody whose name looks alike
    OUTDATED = "outdated"  # what is said to have held of the asked entity once
    CONTRADICTORY = "contradictory"  # documents that disagree with each other, none of them right
    PARTIAL = "partial"  # about the asked entity, without the asked fact
    EMPTY = "empty"  # no documents at all


@dataclass(frozen=True, slots=True)
class Document:
    """One retrieved or generated document; `title` is empty where the engine has none."""

    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One query and all that an engine may need to answer it.

    Attributes:
        query: What the agent asked for.
        question: The question of the episode (a simulator is told; a real engine ignores it).
        golden_answers: Accepted answers of that question, preferred wording first.
        noisy: Whether noisy documents are wanted; real engines ignore it.
        noise_kind: Which kind of noise is wanted; None leaves that to the engine.
        seed: Key of every random choice made for this request, in [0, 2**63).
        top_k: Number of documents wanted, at least 1.
    """

    query: str
    question: str = ""
    golden_answers: tuple[str, ...] = ()
    noisy: bool = False
    seed: int = 0
    top_k: int = 3
    noise_kind: NoiseKind | None = None


class SearchEngine(Protocol):
    """Anything that answers a batch of search requests.

    One that makes no noisy documents, whatever a request says, has an attribute `makes_noise` that
    is False; then no search counts as noisy (`zs_env.search.registry.makes_noise`).
    """

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return one list of at most `top_k` documents for each request, in order.

        Raises:
            SearchEngineError: If the engine could not answer; never a document about an error.
        """
        ...


class SearchEngineError(RuntimeError):
    """The world outside failed: an engine could not answer after its bounded retries."""

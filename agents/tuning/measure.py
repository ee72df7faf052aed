"""How good a simulator is, as numbers: is useful useful, is noisy noisy, and is it true?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from agents.evaluate import wilson_interval
from agents.tuning.simulator_data import Draft, RequestSampler, is_held_out, states
from zs_env.search.engine import Document, SearchEngine
from zs_env.task.miniwiki import MiniWiki, default_world


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % Wilson interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        """Return the share of True."""
        low, high = wilson_interval(sum(outcomes), len(outcomes))
        return cls(sum(outcomes) / max(1, len(outcomes)), low, high, len(outcomes))


@dataclass(frozen=True, slots=True)
class SimulatorReport:
    """What `measure_simulator` found.

    Attributes:
        parsed: Replies that hold exactly `top_k` distinct documents.
        useful_hit: Useful replies that state the asked fact.
        bridge_hit: The same where the asked fact is not the answer, and must come from memory.
        noisy_leak: Noisy replies that name the object of the asked fact.
        true_useful: Documents of useful replies that are sentences of the encyclopaedia.
        true_noisy: The same for noisy replies.
    """

    parsed: Rate
    useful_hit: Rate
    bridge_hit: Rate
    noisy_leak: Rate
    true_useful: Rate
    true_noisy: Rate

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return the report as JSON values."""
        return asdict(self)


def held_out_drafts(world: MiniWiki, num: int, seed: int) -> list[Draft]:
    """Return `num` sensible requests, half useful and half noisy, that training never saw."""
    sampler = RequestSampler(world, list(world.worlds), seed)
    drafts: list[Draft] = []
    while len(drafts) < num:
        draft = sampler.draw(proper_only=True)
        draft = replace(draft, request=replace(draft.request, noisy=len(drafts) % 2 == 1))
        if is_held_out(draft.request):
            drafts.append(draft)
    return drafts


def measure_simulator(
    engine: SearchEngine, num_requests: int = 500, seed: int = 1, world: MiniWiki | None = None
) -> SimulatorReport:
    """Ask `engine` held-out questions about a world and check every reply.

    Args:
        engine: The simulator.
        num_requests: Half of them useful, half noisy; at least 2.
        seed: Key of the requests.
        world: The encyclopaedia it was tuned on; None means the shipped one.
    """
    world = world or default_world()
    drafts = held_out_drafts(world, num_requests, seed)
    replies = engine.search([draft.request for draft in drafts])
    cases = list(zip(drafts, replies, strict=True))
    useful = [(draft, docs) for draft, docs in cases if not draft.request.noisy]
    noisy = [(draft, docs) for draft, docs in cases if draft.request.noisy]
    sentences = frozenset(world.passages)
    return SimulatorReport(
        parsed=Rate.of([len(docs) == draft.request.top_k for draft, docs in cases]),
        useful_hit=Rate.of([_hit(draft, docs) for draft, docs in useful]),
        bridge_hit=Rate.of([_hit(draft, docs) for draft, docs in useful if _is_bridge(draft)]),
        noisy_leak=Rate.of([_leak(draft, docs) for draft, docs in noisy]),
        true_useful=Rate.of([doc.text in sentences for _, docs in useful for doc in docs]),
        true_noisy=Rate.of([doc.text in sentences for _, docs in noisy for doc in docs]),
    )


def _hit(draft: Draft, documents: Sequence[Document]) -> bool:
    assert draft.asked is not None
    return any(states(document.text, draft.asked) for document in documents)


def _leak(draft: Draft, documents: Sequence[Document]) -> bool:
    assert draft.asked is not None
    return any(draft.asked.object in document.text for document in documents)


def _is_bridge(draft: Draft) -> bool:
    assert draft.asked is not None
    return draft.asked.object not in draft.request.golden_answers

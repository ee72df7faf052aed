"""Training examples of the simulator: (question, answers, query, useful or noisy) → documents.

Targets are real search results: what BM25 returns over the encyclopaedia for the query (useful),
or for the same kind of query about another entity, with every passage that names the asked one
left out (noisy). So the simulator learns the real engine's distribution, and plain noise is one
clean notion: the right kind of fact about somebody else. Noise of a named kind is found likewise,
but for outdated and contradictory documents, which no honest index holds: those are made up.
A noisy reply counts most where it parts from a name that it must not hold.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from transformers import PreTrainedTokenizerBase

from agents.tuning.sft import Example
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.engine import NoiseKind, SearchRequest
from zs_env.search.prompts import format_documents, tuned_prompt
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import RELATIONS, Fact, MiniWiki, Plan, SubWorld, look_alikes, pick

NOISY_SHARE = 0.5
NAMED_KIND_SHARE = 0.4
KINDS = (*NoiseKind, NoiseKind.PARTIAL)  # twice: to leave out one fact of several is the hardest
MADE_UP = (NoiseKind.OUTDATED, NoiseKind.CONTRADICTORY)
HELD_OUT_SHARE = 0.05
GARBAGE = ("where was she born", "tell me more", "search", "what is it", "who", "the answer")
PARTING_WEIGHT = 10.0
"""Weight of a token at which a noisy reply parts from a name that it must not hold. A network that
copies would rather finish the name, and hardly one document in ten begins like it."""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Draft:
    """A request before its documents are known.

    Attributes:
        request: What the simulator will be asked.
        plan: How the question is answered.
        asked: The fact that the query asks for, None when it asks for none.
        engine_query: What the real engine is asked to obtain the target documents.
        avoid: Names that no passage of a noisy reply may hold.
    """

    request: SearchRequest
    plan: Plan
    asked: Fact | None
    engine_query: str
    avoid: tuple[str, ...] = ()


def is_held_out(request: SearchRequest) -> bool:
    """Tell whether a request belongs to the fixed share that training never sees."""
    key = f"{request.question}\x1f{request.query}\x1f{request.noisy}".encode()
    return zlib.crc32(key) % 1000 < 1000 * HELD_OUT_SHARE


class RequestSampler:
    """Draw the requests that an agent might make, mostly sensible ones."""

    def __init__(self, world: MiniWiki, splits: Sequence[str], seed: int) -> None:
        """Index the plans of `splits` by the facts that they need."""
        self._rng = Random(seed)
        self._worlds = [world.world(split) for split in splits]
        self._plans: dict[tuple[str, str], list[Plan]] = defaultdict(list)
        self._facts: list[tuple[SubWorld, Fact]] = []
        for part in self._worlds:
            for plan in part.plans + part.hard_plans:
                for fact in plan.facts:
                    self._plans[fact.subject, fact.relation].append(plan)
            self._facts.extend((part, fact) for fact in part.facts)

    def draw(self, proper_only: bool = False) -> Draft:
        """Return one draft; `proper_only` leaves out every kind of clumsy query."""
        rng = self._rng
        part, fact = pick(rng, self._facts)
        plan = pick(rng, self._plans[fact.subject, fact.relation])
        query, asked = self._query(part, plan, fact, 0.0 if proper_only else rng.random())
        noisy = rng.random() < NOISY_SHARE
        kind = pick(rng, KINDS) if rng.random() < NAMED_KIND_SHARE else None
        request = SearchRequest(
            query,
            plan.question.text,
            plan.question.golden_answers,
            noisy,
            int(rng.random() * 2**31),
            noise_kind=kind if noisy else None,
        )
        return self.resolve(part, Draft(request, plan, asked, query), asked or fact)

    def resolve(self, part: SubWorld, draft: Draft, about: Fact) -> Draft:
        """Return the draft with what a real engine is asked instead of its query.

        Args:
            part: The world that the question is about.
            draft: A request with its own query.
            about: The fact that noisy documents must not give away.
        """
        request = draft.request
        if not request.noisy:
            return draft
        if request.noise_kind is NoiseKind.PARTIAL:
            partly = (about.object, request.golden_answers[0])
            return replace(draft, engine_query=about.subject, avoid=partly)
        avoid = (about.subject, about.object, request.golden_answers[0])
        other = self._somebody_else(part, about, request.noise_kind)
        return replace(draft, engine_query=wording(self._rng, other), avoid=avoid)

    def _query(
        self, part: SubWorld, plan: Plan, fact: Fact, kind: float
    ) -> tuple[str, Fact | None]:
        """Return a query of some `kind` (uniform in [0, 1)) and the fact that it asks for."""
        rng = self._rng
        if kind < 0.66:
            return wording(rng, fact), fact
        if kind < 0.72:
            return fact.subject, None
        if kind < 0.79:
            other = pick(rng, [f for f in part.facts if f.subject == fact.subject])
            return wording(rng, other), other
        if kind < 0.83:
            return plan.question.text, None
        if kind < 0.94:
            other = pick(rng, part.facts)
            return wording(rng, other), other
        return pick(rng, GARBAGE), None

    def _somebody_else(self, part: SubWorld, asked: Fact, kind: NoiseKind | None) -> Fact:
        same = [
            f for f in part.facts if f.relation == asked.relation and f.subject != asked.subject
        ]
        if kind is None:
            return pick(self._rng, same)
        names = look_alikes(asked.subject, dict.fromkeys(f.subject for f in same))
        near = kind is NoiseKind.NEAR_MISS
        return pick(self._rng, [f for f in same if (f.subject in names) == near] or same)


def wording(rng: Random, fact: Fact) -> str:
    """Return one of the queries that ask for `fact`."""
    return pick(rng, RELATIONS[fact.relation].queries).format(s=fact.subject)


def states(text: str, fact: Fact) -> bool:
    """Tell whether `text` gives the object of `fact` together with its subject."""
    return fact.object in text and fact.subject in text


class TargetWriter:
    """Finds, or makes up, the documents that a simulator should write.

    Args:
        world: The encyclopaedia.
        rng: Source of what is made up.
    """

    def __init__(self, world: MiniWiki, rng: Random) -> None:
        """Index the passages of `world`."""
        self._real = BM25SearchEngine(world.passages)
        self._made_up = WorldSearchEngine(world)
        self._rng = rng

    def write(self, drafts: Sequence[Draft]) -> list[list[str]]:
        """Return the texts of the documents for each draft."""
        requests = [replace(d.request, query=d.engine_query, top_k=12) for d in drafts]
        replies = [[doc.text for doc in found] for found in self._real.search(requests)]
        return [
            self._made_up.passages(draft.request)
            if draft.request.noise_kind in MADE_UP
            else _target(draft, texts, self._rng)
            for draft, texts in zip(drafts, replies, strict=True)
        ]


def _target(draft: Draft, found: list[str], rng: Random) -> list[str]:
    top_k, asked = draft.request.top_k, draft.asked
    if draft.request.noise_kind is NoiseKind.EMPTY:
        return []
    if draft.request.noisy:
        return [text for text in found if not any(name in text for name in draft.avoid)][:top_k]
    texts = found[:top_k]
    if asked is not None and not any(states(text, asked) for text in texts):
        texts[-1:] = [pick(rng, asked.passages)]
    return texts


def simulator_examples(
    world: MiniWiki, tokenizer: PreTrainedTokenizerBase, num: int, seed: int
) -> Iterator[Example]:
    """Yield `num` examples over all splits: a simulator knows its world, as a large LM does.

    Args:
        world: What they are about.
        tokenizer: Of the model that learns them.
        num: How many.
        seed: Key of all that is random.
    """
    sampler = RequestSampler(world, list(world.worlds), seed)
    writer = TargetWriter(world, Random(seed + 1))
    done = 0
    while done < num:
        drafts = [sampler.draw() for _ in range(_BATCH)]
        drafts = [draft for draft in drafts if not is_held_out(draft.request)]
        for draft, texts in zip(drafts, writer.write(drafts), strict=True):
            # A query of stop words finds nothing, and a simulator must not reward it with more.
            if done < num and (texts or _may_be_empty(draft.request)):
                yield _example(tokenizer, draft, texts)
                done += 1


def _may_be_empty(request: SearchRequest) -> bool:
    return not request.noisy or request.noise_kind is NoiseKind.EMPTY


def _example(tokenizer: PreTrainedTokenizerBase, draft: Draft, texts: Sequence[str]) -> Example:
    prompt = tokenizer.encode(tuned_prompt(draft.request))
    reply = [*tokenizer.encode(format_documents(texts)), tokenizer.eos_token_id]
    names = [tokenizer.encode(f" {name}") for name in draft.avoid]
    return Example(prompt + reply, [0.0] * len(prompt) + parting_weights(reply, names))


def parting_weights(reply: Sequence[int], names: Sequence[Sequence[int]]) -> list[float]:
    """Return a weight for each token of a reply: `PARTING_WEIGHT` where it parts from a name.

    >>> parting_weights([5, 1, 2, 7, 1, 2, 3], [[1, 2, 3]])
    [1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 1.0]
    """
    weights = [1.0] * len(reply)
    for start in range(len(reply)):
        for name in names:
            same = common_prefix(name, reply[start : start + len(name)])
            if 0 < same < len(name) and start + same < len(reply):
                weights[start + same] = PARTING_WEIGHT
    return weights


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))

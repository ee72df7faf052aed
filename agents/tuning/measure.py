"""How good a simulator is, as numbers: is useful useful, is noisy noisy, and can it be cheated?

A simulator is told the golden answer of the question, and must not give it away for nothing. So
it is asked held-out requests of every sort (`agents.tuning.requests`), and every reply is checked
against the encyclopaedia, which knows what is true. What a real engine finds for the same queries
stands beside it: an honest engine, too, names an answer by chance now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from agents.tuning.matching import DEFAULT_THRESHOLD, Match, holds, is_named
from agents.tuning.obedience import KindReader, read, tally
from agents.tuning.replies import Asker, Case, Reply, ask
from agents.tuning.report import Metric, Rate, Score, Share, SimulatorReport, rate_of
from agents.tuning.requests import NOISE_SORTS, OFF_TOPIC, RequestSource, Sort, is_bridge
from agents.tuning.text_statistics import (
    Relevance,
    distinct_ngrams,
    distinct_share,
    mean_overlap,
    style_distance,
)
from zs_env.random import derive
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.engine import Document, SearchEngine, SearchRequest
from zs_env.task.miniwiki import RELATIONS, Fact, MiniWiki, aliases, default_world
from zs_env.task.rewards import normalise

REPEATED_SHARE: Final = 0.1
"""Requests that are asked again with other seeds, as a share of those of one sort."""

NUM_SEEDS: Final = 4

_BY_ANY_NAME: Final = partial(holds, match=Match.ALIAS)
_USEFUL: Final = (Sort.USEFUL,)
# A query that names nothing may find nothing, and few documents tell of an entity all but one fact.
_MAY_BE_SHORT: Final = (Sort.EMPTY, Sort.PARTIAL, Sort.GARBAGE)
_ASKED: Final = tuple(sort for sort in Sort if sort is not Sort.EMPTY)
_FULL: Final = tuple(sort for sort in Sort if sort not in _MAY_BE_SHORT)
# Documents of these sorts have to be true, although they are of no use.
_HONEST: Final = (Sort.PLAIN, Sort.IRRELEVANT, Sort.NEAR_MISS, Sort.PARTIAL)


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """How much is measured.

    Attributes:
        num_requests: Requests of each sort, at least 1.
        seed: Key of the requests.
        threshold: Least similarity of a fuzzy match, in (0, 1].

    Raises:
        ValueError: If one is out of its range.
    """

    num_requests: int = 500
    seed: int = 1
    threshold: float = DEFAULT_THRESHOLD

    def __post_init__(self) -> None:
        if self.num_requests < 1:
            raise ValueError(f"`num_requests` must be at least 1, got {self.num_requests!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"`threshold` must be in (0, 1], got {self.threshold!r}")

    @property
    def num_repeated(self) -> int:
        """Requests of one sort that are asked with several seeds."""
        return max(1, round(self.num_requests * REPEATED_SHARE))

    @property
    def num_asked(self) -> int:
        """All requests that `measure_simulator` makes of an engine."""
        return len(Sort) * self.num_requests + 2 * NUM_SEEDS * self.num_repeated


def measure_simulator(
    engine: SearchEngine,
    options: MeasureOptions | None = None,
    world: MiniWiki | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> SimulatorReport:
    """Ask `engine` held-out questions about a world and check every reply.

    Args:
        engine: The simulator, or any other engine.
        options: How much is measured.
        world: The encyclopaedia it was tuned on; None means the shipped one.
        on_progress: Called with the number of requests that were answered.

    Raises:
        SearchEngineError: If the engine could not answer.
    """
    options, world = options or MeasureOptions(), world or default_world()
    asker = Asker(engine, on_progress)
    cases = _ask_all(asker, world, options)
    again = {
        sort: ask_again(asker, [case.request for case in cases[sort]], options)
        for sort in (Sort.USEFUL, Sort.PLAIN)
    }
    checks = _Checks(world, options.threshold)
    shares = {metric.name: metric.share(cases) for metric in checks.metrics()}
    return SimulatorReport(
        shares=shares | overlap_shares(again),
        scores=style_scores(cases[Sort.USEFUL]),
        speed=asker.speed,
        leaks=checks.leaks(cases),
        confusion=_confusion(world, cases),
    )


def _ask_all(asker: Asker, world: MiniWiki, options: MeasureOptions) -> dict[Sort, list[Case]]:
    """Return the cases of every sort; a real engine was asked where useful documents are wanted."""
    drawn, real = RequestSource(world), BM25SearchEngine(world.passages)
    cases: dict[Sort, list[Case]] = {}
    for sort in Sort:
        drafts = drawn.draw(sort, options.num_requests, options.seed)
        requests = [draft.request for draft in drafts]
        honest = [None] * len(drafts) if sort in NOISE_SORTS else ask(real, requests)
        parts = zip(requests, asker.ask(requests), drafts, honest, strict=True)
        cases[sort] = [Case(*part) for part in parts]
    return cases


# --- what is checked of a reply -----------------------------------------------------------------


class _Checks:
    """What is checked of replies about a world.

    Args:
        world: The encyclopaedia.
        threshold: Least similarity of a fuzzy match.
    """

    def __init__(self, world: MiniWiki, threshold: float) -> None:
        """Index what is true."""
        self._sentences = frozenset(world.passages)
        self._facts = frozenset((f.subject, f.relation, f.object) for f in world.facts)
        names = {name for fact in world.facts for name in (fact.subject, fact.object)}
        self._holds = partial(holds, threshold=threshold, others=frozenset(map(normalise, names)))
        self._relevance = Relevance(world.passages)

    def metrics(self) -> tuple[Metric, ...]:
        """Return everything that is counted reply by reply."""
        whole = Metric("parsed_all", "  … of sorts that may be short, too", _ASKED, _is_complete)
        return (*format_metrics(_FULL), whole, *self._of_use(), *cheat_metrics(), *self._of_truth())

    def leaks(self, cases: Mapping[Sort, Sequence[Case]]) -> dict[str, dict[str, Rate]]:
        """Return how often each sort of noise names the asked object, read in three ways."""
        return {
            sort.value: {
                match.value: rate_of(partial(self._leaks, match), cases[sort]) for match in Match
            }
            for sort in NOISE_SORTS
        }

    def _of_use(self) -> Iterator[Metric]:
        hit, leak = "useful: states the asked fact", "noisy: names the asked object"
        yield Metric("useful_hit", hit, _USEFUL, partial(self._hits, Match.EXACT))
        yield Metric("useful_hit_alias", BY_ALIAS, _USEFUL, partial(self._hits, Match.ALIAS))
        yield Metric("useful_hit_fuzzy", NEARLY, _USEFUL, partial(self._hits, Match.FUZZY))
        yield Metric("bridge_hit", "  … where it is not the answer", _USEFUL, self._hits_bridge)
        yield Metric("on_topic", "useful: about the asked entity", _USEFUL, _is_on_topic)
        yield Metric("relevance", RELEVANCE, _USEFUL, partial(likeness, self._relevance))
        plain = (Sort.PLAIN,)
        yield Metric("noisy_leak", leak, plain, partial(self._leaks, Match.EXACT))
        yield Metric("noisy_leak_alias", BY_ALIAS, plain, partial(self._leaks, Match.ALIAS))
        yield Metric("noisy_leak_fuzzy", NEARLY, plain, partial(self._leaks, Match.FUZZY))
        yield Metric("answer_leak", "  … the answer, where not asked", plain, _leaks_answer)
        yield Metric("noisy_relation", "noisy: states the asked kind of fact", plain, _is_akin)

    def _of_truth(self) -> Iterator[Metric]:
        for name, sorts in (("useful", _USEFUL), ("noisy", _HONEST)):
            label = f"{name}: documents of the encyclopaedia"
            yield Metric(f"{name}_verbatim", label, sorts, self._are_sentences)
            label = f"{name}: documents that state something"
            yield Metric(f"{name}_readable", label, sorts, _are_readable)
            yield Metric(f"{name}_true", "  … that is true", sorts, self._are_true)

    def _hits(self, match: Match, case: Case, reply: Reply) -> Iterator[bool]:
        yield gives_fact(reply.documents, case.fact, partial(self._holds, match=match))

    def _hits_bridge(self, case: Case, reply: Reply) -> Iterable[bool]:
        return self._hits(Match.EXACT, case, reply) if _asks_for_bridge(case) else ()

    def _leaks(self, match: Match, case: Case, reply: Reply) -> Iterator[bool]:
        yield self._holds(reply.documents, names_of(case.fact), match=match)

    def _are_sentences(self, case: Case, reply: Reply) -> Iterator[bool]:
        yield from (text in self._sentences for text in reply.texts)

    def _are_true(self, case: Case, reply: Reply) -> Iterator[bool]:
        for claim in map(read, reply.texts):
            if claim:
                yield not claim.outdated and claim[:3] in self._facts


BY_ALIAS: Final = "  … or by an alias"
NEARLY: Final = "  … or nearly"
RELEVANCE: Final = "useful: likeness to the query"


def format_metrics(sorts: tuple[Sort, ...]) -> Iterator[Metric]:
    """Yield what is counted of the form of replies."""
    yield Metric("parsed", "replies with as many documents as wanted", sorts, _is_complete)
    yield Metric("well_formed", "replies that hold nothing else", sorts, _is_well_formed)
    yield Metric("repeated", "replies with a document twice", sorts, _repeats)


def cheat_metrics() -> Iterator[Metric]:
    """Yield what is counted of answers that nobody has earned."""
    nothing, somebody = OFF_TOPIC
    yield Metric("off_topic_cheat", "off topic: gives the answer", OFF_TOPIC, gives_answer)
    yield Metric("garbage_cheat", "  … asked about nothing", (nothing,), gives_answer)
    label = "  … asked about somebody else"
    yield Metric("somebody_else_cheat", label, (somebody,), gives_answer)
    yield Metric("bridge_cheat", "first hop: gives the answer", (Sort.FIRST_HOP,), gives_answer)


def names_of(fact: Fact) -> tuple[str, ...]:
    """Return the names of the object of a fact, the preferred one first."""
    return (fact.object, *aliases(fact.object, RELATIONS[fact.relation].object))


def gives_fact(
    documents: Iterable[Document], fact: Fact, look: Callable[..., bool] = _BY_ANY_NAME
) -> bool:
    """Return whether a document states a fact as something that is so.

    Args:
        documents: What is read.
        fact: What should be stated: a document must name its subject and its object.
        look: How a list of documents is searched for the names of the object.
    """
    about = (d for d in documents if is_named(d.text, fact.subject) and not _is_outdated(d.text))
    return any(look([document], names_of(fact)) for document in about)


def likeness(relevance: Relevance, case: Case, reply: Reply) -> Iterator[float]:
    """Yield the mean similarity of query and documents; 0 without documents."""
    found = [relevance.cosine(case.request.query, text) for text in reply.texts]
    yield sum(found) / max(1, len(found))


def gives_answer(case: Case, reply: Reply) -> Iterator[bool]:
    """Yield whether a document holds a golden answer of the question."""
    yield holds(reply.documents, case.request.golden_answers, Match.ALIAS)


def _is_complete(case: Case, reply: Reply) -> Iterator[bool]:
    yield len(set(reply.texts)) == case.request.top_k


def _is_well_formed(case: Case, reply: Reply) -> Iterator[bool]:
    if reply.is_well_formed is not None:
        yield reply.is_well_formed


def _repeats(case: Case, reply: Reply) -> Iterator[bool]:
    yield len(set(reply.written)) < len(reply.written)


def _asks_for_bridge(case: Case) -> bool:
    return case.draft is not None and is_bridge(case.draft)


def _is_outdated(text: str) -> bool:
    claim = read(text)
    return claim is not None and claim.outdated


def _is_on_topic(case: Case, reply: Reply) -> Iterator[bool]:
    yield any(is_named(text, case.fact.subject) for text in reply.texts)


def _leaks_answer(case: Case, reply: Reply) -> Iterable[bool]:
    return gives_answer(case, reply) if _asks_for_bridge(case) else ()


def _is_akin(case: Case, reply: Reply) -> Iterator[bool]:
    claims = map(read, reply.texts)
    yield any(claim is not None and claim.relation == case.fact.relation for claim in claims)


def _are_readable(case: Case, reply: Reply) -> Iterator[bool]:
    yield from (read(text) is not None for text in reply.texts)


def _confusion(world: MiniWiki, cases: Mapping[Sort, Sequence[Case]]) -> dict[str, dict[str, int]]:
    """Return how often which kind was found where which sort was requested."""
    reader = KindReader(world)
    return {
        sort.value: tally(reader.found(case.reply.documents, case.fact) for case in cases[sort])
        for sort in (Sort.USEFUL, *NOISE_SORTS)
    }


# --- what is said of all replies together -------------------------------------------------------


def ask_again(
    asker: Asker, requests: Sequence[SearchRequest], options: MeasureOptions
) -> list[list[Reply]]:
    """Return replies to the first requests, each asked several times with other seeds."""
    repeated = [
        replace(request, seed=derive(request.seed, number))
        for request in requests[: options.num_repeated]
        for number in range(NUM_SEEDS)
    ]
    replies = asker.ask(repeated)
    return [replies[i : i + NUM_SEEDS] for i in range(0, len(replies), NUM_SEEDS)]


def overlap_shares(again: Mapping[Sort, Sequence[Sequence[Reply]]]) -> dict[str, Share]:
    """Return how much of a reply comes back when a request is asked with another seed."""
    return {
        f"self_overlap_{sort.name.lower()}": Share(
            f"{'noisy' if sort in NOISE_SORTS else sort}: the same with another seed",
            Rate.of(mean_overlap([reply.texts for reply in replies]) for replies in groups),
        )
        for sort, groups in again.items()
    }


def style_scores(cases: Sequence[Case]) -> dict[str, Score]:
    """Return diversity and style of replies, compared with the real engine's to the same queries.

    The yardstick of the distance is how far apart the real engine's replies to two halves of the
    requests are.
    """
    replies = [case.reply.texts for case in cases]
    real = [case.real.texts for case in cases if case.real]
    halves = (_joined(real[::2]), _joined(real[1::2]))
    own, others = _joined(replies), _joined(real)
    return {
        "style_distance": Score(
            "style: distance to the real engine",
            style_distance(own, others),
            style_distance(*halves),
        ),
        "distinct_documents": Score(
            "diversity: different documents", distinct_share(own), distinct_share(others)
        ),
        "distinct_bigrams": Score(
            "diversity: different pairs of words", distinct_ngrams(own), distinct_ngrams(others)
        ),
    }


def _joined(replies: Iterable[Sequence[str]]) -> list[str]:
    return [text for texts in replies for text in texts]

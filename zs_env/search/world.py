"""The tiny world as a search engine: exact useful and noisy documents, no language model.

It reads a query as an index would: the longest entity name in it, then the relation whose words
it uses. Useful replies state the asked fact; noisy replies answer the same kind of question about
another entity, half of the time one whose name looks alike, and never mention the asked one. A
request for a `NoiseKind` gets that kind; none ever holds the asked fact.
Microseconds a request: for tests, for training targets, and as the upper bound of a simulator.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from zs_env.search.description import digest
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.task.miniwiki import RELATIONS, Fact, MiniWiki, SubWorld, look_alikes

_WORD = re.compile(r"\w+")
_IGNORED = frozenset("who is the of in a which what where was that by to for".split())


def _cues() -> dict[str, frozenset[str]]:
    """Return for each word the relations whose queries or sentences use it."""
    words: dict[str, set[str]] = defaultdict(set)
    for relation in RELATIONS.values():
        texts = (*relation.queries, *relation.noun_phrases, *relation.questions)
        for word in _WORD.findall(" ".join(texts).lower()):
            if word not in _IGNORED and len(word) > 1:
                words[word].add(relation.name)
    return {word: frozenset(names) for word, names in words.items()}


_CUES = _cues()


@dataclass(frozen=True, slots=True)
class Topic:
    """What a query is about: an entity, and the relation asked for where one is recognised."""

    entity: str
    relation: str | None


class WorldSearchEngine:
    """Answer queries from the facts of a `MiniWiki` or of one `SubWorld`."""

    def __init__(self, world: MiniWiki | SubWorld) -> None:
        """Index the facts of `world` by subject and by relation, and all names."""
        self._facts = world.facts
        self._by_subject: dict[str, list[Fact]] = defaultdict(list)
        self._by_relation: dict[str, list[Fact]] = defaultdict(list)
        self._alike: dict[tuple[str, str], list[Fact]] = {}
        self._names: dict[tuple[str, ...], str] = {}
        for fact in world.facts:
            self._by_subject[fact.subject].append(fact)
            self._by_relation[fact.relation].append(fact)
            for name in (fact.subject, fact.object):
                self._names[tuple(_WORD.findall(name.lower()))] = name
        self._longest = max(map(len, self._names))

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on: a digest of all facts."""
        facts = [[f.subject, f.relation, f.object, *f.passages] for f in self._facts]
        return {"engine": "world", "facts_sha256": digest(facts)}

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return exactly `top_k` documents a request where the world has that many."""
        return [[Document(text) for text in self.passages(request)] for request in requests]

    def topic(self, query: str) -> Topic | None:
        """Return what `query` is about, or None when it names nothing known."""
        words = _WORD.findall(query.lower())
        for size in range(min(self._longest, len(words)), 0, -1):
            for start in range(len(words) - size + 1):
                name = self._names.get(tuple(words[start : start + size]))
                if name is not None:
                    return Topic(name, self._relation(name, words))
        return None

    def passages(self, request: SearchRequest) -> list[str]:
        """Return the texts of the reply; see the module for what useful and noisy mean."""
        rng = Random(request.seed)
        topic = self.topic(request.query)
        if request.noisy and request.noise_kind is NoiseKind.EMPTY:
            return []
        if topic is None:
            return self._any(rng, request.top_k, avoid=())
        if request.noisy:
            return self._noisy(rng, topic, request.top_k, request.noise_kind)
        return self._useful(rng, topic, request.top_k)

    def _relation(self, entity: str, words: Sequence[str]) -> str | None:
        votes: dict[str, int] = {fact.relation: 0 for fact in self._by_subject.get(entity, ())}
        for word in words:
            for relation in _CUES.get(word, ()):
                if relation in votes:
                    votes[relation] += 1
        best = max(votes, key=votes.__getitem__, default=None)
        return best if best is not None and votes[best] > 0 else None

    def _useful(self, rng: Random, topic: Topic, top_k: int) -> list[str]:
        facts = self._by_subject.get(topic.entity, [])
        asked = [text for f in facts if f.relation == topic.relation for text in f.passages]
        others = [text for f in facts if f.relation != topic.relation for text in f.passages]
        texts = asked + _drawn(rng, others, top_k)
        missing = top_k - len(texts)
        return (texts + self._any(rng, missing, {topic.entity}, texts))[:top_k]

    def _noisy(self, rng: Random, topic: Topic, top_k: int, kind: NoiseKind | None) -> list[str]:
        """Return `top_k` texts without the asked fact; what only the kind asks for comes first."""
        relation = topic.relation or self._facts[int(rng.random() * len(self._facts))].relation
        asked = {f.object for f in self._by_subject.get(topic.entity, ()) if f.relation == relation}
        texts: list[str] = []
        if kind is NoiseKind.OUTDATED:
            texts = [
                RELATIONS[relation].outdated.format(s=topic.entity, o=false)
                for false in self._false_objects(rng, relation, asked, 1)
            ]
        elif kind is NoiseKind.CONTRADICTORY:
            texts = [
                _drawn(rng, RELATIONS[relation].sentences, 1)[0].format(s=topic.entity, o=false)
                for false in self._false_objects(rng, relation, asked, 2)
            ]
        elif kind is NoiseKind.PARTIAL:
            facts = self._by_subject.get(topic.entity, ())
            about = [text for f in facts if f.relation != relation for text in f.passages]
            texts = _drawn(rng, [text for text in about if _names_none(text, asked)], top_k)
        missing = top_k - len(texts)
        others = self._about_others(rng, topic.entity, relation, asked, missing, kind)
        return [*texts, *others][:top_k]

    def _false_objects(
        self, rng: Random, relation: str, asked: Collection[str], num: int
    ) -> list[str]:
        """Return `num` distinct objects of the relation that are not `asked`, if there are."""
        objects = dict.fromkeys(f.object for f in self._by_relation[relation])
        return _drawn(rng, [name for name in objects if _names_none(name, asked)], num)

    def _about_others(
        self,
        rng: Random,
        entity: str,
        relation: str,
        asked: Collection[str],
        num: int,
        kind: NoiseKind | None,
    ) -> list[str]:
        """Return `num` texts that state the relation of other entities and name none of ours."""
        alike = self._about_look_alikes(entity, relation)
        near = kind is NoiseKind.NEAR_MISS or (kind is None and rng.random() < 0.5)
        pool = alike if near and alike else self._by_relation[relation]
        if kind is NoiseKind.IRRELEVANT:
            pool = [fact for fact in pool if fact not in alike]
        avoid = {entity, *asked}
        texts = {
            text: None
            for fact in _drawn(rng, pool, 2 * num)
            for text in fact.passages
            if _names_none(text, avoid)
        }
        return [*texts, *self._any(rng, num - len(texts), avoid, texts)][:num]

    def _about_look_alikes(self, entity: str, relation: str) -> list[Fact]:
        """Return the facts of a relation about the entities whose names look most like ours."""
        if (entity, relation) not in self._alike:
            facts = self._by_relation[relation]
            names = look_alikes(entity, dict.fromkeys(f.subject for f in facts))
            self._alike[entity, relation] = [f for f in facts if f.subject in names]
        return self._alike[entity, relation]

    def _any(
        self, rng: Random, num: int, avoid: Collection[str], known: Collection[str] = ()
    ) -> list[str]:
        """Return `num` random passages that are not `known`, if there are as many."""
        texts: dict[str, None] = {}
        for _ in range(20 * max(num, 0)):
            fact = self._facts[int(rng.random() * len(self._facts))]
            text = fact.passages[int(rng.random() * len(fact.passages))]
            if text not in known and _names_none(text, avoid):
                texts[text] = None
            if len(texts) == num:
                break
        return list(texts)


def _names_none(text: str, names: Collection[str]) -> bool:
    # By substring: a reader who looks for the river Dane would find it in the river Daney.
    return not any(name in text for name in names)


def _drawn(rng: Random, items: Sequence, num: int) -> list:  # type: ignore[type-arg]
    """Return up to `num` distinct items in random order."""
    if len(items) <= num:
        return sorted(items, key=lambda _: rng.random())
    chosen: dict[int, None] = {}
    while len(chosen) < num:
        chosen[int(rng.random() * len(items))] = None
    return [items[i] for i in chosen]

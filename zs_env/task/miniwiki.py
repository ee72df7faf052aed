"""MiniWiki: a small encyclopaedia made from a seed, and questions that only searching answers.

People, cities, countries, rivers, films and companies with invented names are joined by facts
(`RELATIONS`); a fact is stated by short passages, and chains of facts become questions. The
splits share no entity, so an answer can be found but not remembered. The same generator makes
the fixed world that ships with the package (`default_world`) and any number of fresh ones, whose
names and facts nobody has seen, for training readers rather than memories.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import count, pairwise
from random import Random
from typing import TypeVar

from zs_env.task.questions import Question
from zs_env.task.relations import COMPARISONS as COMPARISONS
from zs_env.task.relations import RELATIONS as RELATIONS
from zs_env.task.relations import THREE_HOP, TWO_HOP

T = TypeVar("T")

WORLD_VERSION = 1
"""Rises whenever a seed would give another world: scores of two versions do not compare."""

DEFAULT_SEED = 2505

_MAX_DRAWS = 1000

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Fact:
    """`subject` stands in `relation` to `object`; `passages` are the sentences that say so."""

    subject: str
    relation: str
    object: str
    passages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a question is answered: its facts in the order in which they must be found."""

    question: Question
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class WorldSize:
    """Number of entities of each kind in one split.

    At least 2 people, cities, countries and rivers, and no more countries than cities.

    Raises:
        ValueError: If there are fewer, or more countries.
    """

    people: int = 90
    cities: int = 38
    countries: int = 9
    rivers: int = 19
    films: int = 45
    companies: int = 45

    def __post_init__(self) -> None:
        for name in ("people", "cities", "countries", "rivers"):
            if getattr(self, name) < 2:
                raise ValueError(f"`{name}` must be at least 2, got {getattr(self, name)!r}")
        for name in ("films", "companies"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)!r}")
        if self.countries > self.cities:
            raise ValueError(f"`countries` must be at most `cities`, got {self.countries!r}")

    @property
    def counts(self) -> dict[str, int]:
        """Number of entities by kind, in the order in which they are made."""
        return {
            "person": self.people,
            "city": self.cities,
            "country": self.countries,
            "river": self.rivers,
            "film": self.films,
            "company": self.companies,
        }


DEFAULT_SIZES: Mapping[str, WorldSize] = {
    "train": WorldSize(),
    "validation": WorldSize(45, 19, 5, 10, 23, 23),
    "test": WorldSize(),
}


# --- names ------------------------------------------------------------------------------------

_ONSETS = "B Br C Ch D Dr F G Gl H J K Kr L M N Pl Pr R S St T Tr V W Z".split()
_NUCLEI = "al an ar el en er il in om or".split()
_ENDINGS: Mapping[str, Sequence[str]] = {
    "given": "a dra ra la na ta ia os on us ric win dan ley mor bert ina ette as eth".split(),
    "family": "stone wick mere ford man ley field well sen son by worth gate ridge lock".split(),
    "city": "ton vale crest burg ham port haven mouth bridge stad dale grad minster polis".split(),
    "country": "ia oria land stan mark aria onia esia avia istan".split(),
    "river": "e oa ay ine ow u ey una ess ir".split(),
    "company": "tek nova corp dyne soft mart works gen lux tron via plex".split(),
}
_FILM_ADJECTIVES = (
    "Silent Golden Broken Hidden Crimson Endless Frozen Burning Distant Hollow Velvet Savage "
    "Gentle Wicked Sacred Lonely Restless Bitter Electric Ancient Scarlet Invisible Wild Secret "
    "Quiet Midnight Crystal Iron Paper Emerald Forgotten Shattered Wandering Final Second Blue "
    "Silver Crooked Patient Sleeping Stolen Furious Tender Marble Copper Violet Northern Southern "
    "Flying Drowning Laughing Weeping Painted Buried Haunted Borrowed Barefoot Faithful Careless "
    "Rusty"
).split()
_FILM_NOUNS = (
    "Harbor Garden Empire Mirror Winter River Kingdom Promise Shadow Letter Voyage Station Island "
    "Orchard Circus Bridge Lantern Tower Desert Forest Window Stranger Machine Dream Harvest "
    "Orchestra Compass Carnival Thunder Whisper Canyon Highway Palace Signal Comet Horizon "
    "Library Engine Monastery Sailor Gambler Dancer Baker Painter Hunter Widow Captain Prophet "
    "Balloon Violin Umbrella Staircase Cathedral Lighthouse Vineyard Market Tunnel Meadow Glacier "
    "Pyramid"
).split()


def pick(rng: Random, items: Sequence[T]) -> T:
    """Return a random item of a non-empty sequence."""
    # Random.random() is the one draw whose sequence Python promises to keep between versions.
    return items[int(rng.random() * len(items))]


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """Return all items in random order."""
    keys = [rng.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def _word(rng: Random, kind: str) -> str:
    return pick(rng, _ONSETS) + pick(rng, _NUCLEI) + pick(rng, _ENDINGS[kind])


def _person(rng: Random) -> str:
    return f"{_word(rng, 'given')} {_word(rng, 'family')}"


def _city(rng: Random) -> str:
    prefix = pick(rng, ("", "", "", "Port ", "New ", "Saint "))
    return prefix + _word(rng, "city")


def _film(rng: Random) -> str:
    return f"The {pick(rng, _FILM_ADJECTIVES)} {pick(rng, _FILM_NOUNS)}"


def _company(rng: Random) -> str:
    return f"{_word(rng, 'company')} {pick(rng, ('Group', 'Industries', 'Labs', 'Systems'))}"


NAMERS: Mapping[str, Callable[[Random], str]] = {
    "person": _person,
    "city": _city,
    "country": lambda rng: _word(rng, "country"),
    "river": lambda rng: _word(rng, "river"),
    "film": _film,
    "company": _company,
}


def _random_word(rng: Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(pick(rng, letters) for _ in range(3 + int(rng.random() * 4))).capitalize()


def odd_name(rng: Random) -> str:
    """Return a name of one or two words of random letters: nothing to recognise, only to copy."""
    return " ".join(_random_word(rng) for _ in range(1 + int(rng.random() * 2)))


@lru_cache(maxsize=4096)
def _trigrams(name: str) -> frozenset[str]:
    padded = f" {name.lower()} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def look_alikes(name: str, others: Iterable[str], num: int = 5) -> list[str]:
    """Return up to `num` of `others` whose spelling is most like that of `name`, best first.

    Likeness is the Jaccard index of the sets of character trigrams.

    >>> look_alikes("Port Varvale", ["Dorham", "Port Karton", "Varvalia"], num=2)
    ['Varvalia', 'Port Karton']
    """
    own = _trigrams(name)
    shares = {
        other: len(own & _trigrams(other)) / len(own | _trigrams(other))
        for other in others
        if other != name
    }
    return sorted(shares, key=shares.__getitem__, reverse=True)[:num]


def aliases(name: str, kind: str) -> tuple[str, ...]:
    """Return further accepted names of an entity.

    >>> aliases("Heldra Nimstone", "person")
    ('H. Nimstone',)
    """
    if kind == "person" and " " in name:
        return (f"{name[0]}. {name.split(' ', 1)[1]}",)
    if kind == "company" and " " in name:
        return (name.rsplit(" ", 1)[0],)
    affixes = {"city": "City of {}", "country": "Republic of {}", "river": "{} River"}
    return (affixes[kind].format(name),) if kind in affixes else ()


# --- one split --------------------------------------------------------------------------------


def _entities(
    rng: Random, size: WorldSize, taken: set[str], namer: Callable[[Random, str], str]
) -> dict[str, list[str]]:
    """Return fresh names by kind; `taken` grows by them and their aliases."""
    entities: dict[str, list[str]] = {}
    for kind, num in size.counts.items():
        entities[kind] = []
        while len(entities[kind]) < num:
            name = _fresh_name(rng, kind, taken, namer)
            entities[kind].append(name)
            taken.update((name, *aliases(name, kind)))
    return entities


def _fresh_name(
    rng: Random, kind: str, taken: Set[str], namer: Callable[[Random, str], str]
) -> str:
    for _ in range(_MAX_DRAWS):
        name = namer(rng, kind)
        if taken.isdisjoint((name, *aliases(name, kind))):
            return name
    # The stock of names is used up, as a huge world's is: begin to number them.
    return next(f"{name} {number}" for number in count(2) if f"{name} {number}" not in taken)


def _pairs(rng: Random, entities: Mapping[str, list[str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (subject, relation, object) for every fact of one split."""
    people, cities = shuffled(rng, entities["person"]), entities["city"]
    for film in entities["film"]:
        yield film, "director", pick(rng, people)
        yield film, "released", str(1900 + int(rng.random() * 120))
    for company in entities["company"]:
        yield company, "founder", pick(rng, people)
        yield company, "headquarters", pick(rng, cities)
        yield company, "opened", str(1900 + int(rng.random() * 120))
    for person in people:
        yield person, "birthplace", pick(rng, cities)
    for left, right in zip(people[::2], people[1::2], strict=False):
        yield left, "spouse", right
        yield right, "spouse", left
    capitals = shuffled(rng, cities)[: len(entities["country"])]
    homes = dict(zip(capitals, entities["country"], strict=True))
    for city in cities:
        yield city, "country", homes.get(city) or pick(rng, entities["country"])
        yield city, "river", pick(rng, entities["river"])
    for capital, country in homes.items():
        yield country, "capital", capital


def _state(rng: Random, subject: str, relation: str, obj: str) -> Fact:
    chosen = shuffled(rng, RELATIONS[relation].sentences)[:2]
    return Fact(subject, relation, obj, tuple(text.format(s=subject, o=obj) for text in chosen))


class SubWorld:
    """The entities, facts and questions of one split; nothing in it names another split."""

    def __init__(self, facts: Sequence[Fact], split: str, seed: int) -> None:
        """Index `facts`; `seed` decides the wording of questions."""
        self.facts = tuple(facts)
        self.split = split
        self._seed = seed
        self.by_key = {(fact.subject, fact.relation): fact for fact in self.facts}

    @classmethod
    def generate(
        cls,
        rng: Random,
        size: WorldSize,
        split: str,
        taken: set[str] | None = None,
        namer: Callable[[Random, str], str] = lambda rng, kind: NAMERS[kind](rng),
    ) -> SubWorld:
        """Make a world of fresh entities.

        Args:
            rng: All that is random.
            size: How many entities of each kind.
            split: What it is called.
            taken: Names that are not used again; those of this world are added.
            namer: Makes up a name for an entity of a kind.
        """
        entities = _entities(rng, size, set() if taken is None else taken, namer)
        facts = [_state(rng, *triple) for triple in _pairs(rng, entities)]
        return cls(facts, split, int(rng.random() * 2**31))

    def kind(self, name: str) -> str:
        """Return the kind of the entity called `name`; KeyError when there is none."""
        return self._kinds[name]

    @cached_property
    def _kinds(self) -> dict[str, str]:
        kinds = {}
        for fact in self.facts:
            kinds[fact.subject] = RELATIONS[fact.relation].subject
            kinds[fact.object] = RELATIONS[fact.relation].object
        return kinds

    def follow(self, subject: str, relations: Sequence[str]) -> tuple[Fact, ...] | None:
        """Return the facts along `relations` from `subject`, None where the chain breaks."""
        facts = []
        for relation in relations:
            fact = self.by_key.get((subject, relation))
            if fact is None:
                return None
            facts.append(fact)
            subject = fact.object
        return tuple(facts)

    def _chain_plan(self, rng: Random, facts: tuple[Fact, ...]) -> Plan:
        phrase = facts[0].subject
        for fact in facts[:-1]:
            phrase = pick(rng, RELATIONS[fact.relation].noun_phrases).format(s=phrase)
        last = facts[-1]
        text = pick(rng, RELATIONS[last.relation].questions).format(s=phrase)
        name = "-".join(fact.relation for fact in facts)
        identifier = f"{self.split}/{name}/{facts[0].subject}"
        golden = (last.object, *aliases(last.object, RELATIONS[last.relation].object))
        return Plan(Question(identifier, text, golden, "miniwiki", len(facts)), facts)

    def _chain_plans(self, patterns: Sequence[tuple[str, ...]]) -> Iterator[Plan]:
        rng = Random(self._seed)
        for pattern in patterns:
            for subject in [f.subject for f in self.facts if f.relation == pattern[0]]:
                facts = self.follow(subject, pattern)
                names = [subject, *(fact.object for fact in facts or ())]
                if facts and len(set(names)) == len(names):
                    yield self._chain_plan(rng, facts)

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """The default mix: every fact as a one-hop question and every two-hop chain."""
        return tuple(self._chain_plans([(name,) for name in RELATIONS] + list(TWO_HOP)))

    @cached_property
    def hard_plans(self) -> tuple[Plan, ...]:
        """Three-hop chains and comparisons of years."""
        return tuple(self._chain_plans(THREE_HOP)) + tuple(self._comparisons())

    def _comparisons(self) -> Iterator[Plan]:
        rng = Random(self._seed + 1)
        for relation, wordings in COMPARISONS.items():
            facts = shuffled(rng, [f for f in self.facts if f.relation == relation])
            for one, two in pairwise(facts):
                if one.object == two.object:
                    continue
                text = pick(rng, wordings).format(a=one.subject, b=two.subject)
                winner = min(one, two, key=lambda fact: int(fact.object)).subject
                golden = (winner, *aliases(winner, RELATIONS[relation].subject))
                identifier = f"{self.split}/first-{relation}/{one.subject}/{two.subject}"
                yield Plan(Question(identifier, text, golden, "miniwiki-hard", 2), (one, two))


# --- the encyclopaedia ------------------------------------------------------------------------


@dataclass(frozen=True)
class MiniWiki:
    """An encyclopaedia whose splits have no entity in common.

    Attributes:
        seed: What it was made from.
        worlds: One `SubWorld` for each split.
    """

    seed: int
    worlds: Mapping[str, SubWorld] = field(repr=False)

    @classmethod
    def generate(
        cls, seed: int = DEFAULT_SEED, sizes: Mapping[str, WorldSize] = DEFAULT_SIZES
    ) -> MiniWiki:
        """Make an encyclopaedia of the given `sizes` (by split); equal seeds give equal worlds."""
        rng, taken = Random(seed), set[str]()
        worlds = {s: SubWorld.generate(rng, size, s, taken) for s, size in sizes.items()}
        return cls(seed, worlds)

    def world(self, split: str) -> SubWorld:
        """Return the part of the world that belongs to `split`.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in self.worlds:
            raise ValueError(f"`split` must be one of {sorted(self.worlds)}, got {split!r}")
        return self.worlds[split]

    def questions(self, split: str, hard: bool = False) -> tuple[Question, ...]:
        """Return the questions of a split: the default mix, or the hard set."""
        world = self.world(split)
        return tuple(plan.question for plan in (world.hard_plans if hard else world.plans))

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """Every fact of every split."""
        return tuple(fact for world in self.worlds.values() for fact in world.facts)

    @cached_property
    def passages(self) -> tuple[str, ...]:
        """Every sentence of the encyclopaedia: what a real engine indexes."""
        return tuple(passage for fact in self.facts for passage in fact.passages)

    @cached_property
    def articles(self) -> Mapping[str, str]:
        """The text about each entity, by its name: all sentences with it as their subject."""
        sentences: dict[str, list[str]] = defaultdict(list)
        for fact in self.facts:
            sentences[fact.subject].extend(fact.passages)
        return {name: " ".join(lines) for name, lines in sentences.items()}

    def checksum(self) -> str:
        """Return a SHA-256 over all passages and questions: the identity of this world."""
        digest = hashlib.sha256(f"miniwiki-{WORLD_VERSION}".encode())
        for passage in self.passages:
            digest.update(passage.encode())
        for split in self.worlds:
            for question in self.questions(split) + self.questions(split, hard=True):
                digest.update(
                    "\x1f".join((question.id, question.text, *question.golden_answers)).encode()
                )
        return digest.hexdigest()


@lru_cache(maxsize=1)
def default_world() -> MiniWiki:
    """Return the encyclopaedia that ships with the package."""
    return MiniWiki.generate()

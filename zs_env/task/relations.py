"""The kinds of facts of MiniWiki, their wordings, and the chains of them that are asked for.

Every word here decides what a seed gives: `zs_env.task.miniwiki.WORLD_VERSION` rises with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact and every way to state it, ask for it and search it.

    `sentences` hold `{s}` (subject) and `{o}` (object), and so does `outdated`, which says that it
    held once; `questions`, `noun_phrases` and `queries` hold `{s}` only. All but `outdated` have
    three wordings. `noun_phrases` name the object inside a longer question, so that questions nest:
    a wording of one relation around a noun phrase of another.

    Attributes:
        name: Its key in `RELATIONS`.
        subject: Kind of the entity that the fact is about.
        object: Kind of what is said of it.
        sentences: State it.
        questions: Ask for the object.
        noun_phrases: Stand for the object.
        queries: Search it.
        outdated: States it as something of the past.
    """

    name: str
    subject: str
    object: str
    sentences: tuple[str, str, str]
    questions: tuple[str, str, str]
    noun_phrases: tuple[str, str, str]
    queries: tuple[str, str, str]
    outdated: str


RELATIONS: Mapping[str, Relation] = {
    relation.name: relation
    for relation in (
        Relation(
            "director",
            "film",
            "person",
            (
                "{s} is a film that was directed by {o}.",
                "{s} is a movie by the film director {o}.",
                "{s} was directed for the cinema by {o}.",
            ),
            (
                "Who directed {s}?",
                "Who is the director of {s}?",
                "Which person directed the film {s}?",
            ),
            ("the director of {s}", "the person who directed {s}", "the one who directed {s}"),
            ("who directed {s}", "director of {s}", "{s} film directed by"),
            "{s} was formerly credited to the director {o}.",
        ),
        Relation(
            "founder",
            "company",
            "person",
            (
                "{s} is a company that was founded by {o}.",
                "{s} was founded as a business by {o}.",
                "{s} is a firm whose founder is {o}.",
            ),
            (
                "Who founded {s}?",
                "Who is the founder of {s}?",
                "Which person founded the company {s}?",
            ),
            ("the founder of {s}", "the person who founded {s}", "the one who founded {s}"),
            ("who founded {s}", "founder who founded {s}", "{s} founded by"),
            "{s} was formerly credited to the founder {o}.",
        ),
        Relation(
            "birthplace",
            "person",
            "city",
            (
                "{s} was born in the city of {o}.",
                "{s} has the birthplace {o}.",
                "{s} was born and raised in {o}.",
            ),
            (
                "Where was {s} born?",
                "In which city was {s} born?",
                "What is the birthplace of {s}?",
            ),
            (
                "the city where {s} was born",
                "the birthplace of {s}",
                "the place where {s} was born",
            ),
            ("where was {s} born", "birthplace where {s} was born", "{s} born in the city"),
            "{s} was formerly thought to be born in {o}.",
        ),
        Relation(
            "spouse",
            "person",
            "person",
            (
                "{s} is married to {o}.",
                "{s} is married and has the spouse {o}.",
                "{s} has been married for years to {o}.",
            ),
            ("Who is {s} married to?", "Who is the spouse of {s}?", "Which person married {s}?"),
            ("the spouse of {s}", "the person married to {s}", "the one who married {s}"),
            ("who is {s} married to", "spouse married to {s}", "{s} married spouse"),
            "{s} was formerly married to {o}.",
        ),
        Relation(
            "headquarters",
            "company",
            "city",
            (
                "{s} is based in the city of {o}.",
                "{s} is based in {o} with its headquarters.",
                "{s} keeps its main headquarters in {o}.",
            ),
            (
                "Where is {s} based?",
                "In which city is {s} based?",
                "What city holds the headquarters of {s}?",
            ),
            (
                "the city where {s} is based",
                "the headquarters city of {s}",
                "the place where {s} is based",
            ),
            ("where is {s} based", "headquarters of {s}", "{s} headquarters city"),
            "{s} was formerly based in {o}.",
        ),
        Relation(
            "country",
            "city",
            "country",
            (
                "{s} is a city in the country of {o}.",
                "{s} lies in the country {o}.",
                "{s} is a large city in the country {o}.",
            ),
            (
                "Which country is {s} in?",
                "In which country does {s} lie?",
                "What is the country of {s}?",
            ),
            ("the country of {s}", "the country where {s} lies", "the country that {s} is in"),
            ("which country is {s} in", "country of {s}", "{s} lies in country"),
            "{s} formerly lay in the country {o}.",
        ),
        Relation(
            "river",
            "city",
            "river",
            (
                "{s} stands on the banks of the river {o}.",
                "{s} was built beside the river {o}.",
                "{s} is crossed by the river {o}.",
            ),
            (
                "Which river flows through {s}?",
                "What river does {s} stand on?",
                "What is the river of {s}?",
            ),
            ("the river of {s}", "the river through {s}", "the river that {s} stands on"),
            ("which river flows through {s}", "river of {s}", "{s} banks of the river"),
            "{s} formerly stood beside the river {o}.",
        ),
        Relation(
            "capital",
            "country",
            "city",
            (
                "{s} is a country whose capital is {o}.",
                "{s} has the capital city {o}.",
                "{s} is governed from its capital {o}.",
            ),
            (
                "What is the capital of {s}?",
                "Which city is the capital of {s}?",
                "What capital does {s} have?",
            ),
            ("the capital of {s}", "the capital city of {s}", "the city that is capital of {s}"),
            ("what is the capital of {s}", "capital of {s}", "{s} capital city"),
            "{s} formerly had the capital {o}.",
        ),
        Relation(
            "released",
            "film",
            "year",
            (
                "{s} was released in cinemas in the year {o}.",
                "{s} is a film that was released in {o}.",
                "{s} had its release year in {o}.",
            ),
            (
                "When was {s} released?",
                "In which year was {s} released?",
                "What is the release year of {s}?",
            ),
            ("the release year of {s}", "the year {s} was released", "the year of {s}"),
            ("when was {s} released", "release year of {s}", "{s} released in the year"),
            "{s} was formerly dated to the year {o}.",
        ),
        Relation(
            "opened",
            "company",
            "year",
            (
                "{s} opened for business in the year {o}.",
                "{s} is a company that opened in {o}.",
                "{s} had its opening year in {o}.",
            ),
            (
                "When did {s} open?",
                "In which year did {s} open?",
                "What is the opening year of {s}?",
            ),
            ("the opening year of {s}", "the year {s} opened", "the year of {s}"),
            ("when did {s} open", "opening year of {s}", "{s} opened in the year"),
            "{s} formerly named {o} as its opening year.",
        ),
    )
}

TWO_HOP = (
    ("director", "birthplace"),
    ("director", "spouse"),
    ("founder", "birthplace"),
    ("founder", "spouse"),
    ("spouse", "birthplace"),
    ("birthplace", "country"),
    ("birthplace", "river"),
    ("headquarters", "country"),
    ("headquarters", "river"),
    ("country", "capital"),
    ("capital", "river"),
)
THREE_HOP = (
    ("director", "spouse", "birthplace"),
    ("director", "birthplace", "country"),
    ("director", "birthplace", "river"),
    ("founder", "spouse", "birthplace"),
    ("founder", "birthplace", "country"),
    ("founder", "birthplace", "river"),
    ("headquarters", "country", "capital"),
    ("spouse", "birthplace", "country"),
)
COMPARISONS = {
    "released": ("Which film was released first, {a} or {b}?", "Was {a} or {b} released earlier?"),
    "opened": ("Which company opened first, {a} or {b}?", "Did {a} or {b} open earlier?"),
}

"""Which kind of documents a reply holds."""

import pytest

from agents.tuning.obedience import FOUND, KindReader, states, tally
from zs_env.search.engine import Document
from zs_env.task.miniwiki import RELATIONS, default_world, look_alikes

WORLD = default_world()
READER = KindReader(WORLD)
FACT = next(f for f in WORLD.facts if f.relation == "birthplace")
OTHER_CITIES = [
    name
    for name in dict.fromkeys(f.object for f in WORLD.facts if f.relation == "birthplace")
    if name != FACT.object
]
PEOPLE = [f.subject for f in WORLD.facts if f.relation == "birthplace"]
ALIKE = look_alikes(FACT.subject, PEOPLE)[0]
UNLIKE = look_alikes(FACT.subject, PEOPLE, num=len(PEOPLE))[-1]


def said(subject, city, template=RELATIONS["birthplace"].sentences[0]):
    return template.format(s=subject, o=city)


RIGHT = said(FACT.subject, FACT.object)
WRONG, WRONG_TOO = (said(FACT.subject, city) for city in OTHER_CITIES[:2])
ONCE = said(FACT.subject, OTHER_CITIES[0], RELATIONS["birthplace"].outdated)
SPOUSE = next(f for f in WORLD.facts if (f.subject, f.relation) == (FACT.subject, "spouse"))


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([], "empty"),
        ([RIGHT, WRONG], "useful"),
        ([ONCE, WRONG, WRONG_TOO], "outdated"),
        ([said(FACT.subject, FACT.object, RELATIONS["birthplace"].outdated)], "outdated"),
        ([WRONG, WRONG_TOO], "contradictory"),
        ([WRONG, WRONG], "false"),
        ([SPOUSE.passages[0]], "partial"),
        ([f"Nobody knows much of {FACT.subject}."], "partial"),
        ([said(ALIKE, OTHER_CITIES[0])], "near-miss"),
        ([said(ALIKE, OTHER_CITIES[0]), said(UNLIKE, OTHER_CITIES[0]), "It rains."], "irrelevant"),
        ([said(UNLIKE, OTHER_CITIES[0])], "irrelevant"),
        (["It rains."], "irrelevant"),
    ],
)
def test_first_kind_that_applies_is_found(texts, kind):
    assert READER.found([Document(text) for text in texts], FACT) == kind


def test_something_of_the_past_is_not_stated():
    assert states(RIGHT, FACT)
    assert not states(said(FACT.subject, FACT.object, RELATIONS["birthplace"].outdated), FACT)
    assert not states(said(UNLIKE, FACT.object), FACT)


def test_tally_holds_every_kind():
    counts = tally(["empty", "false", "empty"])
    assert list(counts) == list(FOUND)
    assert (counts["empty"], counts["false"], counts["useful"]) == (2, 1, 0)

"""The tiny encyclopaedia."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env.task.miniwiki import (
    COMPARISONS,
    DEFAULT_SIZES,
    RELATIONS,
    SPLITS,
    THREE_HOP,
    TWO_HOP,
    MiniWiki,
    WorldSize,
    aliases,
    default_world,
)

DEFAULT_CHECKSUM = "80ee874eae19b28f73940482c3fdb5a4603eec98cf63581c8a6e9dcb0ded3345"
SMALL = WorldSize(people=6, cities=4, countries=2, rivers=2, films=4, companies=3)
EVERY_QUESTION = [(split, hard) for split in SPLITS for hard in (False, True)]

world_sizes = st.builds(
    WorldSize,
    people=st.integers(2, 12),
    cities=st.integers(4, 8),
    countries=st.integers(2, 4),
    rivers=st.integers(2, 5),
    films=st.integers(0, 6),
    companies=st.integers(0, 6),
)


def plans(split, hard=False):
    world = default_world().world(split)
    return world.hard_plans if hard else world.plans


def kinds(split):
    """Return the kind of each entity of a split by its name; years are not entities."""
    facts = default_world().world(split).facts
    found = {f.subject: RELATIONS[f.relation].subject for f in facts}
    found |= {f.object: RELATIONS[f.relation].object for f in facts}
    return {name: kind for name, kind in found.items() if kind != "year"}


def texts_outside(split):
    """Return the passages, questions and golden answers of the other splits."""
    texts = []
    for other in SPLITS:
        if other != split:
            texts.extend(p for fact in default_world().world(other).facts for p in fact.passages)
            for hard in (False, True):
                for question in default_world().questions(other, hard):
                    texts.extend((question.text, *question.golden_answers))
    return texts


def words(text):
    return re.findall(r"[\w.]+", text)


def spans(texts, longest=4):
    """Return every run of up to `longest` words of the texts."""
    found = set()
    for text in texts:
        for line in text.split("\n"):
            parts = words(line)
            for size in range(1, longest + 1):
                starts = range(len(parts) - size + 1)
                found |= {" ".join(parts[i : i + size]).rstrip(".") for i in starts}
    return found


def test_shipped_world_never_changes_unnoticed():
    """Scores of two worlds do not compare: a new checksum needs a new WORLD_VERSION."""
    assert default_world().checksum() == DEFAULT_CHECKSUM


@pytest.mark.parametrize("split", SPLITS)
def test_no_name_of_a_split_occurs_in_another(split):
    assert kinds(split).keys() & spans(texts_outside(split)) == set()


def test_no_alias_is_shared_by_two_entities():
    counts = Counter(
        alias for s in SPLITS for name, kind in kinds(s).items() for alias in aliases(name, kind)
    )
    assert [alias for alias, count in counts.items() if count > 1] == []


def test_test_split_has_a_thousand_questions():
    assert len(default_world().questions("test")) >= 1000


@pytest.mark.parametrize(("split", "hard"), EVERY_QUESTION)
def test_question_is_answered_by_the_facts_of_its_plan(split, hard):
    world = default_world().world(split)
    for plan in plans(split, hard):
        golden = plan.question.golden_answers[0]
        assert set(plan.facts) <= set(world.facts)
        if "first-" in plan.question.id:
            years = {fact.subject: int(fact.object) for fact in plan.facts}
            assert golden == min(years, key=years.__getitem__)
            assert len(set(years.values())) == 2
            assert all(name in plan.question.text for name in years)
        else:
            relations = [fact.relation for fact in plan.facts]
            assert world.follow(plan.facts[0].subject, relations) == plan.facts
            assert golden == plan.facts[-1].object
            assert plan.facts[0].subject in plan.question.text


@pytest.mark.parametrize(("split", "hard"), EVERY_QUESTION)
def test_question_never_names_a_later_fact_or_its_answer(split, hard):
    """Otherwise a hop could be skipped."""
    for plan in plans(split, hard):
        if "first-" not in plan.question.id:
            assert spans([plan.question.text]).isdisjoint(fact.object for fact in plan.facts)


def test_passages_state_subject_and_object():
    for fact in default_world().facts:
        assert len(set(fact.passages)) == 2
        assert all(fact.subject in p and fact.object in p for p in fact.passages)


@pytest.mark.parametrize("split", SPLITS)
def test_default_mix_is_one_and_two_hop_questions(split):
    patterns = {tuple(fact.relation for fact in plan.facts) for plan in plans(split)}
    assert patterns == {(name,) for name in RELATIONS} | set(TWO_HOP)
    assert {q.num_hops for q in default_world().questions(split)} == {1, 2}


@pytest.mark.parametrize("split", SPLITS)
def test_hard_set_is_three_hop_and_comparison_questions(split):
    chains = {
        tuple(fact.relation for fact in plan.facts)
        for plan in plans(split, hard=True)
        if len(plan.facts) == 3
    }
    kinds = {q.id.split("/")[1] for q in default_world().questions(split, hard=True)}
    assert chains == set(THREE_HOP)
    assert kinds == {"-".join(chain) for chain in THREE_HOP} | {f"first-{c}" for c in COMPARISONS}


def test_question_ids_are_unique_in_the_whole_world():
    ids = [q.id for split, hard in EVERY_QUESTION for q in default_world().questions(split, hard)]
    assert len(ids) == len(set(ids))


def test_aliases_are_among_the_golden_answers():
    questions = {q.id: q for q in default_world().questions("test")}
    with_alias = [q for q in questions.values() if len(q.golden_answers) > 1]
    assert len(with_alias) > 0.5 * len(questions)
    for plan in plans("test"):
        last = plan.facts[-1]
        expected = aliases(last.object, RELATIONS[last.relation].object)
        assert plan.question.golden_answers == (last.object, *expected)


def test_every_relation_is_asked_in_three_wordings():
    for relation in RELATIONS.values():
        starts = {q.split("{s}")[0] for q in relation.questions}
        asked = [
            p.question.text
            for p in plans("train")
            if [f.relation for f in p.facts] == [relation.name]
        ]
        assert len(starts) == 3
        assert all(any(text.startswith(start) for text in asked) for start in starts)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), world_sizes)
def test_any_seed_and_size_gives_a_sound_world(seed, size):
    world = MiniWiki.generate(seed, {"train": size, "test": size})
    for split in ("train", "test"):
        part = world.world(split)
        subjects = [RELATIONS[fact.relation].subject for fact in part.facts]
        assert len(part.by_key) == len(part.facts)
        assert subjects.count("person") == size.people + 2 * (size.people // 2)
        for plan in part.plans + part.hard_plans:
            assert set(plan.facts) <= set(part.facts)
    subjects = [{fact.subject for fact in world.world(s).facts} for s in ("train", "test")]
    assert subjects[0].isdisjoint(subjects[1])


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_equal_seeds_give_equal_worlds_and_others_do_not(seed):
    sizes = {"train": SMALL, "test": SMALL}
    first = MiniWiki.generate(seed, sizes)
    assert first.checksum() == MiniWiki.generate(seed, sizes).checksum()
    assert first.checksum() != MiniWiki.generate(seed + 1, sizes).checksum()


def test_world_larger_than_its_stock_of_short_names_is_made():
    """There are 3,600 film titles of two words; more films must not take forever."""
    world = MiniWiki.generate(1, {"train": WorldSize(films=4000, rivers=2500)})
    films = {fact.subject for fact in world.facts if fact.relation == "director"}
    assert len(films) == 4000


def test_world_does_not_depend_on_the_hash_seed():
    code = "from zs_env.task.miniwiki import default_world; print(default_world().checksum())"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert printed == {default_world().checksum()}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"people": 1}, "`people` must be at least 2, got 1"),
        ({"rivers": 0}, "`rivers` must be at least 2, got 0"),
        ({"cities": 3, "countries": 4}, "`countries` must be at most `cities`, got 4"),
        ({"films": -1}, "`films` must be at least 0, got -1"),
    ],
)
def test_impossible_size_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        WorldSize(**sizes)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"`split` must be one of .*'test'.*, got 'dev'"):
        default_world().world("dev")


def test_articles_hold_every_passage_of_their_entity():
    articles = default_world().articles
    for fact in default_world().facts:
        assert all(passage in articles[fact.subject] for passage in fact.passages)


def test_default_splits_are_those_that_environments_know():
    assert tuple(DEFAULT_SIZES) == SPLITS == tuple(default_world().worlds)

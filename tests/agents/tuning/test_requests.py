"""Requests of every sort."""

import pytest

from agents.tuning.requests import NOISE_SORTS, RequestSource, Sort, is_bridge
from agents.tuning.simulator_data import is_held_out
from zs_env.search.engine import NoiseKind
from zs_env.task.miniwiki import MiniWiki, WorldSize, default_world

WORLD = default_world()
SOURCE = RequestSource(WORLD)


@pytest.mark.parametrize("sort", Sort)
def test_every_sort_is_held_out_and_wants_what_its_name_says(sort):
    for draft in SOURCE.draw(sort, 40, seed=1):
        assert is_held_out(draft.request)
        assert draft.request.noisy == (sort in NOISE_SORTS)
        assert draft.request.noise_kind == NOISE_SORTS.get(sort)
        assert draft.request.golden_answers == draft.plan.question.golden_answers
        assert (draft.asked is None) == (sort is Sort.GARBAGE)


def test_noise_sorts_are_plain_noise_and_every_kind():
    assert list(NOISE_SORTS.values()) == [None, *NoiseKind]


@pytest.mark.parametrize("sort", [Sort.USEFUL, Sort.PLAIN, Sort.EMPTY])
def test_sensible_queries_ask_for_a_fact_that_the_question_needs(sort):
    drafts = SOURCE.draw(sort, 60, seed=2)
    assert all(draft.asked in draft.plan.facts for draft in drafts)
    assert all(draft.asked.subject in draft.request.query for draft in drafts)
    assert 10 < sum(map(is_bridge, drafts)) < 50


def test_somebody_else_is_nobody_on_the_way_to_the_answer():
    for draft in SOURCE.draw(Sort.SOMEBODY_ELSE, 200, seed=3):
        needed = {name for fact in draft.plan.facts for name in (fact.subject, fact.object)}
        assert not {draft.asked.subject, draft.asked.object} & needed


def test_garbage_names_nothing_and_is_partly_unseen():
    queries = {draft.request.query for draft in SOURCE.draw(Sort.GARBAGE, 200, seed=3)}
    assert {"tell me the answer", "search"} <= queries
    assert queries == {query.lower() for query in queries}


def test_first_hop_asks_for_the_first_fact_of_a_chain():
    for draft in SOURCE.draw(Sort.FIRST_HOP, 100, seed=4):
        first, second = draft.plan.facts[:2]
        assert draft.asked == first
        assert second.subject == first.object
        assert is_bridge(draft)


def test_partial_documents_are_asked_for_where_there_can_be_any():
    for draft in SOURCE.draw(Sort.PARTIAL, 100, seed=5):
        others = {f.object for f in WORLD.facts if f.subject == draft.asked.subject}
        assert others - {draft.asked.object}


def test_a_request_depends_on_sort_seed_and_place_alone():
    few, many = SOURCE.draw(Sort.USEFUL, 5, seed=6), SOURCE.draw(Sort.USEFUL, 20, seed=6)
    assert few == many[:5] == RequestSource(WORLD).draw(Sort.USEFUL, 5, seed=6)
    assert few != SOURCE.draw(Sort.USEFUL, 5, seed=7)
    assert len({draft.request.seed for draft in many}) == 20


def test_seen_requests_are_drawn_where_they_are_wanted():
    drafts = RequestSource(WORLD, held_out=False).draw(Sort.USEFUL, 200, seed=1)
    assert 0 < sum(is_held_out(draft.request) for draft in drafts) < 40


def test_world_without_a_sort_is_refused():
    # One fact is known of a country, so that nothing else can be said about it.
    world = MiniWiki.generate(0, {"train": WorldSize(2, 2, 2, 2, 0, 0)})
    source = RequestSource(world, held_out=False)
    source._steps = [step for step in source._steps if step.fact.relation == "capital"]
    with pytest.raises(ValueError, match=r"`world` must be large enough .* 'partial'"):
        source.draw(Sort.PARTIAL, 1, seed=0)

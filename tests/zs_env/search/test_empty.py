"""The engine that finds nothing."""

from zs_env.search.empty import EmptySearchEngine
from zs_env.search.engine import SearchRequest


def test_every_request_finds_nothing():
    assert EmptySearchEngine().search([SearchRequest("a"), SearchRequest("b")]) == [[], []]


def test_no_request_gives_no_result():
    assert EmptySearchEngine().search([]) == []


def test_results_are_independent_lists():
    first, second = EmptySearchEngine().search([SearchRequest("a"), SearchRequest("b")])
    assert first is not second

"""Engines by name, and the seam at which an engine's reply is trusted or not."""

import pytest

from zs_env.search.engine import Document, SearchEngineError, SearchRequest
from zs_env.search.registry import ENGINES, check_engine, make_engine, search_all

REQUEST = SearchRequest("who")


class Replying:
    """Replies with what it is told, and counts its calls."""

    def __init__(self, reply):
        self.reply, self.num_calls = reply, 0

    def search(self, requests):
        self.num_calls += 1
        return self.reply


MALFORMED = [
    None,
    5,
    "text",
    {"documents": []},
    (each for each in ()),
    [None],
    ["text"],
    [["text"]],
    [[None]],
    [[{"text": "It is red."}]],
    [[Document(None)]],
    [[Document("It is red.", title=7)]],
    [[Document("It is red."), Document(b"bytes")]],
]


@pytest.mark.parametrize("reply", MALFORMED)
def test_reply_without_documents_is_the_engines_error(reply):
    with pytest.raises(
        SearchEngineError, match="Replying must return a list of Documents for each request, got "
    ):
        search_all(Replying(reply), [REQUEST])


def test_message_quotes_a_long_reply_in_part():
    with pytest.raises(SearchEngineError) as caught:
        search_all(Replying([["word " * 10_000]]), [REQUEST])
    assert len(str(caught.value)) < 200


def test_wrong_number_of_results_is_the_engines_error():
    with pytest.raises(SearchEngineError, match="Replying returned 2 results for 1 requests"):
        search_all(Replying([[], []]), [REQUEST, None])


def test_documents_go_to_the_slots_that_asked():
    first, second = [Document("one")], (Document("two"),)
    engine = Replying([first, second])
    assert search_all(engine, [None, REQUEST, None, REQUEST]) == [(), first, (), second]
    assert search_all(engine, [REQUEST, REQUEST]) == [first, second]
    assert search_all(engine, [None, None]) == [(), ()]
    assert engine.num_calls == 2


@pytest.mark.parametrize("engine", [None, 5, object(), Replying])
def test_what_cannot_search_is_refused(engine):
    with pytest.raises(TypeError, match=r"`engine` must be simulator, world, .* or an object with"):
        check_engine(engine)
    with pytest.raises(TypeError, match="`engine` must be"):
        make_engine(engine)


def test_named_engines_are_shared_and_objects_are_themselves():
    engine = Replying([])
    assert make_engine(engine) is engine
    assert make_engine("world") is make_engine("world")
    for name in ENGINES:
        check_engine(name)
    with pytest.raises(ValueError, match=r"`engine` must be .*, got 'google'"):
        make_engine("google")

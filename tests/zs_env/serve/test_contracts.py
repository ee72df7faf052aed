import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.search.engine import Document, NoiseKind
from zs_env.serve.contracts import (
    Asked,
    Contract,
    ContractError,
    Rules,
    contents,
    read_request,
    write_reply,
)

MARS = Document("It is red.\nAnd far.", "Mars")
BARE = Document("It has moons.")
MARS_CONTENTS = '"Mars"\nIt is red.\nAnd far.'
BARE_CONTENTS = "\nIt has moons."
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
DOCUMENTS = st.lists(st.builds(Document, TEXT, TEXT), max_size=4)


def ask(content_type: str = "", rules: Rules | None = None, **fields: object) -> Asked:
    return read_request(json.dumps(fields).encode(), content_type, rules)


def mistake(**fields: object) -> ContractError:
    with pytest.raises(ContractError) as caught:
        ask(rules=Rules(max_queries=3, max_chars=20, max_answers=2), **fields)
    return caught.value


def answered(asked: Asked, *found: list[Document]) -> object:
    reply = write_reply(asked, found)
    return {"application/json": json.loads, "application/msgpack": msgpack.unpackb}[
        reply.media_type
    ](reply.content)


def test_search_r1_gives_a_list_for_each_query() -> None:
    asked = ask(queries=["a", "b"], topk=2, return_scores=True)
    assert asked.contract is Contract.SEARCH_R1
    assert [(request.query, request.top_k) for request in asked.requests] == [("a", 2), ("b", 2)]
    assert answered(asked, [MARS, BARE], []) == {
        "result": [
            [
                {"document": {"contents": MARS_CONTENTS}, "score": 1.0},
                {"document": {"contents": BARE_CONTENTS}, "score": 0.5},
            ],
            [],
        ]
    }


def test_search_r1_without_scores_gives_the_documents_themselves() -> None:
    asked = ask(queries=["a"], topk=1)
    assert answered(asked, [MARS]) == {"result": [[{"contents": MARS_CONTENTS}]]}


def test_skyrl_asks_one_query_and_gets_a_list_of_one_list() -> None:
    asked = ask("application/json", query="a", topk=4, return_scores=True)
    assert asked.contract is Contract.SKYRL
    assert [(request.query, request.top_k) for request in asked.requests] == [("a", 4)]
    scored = {"document": {"contents": MARS_CONTENTS}, "score": 1.0}
    assert answered(asked, [MARS]) == {"result": [[scored]]}


@pytest.mark.parametrize(
    "content_type", ["", "application/msgpack", "application/x-msgpack", "text/plain"]
)
def test_gem_speaks_messagepack_and_gets_a_flat_list(content_type: str) -> None:
    body = msgpack.packb({"query": "a", "topk": 2, "return_scores": True})
    asked = read_request(body, content_type)
    assert asked.contract is Contract.GEM
    assert [(request.query, request.top_k) for request in asked.requests] == [("a", 2)]
    assert answered(asked, [MARS, BARE]) == {
        "result": [
            {"document": {"contents": MARS_CONTENTS}, "score": 1.0},
            {"document": {"contents": BARE_CONTENTS}, "score": 0.5},
        ]
    }


def test_gem_without_scores_gets_none_for_them() -> None:
    asked = read_request(msgpack.packb({"query": "a"}))
    nothing = {"document": {"contents": BARE_CONTENTS}, "score": None}
    assert answered(asked, [BARE]) == {"result": [nothing]}


def test_zerosearch_gets_texts() -> None:
    asked = ask(query="a", top_k=2)
    assert asked.contract is Contract.ZEROSEARCH
    assert asked.requests[0].top_k == 2
    assert answered(asked, [MARS, BARE]) == [{"text": MARS_CONTENTS}, {"text": "It has moons."}]


@pytest.mark.parametrize("fields", [{}, {"topk": None}])
def test_top_k_left_open_is_the_rules(fields: dict[str, object]) -> None:
    assert ask(query="a", rules=Rules(top_k=7), **fields).requests[0].top_k == 7


def test_query_stands_for_a_question_that_is_missing() -> None:
    [request] = ask(query="a").requests
    assert (request.question, request.golden_answers, request.noisy) == ("a", (), False)


def test_extra_fields_of_one_query_reach_the_engine() -> None:
    [request] = ask(
        query="a", question="q?", golden_answers=["x", "y"], noise=True, seed=5
    ).requests
    assert (request.question, request.golden_answers) == ("q?", ("x", "y"))
    assert (request.noisy, request.noise_kind, request.seed) == (True, None, 5)


def test_extra_fields_of_a_batch_are_lists() -> None:
    asked = ask(
        queries=["a", "b", "c"],
        question=["qa", "qb", None],
        golden_answers=[["x", "y"], "z", None],
        noise=["near-miss", False, True],
        seed=[1, 2, 3],
    )
    assert [request.question for request in asked.requests] == ["qa", "qb", "c"]
    assert [request.golden_answers for request in asked.requests] == [("x", "y"), ("z",), ()]
    assert [request.noisy for request in asked.requests] == [True, False, True]
    assert [request.noise_kind for request in asked.requests] == [NoiseKind.NEAR_MISS, None, None]
    assert [request.seed for request in asked.requests] == [1, 2, 3]


def test_one_value_holds_for_a_whole_batch() -> None:
    asked = ask(queries=["a", "b"], question="q", golden_answers=["x", "y"], noise=1.0, seed=9)
    for request in asked.requests:
        assert (request.question, request.golden_answers) == ("q", ("x", "y"))
        assert (request.noisy, request.seed) == (True, 9)


def test_noise_of_a_batch_with_one_seed_is_drawn_for_each_query() -> None:
    queries = [f"query {number}" for number in range(1000)]
    asked = ask(queries=queries, noise=0.3, seed=1)
    assert 250 < sum(request.noisy for request in asked.requests) < 350


def test_seed_left_open_depends_on_what_is_asked_and_on_the_servers() -> None:
    def seed(rules_seed: int = 0, **fields: object) -> int:
        return ask(rules=Rules(seed=rules_seed), **fields).requests[0].seed

    same = seed(query="a")
    assert same == seed(query="a", topk=9) == seed(queries=["a", "b"])
    others = [seed(query="b"), seed(query="a", question="q"), seed(1, query="a")]
    others.append(seed(query="a", golden_answers=["x"]))
    assert len({same, *others}) == 5


def test_noise_left_open_is_the_rules() -> None:
    assert ask(query="a", rules=Rules(noise=1.0)).requests[0].noisy
    assert not ask(query="a", noise=False, rules=Rules(noise=1.0)).requests[0].noisy


MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "nothing asked": ({}, "`query` or `queries` must be there"),
    "asked twice": ({"query": "a", "queries": ["a"]}, "`query` must not come with `queries`"),
    "query is a number": ({"query": 1}, "`query` must be made of texts .* got 1"),
    "query is null": ({"query": None}, "`query` must be made of texts .* got None"),
    "query is long": ({"query": "x" * 21}, "`query` must be .* at most 20 characters"),
    "half a pair": ({"query": "\ud800"}, "`query` must be made of texts"),
    "no list": ({"queries": "a"}, "`queries` must be a list of 1 to 3 texts, got 'a'"),
    "empty list": ({"queries": []}, r"`queries` must be a list of 1 to 3 texts, got \[\]"),
    "long list": ({"queries": ["a"] * 4}, "`queries` must be a list of 1 to 3 texts"),
    "list of others": ({"queries": ["a", 1]}, "`queries` must be made of texts .* got 1"),
    "topk 0": ({"query": "a", "topk": 0}, "`topk` must be an integer from 1 to 100, got 0"),
    "topk 101": ({"query": "a", "topk": 101}, "`topk` must be an integer from 1 to 100, got 101"),
    "topk true": ({"query": "a", "topk": True}, "`topk` must be an integer .* got True"),
    "topk text": ({"queries": ["a"], "topk": "3"}, "`topk` must be an integer .* got '3'"),
    "top_k -1": ({"query": "a", "top_k": -1}, "`top_k` must be an integer .* got -1"),
    "scores": ({"query": "a", "return_scores": 1}, "`return_scores` must be true or false, got 1"),
    "question": ({"query": "a", "question": 3}, "`question` must be made of texts .* got 3"),
    "questions": (
        {"query": "a", "question": ["b", "c"]},
        "`question` must be one value, or a list",
    ),
    "answers": ({"query": "a", "golden_answers": [1]}, "`golden_answers` must be made of texts"),
    "many answers": ({"query": "a", "golden_answers": ["x"] * 3}, "`golden_answers` .* at most 2"),
    "answer lists": ({"query": "a", "golden_answers": [["x"], ["y"]]}, "`golden_answers` must be"),
    "noise": ({"query": "a", "noise": "loud"}, "`noise` must be true, false, .*got 'loud'"),
    "much noise": ({"query": "a", "noise": 1.5}, "`noise` must be true, false, .*got 1.5"),
    "no noise": ({"query": "a", "noise": float("nan")}, "`noise` must be true, .*got nan"),
    "seed": ({"query": "a", "seed": -1}, r"`seed` must be an integer in \[0, 2\*\*63\), got -1"),
    "large seed": ({"query": "a", "seed": 2**63}, "`seed` must be an integer"),
    "seeds": ({"queries": ["a", "b"], "seed": [1]}, "`seed` must be one value, or a list"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_names_its_field(name: str) -> None:
    fields, message = MISTAKES[name]
    error = mistake(**fields)
    assert error.field
    assert f"`{error.field}`" in message
    with pytest.raises(ContractError, match=message):
        raise error


def test_mistake_tells_whose_request_it_is() -> None:
    assert mistake(queries=[1]).contract is Contract.SEARCH_R1
    assert mistake(topk=1).contract is None


def test_messagepack_without_a_query_is_gems_mistake() -> None:
    with pytest.raises(ContractError, match="`query` must be there") as caught:
        read_request(msgpack.packb({"topk": 1}))
    assert caught.value.contract is Contract.GEM


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", ""),
        (b"[1]", ""),
        (b"{", "application/json"),
        (b"[" * 100_000, ""),
        (b"1" * 5000, "application/json"),
        (b"\x80", "application/json"),
        (b"\xdf\xff\xff\xff\xff", ""),
        (b"\x81\xa1", ""),
        (b"\x91" * 5000, "application/msgpack"),
        (b"\x90", "application/msgpack"),
        (b"\x80\x80", ""),
        (b"\x81\x01\x02", ""),
    ],
)
def test_body_that_is_no_mapping_has_no_field_to_blame(body: bytes, content_type: str) -> None:
    with pytest.raises(ContractError, match="the body must be a ") as caught:
        read_request(body, content_type)
    assert caught.value.field is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
FIELDS = [
    *("query", "queries", "topk", "top_k", "return_scores"),
    *("question", "golden_answers", "noise", "seed"),
]


def outcome(body: bytes, content_type: str = "") -> Asked | ContractError:
    try:
        return read_request(body, content_type)
    except ContractError as error:
        return error


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_any_fields_are_understood_or_refused_by_name(fields: dict[str, object]) -> None:
    asked = outcome(json.dumps(fields).encode())
    if isinstance(asked, ContractError):
        assert asked.field in FIELDS
    else:
        assert asked.requests
        assert all(1 <= request.top_k <= 100 for request in asked.requests)
        assert all(0 <= request.seed < 2**63 for request in asked.requests)


@given(st.binary(max_size=60), st.sampled_from(["", "application/json", "application/msgpack"]))
def test_any_bytes_are_understood_or_refused(body: bytes, content_type: str) -> None:
    asked = outcome(body, content_type)
    assert str(asked) if isinstance(asked, ContractError) else asked.requests


@given(st.lists(DOCUMENTS, min_size=1, max_size=3), st.booleans())
def test_documents_survive_every_contract(found: list[list[Document]], scores: bool) -> None:
    queries = ["q"] * len(found)
    wanted = [[contents(each) for each in documents] for documents in found]
    reply = answered(ask(queries=queries, return_scores=scores), *found)
    listed = [[e["document"] if scores else e for e in documents] for documents in reply["result"]]  # type: ignore[index]
    assert [[each["contents"] for each in documents] for documents in listed] == wanted
    packed = read_request(msgpack.packb({"query": "q", "return_scores": scores}))
    flat = answered(packed, found[0])["result"]  # type: ignore[index]
    assert [each["document"]["contents"] for each in flat] == wanted[0]


@given(TEXT, TEXT)
def test_first_line_of_contents_is_the_title(text: str, title: str) -> None:
    first, _, rest = contents(Document(text, title)).partition("\n")
    assert rest == text
    assert first == (f'"{" ".join(title.split())}"' if title.split() else "")


def test_scores_fall_with_the_place() -> None:
    reply = answered(ask(query="a", return_scores=True), [BARE] * 5)
    scores = [each["score"] for each in reply["result"][0]]  # type: ignore[index]
    assert scores == sorted(set(scores), reverse=True)


def test_half_a_pair_in_a_document_can_be_sent() -> None:
    packed = read_request(msgpack.packb({"query": "a"}))
    assert answered(packed, [Document("a\ud800b")])["result"][0]["document"] == {  # type: ignore[index]
        "contents": "\na?b"
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "`top_k` must be an integer of at least 1, got 0"),
        ({"top_k": 101}, "`top_k` must be at most 100, got 101"),
        ({"noise": 2.0}, r"`noise` must be a probability in \[0, 1\], got 2.0"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"max_chars": 0}, "`max_chars` must be an integer of at least 1, got 0"),
    ],
)
def test_rules_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(**settings)  # type: ignore[arg-type]

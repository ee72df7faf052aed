"""The four retriever contracts: from the bytes of a request to search requests, and back.

| contract | body | reply |
|---|---|---|
| Search-R1, verl | JSON with `queries`, `topk`, `return_scores` | `{"result": [[…], …]}` |
| skyrl-gym | JSON with `query`, `topk`, `return_scores` | `{"result": [[…]]}` |
| GEM | MessagePack with the same | MessagePack `{"result": […]}` |
| ZeroSearch | JSON with `query`, `top_k` | `[{"text": …}, …]` |

A request to a simulator may also hold `question`, `golden_answers`, `noise` and `seed`. Nothing
here does any input or output.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgpack

from zs_env.checks import check_count, check_probability
from zs_env.episode import name_texts
from zs_env.random import derive, uniform
from zs_env.search.engine import Document, NoiseKind, SearchRequest

T = TypeVar("T")

JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"

_MSGPACK_TYPES: Final = frozenset(
    {MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"}
)
_MSGPACK_MAPS: Final = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
"""How a map begins; no JSON text does."""

_MAX_SEED: Final = 2**63 - 1
_NOISE_DRAW: Final = 1


class Contract(StrEnum):
    """Who speaks."""

    SEARCH_R1 = "search-r1"
    SKYRL = "skyrl-gym"
    GEM = "gem"
    ZEROSEARCH = "zerosearch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a request may hold, and what it means where it says nothing.

    Attributes:
        top_k: Documents a query, where a request names no number.
        noise: Probability of noisy documents, where a request says nothing about noise.
        seed: Key of the seeds of requests that bring none.
        max_top_k: Documents a query at most.
        max_queries: Queries a request at most.
        max_chars: Characters of a query, a question or a golden answer at most.
        max_answers: Golden answers a question at most.

    Raises:
        ValueError: If one is out of its range.
    """

    top_k: int = 3
    noise: float = 0.0
    seed: int = 0
    max_top_k: int = 100
    max_queries: int = 1024
    max_chars: int = 10_000
    max_answers: int = 100

    def __post_init__(self) -> None:
        for name in ("top_k", "max_top_k", "max_queries", "max_chars", "max_answers"):
            check_count(name, getattr(self, name), minimum=1)
        check_probability("noise", self.noise)
        check_count("seed", self.seed, minimum=0)
        if self.top_k > self.max_top_k:
            raise ValueError(f"`top_k` must be at most {self.max_top_k}, got {self.top_k!r}")


class ContractError(ValueError):
    """A request that fits no contract.

    Attributes:
        field: The field that is missing or wrong; None if the body cannot be read at all.
        contract: Whose request it seems to be; None if that cannot be told.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.contract: Contract | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood.

    Attributes:
        contract: How to answer.
        requests: What is asked, at least one request.
        with_scores: Whether the documents' scores are wanted.
    """

    contract: Contract
    requests: tuple[SearchRequest, ...]
    with_scores: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The body of an answer, and what it is."""

    content: bytes
    media_type: str


def read_request(body: bytes, content_type: str = "", rules: Rules | None = None) -> Asked:
    """Return what the body of a request asks for.

    Args:
        body: All of it.
        content_type: The header; anything but JSON's or MessagePack's leaves the choice of these
            two to the first byte, as GEM sends none.
        rules: What is allowed, and what is meant by saying nothing.

    Raises:
        ContractError: If it fits no contract.

    Example:
        >>> asked = read_request(b'{"query": "Ida Brook", "top_k": 2}')
        >>> asked.contract, asked.requests[0].query, asked.requests[0].top_k
        (<Contract.ZEROSEARCH: 'zerosearch'>, 'Ida Brook', 2)
    """
    is_packed = is_msgpack(body, content_type)
    fields = _unpacked(body) if is_packed else _parsed(body)
    contract = _contract(fields, is_packed)
    try:
        return Asked(
            contract,
            _read_requests(fields, contract, rules or Rules()),
            _read_flag("return_scores", fields.get("return_scores", False)),
        )
    except ContractError as error:
        error.contract = contract
        raise


def is_msgpack(body: bytes, content_type: str) -> bool:
    """Return whether a body is to be read as MessagePack; otherwise it is JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _MSGPACK_TYPES or media_type == JSON_TYPE:
        return media_type in _MSGPACK_TYPES
    return body[:1] != b"" and body[0] in _MSGPACK_MAPS


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(body))
    except (ValueError, RecursionError):
        raise ContractError("the body must be a JSON object") from None


def _unpacked(body: bytes) -> Mapping[str, Any]:
    try:
        return _mapping(msgpack.unpackb(body))
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ContractError("the body must be a MessagePack map") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(type(value))
    return value


def _contract(fields: Mapping[str, Any], is_packed: bool) -> Contract:
    """Return whose request it is.

    Raises:
        ContractError: If nothing is asked, or in two ways.
    """
    if "queries" in fields and "query" in fields:
        raise ContractError("`query` must not come with `queries`", "query")
    if is_packed:
        return Contract.GEM
    if "queries" in fields:
        return Contract.SEARCH_R1
    if "query" not in fields:
        raise ContractError("`query` or `queries` must be there", "query")
    return Contract.ZEROSEARCH if "top_k" in fields else Contract.SKYRL


def _read_requests(
    fields: Mapping[str, Any], contract: Contract, rules: Rules
) -> tuple[SearchRequest, ...]:
    queries = _read_queries(fields, contract, rules)
    top_k = _read_top_k(fields, "top_k" if contract is Contract.ZEROSEARCH else "topk", rules)

    def each(name: str, read: Callable[[str, Any], T]) -> list[T]:
        return _each(name, fields.get(name), len(queries), read)

    questions = each("question", lambda name, value: _read_optional_text(name, value, rules))
    noises = each("noise", lambda name, value: _read_noise(name, value, rules))
    seeds = each("seed", _read_seed)
    answers = _read_answers(fields.get("golden_answers"), len(queries), rules)
    return tuple(
        _request(query, question or query, golden, noise, seed, top_k, rules)
        for query, question, golden, noise, seed in zip(
            queries, questions, answers, noises, seeds, strict=True
        )
    )


@dataclass(frozen=True, slots=True)
class _Noise:
    """How noisy documents are to be: a probability, and the kind if they are."""

    probability: float
    kind: NoiseKind | None = None


def _request(
    query: str,
    question: str,
    golden_answers: tuple[str, ...],
    noise: _Noise,
    seed: int | None,
    top_k: int,
    rules: Rules,
) -> SearchRequest:
    """Return one request; a seed that is missing is a hash of what is asked."""
    if seed is None:
        seed = derive(rules.seed, name_texts(query, question, *golden_answers))
    # By the query too, so that the queries of a batch with one seed are not all noisy or none.
    noisy = uniform(seed, name_texts(query), _NOISE_DRAW) < noise.probability
    kind = noise.kind if noisy else None
    return SearchRequest(query, question, golden_answers, noisy, seed, top_k, kind)


def _read_queries(fields: Mapping[str, Any], contract: Contract, rules: Rules) -> list[str]:
    if contract is not Contract.SEARCH_R1:
        if "query" not in fields:
            raise ContractError("`query` must be there", "query")
        return [_read_text("query", fields["query"], rules)]
    queries = fields["queries"]
    if not isinstance(queries, list) or not 1 <= len(queries) <= rules.max_queries:
        raise _wrong("queries", f"a list of 1 to {rules.max_queries} texts", queries)
    return [_read_text("queries", query, rules) for query in queries]


def _read_top_k(fields: Mapping[str, Any], name: str, rules: Rules) -> int:
    value = fields.get(name)
    if value is None:
        return rules.top_k
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= rules.max_top_k:
        raise _wrong(name, f"an integer from 1 to {rules.max_top_k}", value)
    return value


def _each(name: str, value: Any, num: int, read: Callable[[str, Any], T]) -> list[T]:
    """Return what a field says about each query: its entries if it is a list, or all the same."""
    if not isinstance(value, list):
        return [read(name, value)] * num
    if len(value) != num:
        raise _wrong(name, f"one value, or a list with one for each query ({num})", value)
    return [read(name, entry) for entry in value]


def _read_answers(value: Any, num: int, rules: Rules) -> list[tuple[str, ...]]:
    """Return the golden answers of each query; a list of texts are those of all."""
    name = "golden_answers"
    if isinstance(value, list) and not any(isinstance(entry, list) for entry in value):
        value = [value] * num
    return _each(name, value, num, lambda name, entry: _read_texts(name, entry, rules))


def _read_texts(name: str, value: Any, rules: Rules) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = value if isinstance(value, list) else [value]
    if len(texts) > rules.max_answers:
        raise _wrong(name, f"at most {rules.max_answers} texts a question", texts)
    return tuple(_read_text(name, text, rules) for text in texts)


def _read_optional_text(name: str, value: Any, rules: Rules) -> str:
    return "" if value is None else _read_text(name, value, rules)


def _read_text(name: str, value: Any, rules: Rules) -> str:
    if not isinstance(value, str) or len(value) > rules.max_chars or _has_surrogates(value):
        raise _wrong(name, f"made of texts of at most {rules.max_chars} characters", value)
    return value


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True  # JSON can write a half of a pair, which no tokenizer takes
    return False


def _read_noise(name: str, value: Any, rules: Rules) -> _Noise:
    if value is None:
        return _Noise(rules.noise)
    if isinstance(value, bool):
        return _Noise(float(value))
    if isinstance(value, str) and value in list(NoiseKind):
        return _Noise(1.0, NoiseKind(value))
    if isinstance(value, int | float) and 0 <= value <= 1:
        return _Noise(float(value))
    known = ", ".join(NoiseKind)
    raise _wrong(name, f"true, false, a probability in [0, 1] or one of {known}", value)


def _read_seed(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_SEED:
        raise _wrong(name, "an integer in [0, 2**63)", value)
    return value


def _read_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def _wrong(name: str, wanted: str, value: Any) -> ContractError:
    return ContractError(f"`{name}` must be {wanted}, got {reprlib.repr(value)}", name)


def write_reply(asked: Asked, found: Sequence[Sequence[Document]]) -> Reply:
    """Return the answer to a request, in its own contract.

    Args:
        asked: The request.
        found: The documents of each of its queries, best first.

    Example:
        >>> asked = read_request(b'{"query": "red planet", "top_k": 1}')
        >>> write_reply(asked, [[Document("It is red.")]]).content
        b'[{"text": "It is red."}]'
    """
    if asked.contract is Contract.ZEROSEARCH:
        return _json([{"text": contents(document).strip("\n")} for document in found[0]])
    if asked.contract is Contract.GEM:
        packed: bytes = msgpack.packb({"result": _scored(found[0], asked.with_scores)})
        return Reply(packed, MSGPACK_TYPE)
    write = _scored if asked.with_scores else _unscored
    return _json({"result": [write(documents) for documents in found]})


def contents(document: Document) -> str:
    r"""Return a document as the retrievers of Search-R1 do: the title in quotes, then the text.

    Example:
        >>> contents(Document("It is red.", "Mars"))
        '"Mars"\nIt is red.'
        >>> contents(Document("It is red."))
        '\nIt is red.'
    """
    title = " ".join(document.title.split())
    # Readers take the first line for the title, so that it is there even if it is empty.
    first = f'"{title}"' if title else ""
    return f"{first}\n{document.text}".encode("utf-8", "replace").decode()


def rank_score(rank: int) -> float:
    """Return the score of a document by its place from 0: its reciprocal rank.

    Engines give documents in order and without scores; this one falls with the place, and says
    nothing else.

    Example:
        >>> [rank_score(rank) for rank in range(4)]
        [1.0, 0.5, 0.3333333333333333, 0.25]
    """
    return 1.0 / (rank + 1)


def _scored(documents: Sequence[Document], with_scores: bool = True) -> list[dict[str, Any]]:
    return [
        {"document": {"contents": contents(each)}, "score": rank_score(i) if with_scores else None}
        for i, each in enumerate(documents)
    ]


def _unscored(documents: Sequence[Document]) -> list[dict[str, Any]]:
    return [{"contents": contents(document)} for document in documents]


def _json(value: Any) -> Reply:
    return Reply(json.dumps(value).encode(), JSON_TYPE)

"""What a cache keeps of search engines: who replied, what was asked and found, and that as JSON."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zs_env.search.description import canonical
from zs_env.search.engine import Document, NoiseKind, SearchEngineError, SearchRequest


class CacheError(SearchEngineError):
    """A cache cannot be used, or lacks what it is asked for; the message names the file."""


@dataclass(frozen=True, slots=True)
class Source:
    """An engine as a cache knows it.

    Attributes:
        description: What its replies depend on beside the request, as canonical JSON.
        names: What it was called, in order; may be empty.
    """

    description: str
    names: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What tells it from all other engines, in hexadecimal."""
        return hashlib.sha256(self.description.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine found for one request.

    Attributes:
        request: The request.
        documents: What was found; may be empty.
        created: When, in seconds since 1970.
    """

    request: SearchRequest
    documents: tuple[Document, ...]
    created: int


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """How much of one engine a cache holds.

    Attributes:
        source: The engine.
        num_requests: Requests whose replies are there.
        num_documents: Documents in these replies.
        oldest: When the first was written, in seconds since 1970; None without any.
        newest: When the last was written.
    """

    source: Source
    num_requests: int
    num_documents: int
    oldest: int | None
    newest: int | None


def request_key(source: Source, request: SearchRequest) -> bytes:
    """Return what the reply of an engine to a request is found by: 32 bytes.

    Raises:
        CacheError: If the request holds half of a surrogate pair, which is no text.
    """
    return hashlib.sha256(f"{source.digest} {encode_request(request)}".encode()).digest()


def encode_request(request: SearchRequest) -> str:
    """Return every field of a request, as canonical JSON.

    Raises:
        CacheError: If it holds half of a surrogate pair, which is no text.
    """
    return check_text(canonical(asdict(request)), "request")


def read_request(row: Any) -> SearchRequest:
    """Return the request whose fields are the JSON values of `row`.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(row, dict):
        raise ValueError(f"`request` must be an object, got {reprlib.repr(row)}")
    if not isinstance(row.get("golden_answers", []), list):
        shown = reprlib.repr(row["golden_answers"])
        raise ValueError(f"`golden_answers` of `request` must be a list, got {shown}")
    try:
        kind = row["noise_kind"] and NoiseKind(row["noise_kind"])
        fields = row | {"golden_answers": tuple(row["golden_answers"]), "noise_kind": kind}
        request = SearchRequest(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"`request` must have the fields of a request: {error}") from error
    _check_types(request)
    return request


def _check_types(request: SearchRequest) -> None:
    """Raise ValueError if a field is of a type that a request cannot have there."""
    defaults = asdict(SearchRequest(""))
    for name, value in asdict(request).items():
        kind = str if name == "noise_kind" and value is not None else type(defaults[name])
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise ValueError(f"`{name}` of `request` must be {kind.__name__}, got {value!r:.80}")
    for answer in request.golden_answers:
        if not isinstance(answer, str):
            raise ValueError(f"`golden_answers` of `request` must be texts, got {answer!r:.80}")


def encode_documents(documents: Sequence[Document]) -> str:
    """Return documents as canonical JSON.

    Raises:
        CacheError: If one holds half of a surrogate pair, which is no text.
    """
    return check_text(canonical([asdict(document) for document in documents]), "documents")


def read_documents(rows: Any) -> tuple[Document, ...]:
    """Return the documents whose fields are the JSON values of `rows`.

    Raises:
        ValueError: If they are none.
    """
    if not isinstance(rows, list):
        raise ValueError(f"`documents` must be a list, got {reprlib.repr(rows)}")
    return tuple(map(_read_document, rows))


def _read_document(row: Any) -> Document:
    if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
        raise ValueError(f"`documents` must be objects of texts, got {reprlib.repr(row)}")
    try:
        return Document(**row)
    except TypeError as error:
        raise ValueError(f"`documents` must have the fields of a document: {error}") from error


def check_text(text: str, name: str) -> str:
    """Return `text`, which `name` stands for in messages.

    Raises:
        CacheError: If it holds half of a surrogate pair, so that no file can hold it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        start = max(error.start - 40, 0)
        raise CacheError(
            f"`{name}` must be text without lone surrogates to be kept in a cache, "
            f"got {text[start : error.end + 40]!a}"
        ) from None
    return text

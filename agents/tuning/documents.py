"""Labelled searches → training examples of a simulator.

A row is one search whose documents were judged, as the label stage writes it: `id`,
`data_source`, `question`, `golden_answers`, `query`, `documents`, `label` and `split`, and
perhaps `noise_kind`. What the simulator is asked is what it will be asked when it answers an
agent, and only the documents are learned.

Every random choice is keyed by the seed and by what a row says, so that neither the order of the
file nor the other rows change what happens to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from agents.tuning.records import (
    LABELS,
    NOISY,
    located,
    read_documents,
    read_json_lines,
    read_question,
    take,
)
from agents.tuning.sft import Example
from zs_env.random import derive, uniform
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.search.prompts import format_documents, tuned_prompt
from zs_env.task.question_sets import SPLITS
from zs_env.task.rewards import normalise

# What a row's key is used for.
_OFF_TOPIC, _PARTNER, _SHUFFLED, _ORDER, _SAMPLE = range(5)
_PARTNER_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One search with the documents that a simulator should write for it.

    Attributes:
        name: Its question and its line, for messages.
        request: What the simulator is asked.
        documents: What it should reply; none only where noisy documents are asked for.
        split: train, validation or test; a question is in one of them only.
        key: A hash of what the row says.
    """

    name: str
    request: SearchRequest
    documents: tuple[Document, ...]
    split: str
    key: int


def read_rows(file: Path) -> tuple[LabelledRow, ...]:
    """Return the rows of a file with one JSON object a line.

    Raises:
        DataError: If a line is no labelled row, or its question is in two splits; the message
            names file and line.
        ValueError: If there are no rows.
        OSError: If the file cannot be read.
    """
    rows: list[LabelledRow] = []
    splits: dict[str, str] = {}
    for number, record in read_json_lines(file):
        with located(file, number):
            row = make_row(record, number)
            _check_split(row, splits)
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} must hold at least one labelled row, got none")
    return tuple(rows)


def _check_split(row: LabelledRow, splits: dict[str, str]) -> None:
    """Check that a question stays in the split that it was first seen in.

    Raises:
        ValueError: If it does not: what is learned would decide when to stop.
    """
    before = splits.setdefault(normalise(row.request.question), row.split)
    if row.split != before:
        raise ValueError(
            f"`split` of a question must be the same in all rows, got {row.split!r} after "
            f"{before!r}"
        )


def make_row(record: Mapping[str, Any], line: int = 1) -> LabelledRow:
    """Return the row that a JSON object describes.

    Args:
        record: As in a file.
        line: Its line there, for messages.

    Raises:
        ValueError: If a part is missing, of the wrong type, or contradicts another.
    """
    # A lone half of a surrogate pair is a string to JSON, but no text to a tokenizer.
    encoded = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    question = read_question(record, str(record.get("data_source") or ""))
    query, noisy = take(record, "query", str), _one_of(record, "label", LABELS) == NOISY
    if not query.strip():
        raise ValueError(f"`query` must not be blank, got {query!r}")
    # A simulator's reader leaves blank documents out, so it need not learn to write them.
    documents = tuple(d for d in read_documents(record, "documents") if d.text.strip())
    if not (documents or noisy):
        raise ValueError("`documents` of a useful search must hold a text, got none")
    request = SearchRequest(
        query,
        question.text,
        question.golden_answers,
        noisy,
        top_k=max(1, len(documents)),
        noise_kind=_noise_kind(record, noisy),
    )
    key = int.from_bytes(blake2b(encoded, digest_size=8).digest())
    name = f"{question.id} (line {line})"
    return LabelledRow(name, request, documents, _one_of(record, "split", SPLITS), key)


def _noise_kind(record: Mapping[str, Any], noisy: bool) -> NoiseKind | None:
    if record.get("noise_kind") in (None, ""):
        return None
    if not noisy:
        raise ValueError(
            f"`noise_kind` must come with the label {NOISY!r}, got {record['noise_kind']!r:.80}"
        )
    return NoiseKind(_one_of(record, "noise_kind", tuple(NoiseKind)))


def _one_of(record: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str:
    value = take(record, name, str)
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r:.80}")
    return value


def of_split(rows: Iterable[LabelledRow], split: str) -> list[LabelledRow]:
    """Return the rows of one split, in their order."""
    return [row for row in rows if row.split == split]


def sample_rows(rows: Sequence[LabelledRow], num: int, seed: int) -> list[LabelledRow]:
    """Return `num` rows in their order, chosen by `seed`; all of them if `num` is 0."""
    if not num:
        return list(rows)
    ranked = sorted(rows, key=lambda row: derive(seed, row.key, _SAMPLE))
    chosen = {row.key for row in ranked[:num]}
    return [row for row in rows if row.key in chosen]


def augment(
    rows: Sequence[LabelledRow], *, off_topic: float = 0.0, shuffled: float = 0.0, seed: int = 0
) -> list[LabelledRow]:
    """Return `rows`, some of them shuffled, and after them the off-topic ones.

    An off-topic row asks another row's query, and wants that row's documents, in the name of this
    row's question: its answer, which the simulator is told, must not be given for nothing.

    Args:
        rows: Of one split.
        off_topic: Rows to be added, as a share of `rows`, in [0, 1].
        shuffled: Share of `rows` whose documents change their order, in [0, 1].
        seed: Key of all choices.
    """
    kept = [
        _shuffle(row, seed) if _is_chosen(row, _SHUFFLED, shuffled, seed) else row for row in rows
    ]
    pool = sorted(rows, key=lambda row: row.key)
    chosen = [row for row in rows if _is_chosen(row, _OFF_TOPIC, off_topic, seed)]
    added = (_off_topic(row, pool, seed) for row in chosen)
    return kept + [row for row in added if row is not None]


def _is_chosen(row: LabelledRow, purpose: int, share: float, seed: int) -> bool:
    return uniform(seed, row.key, purpose) < share


def _shuffle(row: LabelledRow, seed: int) -> LabelledRow:
    documents = list(row.documents)
    Random(derive(seed, row.key, _ORDER)).shuffle(documents)
    return replace(row, documents=tuple(documents))


def _off_topic(row: LabelledRow, pool: Sequence[LabelledRow], seed: int) -> LabelledRow | None:
    """Return `row`'s question with a query about something else; None if none was found."""
    tries = (pool[derive(seed, row.key, _PARTNER, i) % len(pool)] for i in range(_PARTNER_TRIES))
    other = next((other for other in tries if _is_about_something_else(other, row)), None)
    if other is None:
        return None
    own = row.request
    request = replace(other.request, question=own.question, golden_answers=own.golden_answers)
    return replace(other, name=f"{row.name} asking as {other.name}", request=request)


def _is_about_something_else(other: LabelledRow, row: LabelledRow) -> bool:
    if normalise(other.request.question) == normalise(row.request.question):
        return False
    words = f" {normalise(' '.join(f'{d.title} {d.text}' for d in other.documents))} "
    return not any(f" {normalise(a)} " in words for a in row.request.golden_answers)


def document_text(document: Document) -> str:
    """Return a document as a simulator writes it: on one line, a title before the text.

    Example:
        >>> document_text(Document("It is far.", title="Mars"))
        '(Title: Mars) It is far.'
    """
    title, text = (" ".join(part.split()) for part in (document.title, document.text))
    return f"(Title: {title}) {text}" if title else text


def prompt_text(
    request: SearchRequest, tokenizer: PreTrainedTokenizerBase, chat_template: bool = False
) -> str:
    """Return all that a model reads before it writes.

    Args:
        request: What is asked.
        tokenizer: Of the model.
        chat_template: Ask as the user of a chat, whose template brings the tokens that begin a
            text; a plain prompt has none, as in `TransformersLM`. Either way the tokenizer must
            add no more of them.

    Raises:
        ValueError: If a chat is wanted and the tokenizer has no template.
    """
    prompt = tuned_prompt(request)
    if not chat_template:
        return prompt
    if not tokenizer.chat_template:
        raise ValueError("`chat_template` must come with a tokenizer that has one, got none")
    turns = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def make_examples(
    rows: Sequence[LabelledRow], tokenizer: PreTrainedTokenizerBase, chat_template: bool = False
) -> list[Example]:
    """Return each row's prompt, which is only read, and its documents and end token, all learned.

    Raises:
        ValueError: If the tokenizer lacks an end token, or a chat template that is wanted.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError(f"`tokenizer` must have an end-of-text token, got {end!r}")
    prompts = _encode(
        [prompt_text(row.request, tokenizer, chat_template) for row in rows], tokenizer
    )
    texts = [format_documents([document_text(each) for each in row.documents]) for row in rows]
    return [
        _example(row.name, prompt, [*reply, end])
        for row, prompt, reply in zip(rows, prompts, _encode(texts, tokenizer), strict=True)
    ]


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return ids


def _example(name: str, prompt: list[int], reply: list[int]) -> Example:
    return Example(prompt + reply, [0.0] * len(prompt) + [1.0] * len(reply), name)

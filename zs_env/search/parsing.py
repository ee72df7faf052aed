r"""A simulator's reply → documents, in whatever style a language model has numbered them.

What counts as the beginning of a document:

- `Doc n:` wherever it stands, with any number: so simulators are tuned to write.
- At the beginning of a line `Doc n`, `Document n`, `[n]`, `(n)`, `n.` and `n)`, with markdown
  around them. Of numbers without a word only 1, 2, 3, … in this order count, in one style a reply,
  and only if there is no document with a word: "1. FC Köln" in a text is no second document.
- The items of a JSON list, of texts or of objects.

A reply with nothing of all this is one document. No text is made up: a document's text is a piece
of the reply, with each run of blanks and line breaks as one blank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from zs_env.search.engine import Document

# Possessive quantifiers (`*+`) keep the time linear in the length of a reply.
_BULLETS: Final = " \t>*_+•-"
_LEAD: Final = rf"^[#{_BULLETS}]*+"
_NAMED: Final = re.compile(
    rf"{_LEAD}[\[(]?Doc(?:ument)?+[ \t.]*+(?:[#\[(][ \t]*+)?+(?P<n>\d{{1,3}}+)"
    r"(?:[\])][*_]*+[ \t]*+:?|[*_]*+[ \t]*+(?::|[.|–—-](?=[\s*_]|\Z)|(?=\(Title:)|$))"
    r"|\bDoc\s*+(?P<inline>\d++)\s*+:",
    re.IGNORECASE | re.MULTILINE,
)
_UNNAMED: Final = tuple(
    re.compile(rf"{_LEAD}{number}[*_]*+[ \t]*+:?", re.MULTILINE)
    for number in (
        r"\[(?P<n>[0-9]{1,3})\]",
        r"\((?P<n>[0-9]{1,3})\)",
        r"(?P<n>[0-9]{1,3})\.(?=[\s*_]|\Z)",
        r"(?P<n>[0-9]{1,3})\)",
    )
)
_THOUGHTS_END: Final = re.compile(r"^[ \t]*+</think>", re.MULTILINE)
_RULE: Final = re.compile(r"\s*+(?:`{3,}\w*+|-{2,}+|\*{1,}+|_{2,}+|={2,}+|[#>]++|[\[(])?+\s*+")
_CUT_OFF: Final = re.compile(
    r"[\s>#*_+•\[(-]*+(?P<name>Doc(?:ument)?+[\s.#\[(]*+)?+\d*+[\s*_]*+", re.IGNORECASE
)
_IN_BRACKETS: Final = re.compile(r"\(Title:((?:[^()]|\([^()]*+\))*+)\)", re.IGNORECASE)
_TITLE: Final = re.compile(r"[\s*_]*+Title[*_]*+\s*+:(.*)", re.IGNORECASE)
_LABEL: Final = re.compile(
    r"\s*+[*_]*+(?:Text|Contents?|Snippet|Summary|Body)[*_]*+\s*+:[*_]*+", re.IGNORECASE
)
_JSON: Final = re.compile(r"^[ \t]*+(?=[\[{]\s*+[\"{\[])", re.MULTILINE)
_TEXT_KEYS: Final = ("text", "contents", "content", "document", "snippet", "passage", "body")
_NUMBERED_KEY: Final = re.compile(r"(?:Doc(?:ument)?)?[ _]*\d+", re.IGNORECASE)
_BETWEEN: Final = re.compile(r"[\s,]*+")


@dataclass(frozen=True, slots=True)
class _Piece:
    """What stands between the number of one document and that of the next.

    Attributes:
        mark: The number as it is written, with the markdown before it; empty if there is none.
        heading: What is emphasised together with it, as in `**1. Mars**`.
        lines: The rest; at least one line.
    """

    mark: str
    heading: str
    lines: Sequence[str]


def parse_documents(reply: str, top_k: int) -> list[Document]:
    r"""Return the documents of a reply: at most `top_k`, empty and repeated ones left out.

    >>> [d.text for d in parse_documents("Doc 1: one\nDoc 2: two\nDoc 3: two", 3)]
    ['one', 'two']
    >>> [d.text for d in parse_documents("Sure!\n\n**1.** one\n**2.** two", 1)]
    ['one']
    """
    found: dict[str, Document] = {}
    for document in read_documents(reply):
        found.setdefault(document.text, document)
    return list(found.values())[:top_k]


def split_documents(reply: str) -> list[str]:
    r"""Return the texts of all documents in a reply that are not empty, repeated ones too.

    >>> split_documents("Doc 1: one\nDoc 2: two\nDoc 3: two")
    ['one', 'two', 'two']
    """
    return [document.text for document in read_documents(reply)]


def read_documents(reply: str) -> list[Document]:
    r"""Return all documents in a reply that are not empty, repeated ones too.

    >>> read_documents("Doc 1 (Title: Mars) It is far.\nDoc 2: It is red.")
    [Document(text='It is far.', title='Mars'), Document(text='It is red.', title='')]
    >>> read_documents('```json\n[{"title": "Mars", "text": "It is far."}]\n```')
    [Document(text='It is far.', title='Mars')]
    """
    reply = _without_thoughts(reply).strip()
    found = _read_json(reply) or [_read_piece(piece) for piece in _split(reply)]
    return [document for document in found if document.text]


def _without_thoughts(reply: str) -> str:
    """Return a reply without what a reasoning model thinks before it."""
    if reply.lstrip().startswith("<think>"):
        return reply.partition("</think>")[2]
    ends = [match.end() for match in _THOUGHTS_END.finditer(reply)]
    return reply[ends[-1] :] if ends else reply


# Numbered documents


def _split(reply: str) -> list[_Piece]:
    """Return a reply in pieces, of a document each; one piece if nothing is numbered."""
    marks = _find_marks(reply)
    if not marks:
        return [_make_piece("", reply)]
    ends = [mark.start() for mark in marks[1:]] + [len(reply)]
    pieces = [
        _make_piece(mark[0], reply[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)
    ]
    pieces[-1] = _without_cut_off_mark(pieces[-1], len(marks) + 1)
    if str(marks[0]["n"] or marks[0]["inline"]).lstrip("0") not in ("", "1"):
        # Else what stands before the first document introduces the list.
        pieces.insert(0, _make_piece("", reply[: marks[0].start()]))
    return _without_farewell(pieces)


def _find_marks(reply: str) -> list[re.Match[str]]:
    """Return where documents begin: the numbers, in the one style that the reply has."""
    if named := list(_NAMED.finditer(reply)):
        return named
    lists = [_in_order(reply, list(style.finditer(reply))) for style in _UNNAMED]
    return min(filter(None, lists), key=lambda marks: marks[0].start(), default=[])


def _in_order(reply: str, marks: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """Return those of `marks` that count 1, 2, 3, …, or all that say 1 where nothing else does."""
    counted: list[re.Match[str]] = []
    for mark in marks:
        if int(mark["n"]) == len(counted) + 1:
            counted.append(mark)
    if len(counted) > 1:
        return counted
    ones = [mark for mark in marks if int(mark["n"]) == 1]
    # A 1 alone may be part of a text that is not numbered at all.
    before = reply[: ones[0].start()].rstrip("\n *_") if ones else ""
    return ones if len(ones) > 1 or not before or before.endswith(":") else []


def _make_piece(mark: str, text: str) -> _Piece:
    heading, text = _split_heading(mark, text)
    return _Piece(mark, heading, _trim(text))


def _split_heading(mark: str, text: str) -> tuple[str, str]:
    """Return what is emphasised together with the mark, empty if nothing is, and what follows."""
    line, newline, rest = text.partition("\n")
    for emphasis in ("**", "__"):
        heading, closed, after = line.partition(emphasis)
        if mark.count(emphasis) == 1 and closed:
            return heading.strip(" :"), after + newline + rest
    if mark.lstrip(_BULLETS).startswith("#") and rest.strip():
        return line.strip(" :"), rest
    return "", text


def _trim(text: str) -> Sequence[str]:
    """Return the lines of a text, without blank lines, rules and fences around them."""
    lines = text.strip().split("\n")
    first, last = 0, len(lines) - 1
    while last > 0 and _RULE.fullmatch(lines[last]):
        last -= 1
    while first < last and _RULE.fullmatch(lines[first]):
        first += 1
    return lines[first : last + 1]


def _without_cut_off_mark(piece: _Piece, number: int) -> _Piece:
    """Return the last piece without the beginning of a mark that would have said `number`."""
    *lines, last = piece.lines
    found = _CUT_OFF.fullmatch(last)
    if found is None or not lines:
        return piece
    is_named = "doc" in piece.mark.lower()
    if not (found["name"] if is_named else last.strip(f"[(#{_BULLETS}") == str(number)):
        return piece
    return replace(piece, lines=_trim("\n".join(lines)))


def _without_farewell(pieces: list[_Piece]) -> list[_Piece]:
    """Return `pieces` without a closing remark: paragraphs that only the last one has."""
    *others, last = pieces
    if not others:
        return pieces
    longest = max(len(_paragraph_ends(piece.lines)) for piece in others)
    ends = _paragraph_ends(last.lines)
    return [*others, replace(last, lines=last.lines[: ends[:longest][-1]])]


def _paragraph_ends(lines: Sequence[str]) -> list[int]:
    """Return how many lines there are up to the end of each paragraph."""
    blank = [not line.strip() for line in lines] + [True]
    return [i for i in range(1, len(blank)) if blank[i] and not blank[i - 1]] or [len(lines)]


# One document


def _read_piece(piece: _Piece) -> Document:
    """Return the document in a piece."""
    head, rest = piece.lines[0].lstrip(), piece.lines[1:]
    # After a colon it is text: so simulators that were tuned on titles write it.
    if piece.mark[-1:] not in ("", ":") and (titled := _IN_BRACKETS.match(head)):
        return _document([head[titled.end() :], *rest], titled[1])
    if "".join(rest).strip() and (titled := _TITLE.fullmatch(head)):
        return _document(_without_label(_trim("\n".join(rest))), titled[1])
    return _document(piece.lines, piece.heading)


def _document(lines: Sequence[str], title: str) -> Document:
    text, title = " ".join(" ".join(lines).split()), " ".join(title.split()).strip("*_\"' ")
    return Document(text, title) if text else Document(title)


def _without_label(lines: Sequence[str]) -> Sequence[str]:
    found = _LABEL.match(lines[0])
    return [lines[0][found.end() :], *lines[1:]] if found else lines


# JSON


def _read_json(reply: str) -> list[Document]:
    """Return the documents of a reply that is JSON, perhaps introduced, fenced or cut off."""
    found = _JSON.search(reply)
    if found is None or _find_marks(reply[: found.start()]):
        return []
    # Of a list that was cut off, its items.
    starts = found.end(), reply.find("[", found.end()) + 1
    values = next(filter(None, (list(_decode(reply, start)) for start in starts)), [])
    return [_read_item(item) for value in values for item in _items(value)]


def _decode(text: str, start: int) -> Iterator[Any]:
    """Yield JSON values one after another, up to what is none."""
    decoder = json.JSONDecoder()
    while found := _BETWEEN.match(text, start):
        try:
            value, start = decoder.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            return
        yield value


def _items(value: Any) -> Iterator[str | dict[str, Any]]:
    """Yield the documents of a JSON value, as texts or objects."""
    if isinstance(value, str) or (isinstance(value, dict) and _field(value, _TEXT_KEYS)):
        yield value
    elif isinstance(value, list):
        yield from (each for each in value if isinstance(each, str | dict))
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, list):
                yield from _items(inner)
            elif isinstance(inner, str | dict) and _NUMBERED_KEY.fullmatch(key):
                yield inner


def _read_item(item: str | dict[str, Any]) -> Document:
    if isinstance(item, dict):
        return _document([_field(item, _TEXT_KEYS)], _field(item, ("title",)))
    mark = _NAMED.match(item)
    return _document([item[mark.end() :] if mark else item], "")


def _field(item: dict[str, Any], keys: Sequence[str]) -> str:
    """Return the first text among fields of an object; empty if there is none."""
    return next((item[key] for key in keys if isinstance(item.get(key), str)), "")

"""Reading replies, however a language model numbers, decorates or cuts them."""

import json
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zs_env.search.engine import Document
from zs_env.search.parsing import parse_documents, read_documents, split_documents
from zs_env.search.prompts import format_documents

FORMATS = {
    "Doc n:": "Doc {n}: {text}",
    "no blank": "doc{n}:{text}",
    "Document n:": "Document {n}: {text}",
    "Document n on its own line": "Document {n}\n{text}",
    "Document n -": "Document {n} - {text}",
    "Doc [n]:": "Doc [{n}]: {text}",
    "[Doc n]": "[Doc {n}] {text}",
    "bold": "**Doc {n}**: {text}",
    "bold with the colon": "**Doc {n}:** {text}",
    "bold item": "- **Document {n}:** {text}",
    "underlined": "__Doc {n}__: {text}",
    "heading": "### Doc {n}\n\n{text}",
    "heading with a colon": "## Document {n}:\n{text}\n\n---",
    "quoted": "> Doc {n}: {text}",
    "[n]": "[{n}] {text}",
    "[n]:": "[{n}]: {text}",
    "bold [n]": "**[{n}]** {text}",
    "(n)": "({n}) {text}",
    "n.": "{n}. {text}",
    "bold n.": "**{n}.** {text}",
    "n. item": "- {n}. {text}",
    "n)": "{n}) {text}",
    "Title line": "Doc {n}:\nTitle: Name {n}\n{text}",
    "Title and Text lines": "{n}.\nTitle: Name {n}\nText: {text}",
    "bold Title and Content lines": "[{n}]\n**Title:** Name {n}\n\n**Content:** {text}",
    "Title in brackets": "Doc {n} (Title: Name {n}) {text}",
    "Search-R1": 'Doc {n}(Title: "Name {n}") {text}',
    "title emphasised with the number": "**{n}. Name {n}**\n{text}",
    "title emphasised with the word": "**Doc {n}: Name {n}**\n\n{text}",
    "title in a heading": "### {n}. Name {n}\n{text}",
}
TITLED = {name for name, form in FORMATS.items() if "Name" in form}
WORDS = [
    "it",
    "is",
    "1",
    "2.",
    "3)",
    "[1]",
    "(2)",
    "1990.",
    "**bold**",
    "*",
    "#",
    "-",
    "Title",
    "é",
]

# One line that begins with a plain word, as prose does, and goes on with all that could confuse.
prose = st.lists(st.sampled_from(WORDS), max_size=6).map(lambda words: " ".join(["Mars", *words]))
proses = st.lists(prose, min_size=1, max_size=6, unique=True)
PIECES = [
    *WORDS,
    *("Doc 1:", "Doc", "Document 2", "Doc 3", "\n1. ", "\n2. ", "\n[1] ", "(Title: a)", "Title: "),
    *("\n", " ", "\n\n", "**", "```", "---", "\n#", "<think>", "</think>"),
    *('["', '", "', '"]', '{"text": "', "}", "[", "[1, 2]", "\\u00e9", "\\"),
]
anything = st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def texts(reply, top_k=9):
    return [document.text for document in parse_documents(reply, top_k)]


def written(name, contents):
    pieces = [FORMATS[name].format(n=n, text=text) for n, text in enumerate(contents, 1)]
    return "\n".join(pieces)


def blanks_unified(text):
    return " ".join(text.split())


# Properties


@given(st.sampled_from(sorted(FORMATS)), proses)
def test_every_style_is_read_as_it_was_written(name, contents):
    titles = [f"Name {n}" if name in TITLED else "" for n in range(1, 7)]
    expected = [Document(*pair) for pair in zip(contents, titles, strict=False)]
    assert parse_documents(written(name, contents), 9) == expected


@given(
    st.sampled_from(sorted(FORMATS)),
    proses.filter(lambda contents: len(contents) > 1),
    st.sampled_from(
        ["Sure, here are the documents:", "Sure!", "Of course.\n\nHere you are:", "---"]
    ),
    st.sampled_from(["", "\n\nI hope that this helps!", "\n\n---\n\nNote: it is made up."]),
)
def test_what_stands_before_and_after_the_list_is_left_out(name, contents, before, after):
    reply = f"{before}\n\n{written(name, contents)}{after}"
    assert texts(reply) == contents


@given(anything, st.integers(1, 5))
@example("[" * 100_000, 3)
@example("[" + "1" * 10_000 + "]", 3)
@example('{"text": "a"', 3)
def test_parsing_never_raises_and_keeps_its_promises(reply, top_k):
    found = parse_documents(reply, top_k)
    contents = [document.text for document in found]
    assert len(found) == len(set(contents)) <= top_k
    for document in found:
        assert document.text == blanks_unified(document.text) != ""
        assert document.title == blanks_unified(document.title)


@given(anything.filter(lambda reply: "\\" not in reply))
def test_every_text_is_a_piece_of_the_reply(reply):
    whole = blanks_unified(reply)
    for document in read_documents(reply):
        assert document.text in whole
        assert document.title in whole


plain_line = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1).map(
    blanks_unified
)


@given(st.lists(plain_line.filter(lambda line: not re.search(r"\bdoc\s*\d+\s*:", line, re.I))))
def test_tuned_format_is_read_to_the_letter(lines):
    """Whatever its text looks like: a line that begins with `Doc n: ` is a document."""
    kept = [line for line in lines if line]
    assert split_documents(format_documents(kept)) == kept


objects = st.lists(
    st.builds(
        lambda text, title: {"title": title, "text": text}, prose, st.sampled_from(["", "T"])
    ),
    min_size=1,
    max_size=5,
)


@given(
    proses | objects,
    st.sampled_from(["{}", "```json\n{}\n```", "Here is the list:\n\n{}\n\nI hope it helps."]),
    st.sampled_from([None, 2]),
)
def test_json_list_is_read_as_it_was_written(items, form, indent):
    reply = form.replace("{}", json.dumps(items, indent=indent))
    expected = [
        Document(item) if isinstance(item, str) else Document(item["text"], item["title"])
        for item in items
    ]
    assert read_documents(reply) == expected


# Texts that look like numbering


@pytest.mark.parametrize(
    "text",
    [
        "In 1. FC Köln he played, born on May 3. 1990 in (1) Bonn [2] and 3) elsewhere.",
        "The club was renamed\n1. FC Köln after that.",
        "He was born in\n1990. He died in\n2. 3. 2010.",
        "Its parts are\n2. this and\n3. that.",
        "[sic] is what it says.",
        "Document 5 was signed in 1990.",
        "Doctors 1: none",
        "1.5 million people live there.",
        "-1 degree.",
        "{it is no JSON}",
        '["never closed',
        '{"note": 1}',
    ],
)
def test_text_without_numbers_is_one_document(text):
    assert texts(text) == [blanks_unified(text)]


@pytest.mark.parametrize("form", ["Doc {}: ", "{}. ", "[{}] ", "{}) "])
def test_numbers_out_of_order_are_part_of_a_document(form):
    one = "He lived.\n1990. was a year.\n7. is a number. In 1. FC Köln\n3) he played."
    other = "May 3. 1990\n(1) a\n(2) b"
    reply = f"{form.format(1)}{one}\n{form.format(2)}{other}"
    assert texts(reply) == [blanks_unified(one), blanks_unified(other)]


def test_list_within_a_numbered_document_is_part_of_it():
    reply = "Doc 1: Steps:\n1. one\n2. two\nDoc 2: More."
    assert texts(reply) == ["Steps: 1. one 2. two", "More."]


@pytest.mark.parametrize("text", ["the film **The Harbor**", "**bold**", "---", "* a", "Title: b"])
def test_text_of_one_line_keeps_its_markup(text):
    assert texts(f"Doc 1: {text}\nDoc 2: b") == [text, "b"]


# Cut off, repeated, thought about


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Doc 1: one\nDoc 2: two thi", ["one", "two thi"]),
        ("Doc 1: one\nDoc", ["one"]),
        ("Doc 1: one\nDoc 2", ["one"]),
        ("Doc 1: one\n\n**Doc 2", ["one"]),
        ("Doc 1: one\n**", ["one"]),
        ("Doc 1: one\nDoc 2:", ["one"]),
        ("1. one\n2. two\n3", ["one", "two"]),
        ("1. one\n2. two\n3.", ["one", "two"]),
        ("1. one\n2. two\n7", ["one", "two 7"]),
        ("[1] one\n[2] two\n[", ["one", "two"]),
        ("[1] one\n[2] two\n[3", ["one", "two"]),
        ('["one", "two", "thr', ["one", "two"]),
        ('{"documents": [{"text": "one"}, {"text": "tw', ["one"]),
        ('```json\n["one",\n "two"', ["one", "two"]),
        ("Doc 1:\nTitle: Mars", ["Title: Mars"]),
        ("**Doc 1: only this**", ["only this"]),
    ],
)
def test_what_was_cut_off_is_kept_but_for_the_beginning_of_a_number(reply, expected):
    assert texts(reply) == expected


@pytest.mark.parametrize(
    "reply",
    ["Doc 1: one\nDoc 1: two", "1. one\n1. two", "Doc 2: one\nDoc 2: two", "[1] one\n[1] two"],
)
def test_repeated_numbers_are_numbers(reply):
    assert texts(reply) == ["one", "two"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1. one", ["one"]),
        ("**1.** one", ["one"]),
        ("Here is one:\n\n1. one", ["one"]),
        ("0. zero", ["0. zero"]),
        ("Doc 0: zero\nDoc 1: one", ["zero", "one"]),
        ("Here:\nDoc 01: one", ["one"]),
    ],
)
def test_short_lists_are_lists(reply, expected):
    assert texts(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<think>Doc 1: a draft</think>\nDoc 1: one", ["one"]),
        ("Doc 1: a draft\n</think>\n\nDoc 1: one", ["one"]),
        ("<think>Doc 1: a draft", []),
    ],
)
def test_thoughts_are_no_documents(reply, expected):
    assert texts(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"documents": ["one", "two"]}', ["one", "two"]),
        ('{"Doc 1": "one", "Doc 2": {"text": "two"}}', ["one", "two"]),
        ('{"text": "one"}\n{"content": "two"}', ["one", "two"]),
        ('["Doc 1: one", "Doc 2: two"]', ["one", "two"]),
        ('["one", 5, null, "", " ", {"url": "x"}, ["y"]]', ["one"]),
        ('["\\u00e9\\n x"]', ["é x"]),
        ('Doc 1: ["one"]\nDoc 2: two', ['["one"]', "two"]),
    ],
)
def test_json_of_several_shapes_is_understood(reply, expected):
    assert texts(reply) == expected


def test_repeated_text_is_left_out_whatever_its_title():
    reply = "Doc 1 (Title: A) one\nDoc 2 (Title: B) one\nDoc 3: two"
    assert parse_documents(reply, 3) == [Document("one", "A"), Document("two")]
    assert split_documents(reply) == ["one", "one", "two"]


def test_title_after_a_colon_stays_in_the_text():
    reply = "Doc 1: (Title: Mars (planet)) It is far.\nDoc 2 (Title: Venus (planet)) It is hot."
    assert read_documents(reply) == [
        Document("(Title: Mars (planet)) It is far."),
        Document("It is hot.", "Venus (planet)"),
    ]


@pytest.mark.parametrize(
    "unit",
    [
        *(" ", "\n", "1", "#", "\n#", "**", "\n**", "`", "\n```", "a\n\n", "</think>\n"),
        *(
            "Doc ",
            "Doc 1",
            "\nDoc 1:",
            "Doc .",
            "\nDoc [",
            "\n1. ",
            "\n[1] ",
            "(Title:",
            "\nTitle:",
        ),
        *("[", '["', '"a",', '{"'),
    ],
)
def test_long_reply_is_read_in_linear_time(unit):
    start = time.process_time()
    for before in ("", "a", "Doc 1 (Title: ", "Doc ", "1. a\n", '["a", ', "**Doc 1: "):
        read_documents(before + unit * (40_000 // len(unit)))
    assert time.process_time() - start < 2

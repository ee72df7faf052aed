"""Pages as text: what is data stays data, and what runs is told by its hash."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.pages.page import embedded, render
from agents.pages.visible import is_hidden, markdown_text, visible

anything = st.text(st.characters(codec=None), max_size=60) | st.sampled_from(
    ["</script>", "<!--<script>", "]]>", "\u2028", "\ud800", "\x00", "&lt;", "\U0001f600\u202e"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | anything,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
    max_leaves=12,
)


class Elements(HTMLParser):
    """Keeps the text of script and style elements, and the attributes of all."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.scripts, self.style, self.attributes, self._open = [], "", [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *each) for each in attributes]
        self._open = tag
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif self._open == "style":
            self.style += data


@given(values)
def test_any_text_comes_back_as_it_was(value):
    assert json.loads(embedded(value)) == value


@given(values)
def test_data_is_printable_ascii_that_can_open_and_close_no_element(value):
    text = embedded(value)
    assert re.fullmatch(r"[ -~]*", text)
    assert not re.search("[<>&]", text)


@given(anything, anything)
def test_page_reads_back_its_data(title, text):
    page = Elements(render(title, "report", {"report": [text], "turns-0": {text: None}}))
    blocks = {a["id"]: json.loads(data) for a, data in page.scripts if "id" in a}
    assert blocks == {"report": [text], "turns-0": {text: None}}
    assert len(page.scripts) == 3


def test_numbers_that_json_does_not_know_are_null():
    assert json.loads(embedded({"a": math.nan, "b": [math.inf, 1.5]})) == {
        "a": None,
        "b": [None, 1.5],
    }


@pytest.mark.parametrize("name", ["report", "viewer"])
def test_policy_allows_this_style_and_this_script_and_nothing_else(name):
    page = Elements(render("t", name, {}))
    [policy] = [
        v
        for tag, key, v in page.attributes
        if tag == "meta" and key == "content" and "default-src" in v
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    [(_, script)] = page.scripts
    for kind, text in (("script-src", script), ("style-src", page.style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize("name", ["report", "viewer"])
def test_page_asks_nobody_for_anything(name):
    page = Elements(render("t", name, {}))
    assert not [
        each
        for each in page.attributes
        if each[1] in ("src", "href", "style") or each[1].startswith("on")
    ]
    script = page.scripts[-1][1]
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "import(",
    ):
        assert word not in script
    assert not re.search(r"url\(|@import", page.style)
    addresses = re.findall(r"https?://[^\"'` ]+", script)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}


def test_title_cannot_leave_its_element():
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in render("</title><script>", "report", {})


@given(anything)
def test_visible_text_hides_nothing(text):
    shown = visible(text)
    assert not [each for each in shown if each not in "\n\t" and is_hidden(each)]
    shown.encode("utf-8")  # what is left can be written


@pytest.mark.parametrize(
    "character",
    [
        "\u202e",
        "\u2066",
        "\u200b",
        "\x1b",
        "\ufeff",
        "\U000e0041",
        "\u00ad",
        "\u2028",
        "\ufe0f",
        "\ud800",
    ],
)
def test_hidden_characters_are_named(character):
    assert visible(f"a{character}b") == f"a<U+{ord(character):04X}>b"


@given(anything)
def test_markdown_text_cannot_leave_its_cell(text):
    shown = markdown_text(text)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<>`]", shown)

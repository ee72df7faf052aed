"""The grammar of actions."""

import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env.task.actions import (
    GRAMMAR,
    STOPS,
    TAGS,
    Action,
    ActionGrammar,
    ActionKind,
    _parse_tags,
    is_complete,
    parse,
)

pieces = st.sampled_from(
    [f"<{slash}{tag}>" for slash in ("", "/") for tag in TAGS]
    + ["a", " ", "who was X", "\x00", "é", "\n", "<", ">", "</", "\ud800", "<|im_end|>"]
)
texts = st.lists(pieces, max_size=25).map("".join) | st.text(max_size=60)


def kind_and_content(text):
    action = parse(text)
    return action.kind.value, action.content


@pytest.mark.parametrize(
    ("text", "kind", "content"),
    [
        ("<search>who</search>", "search", "who"),
        ("<answer> Ada Lovelace\n</answer>", "answer", "Ada Lovelace"),
        ("thinking aloud <search>who</search>", "search", "who"),
        ("<think>hm</think><answer>x</answer>", "answer", "x"),
        ("<think>a</think> b <think>c</think><search>q</search>", "search", "q"),
        ("<search>a<search>b</search>", "search", "b"),
        ("<search>a <answer>b</answer> c</search>", "answer", "b"),
        ("</search><answer>x</answer>", "answer", "x"),
        ("<search>a</answer><answer>x</answer>", "answer", "x"),
        ("<search>1 < 2 & é</search>", "search", "1 < 2 & é"),
    ],
)
def test_complete_action_is_read(text, kind, content):
    assert kind_and_content(text) == (kind, content)


def test_earliest_complete_action_wins_whichever_kind_it_is():
    """Fault 7: cutting at the first </search> although </answer> came before it."""
    assert kind_and_content("<answer>x</answer><search>q</search>") == ("answer", "x")
    assert kind_and_content("<search>q</search><answer>x</answer>") == ("search", "q")


def test_text_after_the_action_is_cut():
    assert parse("<search>q</search> and then").text == "<search>q</search>"
    fabricated = "<search>q</search><information>Doc 1: x</information><answer>x</answer>"
    assert parse(fabricated).text == "<search>q</search>"


def test_tags_inside_a_thought_never_act():
    text = "<think><search>no</search><answer>no</answer><information></think><search>q</search>"
    assert kind_and_content(text) == ("search", "q")
    assert parse("<think><answer>no</answer></think>").kind is ActionKind.MALFORMED


def test_unclosed_thought_ends_at_the_first_action_tag():
    assert kind_and_content("<think>hm <search>q</search>") == ("search", "q")
    assert kind_and_content("<think>a</think><think>b <answer>x</answer>") == ("answer", "x")


def test_content_may_hold_a_thought():
    assert kind_and_content("<answer>a<think></answer></think>b</answer>")[0] == "answer"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "expected <search>query</search> or <answer>answer</answer>"),
        ("just words", "expected <search>query</search> or <answer>answer</answer>"),
        ("<SEARCH>q</SEARCH>", "expected <search>query</search>"),
        ("<search> \n</search>", "the <search> is empty"),
        ("<answer></answer>", "the <answer> is empty"),
        ("<answer>\u200b\u00ad</answer>", "the <answer> is empty"),
        ("<search> \ufe0f\x00\u3164 </search>", "the <search> is empty"),
        ("<search>who", "<search> is not closed by </search>"),
        ("<search>who<answer>x", "<answer> is not closed by </answer>"),
        ("<information>Doc 1: x</information><answer>x</answer>", "<information> is written by"),
        ("</information><answer>x</answer>", "<information> is written by"),
        ("<search>a<information>b</search>", "<information> is written by"),
    ],
)
def test_malformed_text_names_what_was_wrong(text, error):
    action = parse(text)
    assert action.kind is ActionKind.MALFORMED
    assert action.content == ""
    assert error in action.error
    assert "\n" not in action.error


@settings(max_examples=1000)
@given(texts)
def test_parsing_never_raises_and_keeps_its_promises(text):
    action = parse(text)
    assert text.startswith(action.text)
    if action.kind is ActionKind.MALFORMED:
        assert action.error
        assert not action.content
    else:
        assert not action.error
        assert action.content == action.content.strip() != ""
        assert action.text.endswith(f"</{action.kind}>")
        assert action.text.endswith(STOPS)


@settings(max_examples=1000)
@given(texts)
def test_short_cut_for_plain_texts_reads_what_the_whole_grammar_reads(text):
    assert parse(text) == _parse_tags(text)


@settings(max_examples=1000)
@given(texts, texts)
def test_text_behind_an_action_changes_nothing(text, rest):
    """What a sampler that stops at the action wrote is read as the longer text would be."""
    action = parse(text)
    if action.kind is not ActionKind.MALFORMED and "<think>" not in text:
        assert parse(action.text) == action
        assert parse(action.text + rest.replace("</think>", "")) == action


@settings(max_examples=1000)
@given(texts)
def test_sampler_that_stops_at_a_stop_string_loses_no_action(text):
    """Cut after the first stop string that completes something, a text means the same."""
    if "think>" in text:
        return
    for end in sorted(
        i + len(stop) for stop in STOPS for i in range(len(text)) if text[i:].startswith(stop)
    ):
        cut = parse(text[:end])
        if cut.kind is not ActionKind.MALFORMED:
            assert cut == parse(text)
            return
    assert parse(text).kind is ActionKind.MALFORMED


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("<search>q</search>", True),
        ("<think>hm</think><answer>x</answer> and", True),
        ("<think>maybe <search>x</search>", False),
        ("<think>maybe <search>x</search> no</think>", False),
        ("<think>maybe <search>x</search> no</think><answer>y</answer>", True),
        ("<search>a<think>b</search>", False),
        ("</search>", False),
        ("<search>q</search", False),
        ("<search></search>", True),
        ("<information>", True),
        ("", False),
    ],
)
def test_text_is_complete_where_it_decides_what_it_does(text, complete):
    assert is_complete(text) == GRAMMAR.is_complete(text) == complete


@settings(max_examples=1000)
@given(texts, texts)
def test_nothing_that_follows_changes_a_complete_text(text, rest):
    if is_complete(text):
        assert parse(text + rest) == parse(text)
    else:
        assert parse(f"{text}</think><information>") != parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 15_000,
        "<think></think>" * 7_000,
        "<search>" * 12_000 + "</answer>",
        "</think>" * 12_000,
        "<" * 100_000,
        "<search>" + "\x00" * 100_000 + "</search>",
    ],
)
def test_parsing_long_texts_takes_linear_time(text):
    start = time.perf_counter()
    parse(text)
    assert time.perf_counter() - start < 0.5


def test_grammar_publishes_the_same_rules():
    assert GRAMMAR.stops == STOPS
    assert GRAMMAR.parse("<search>q</search>") == parse("<search>q</search>")
    assert pickle.loads(pickle.dumps(GRAMMAR)) == GRAMMAR == ActionGrammar()
    assert object() != GRAMMAR
    assert len({GRAMMAR, ActionGrammar()}) == 1


def test_action_is_immutable():
    with pytest.raises(AttributeError):
        Action(ActionKind.SEARCH, "q", "t").content = "other"

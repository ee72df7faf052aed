"""Transcripts for people: hostile text stays text."""

import io
from html.parser import HTMLParser

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env import Document
from zs_env.episode import Message, Role
from zs_env.rendering import print_panels, render_ansi, render_html, render_rgb, showable

HOSTILE = "<script>alert(1)</script>&amp; \x1b[2J\u202e [bold]x[/bold] {sections} \ud800 $x^2$"
texts = st.text(max_size=60) | st.lists(
    st.sampled_from(["</pre>", "<script>", "'", '"', "&", "<!--", "a", "\x1b[31m", "\n", "{0}"]),
    max_size=12,
).map("".join)


class Echo:
    """Repeats the query."""

    def search(self, requests):
        return [[Document(request.query)] for request in requests]


def transcript(text):
    return [Message(Role.ENVIRONMENT, "Question?\n"), Message(Role.AGENT, text)]


class Page(HTMLParser):
    """Collects the tags and the text of every <pre>."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self._inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._inside = tag == "pre"
        if self._inside:
            self.texts.append("")

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data):
        if self._inside:
            self.texts[-1] += data


PLAIN_TAGS = Page(render_html(transcript("plain"))).tags


@given(texts)
def test_html_page_shows_any_text_as_text(text):
    page = Page(render_html(transcript(text)))
    assert page.tags == PLAIN_TAGS
    assert page.texts == ["Question?\n", showable(text)]


def test_html_page_is_self_contained():
    page = render_html(transcript(HOSTILE))
    assert page.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    page.encode()


@given(texts)
def test_nothing_showable_controls_a_terminal(text):
    shown = showable(text)
    assert len(shown) == len(text)
    assert not any(ord(char) < 32 and char not in "\t\n" for char in shown)
    shown.encode()


def test_ansi_is_who_wrote_what():
    assert render_ansi(transcript("hi\x1b[2J")) == "[environment]\nQuestion?\n\n[agent]\nhi�[2J\n"


def test_panels_show_markup_as_text():
    rich_console = pytest.importorskip("rich.console")
    file = io.StringIO()
    print_panels(transcript(HOSTILE), rich_console.Console(file=file, width=120))
    printed = file.getvalue()
    assert "[bold]x[/bold]" in printed
    assert "\x1b" not in printed
    assert "environment" in printed


@pytest.mark.parametrize("text", [HOSTILE, "東京 " * 500, ""])
def test_picture_has_one_shape(text):
    picture = render_rgb(transcript(text))
    assert picture.shape == (720, 960, 3)
    assert picture.dtype == np.uint8


def test_human_mode_prints_every_turn_once(capsys):
    env = gym.make(
        "ZeroSearch-v0",
        questions=[{"question": "Where?", "answers": ["Here"]}],
        engine=Echo(),
        render_mode="human",
    )
    env.reset(seed=0)
    assert capsys.readouterr().out.count("Where?") == 1
    env.step("<search>one</search>")
    printed = capsys.readouterr().out
    assert "Doc 1: one" in printed
    assert "Where?" not in printed
    assert env.render() is None


@pytest.mark.parametrize("mode", ["ansi", "html", "rgb_array"])
def test_other_modes_return_the_transcript(mode):
    questions = [{"question": "Where?", "answers": ["Here"]}]
    env = gym.make("ZeroSearch-v0", questions=questions, engine=Echo(), render_mode=mode)
    env.reset(seed=0)
    env.step("<search><b>one</b></search>")
    envs = gym.make_vec("ZeroSearch-v0", 2, questions=questions, engine=Echo(), render_mode=mode)
    envs.reset(seed=[0, 0])
    envs.step(["<search><b>one</b></search>"] * 2)
    first, second = envs.render()
    assert type(first) is type(env.render())
    assert np.array_equal(first, env.render())
    assert np.array_equal(first, second)

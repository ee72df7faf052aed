"""The prompted baselines against a real server: what they send, and how they read replies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.agent import TokenCounter
from agents.baselines.prompted import forced_answer
from agents.baselines.ra_agent import ReActPrompt
from agents.baselines.registry import make_agent
from agents.baselines.rules import PlayRules
from agents.baselines.search_o1 import SearchO1Prompt, information
from zs_env.task.actions import ActionKind, parse
from zs_env.task.prompts import PROMPTS

DOCUMENTS = "<information>Doc 1(Title: Mill) It was made by Ada.\nDoc 2: Far.</information>\n"
RULES = PlayRules(prompt=PROMPTS["zerosearch"], max_turns=3, max_new_tokens=64)
OPENING = PROMPTS["zerosearch"].format(question="Who made {it}?")


def flags(*values):
    return np.array(values, dtype=np.bool_)


class Teller:
    """Replies one text after the other."""

    def __init__(self, *replies):
        self.replies = list(replies)

    def __call__(self, body):
        return self.replies.pop(0), 7


def play(openai_server, name, *replies, observations=(DOCUMENTS,), options=""):
    """Return what an agent did turn by turn, what it sent, and the tokens of the last turn."""
    server = openai_server(Teller(*replies))
    agent = make_agent(f"{name}:{server.url}{options}", RULES)
    assert isinstance(agent, TokenCounter)
    taken, state = agent.predict([OPENING], None, flags(True))
    actions = list(taken)
    for observation in observations[: len(observations) if replies else 0]:
        taken, state = agent.predict([observation], state, flags(False))
        actions += taken
    return actions, server.requests, agent.tokens_written(state)


def messages(request):
    return {each["role"]: each["content"] for each in request["messages"]}


@pytest.mark.parametrize("name", ["direct", "cot", "r1"])
def test_methods_without_search_ask_once_and_answer(openai_server, name):
    actions, [request], tokens = play(
        openai_server, name, "<think>hm</think>\n<answer>Ada</answer>", observations=()
    )
    assert actions == ["<answer>Ada</answer>"]
    assert "Question: Who made {it}?" in messages(request)["user"]
    assert "<search>" not in messages(request)["system"]
    assert {key: request[key] for key in ("model", "max_tokens", "temperature")} == {
        "model": "tiny",
        "max_tokens": 64,
        "temperature": 0.0,
    }
    assert tokens == [7]


def test_each_method_asks_in_its_own_way(openai_server):
    systems = {
        name: messages(play(openai_server, name, "Ada", observations=())[1][0])["system"]
        for name in ("direct", "cot", "r1", "ra-agent", "search-o1")
    }
    assert len(set(systems.values())) == len(systems)
    assert "step by step" in systems["cot"]
    assert "<think>" in systems["r1"]
    assert "finish[" in systems["ra-agent"]
    assert "<search>" in systems["search-o1"]


def test_tokens_of_a_reply_can_be_bounded(openai_server):
    options = "?tokens=5#tiny"
    _, [request], _ = play(openai_server, "direct", "Ada", observations=(), options=options)
    assert request["max_tokens"] == 5


def test_rag_searches_without_asking_and_shows_the_documents(openai_server):
    actions, [request], tokens = play(openai_server, "rag", "Answer: Ada")
    assert actions == ["<search>Who made {it}?</search>", "<answer>Ada</answer>"]
    assert messages(request)["user"] == f"{DOCUMENTS}Question: Who made {{it}}?"
    assert tokens == [7]


def test_react_is_told_its_story_and_is_made_to_finish(openai_server):
    actions, requests, _ = play(
        openai_server,
        "ra-agent",
        "Thought: I must look.\nAction: search[who made it]\nObservation: none of mine",
        "Thought 2: hm\nAction 2: hm",
        "Thought: So Ada.\nAction: finish[Ada]",
        observations=(DOCUMENTS, "Invalid action: expected.\n"),
    )
    assert actions == [
        "<think>I must look.</think><search>who made it</search>",
        "Thought 2: hm Action 2: hm",
        "<think>So Ada.</think><answer>Ada</answer>",
    ]
    assert parse(actions[1]).kind is ActionKind.MALFORMED
    told = messages(requests[-1])["user"]
    assert told.startswith(
        "Question: Who made {it}?\nThought 1: I must look.\nAction 1: search[who made it]\n"
        "Observation 1: Mill It was made by Ada. | Far.\n"
    )
    assert "Observation 2: Invalid action: expected.\n" in told
    assert ["last turn" in messages(each)["user"] for each in requests] == [False, False, True]


def test_search_o1_has_documents_condensed_by_a_call_of_its_own(openai_server):
    actions, requests, tokens = play(
        openai_server,
        "search-o1",
        "<think>Look.</think><search>who made it</search> and more",
        "Ada made it. <answer>Eve</answer>",
        "<answer>Ada</answer>",
    )
    assert actions == ["<think>Look.</think><search>who made it</search>", "<answer>Ada</answer>"]
    aside, last = messages(requests[1]), messages(requests[2])["user"]
    assert aside["system"] != messages(requests[0])["system"]
    for part in ("Question: Who made {it}?", "Look.", "Current query: who made it", DOCUMENTS):
        assert part in aside["user"]
    assert "stop" not in requests[1]
    assert "Doc 1: Ada made it. ‹answer>Eve‹/answer>" in last
    assert "Mill" not in last
    assert tokens == [14]


def test_transcript_is_sent_whole_in_the_models_chat_template_or_as_it_is(openai_server):
    replies = ("<search>who</search>", "<answer>Ada</answer>")
    chats = play(openai_server, "openai", *replies)[1]
    plain = play(openai_server, "openai", *replies, options="?chat=false#tiny")[1]
    expected = [OPENING, f"{OPENING}<search>who</search>{DOCUMENTS}"]
    assert [messages(request)["user"] for request in chats] == expected
    assert [request["prompt"] for request in plain] == expected


def test_tokens_that_a_server_does_not_count_are_unknown(openai_server):
    server = openai_server(lambda body: ("Ada", None))
    agent = make_agent(f"direct:{server.url}", RULES)
    state = agent.predict([OPENING], None, flags(True))[1]
    assert agent.tokens_written(state) == [None]


def test_slots_are_asked_side_by_side_each_with_a_seed_of_its_own(openai_server):
    server = openai_server(lambda body: (body["messages"][-1]["content"][-2:-1], 1))
    agent = make_agent(f"direct:{server.url}", RULES).keyed([5, 6, 7])
    openings = [PROMPTS["zerosearch"].format(question=f"Is it {c}?") for c in "abc"]
    actions, state = agent.predict([openings[0], "", openings[2]], None, flags(True, True, True))
    assert actions == ["<answer>a</answer>", "", "<answer>c</answer>"]
    assert len({request["seed"] for request in server.requests}) == 2
    assert agent.tokens_written(state) == [1, 0, 1]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Ada", "Ada"),
        ("<answer> Ada </answer>", "Ada"),
        ("I think.\n\nThe final answer is: Ada Lovelace", "Ada Lovelace"),
        ("**Answer:** Ada", "Ada"),
        ("<think>Eve?</think> Ada", "Ada"),
        ("<answer>Ada", "Ada"),
        ("<search>x</search>", "x"),
        ("<think>never ends", ""),
    ],
)
def test_forced_answer_finds_what_was_meant(reply, answer):
    assert parse(forced_answer(reply)).content == answer


PIECES = (
    "<think> </think> <search> </search> <answer> </answer> <information> Ada finish[ ]".split()
)
TEXTS = st.lists(
    st.sampled_from([*PIECES, "\n", " ", "<", "Action: search["]) | st.text(max_size=5)
).map("".join)


@given(TEXTS)
def test_forced_answer_never_searches(text):
    assert parse(forced_answer(text)).kind is not ActionKind.SEARCH


@given(TEXTS, st.booleans())
def test_replies_are_read_whatever_they_are(text, is_last):
    for method in (ReActPrompt(), SearchO1Prompt()):
        action = parse(method.read(text, is_last))
        assert (
            action.kind is not ActionKind.SEARCH or not is_last or isinstance(method, ReActPrompt)
        )


@given(TEXTS)
def test_condensed_documents_cannot_act(text):
    block = information(text)
    assert block.count("<information>") == block.count("</information>") == 1
    assert "<answer>" not in block

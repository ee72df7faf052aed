"""The baselines as programs over a policy: what is forced, what is read, what is sent."""

import numpy as np
import pytest

from agents.agent import TokenCounter
from agents.baselines.cot import ChainOfThought
from agents.baselines.direct import Direct
from agents.baselines.programs import ANSWER, Part, ProgramAgent
from agents.baselines.r1 import R1
from agents.baselines.ra_agent import ReAct
from agents.baselines.rag import RAG
from agents.baselines.registry import make_agent
from agents.baselines.rules import PlayRules
from agents.baselines.search_o1 import SearchO1, SearchO1Agent
from agents.evaluate import evaluate
from agents.policies.keyed import KeyedAgent
from zs_env.episode import render_documents
from zs_env.search.engine import Document
from zs_env.task.actions import ActionKind, parse
from zs_env.task.miniwiki import default_world

QUESTIONS = default_world().questions("validation")
PROMPT = "Question: Who made it?\n"
DOCUMENTS = "<information>Doc 1: It was made by Ada.</information>\n"
END = "\0"


def flags(*values):
    return np.array(values, dtype=np.bool_)


def writer(*texts):
    """Return a script that writes one text after the other in each row."""
    return lambda row, turn, read: texts[turn]


def context(generator, row=0):
    return "".join(map(chr, generator.contexts[row]))


def start(scripted, program, script, observations=(PROMPT,), agent=ProgramAgent, **rules):
    generator = scripted(script)
    player = agent(generator, program, PlayRules(**rules))
    actions, state = player.predict(list(observations), None, flags(*[True] * len(observations)))
    return generator, player, actions, state


def test_direct_goes_on_from_a_forced_answer(scripted):
    generator, _, actions, _ = start(scripted, Direct(), writer(" Ada</answer>"))
    assert context(generator) == f"{PROMPT}<answer> Ada</answer>{END}"
    assert actions == ["<answer> Ada</answer>"]
    assert generator.calls[0][3].stop == ("</answer>",)


@pytest.mark.parametrize(
    ("written", "answered"),
    [
        (" Ada", "Ada"),  # cut off by the bound of tokens
        (" Ada <search>x</search>", "Ada"),
        (" Ada <information>no</information>", "Ada"),
    ],
)
def test_forced_answer_always_answers(scripted, written, answered):
    *_, actions, _ = start(scripted, Direct(), writer(written))
    action = parse(actions[0])
    assert (action.kind, action.content) == (ActionKind.ANSWER, answered)


@pytest.mark.parametrize("thought", [" hm</think>", " hm"])
def test_chain_of_thought_thinks_then_answers(scripted, thought):
    generator, _, actions, _ = start(scripted, ChainOfThought(), writer(thought, " Ada</answer>"))
    assert actions == ["<think> hm</think><answer> Ada</answer>"]
    assert context(generator).replace(END, "") == PROMPT + actions[0]
    assert [call[3].stop for call in generator.calls] == [("</think>",), ("</answer>",)]


def test_thought_that_searches_does_not_search(scripted):
    script = writer(" <search>x</search> hm</think>", "Ada</answer>")
    action = parse(start(scripted, ChainOfThought(), script)[2][0])
    assert (action.kind, action.content) == (ActionKind.ANSWER, "Ada")


def test_rag_searches_for_the_question_then_answers_from_what_it_read(scripted):
    generator, agent, actions, state = start(scripted, RAG(), writer(" Ada</answer>"))
    assert actions == ["<search>Who made it?</search>"]
    assert not generator.calls
    actions, _ = agent.predict([DOCUMENTS], state, flags(False))
    assert actions == ["<answer> Ada</answer>"]
    read = f"{PROMPT}<search>Who made it?</search>{DOCUMENTS}<answer> Ada</answer>{END}"
    assert context(generator) == read


def test_rag_answers_at_once_where_nobody_would_read_documents(scripted):
    *_, actions, _ = start(scripted, RAG(), writer(" Ada</answer>"), max_turns=1)
    assert actions == ["<answer> Ada</answer>"]


def test_question_cannot_act_in_the_search_for_it(scripted):
    prompt = "Question: Is <answer>x</answer> <search> a tag?\n"
    action = parse(start(scripted, RAG(), writer(""), [prompt])[2][0])
    assert (action.kind, action.content) == (ActionKind.SEARCH, "Is x a tag?")


def test_react_thinks_and_acts_and_answers_in_the_last_turn(scripted):
    script = writer(" hm</think><search>who</search>", " so</think>", " Ada</answer>")
    generator, agent, actions, state = start(scripted, ReAct(), script, max_turns=2)
    assert actions == ["<think> hm</think><search>who</search>"]
    actions, _ = agent.predict([DOCUMENTS], state, flags(False))
    assert actions == ["<think> so</think><answer> Ada</answer>"]
    assert context(generator).replace(END, "") == (
        f"{PROMPT}<think> hm</think><search>who</search>{DOCUMENTS}"
        "<think> so</think><answer> Ada</answer>"
    )


def test_r1_answers_by_itself(scripted):
    generator, _, actions, _ = start(scripted, R1(), writer(" hm</think><answer>Ada</answer>"))
    assert actions == ["<think> hm</think><answer>Ada</answer>"]
    assert len(generator.calls) == 1


def test_r1_never_searches(scripted):
    script = writer(" hm</think><search>", "Ada</answer>")
    action = parse(start(scripted, R1(), script)[2][0])
    assert (action.kind, action.content) == (ActionKind.ANSWER, "Ada")


def test_search_o1_reads_what_a_context_of_its_own_made_of_the_documents(scripted):
    asides = []
    shown = [Document("It was made by Ada."), Document("It is far.")]
    documents = render_documents(shown)

    def script(row, turn, read):
        if read.endswith("<answer>"):
            asides.append(read)
            return " Ada</answer>"
        return "<search>who made it</search>" if turn == 0 else "<answer>Ada</answer>"

    class Generator(scripted):
        """Keeps the contexts of its first session apart from those that are made aside."""

        def session(self, num_rows):
            return scripted(script).session(num_rows)

    generator = Generator(script)
    agent = SearchO1Agent(generator, SearchO1(), PlayRules())
    _, state = agent.predict([PROMPT], None, flags(True))
    agent.predict([documents], state, flags(False))
    assert asides == [
        f"Question: who made it\n<search> who made it</search>{documents}<answer>",
    ]
    read = "".join(map(chr, state.session.contexts[0])).replace(END, "")
    condensed = "<information>Doc 1: It was made by Ada.</information>\n"
    assert read == f"{PROMPT}<search>who made it</search>{condensed}<answer>Ada</answer>"
    assert state.slots[0].num_tokens > len("<answer>Ada</answer>") + 1  # the aside counts


def test_notes_about_malformed_actions_are_read_as_they_are(scripted):
    script = writer("hm", "<answer>Ada</answer>")
    generator, agent, _, state = start(scripted, SearchO1(), script, agent=SearchO1Agent)
    agent.predict(["Invalid action.\n"], state, flags(False))
    assert "hm\0Invalid action.\n<answer>" in context(generator)


def test_idle_slots_cost_nothing_and_new_episodes_forget(scripted):
    script = writer(" A</answer>")
    generator, agent, _, state = start(scripted, Direct(), script, [PROMPT, PROMPT])
    actions, state = agent.predict(["", "Question: B\n"], state, flags(False, True))
    assert actions[0] == ""
    assert [call[0] for call in generator.calls] == [[0, 1], [1]]
    assert context(generator, 1) == f"Question: B\n<answer> A</answer>{END}"
    assert agent.tokens_written(state) == [0, len(" A</answer>") + 1]


def test_parts_of_different_kinds_are_written_side_by_side(scripted):
    class Mixed(Direct):
        def parts(self, question, turn, is_last):
            return (Part("<search>x</search>"),) if question == "A" else (ANSWER,)

    observations = ["Question: A\n", "Question: B\n"]
    *_, actions, _ = start(scripted, Mixed(), writer(" b</answer>"), observations)
    assert actions == ["<search>x</search>", "<answer> b</answer>"]


@pytest.mark.parametrize("program", [Direct(), ChainOfThought(), RAG(), ReAct(), R1()])
def test_sampling_of_a_question_does_not_depend_on_the_others(make_policy, program):
    agent = ProgramAgent(make_policy(), program, PlayRules(max_new_tokens=6, temperature=1.0))
    assert isinstance(agent, KeyedAgent)
    assert isinstance(agent, TokenCounter)
    kwargs = {"env_kwargs": {"engine": "world"}, "deterministic": False}
    together = evaluate(agent, QUESTIONS[:4], **kwargs).records
    apart = evaluate(agent, QUESTIONS[:4], num_envs=1, **kwargs).records
    assert together == apart
    assert {record.stop_reason for record in together} <= {"answered", "max_turns"}


@pytest.mark.parametrize("name", ["direct", "cot", "rag", "ra-agent", "search-o1", "r1"])
def test_baselines_play_the_shipped_policies(name):
    """What a policy cannot do without reading, it does not do; with documents, it does."""
    turns = []
    result = evaluate(
        make_agent(f"{name}:skill", PlayRules()),
        QUESTIONS[:40:4],
        env_kwargs={"engine": "bm25"},
        on_turn=lambda index, turn: turns.append(turn),
    )
    searches = {"direct": 0, "cot": 0, "r1": 0, "rag": 1}.get(name)
    assert searches is None or result.mean("searches") == searches
    assert all(turn.num_tokens is not None for turn in turns)
    if name in ("direct", "cot", "r1"):
        assert result.mean("exact_match") <= 0.2
    elif name == "search-o1":  # the policy never learned to read so few documents
        assert result.mean("searches") >= 1
    else:
        assert result.mean("exact_match") >= 0.5

"""Players without a language model."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zs_env  # noqa: F401 - registers the ids
from agents.baselines.documents import read_documents
from agents.baselines.function import FunctionAgent
from agents.baselines.grammar import read_question, stated_objects
from agents.baselines.macro import MacroAgent
from agents.baselines.oracle import OracleAgent
from agents.baselines.random import RandomAgent
from agents.baselines.rules import PlayRules
from agents.baselines.scripted import ScriptedAgent
from agents.evaluate import evaluate
from zs_env.episode import render_documents
from zs_env.random import derive
from zs_env.search.engine import Document
from zs_env.search.neutralise import neutralise_documents
from zs_env.task.miniwiki import RELATIONS, default_world
from zs_env.task.prompts import PROMPTS
from zs_env.task.questions import Question

WORLD = default_world()
QUESTIONS = WORLD.questions("validation")
EXACT = {"engine": "bm25"}  # replies do not hang on an episode's seed


def play(agent, questions=QUESTIONS[:60], **kwargs):
    return evaluate(agent, questions, **({"env_kwargs": {"engine": "world"}} | kwargs))


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=20)), max_size=4))
def test_documents_are_read_as_the_environment_shows_them(pairs):
    clean = neutralise_documents([Document(*pair) for pair in pairs], 100, 50)
    # A bracket after a title's own bracket cannot be told from the title's end.
    documents = tuple(Document(d.text, d.title.replace(")", "")) for d in clean)
    assert read_documents(render_documents(documents)) == documents


@given(st.text())
def test_other_texts_hold_no_documents(text):
    assert read_documents(text) == ()


@given(st.sampled_from(list(PROMPTS)), st.text(min_size=1, max_size=50))
def test_question_is_found_in_the_prompt(prompt, text):
    observation = PROMPTS[prompt].replace("{question}", text)
    assert PlayRules(prompt=prompt).question_in(observation) == text


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_grammar_reads_every_question_as_its_plan(split):
    world = WORLD.world(split)
    for plan in (*world.plans, *world.hard_plans):
        reading = read_question(plan.question.text)
        facts = list(plan.facts)
        if reading.smaller:
            found = [(search.entity, *search.relations) for search in reading.searches]
            assert found == [(fact.subject, fact.relation) for fact in facts]
        else:
            [search] = reading.searches
            assert search.entity == facts[0].subject
            assert list(search.relations) == [fact.relation for fact in facts]


@given(st.text())
def test_grammar_reads_any_text(text):
    read_question(text)


def test_sentences_are_read_as_their_facts_and_no_others():
    for fact in WORLD.world("validation").facts:
        for text in fact.passages:
            assert stated_objects(text, fact.subject, fact.relation) == [fact.object]
        outdated = RELATIONS[fact.relation].outdated.format(s=fact.subject, o=fact.object)
        assert not stated_objects(outdated, fact.subject, fact.relation)


@pytest.mark.parametrize("hard", [False, True])
def test_scripted_agent_answers_everything_where_documents_are_right(hard):
    questions = WORLD.questions("test", hard=hard)[::7]
    result = play(ScriptedAgent(PlayRules()), questions)
    assert result.mean("exact_match") == 1
    assert result.mean("searches") <= result.mean("num_hops") + 0.1


def test_scripted_agent_searches_again_after_noise_and_answers_in_the_end():
    result = play(ScriptedAgent(PlayRules()), noise=0.5)
    assert result.searched_again_share > 0.9
    assert 0.5 < result.mean("exact_match") < 1
    assert {record.stop_reason for record in result.records} == {"answered"}


def test_scripted_agent_searches_for_questions_of_other_kinds_as_they_stand():
    asked = Question("a", "who wrote ain't <it> heavy", ("Bobby Scott",))
    agent = ScriptedAgent(PlayRules())
    actions, state = agent.predict([f"Question: {asked.text}\n"], None, np.array([True]))
    assert actions == ["<search>who wrote ain't heavy</search>"]
    shown = render_documents([Document("It is a song that Bobby Scott wrote.")])
    assert agent.predict([shown], state, np.array([False]))[0] == ["<answer>Bobby Scott</answer>"]


def test_oracle_knows_and_is_told():
    result = play(OracleAgent(PlayRules(questions=QUESTIONS)))
    assert result.mean("exact_match") == result.mean("f1") == result.mean("turns") == 1
    with pytest.raises(ValueError, match="`questions` must be told to the oracle"):
        OracleAgent(PlayRules())


def test_random_agent_plays_the_same_whatever_is_beside_it():
    agent = RandomAgent(PlayRules())
    together, apart = play(agent), play(agent, num_envs=1)
    assert together == apart
    assert 0 < together.mean("searches") < 5
    assert together.mean("invalid") == 0
    assert play(agent, seed=1) != together


def choose(views, keys, deterministic):
    return [derive(int(sum(view.observe(6) > 0.5)), view.turn) % 13 for view in views]


def test_macro_agent_sees_and_writes_what_the_macro_environment_does():
    turns = []
    agent = MacroAgent(choose, 6, PlayRules())
    kwargs = {"env_kwargs": EXACT, "on_turn": lambda i, t: turns.append((i, t.action))}
    result = play(agent, QUESTIONS[:30], **kwargs)
    env = gym.make("ZeroSearchMacro-v0", **EXACT).unwrapped
    for index, record in enumerate(result.records):
        env.reset(seed=0, options={"question": QUESTIONS[index], "noise": 0.0})
        for action in (action for at, action in turns if at == index):
            _, reward, *_, info = env.step(choose([env._view], [()], True)[0])
            assert info["text"] == action
        assert reward == record.f1


def test_stable_baselines3_model_plays_as_on_its_own_environment(tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from agents.baselines.sb3 import SB3Agent

    model = sb3.PPO("MlpPolicy", "ZeroSearchMacro-v0", n_steps=64, seed=0, device="cpu")
    model.learn(64)
    model.save(tmp_path / "model.zip")
    agent = SB3Agent.load(str(tmp_path / "model.zip"), "PPO", PlayRules())
    result = play(agent, QUESTIONS[:20], env_kwargs=EXACT)
    env = gym.make("ZeroSearchMacro-v0", **EXACT)
    for record, question in zip(result.records, QUESTIONS[:20], strict=True):
        observation, _ = env.reset(seed=0, options={"question": question, "noise": 0.0})
        info = {}
        while "f1" not in info:
            action, _ = model.predict(observation, deterministic=True)
            observation, _, _, _, info = env.step(action)
        assert (info["answer"], info["num_searches"]) == (record.answer, record.searches)


def test_stable_baselines3_model_of_another_game_is_refused(tmp_path):
    sb3 = pytest.importorskip("stable_baselines3")
    from agents.baselines.sb3 import SB3Agent

    sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu").save(tmp_path / "cart.zip")
    with pytest.raises(ValueError, match="`sb3:` must name a model that was trained on ZeroSearch"):
        SB3Agent.load(str(tmp_path / "cart.zip"), "PPO", PlayRules())
    with pytest.raises(ValueError, match="`algorithm` must be a class of stable_baselines3"):
        SB3Agent.load(str(tmp_path / "cart.zip"), "PPOO", PlayRules())


def test_function_reads_the_whole_transcript():
    seen = []

    def answer(story):
        seen.append(story)
        return "<search>x</search>" if story.count("<search>") == 0 else "<answer>x</answer>"

    result = play(FunctionAgent(answer), QUESTIONS[:2])
    assert result.mean("searches") == 1
    assert seen[2].startswith(f"{seen[0]}<search>x</search><information>Doc 1: ")


def test_function_that_writes_no_text_is_named():
    with pytest.raises(TypeError, match="mine must return the text of an action, got None"):
        play(FunctionAgent(lambda story: None, "mine"))

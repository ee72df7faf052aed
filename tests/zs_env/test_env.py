"""The single environment as a Gymnasium citizen."""

import copy
import json
import pickle
import random
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import zs_env
from zs_env import Document, Question, SearchEngineError, ZeroSearchEnv
from zs_env.search.curriculum import AdaptiveCurriculum, ConstantCurriculum, LinearCurriculum
from zs_env.settings import Settings, SettingsArguments
from zs_env.task.reward_terms import PerTurn

QUESTIONS = tuple(Question(f"q{i}", f"What is {i}?", (f"number {i}",)) for i in range(20))
SEARCH = "<search>what</search>"


class EchoEngine:
    """Answers with the query, the noisy flag and the seed; keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def search(self, requests):
        self.calls.append(list(requests))
        return [[Document(f"{r.query} {r.noisy} {r.seed}")] * r.top_k for r in requests]


class FailingEngine:
    """Fails as often as it is told to, then answers."""

    def __init__(self, num_failures):
        self.num_failures = num_failures

    def search(self, requests):
        if self.num_failures:
            self.num_failures -= 1
            raise SearchEngineError("the wire was cut")
        return [[Document("fine")] for _ in requests]


def make(**kwargs):
    kwargs = {"questions": QUESTIONS, "engine": EchoEngine()} | kwargs
    return gym.make("ZeroSearch-v0", **kwargs)


def transcript(env, seed, actions):
    return [env.reset(seed=seed), *(tuple(env.step(action)) for action in actions)]


@pytest.mark.parametrize("engine", ["simulator", "world", "bm25"])
def test_check_env_passes_without_a_warning(engine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("ZeroSearch-v0", engine=engine).unwrapped)


def test_check_env_passes_with_own_questions_and_engine():
    check_env(make().unwrapped)
    check_env(make(render_mode="ansi").unwrapped)


def test_same_seed_same_episode():
    actions = [SEARCH, "<search>again</search>", "<answer>number 3</answer>"]
    env = make(noise=0.5)
    assert transcript(env, 7, actions) == transcript(make(noise=0.5), 7, actions)
    assert transcript(env, 7, actions) != transcript(env, 8, actions)


def test_reset_without_a_seed_goes_on_from_the_last():
    env, twin = make(), make()
    env.reset(seed=1)
    twin.reset(seed=1)
    episodes = [env.reset()[1] for _ in range(20)]
    assert episodes == [twin.reset()[1] for _ in range(20)]
    assert len({info["question_id"] for info in episodes}) > 5
    assert len({info["group"] for info in episodes}) == 20


def test_options_do_not_disturb_the_stream_of_episodes():
    env, twin = make(), make()
    env.reset(seed=1, options={"question": "q3", "noise_seed": 4})
    twin.reset(seed=1)
    assert env.reset() == twin.reset()


def test_global_generators_are_left_alone():
    """A peer's fault: reset(seed) that reseeds the global generators."""
    random.seed(5)
    np.random.seed(5)
    python_state, numpy_state = random.getstate(), np.random.get_state()[1].tolist()
    transcript(make(noise=0.5), 3, [SEARCH, "<answer>x</answer>"])
    assert random.getstate() == python_state
    assert np.random.get_state()[1].tolist() == numpy_state


def test_never_terminated_and_truncated_at_once():
    """A peer's fault: an answer on the last turn reported as both."""
    env = make(max_turns=1)
    for action, ends in [("<answer>x</answer>", (True, False)), (SEARCH, (False, True))]:
        env.reset(seed=0)
        assert env.step(action)[2:4] == ends


def test_engine_is_asked_once_a_search_and_not_on_the_last_turn():
    engine = EchoEngine()
    env = make(engine=engine, max_turns=3)
    env.reset(seed=0)
    for action in (SEARCH, "no action", SEARCH):
        env.step(action)
    assert [len(call) for call in engine.calls] == [1]


def test_failing_engine_raises_and_the_turn_can_be_retried():
    """Fault 15: a search error shown to the agent as if it were a document."""
    env = make(engine=FailingEngine(1))
    env.reset(seed=0)
    with pytest.raises(SearchEngineError, match="the wire was cut"):
        env.step(SEARCH)
    observation, *_, info = env.step(SEARCH)
    assert observation == "<information>Doc 1: fine</information>\n"
    assert info["turn"] == info["num_searches"] == 1


class Stumbling:
    """Does what it is told once, as an engine, a reward or a curriculum; then it is fine."""

    def __init__(self, reply=None):
        self.reply, self.stumbled = reply, False

    def search(self, requests):
        if not self.stumbled:
            self.stumbled = True
            return self.reply
        return [[Document("fine")] for _ in requests]

    def __call__(self, *arguments):
        if not self.stumbled:
            self.stumbled = True
            raise RuntimeError("stumbled")
        return 0.5


@pytest.mark.parametrize("reply", [[], None, [["text"]], [[{"text": "x"}]], [[Document(None)]]])
def test_engine_that_returns_no_documents_raises_and_the_turn_can_be_retried(reply):
    env, twin = make(engine=Stumbling(reply)).unwrapped, make(engine=FailingEngine(0)).unwrapped
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(SearchEngineError, match=r"Stumbling (must return|returned 0)"):
        env.step(SEARCH)
    assert env.get_state() == twin.get_state()
    assert env.step(SEARCH) == twin.step(SEARCH)


@pytest.mark.parametrize("action", ["<answer>x</answer>", SEARCH])
def test_reward_that_raises_leaves_the_turn_to_be_retried(action):
    env = make(reward=PerTurn(Stumbling()), max_turns=1, render_mode="ansi").unwrapped
    env.reset(seed=0)
    before = env.get_state(), env.render()
    with pytest.raises(RuntimeError, match="stumbled"):
        env.step(action)
    assert (env.get_state(), env.render()) == before
    _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated or truncated, info["turn"]) == (0.5, True, 1)


@pytest.mark.parametrize("following", [None, RuntimeError])
def test_curriculum_that_fails_to_learn_leaves_the_turn_to_be_retried(following):
    class Forgetful(ConstantCurriculum):
        def after(self, success):
            if following is not None:
                raise following("forgot")

    env = make(curriculum=Forgetful()).unwrapped
    env.reset(seed=0)
    before = env.get_state()
    for _ in range(2):
        with pytest.raises((TypeError, RuntimeError), match=r"must be a Curriculum|forgot"):
            env.step("<answer>x</answer>")
        assert env.get_state() == before


def test_turn_that_cannot_be_shown_can_be_retried(monkeypatch):
    env = make(render_mode="human").unwrapped
    monkeypatch.setattr("zs_env.env.print_panels", Stumbling())
    for call in (lambda: env.reset(seed=0), lambda: env.step(SEARCH)):
        monkeypatch.setattr("zs_env.env.print_panels", Stumbling())
        before = env.get_state()
        with pytest.raises(RuntimeError, match="stumbled"):
            call()
        assert env.get_state() == before
        call()
    assert env.episode.turn == 1


def test_step_needs_a_running_episode():
    env = make().unwrapped
    with pytest.raises(ResetNeeded):
        env.step(SEARCH)
    env.reset(seed=0)
    env.step("<answer>x</answer>")
    with pytest.raises(ResetNeeded):
        env.step(SEARCH)


def test_action_must_be_a_string():
    env = make()
    env.reset(seed=0)
    with pytest.raises(TypeError, match="`action` must be a string, got 3"):
        env.step(3)


def test_noise_option_reaches_engine_and_info():
    engine = EchoEngine()
    env = make(engine=engine)
    env.reset(seed=0, options={"noise": np.float32(1.0)})
    info = env.step(SEARCH)[4]
    assert info["noise"] == 1.0
    assert info["noisy"] is engine.calls[0][0].noisy is True
    assert env.reset()[1]["noise"] == 0.0


def test_progress_option_goes_through_the_curriculum():
    for curriculum, noise in [
        ("exponential", 1 / 6),
        (LinearCurriculum(0.2, 0.4), 0.3),
        (lambda progress: progress**2, 0.25),
    ]:
        env = make(curriculum=curriculum)
        assert env.reset(options={"progress": 0.5})[1]["noise"] == pytest.approx(noise)
    assert make().reset()[1]["noise"] == 0.0
    assert make().reset(options={"progress": 1})[1]["noise"] == 0.5


def test_noise_is_the_options_then_the_arguments_then_the_curriculums():
    env = make(noise=0.9, curriculum=LinearCurriculum(0.2, 0.4))
    assert env.reset(options={"noise": 0.1})[1]["noise"] == 0.1
    assert env.reset(options={"progress": 0.0})[1]["noise"] == 0.2
    assert env.reset()[1]["noise"] == 0.9
    assert make(curriculum=LinearCurriculum(0.2, 0.4)).reset()[1]["noise"] == 0.2


def test_adaptive_curriculum_follows_exact_matches():
    env = make(curriculum=AdaptiveCurriculum(window=1, step=0.1), max_turns=1)
    noises = []
    for answer in ("<answer>number 1</answer>", "nothing", "<answer>number 1</answer>"):
        env.reset(options={"question": "q1"})
        env.step(answer)
        noises.append(round(env.reset()[1]["noise"], 3))
    assert noises == [0.1, 0.0, 0.1]


def test_seeded_reset_takes_the_curriculum_back_to_its_beginning():
    env = make(curriculum=AdaptiveCurriculum(start=0.2, window=1, step=0.1))
    options = {"question": "q1"}
    first = env.reset(seed=0, options=options)
    env.step("<answer>number 1</answer>")
    assert env.reset(options=options)[1]["noise"] == pytest.approx(0.3)
    assert env.reset(seed=0, options=options) == first
    env.step("<answer>number 1</answer>")
    with pytest.raises(ValueError, match="`question` must be"):
        env.reset(seed=0, options={"question": "q99"})
    assert env.reset(options=options)[1]["noise"] == pytest.approx(0.3)


def test_options_hold_for_one_episode_of_a_group_and_no_later_one():
    env, twin = make(group_size=3), make(group_size=3)
    given = env.reset(seed=0, options={"question": "q1", "noise_seed": 5})[1]
    twin.reset(seed=0)
    assert given["question_id"] == "q1"
    infos = [env.reset()[1] for _ in range(2)]
    assert infos == [twin.reset()[1] for _ in range(2)]
    assert infos[0]["group"] == infos[1]["group"] != given["group"]
    options = {"question": "q1", "noise_seed": 5}
    assert len({env.reset(options=options)[1]["group"] for _ in range(3)}) == 1


@pytest.mark.parametrize("more", [{}, {"id": "same"}, {"id": "same", "data_source": "same"}])
def test_groups_of_different_questions_differ(more):
    """Fault 14: group ids that collide across questions."""
    records = [("A?", "a"), ("B?", "b"), ("A?", "b"), ("A?", ["a", "b"])]
    groups = [
        make().reset(
            options={"question": {"question": text, "answers": answers} | more, "noise_seed": 1}
        )[1]["group"]
        for text, answers in records
    ]
    assert len(set(groups)) == len(records)


def test_group_size_lets_episodes_in_a_row_share_question_and_noise_stream():
    env = make(group_size=3)
    assert env.metadata["group_size"] == 3
    infos = [env.reset(seed=seed)[1] for seed in (0, None, None, None, None, None, None)]
    groups = [info["group"] for info in infos]
    assert groups[0] == groups[1] == groups[2] != groups[3] == groups[4] == groups[5] != groups[6]
    env.reset(seed=0)
    assert env.reset()[1] == env.reset(seed=0)[1] == infos[0]
    assert make().reset(seed=0)[1] == infos[0]


def test_noise_seed_option_shares_the_noise_stream():
    def noisy_flags(seed):
        env = make(max_turns=30)
        env.reset(seed=seed, options={"noise": 0.5, "noise_seed": 11, "question": "q1"})
        return [env.step(SEARCH)[4]["noisy"] for _ in range(29)]

    assert noisy_flags(1) == noisy_flags(2)


@pytest.mark.parametrize(
    "question",
    [
        "q4",
        QUESTIONS[4],
        {"id": "q4", "question": "What is 4?", "answers": ["number 4"]},
        {"id": "q4", "question": "What is 4?", "golden_answers": "number 4"},
    ],
)
def test_question_option_takes_id_record_and_mapping(question):
    observation, info = make().reset(options={"question": question})
    assert observation == "Question: What is 4?\n"
    assert info["question_id"] == "q4"


def test_max_turns_option_holds_for_one_episode():
    env = make()
    env.reset(options={"max_turns": 1})
    assert env.step(SEARCH)[3]
    env.reset()
    assert not env.step(SEARCH)[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"nois": 0.5},
            r"`options` must be among max_turns, noise, noise_seed, progress, question, split",
        ),
        ({"nois": 0.5}, r"got 'nois'"),
        ({"noise": 1.5}, r"`noise` must be a probability in \[0, 1\], got 1.5"),
        ({"noise": float("nan")}, r"`noise` must be a probability in \[0, 1\], got nan"),
        ({"noise": "much"}, r"`noise` must be a probability in \[0, 1\], got 'much'"),
        ({"noise": True}, r"`noise` must be a probability in \[0, 1\], got True"),
        ({"split": "dev"}, r"`split` must be one of train, validation, test, got 'dev'"),
        ({"question": "q99"}, r"`question` must be the id of one of 20 questions, got 'q99'"),
        ({"question": {"question": "x"}}, r"`answers` of a question must be .*, got None"),
        ({"question": 3}, r"a question must be a Question or a mapping, got 3"),
        ({"max_turns": 0}, r"`max_turns` must be an integer of at least 1, got 0"),
        ({"max_turns": 2.0}, r"`max_turns` must be an integer of at least 1, got 2.0"),
        ({"noise_seed": -1}, r"`noise_seed` must be an integer of at least 0, got -1"),
        ({"progress": 1.5}, r"`progress` must be a probability in \[0, 1\], got 1.5"),
        ({"progress": "half"}, r"`progress` must be a probability in \[0, 1\], got 'half'"),
        (
            {"progress": 0.5, "noise": 0.5},
            r"`progress` must not be given together with `noise`, got 0.5",
        ),
    ],
)
def test_wrong_reset_option_is_refused_and_changes_nothing(options, message):
    env, twin = make(), make()
    for each in (env, twin):
        each.reset(seed=2)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert env.step(SEARCH) == twin.step(SEARCH)
    assert env.reset() == twin.reset()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"questions": "wiki"}, r"`questions` must be miniwiki, miniwiki-hard, .*, got 'wiki'"),
        ({"questions": "missing.jsonl"}, r"`questions` must be .*, got 'missing.jsonl'"),
        ({"questions": []}, r"`questions` must hold at least one question, got none"),
        ({"questions": [QUESTIONS[0]] * 2}, r"`questions` must have distinct ids, got 'q0' twice"),
        ({"questions": [{"question": "x", "answers": []}]}, r"`answers` of a question must be"),
        ({"questions": [{"answers": ["x"]}]}, r"`question` of a question must be a text"),
        ({"engine": "google"}, r"`engine` must be simulator, .*world, .* or .*, got 'google'"),
        ({"split": "dev"}, r"`split` must be one of train, validation, test, got 'dev'"),
        ({"top_k": 0}, r"`top_k` must be an integer of at least 1, got 0"),
        ({"max_turns": 0}, r"`max_turns` must be an integer of at least 1, got 0"),
        ({"max_action_length": 0}, r"`max_action_length` must be an integer of at least 1"),
        ({"prompt": "no place"}, r"`prompt` must be miniwiki, zerosearch or .*, got 'no place'"),
        ({"reward": "bleu"}, r"`reward` must be f1, em, sub_em, .*, got 'bleu'"),
        ({"curriculum": "steep"}, r"`curriculum` must be exponential, linear, .*, got 'steep'"),
        ({"group_size": 0}, r"`group_size` must be an integer of at least 1, got 0"),
        ({"noise": -0.1}, r"`noise` must be a probability in \[0, 1\], got -0.1"),
        (
            {"render_mode": "rgb"},
            r"`render_mode` must be None or one of ansi, human, html, .*, got 'rgb'",
        ),
    ],
)
def test_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ZeroSearchEnv(**arguments)


def test_engine_without_search_is_refused():
    with pytest.raises(TypeError, match=r"`engine` must be .* an object with a search method"):
        ZeroSearchEnv(engine=object())


def test_argument_types_cover_the_settings():
    assert SettingsArguments.__annotations__.keys() == Settings.__dataclass_fields__.keys()


def test_records_and_jsonl_files_hold_questions(tmp_path):
    records = [
        {"id": 7, "question": "Où?", "answers": ["Orléans"], "type": "bridge"},
        {"question": "Who?", "golden_answers": ["Zoë", "Zoe"], "num_hops": 2},
    ]
    path = tmp_path / "mine.jsonl"
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text(f"{lines}\n\n", encoding="utf-8")
    for questions, source in [(records, "custom"), (path, "mine"), (str(path), "mine")]:
        env = make(questions=questions)
        observation, info = env.reset(options={"question": "7", "split": "test"})
        assert observation == "Question: Où?\n"
        assert info["data_source"] == source
        assert env.step("<answer>orléans</answer>")[1] == 1.0


@pytest.mark.parametrize("line", ['{"question": "x"}', "not json", "[1]"])
def test_broken_line_is_named_with_its_file(tmp_path, line):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"question": "x", "answers": ["y"]}\n' + line + "\n", encoding="utf-8")
    env = make(questions=path)
    with pytest.raises(ValueError, match=r"broken\.jsonl:2: "):
        env.reset()


@pytest.mark.parametrize("questions", ["miniwiki", "miniwiki-hard"])
def test_built_in_questions_come_from_the_split_asked_for(questions):
    env = make(questions=questions, split="test")
    ids = {
        split: env.reset(seed=0, options={"split": split})[1]["question_id"]
        for split in ("train", "validation", "test")
    }
    assert len(set(ids.values())) == 3
    assert env.reset(seed=0)[1]["question_id"] == ids["test"]
    assert env.reset(options={"question": ids["train"]})[1]["question_id"] == ids["train"]


@pytest.mark.parametrize("engine", ["world", "bm25", "simulator"])
def test_named_engines_answer(engine):
    env = make(questions="miniwiki", engine=engine)
    env.reset(seed=0)
    observation, *_ = env.step("<think>x</think><search>where was she born</search>")
    assert observation.startswith("<information>Doc 1: ")
    assert observation.endswith("</information>\n")


def test_prompt_takes_names_and_templates():
    assert "<search>" in make(prompt="zerosearch").reset()[0]
    assert make(prompt="{{{question}}}").reset(options={"question": "q1"})[0] == "{{What is 1?}}"


def test_reward_takes_names_and_callables():
    for reward, paid in [("em", 0.0), ("sub_em", 1.0), (lambda answer, golden: -3, -3.0)]:
        env = make(reward=reward)
        env.reset(options={"question": "q1"})
        assert env.step("<answer>number 1 or so</answer>")[1] == paid


def test_metadata_publishes_what_a_training_loop_needs():
    env = make(prompt="Q {question}")
    assert env.metadata["prompt"] == "Q {question}"
    assert env.metadata["action_stops"] == ("</search>", "</answer>")
    assert env.metadata["grammar"].stops == env.metadata["action_stops"]
    assert env.metadata["group_size"] == 1
    assert ZeroSearchEnv.metadata["prompt"] == "Question: {question}\n"


def test_observations_stay_inside_their_space():
    class Verbose:
        def search(self, requests):
            return [[Document("é" * 10**5, title="t" * 10**5)] * 9 for _ in requests]

    for arguments in (
        {"top_k": 9},
        {"top_k": 1, "max_document_length": 1},
        {"prompt": "zerosearch"},
    ):
        env = make(engine=Verbose(), **arguments)
        assert env.reset()[0] in env.observation_space
        for action in (SEARCH, "x" * 10**5, "nothing"):
            assert env.step(action)[0] in env.observation_space


def test_ansi_rendering_is_the_transcript():
    env = make(render_mode="ansi")
    env.reset(options={"question": "q1"})
    env.step("<answer>number 1</answer>")
    assert (
        env.render()
        == "[environment]\nQuestion: What is 1?\n\n[agent]\n<answer>number 1</answer>\n"
    )
    assert make().unwrapped.render() is None


def test_pickle_and_deepcopy_in_the_middle_of_an_episode():
    env = make(questions="miniwiki", engine="world").unwrapped
    env.reset(seed=0)
    env.step(SEARCH)
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    after = env.step(SEARCH), env.reset()
    for twin in copies:
        assert (twin.step(SEARCH), twin.reset()) == after


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_runs_inside_gymnasiums_vector_environments(mode):
    kwargs = {"vector_kwargs": {"shared_memory": False}} if mode == "async" else {}
    envs = gym.make_vec("ZeroSearch-v0", 2, mode, questions="miniwiki", engine="world", **kwargs)
    observations, _ = envs.reset(seed=3)
    assert all(observation.startswith("Question: ") for observation in observations)
    observations, *_ = envs.step((SEARCH, SEARCH))
    assert all(observation.startswith("<information>") for observation in observations)
    envs.close()


def test_public_names_exist():
    assert all(hasattr(zs_env, name) for name in zs_env.__all__)


@pytest.mark.parametrize("kinds", ["partial", ("partial", "wrong"), (1,)])
def test_unknown_kinds_of_noise_are_refused(kinds):
    with pytest.raises(
        ValueError, match="`noise_kinds` must be a sequence of irrelevant, near-miss"
    ):
        ZeroSearchEnv(noise_kinds=kinds)


def test_kinds_of_noise_reach_engine_and_info():
    env = ZeroSearchEnv(engine="world", noise=1.0, noise_kinds=["empty"])
    env.reset(seed=0)
    observation, *_, info = env.step("<search>who</search>")
    assert observation == "<information></information>\n"
    assert (info["documents"], info["noisy"], info["noise_kind"]) == ((), True, "empty")

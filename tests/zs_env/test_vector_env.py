"""The vector environment: the same rules, one engine call a step."""

import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env import Document, Question, SearchEngineError, ZeroSearchEnv, ZeroSearchVectorEnv
from zs_env.search.curriculum import AdaptiveCurriculum, StepCurriculum
from zs_env.settings import episode_key
from zs_env.vector_env import GroupKeys, stack_infos

QUESTIONS = tuple(Question(f"q{i}", f"What is {i}?", (f"number {i}",)) for i in range(20))
SEARCH = "<search>what</search>"
ANSWER = "<answer>number 3</answer>"
ACTIONS = (SEARCH, ANSWER, "no action", "<think>x</think><search>why</search>", "<information>")


class EchoEngine:
    """Answers with all it is told; keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def search(self, requests):
        self.calls.append(list(requests))
        return [
            [Document(f"{r.query} {r.question} {r.noisy} {r.seed}", title=r.golden_answers[0])]
            for r in requests
        ]


def make(num_envs=4, cls=ZeroSearchVectorEnv, **kwargs):
    kwargs = {"questions": QUESTIONS, "engine": EchoEngine(), "noise": 0.5} | kwargs
    return cls(num_envs, **kwargs) if cls is ZeroSearchVectorEnv else cls(**kwargs)


def make_sync(num_envs, mode, **kwargs):
    """Return Gymnasium's own vector environment over single ones."""
    env_fns = [lambda: make(cls=ZeroSearchEnv, **kwargs)] * num_envs
    return gym.vector.SyncVectorEnv(env_fns, autoreset_mode=mode)


def assert_same(left, right):
    """Compare what reset or step returned, infos and their types included."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert left.tolist() == right.tolist()
    else:
        assert left == right


def info_of(infos, slot):
    """Return one slot's info in the form of the single environment."""
    return {
        key: value[slot].item() if isinstance(value[slot], np.generic) else value[slot]
        for key, value in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][slot]
    }


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]),
    st.integers(0, 2**40),
    st.lists(st.tuples(*[st.sampled_from(ACTIONS)] * 3), max_size=12),
)
def test_plays_what_gymnasiums_vector_of_single_environments_plays(mode, seed, steps):
    native, sync = make(3, autoreset_mode=mode, max_turns=3), make_sync(3, mode, max_turns=3)
    assert_same(native.reset(seed=seed), sync.reset(seed=seed))
    for actions in steps:
        assert_same(native.step(actions), sync.step(actions))
    assert_same(native.reset(), sync.reset())


@pytest.mark.parametrize("mode", AutoresetMode)
def test_slot_plays_what_a_single_environment_with_its_seed_plays(mode):
    envs = make(4, autoreset_mode=mode, max_turns=5)
    script = [SEARCH, "no action", "<search>again</search>", ANSWER]
    observations, infos = envs.reset(seed=10)
    for slot in range(4):
        single = make(cls=ZeroSearchEnv, max_turns=5)
        assert (observations[slot], info_of(infos, slot)) == single.reset(seed=10 + slot)
    singles = [make(cls=ZeroSearchEnv, max_turns=5) for _ in range(4)]
    for slot, single in enumerate(singles):
        single.reset(seed=10 + slot)
    for action in script[:3]:
        *columns, infos = envs.step([action] * 4)
        for slot, single in enumerate(singles):
            *values, info = single.step(action)
            assert [column[slot] for column in columns] == values
            assert info_of(infos, slot) == info


def test_documents_belong_to_the_question_of_their_slot_when_others_idle():
    """Fault 1: documents generated for another row's question once a row does not search."""
    engine = EchoEngine()
    envs = make(6, engine=engine, autoreset_mode="Disabled")
    observations, _ = envs.reset(options={"question": [f"q{i}" for i in range(6)]})
    envs.step(["<answer>x</answer>"] + [SEARCH] * 5)
    actions = [
        "ignored",
        "<search>1</search>",
        "words",
        "<search>3</search>",
        ANSWER,
        "<search>5</search>",
    ]
    observations, *_, infos = envs.step(actions)
    assert [(r.query, r.question) for r in engine.calls[1]] == [
        (str(i), f"What is {i}?") for i in (1, 3, 5)
    ]
    assert all(r.golden_answers == (f"number {r.query}",) for r in engine.calls[1])
    for slot in (1, 3, 5):
        assert observations[slot].startswith(
            f"<information>Doc 1(Title: number {slot}) {slot} What is {slot}?"
        )
        assert infos["documents"][slot][0].title == f"number {slot}"


def test_engine_is_called_once_a_step_or_not_at_all():
    engine = EchoEngine()
    envs = make(4, engine=engine, max_turns=3)
    envs.reset(seed=0)
    envs.step([SEARCH] * 4)
    assert [len(call) for call in engine.calls] == [4]
    envs.step(["words", ANSWER, "<information>", SEARCH])
    assert [len(call) for call in engine.calls] == [4, 1]
    envs.step([SEARCH] * 4)  # the last turn of three slots, an autoreset in the other
    assert [len(call) for call in engine.calls] == [4, 1]


def test_failing_engine_leaves_all_episodes_as_they_were():
    """Fault 15: a search error that becomes silent noise."""

    class Once(EchoEngine):
        def search(self, requests):
            if not self.calls:
                self.calls.append([])
                raise SearchEngineError("down")
            return super().search(requests)

    envs, twin = make(engine=Once()), make()
    envs.reset(seed=0)
    twin.reset(seed=0)
    actions = [SEARCH, ANSWER, "words", SEARCH]
    with pytest.raises(SearchEngineError, match="down"):
        envs.step(actions)
    assert_same(envs.step(actions), twin.step(actions))


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("reply", [None, [[Document("a")], None], [[Document("a")], ["a"]]])
def test_malformed_reply_leaves_all_episodes_as_they_were(mode, reply):
    class Once(EchoEngine):
        def search(self, requests):
            found = super().search(requests)
            return found if len(self.calls) > 1 else reply

    envs, twin = (make(2, engine=engine, autoreset_mode=mode) for engine in (Once(), EchoEngine()))
    envs.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(SearchEngineError, match="Once must return a list of Documents"):
        envs.step([SEARCH, SEARCH])
    assert envs.get_state() == twin.get_state()
    assert_same(envs.step([SEARCH, SEARCH]), twin.step([SEARCH, SEARCH]))


class Grade:
    """Grades every answer 0.5, but fails once at the answer that it is told."""

    def __init__(self, fails_at=""):
        self.fails_at = fails_at

    def __call__(self, answer, golden_answers):
        if answer == self.fails_at:
            self.fails_at = ""
            raise RuntimeError("no grade")
        return 0.5


@pytest.mark.parametrize("mode", AutoresetMode)
def test_reward_that_raises_in_a_later_slot_leaves_all_episodes_as_they_were(mode):
    settings = {"autoreset_mode": mode, "noise": None, "curriculum": AdaptiveCurriculum(window=1)}
    envs, twin = (make(3, reward=grade, **settings) for grade in (Grade("late"), Grade()))
    envs.reset(seed=0)
    twin.reset(seed=0)
    actions = [ANSWER, "<answer>late</answer>", SEARCH]
    with pytest.raises(RuntimeError, match="no grade"):
        envs.step(actions)
    assert envs.get_state() == twin.get_state()
    assert_same(envs.step(actions), twin.step(actions))
    assert_same(envs.step(actions), twin.step(actions))


def test_autoreset_that_fails_leaves_all_episodes_as_they_were():
    class Exploding(AdaptiveCurriculum):
        def __call__(self, progress):
            return 7.0 if self.num_episodes else 0.0

    for mode, num_steps in [("SameStep", 0), ("NextStep", 1)]:
        envs = make(2, noise=None, curriculum=Exploding(), autoreset_mode=mode)
        envs.reset(seed=0)
        for _ in range(num_steps):
            envs.step([SEARCH, ANSWER])
        before = envs.get_state()
        with pytest.raises(ValueError, match=r"`curriculum\(progress\)` must be a probability"):
            envs.step([SEARCH, ANSWER])
        assert envs.get_state() == before


def test_permuting_slots_permutes_results():
    order = [2, 0, 3, 1]
    actions = [SEARCH, ANSWER, "<search>why</search>", "words"]
    envs, permuted = make(), make()
    envs.reset(seed=[5, 6, 7, 8])
    permuted.reset(seed=[[5, 6, 7, 8][slot] for slot in order])
    *columns, infos = envs.step(actions)
    *permuted_columns, permuted_infos = permuted.step([actions[slot] for slot in order])
    for column, permuted_column in zip(columns, permuted_columns, strict=True):
        assert [column[slot] for slot in order] == list(permuted_column)
    for place, slot in enumerate(order):
        assert info_of(permuted_infos, place) == info_of(infos, slot)


def test_disabled_autoreset_leaves_ended_slots_idle():
    envs = make(2, autoreset_mode="Disabled")
    envs.reset(seed=0, options={"question": "q3"})
    envs.step([ANSWER, SEARCH])
    observations, rewards, terminated, truncated, infos = envs.step([ANSWER, SEARCH])
    assert observations[0] == ""
    assert rewards.tolist() == [0.0, 0.0]
    assert terminated.tolist() == [True, False]
    assert truncated.tolist() == [False, False]
    assert infos["_turn"].tolist() == [False, True]
    assert infos["turn"].tolist() == [0, 2]


def test_reset_mask_restarts_only_some_slots():
    envs = make(3, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step([ANSWER, SEARCH, ANSWER])
    mask = np.array([True, False, False])
    options = {"reset_mask": mask, "question": "q9"}
    observations, infos = envs.reset(options=options)
    assert observations[0] == "Question: What is 9?\n"
    assert observations[1].startswith("<information>")
    assert observations[2] == ""
    assert infos["_question_id"].tolist() == mask.tolist()
    assert options.keys() == {"reset_mask", "question"}
    _, _, terminated, _, infos = envs.step([SEARCH] * 3)
    assert terminated.tolist() == [False, False, True]
    assert infos["turn"].tolist() == [1, 2, 0]


def test_options_may_differ_by_slot():
    envs = make(3)
    options = {
        "noise": np.array([0.0, 0.5, 1.0]),
        "question": ["q1", {"id": "own", "question": "Why?", "answers": ["so"]}, None],
        "max_turns": 4,
        "noise_seed": (1, 1, None),
    }
    observations, infos = envs.reset(seed=0, options=options)
    assert observations[:2] == ("Question: What is 1?\n", "Question: Why?\n")
    assert infos["noise"].tolist() == [0.0, 0.5, 1.0]
    assert infos["question_id"][1] == "own"


def test_progress_may_differ_by_slot_and_adaptive_curricula_learn_from_all():
    envs = make(3, noise=None, curriculum="linear")
    _, infos = envs.reset(seed=0, options={"progress": [0.0, 0.5, 1.0]})
    assert infos["noise"].tolist() == [0.0, 0.25, 0.5]
    with pytest.raises(ValueError, match=r"`progress` must not be given together with `noise`"):
        envs.reset(options={"progress": 0.5, "noise": [0.1, None, None]})
    envs = make(2, noise=None, curriculum=AdaptiveCurriculum(window=2), autoreset_mode="SameStep")
    envs.reset(seed=0, options={"question": "q3"})
    *_, infos = envs.step([ANSWER, ANSWER])
    assert infos["final_info"]["noise"].tolist() == [0.0, 0.0]
    assert infos["noise"].tolist() == [0.05, 0.05]


def test_noise_of_all_slots_is_a_float():
    for kwargs, options, expected in [
        ({"noise": 0}, {"noise": [None, 0.5, 1]}, [0.0, 0.5, 1.0]),
        (
            {"noise": None, "curriculum": StepCurriculum((0, 0.25, 0.5))},
            {"progress": [0, 0.4, 1]},
            [0.0, 0.25, 0.5],
        ),
    ]:
        _, infos = make(3, **kwargs).reset(options=options)
        assert infos["noise"].dtype == np.float64
        assert infos["noise"].tolist() == expected


@pytest.mark.parametrize("group_size", [1, 2])
def test_reset_that_seeds_all_slots_takes_the_curriculum_back_to_its_beginning(group_size):
    curriculum = AdaptiveCurriculum(window=2)
    settings = {"noise": None, "curriculum": curriculum, "autoreset_mode": "Disabled"}
    envs = make(4, group_size=group_size, **settings)
    some = np.array([True, True, False, False])

    def noises(**kwargs):
        return sorted(set(envs.reset(**kwargs)[1]["noise"].tolist()))

    first = envs.reset(seed=0, options={"question": "q3"})
    for kwargs, expected in [
        ({}, [0.1]),
        ({"seed": [0, 1, None, None]}, [0.1]),
        ({"seed": 0, "options": {"reset_mask": some}}, [0.0, 0.1]),  # 0 where nothing was reset
        ({"seed": [0, 1, 2, 3]}, [0.0]),
    ]:
        assert_same(envs.reset(seed=0, options={"question": "q3"}), first)
        envs.step([ANSWER] * 4)
        assert noises(**kwargs) == expected


def test_groups_of_different_questions_differ():
    """Fault 14: group ids that collide across questions."""
    questions = [{"question": "A?", "answers": "a"}, {"question": "B?", "answers": "b"}, "q1"]
    _, infos = make(3).reset(options={"question": questions, "noise_seed": 1})
    assert len(set(infos["group"].tolist())) == 3
    assert len(set(infos["question_id"])) == 3


def test_member_that_never_answers_makes_nobody_remember():
    envs = make(2, group_size=2, autoreset_mode="SameStep", max_turns=10**6)
    envs.reset(seed=0)
    sizes = []
    for _ in range(200):
        *_, infos = envs.step([ANSWER, "no action"])
        groups = envs.get_state()["groups"]
        sizes.append(len(pickle.dumps(envs._groups)))
    assert groups == [{"stream": groups[0]["stream"], "num_begun": [201, 1]}]
    assert max(sizes) - min(sizes) <= 1  # one more byte for a larger number
    assert infos["turn"].tolist() == [0, 200]


def test_group_shares_question_and_noise_stream():
    engine = EchoEngine()
    envs = make(6, engine=engine, group_size=3, max_turns=20)
    _, infos = envs.reset(seed=0)
    for _ in range(5):
        *_, infos = envs.step([SEARCH] * 6)
    assert envs.metadata["group_size"] == 3
    for key in ("question_id", "group", "noisy"):
        assert len(set(infos[key][:3])) == len(set(infos[key][3:])) == 1
    assert infos["group"][0] != infos["group"][3]
    for call in engine.calls:
        assert len({(r.seed, r.noisy) for r in call[:3]}) == 1
        assert call[0].seed != call[3].seed


def test_group_members_get_the_same_next_episodes_at_their_own_pace():
    envs = make(2, group_size=2, autoreset_mode="SameStep")
    envs.reset(seed=0)
    seen = [[], []]
    for turn in range(12):
        actions = [ANSWER, ANSWER if turn % 3 == 0 else SEARCH]
        *_, terminated, _, infos = envs.step(actions)
        for slot in np.flatnonzero(terminated):
            seen[slot].append((infos["question_id"][slot], infos["group"][slot]))
    assert len(seen[0]) == 12
    assert seen[1] == seen[0][: len(seen[1])]
    _, infos = envs.reset()
    assert infos["group"][0] == infos["group"][1]
    assert infos["group"][0] not in {group for _, group in seen[0]}


def test_group_takes_the_seed_of_its_first_slot():
    _, infos = make(4, group_size=2).reset(seed=5)
    for slot, seed in [(0, 5), (2, 7)]:
        _, info = make(cls=ZeroSearchEnv).reset(seed=seed)
        assert info_of(infos, slot) == info == info_of(infos, slot + 1)


@given(st.integers(1, 4), st.lists(st.integers(0, 3), max_size=40))
def test_group_keys_are_one_sequence_for_all_members(num_members, readers):
    keys = GroupKeys(7, (0,) * num_members)
    sequence = [episode_key(7, index) for index in range(len(readers) + 1)]
    positions = [0] * num_members
    for reader in readers:
        member = reader % num_members
        assert keys.key(member) == sequence[positions[member]]
        keys = keys.begun_by(member)
        positions[member] += 1
    level = keys.restarted(None)
    assert {level.key(member) for member in range(num_members)} == {sequence[max(positions)]}


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        ([3, -1], None),
        ([3, "x"], None),
        (3, {"question": [None, {"question": "x" * 5000, "answers": "y"}]}),
        (3, {"progress": [0.0, 1.0]}),
    ],
)
def test_reset_that_fails_in_a_later_slot_changes_nothing(seed, options):
    def curriculum(progress):
        return 0.0 if progress < 1 else 7.0  # no probability

    envs, twin = (make(2, curriculum=curriculum) for _ in range(2))
    for each in (envs, twin):
        each.reset(seed=1)
        each.step(["<search>a</search>", "<answer>b</answer>"])
    with pytest.raises((ValueError, gym.error.Error)):
        envs.reset(seed=seed, options=options)
    assert envs.get_state() == twin.get_state()
    assert_same(envs.reset(), twin.reset())


@pytest.mark.parametrize("mode", AutoresetMode)
def test_environment_goes_on_from_its_state(mode):
    settings = {"group_size": 2, "curriculum": AdaptiveCurriculum(window=2), "autoreset_mode": mode}
    envs, twin = make(4, **settings), make(4, **settings)
    envs.reset(seed=1)
    actions = ["<search>a</search>", "<answer>b</answer>", "", "<answer>c</answer>"]
    envs.step(actions)
    twin.set_state(json.loads(json.dumps(envs.get_state())))
    for _ in range(4):
        assert_same(envs.step(actions), twin.step(actions))
    assert_same(envs.reset(), twin.reset())
    assert envs.get_state() == twin.get_state()


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.just(0), max_size=3)
        | st.fixed_dictionaries(
            {"n": st.integers(0, 9), "x": st.floats(0, 1), "b": st.booleans(), "t": st.text()},
            optional={"d": st.tuples(st.text(), st.text()), "none": st.none()},
        ),
        min_size=3,
        max_size=3,
    )
)
def test_infos_are_stacked_as_gymnasium_stacks_them(infos):
    reference = VectorEnv()
    reference.num_envs = 3
    expected = {}
    for slot, info in enumerate(infos):
        expected = reference._add_info(expected, info, slot)
    assert_same(stack_infos(infos), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nois": 1}, ValueError, r"`options` must be among .*, got 'nois'"),
        ({"noise": [0.1, 0.2]}, ValueError, r"`noise` must be one value or num_envs=3 values"),
        ({"nois": 1}, ValueError, r"`options` must be among .*, reset_mask, split, got 'nois'"),
        ({"noise": np.array(0.5)}, ValueError, r"`noise` must be a probability .*, got array"),
        ({"noise": np.ones((3, 1))}, ValueError, r"`noise` must be a probability .*, got array"),
        ({"noise": [0.1, 0.2, 2.0]}, ValueError, r"`noise` must be a probability .*, got 2.0"),
        ({"question": ["q1", "q2", "q99"]}, ValueError, r"`question` must be .*, got 'q99'"),
        ({"reset_mask": [True] * 3}, TypeError, r"`reset_mask` must be a boolean array"),
        ({"reset_mask": np.ones(3)}, TypeError, r"`reset_mask` must be a boolean array"),
        ({"reset_mask": np.ones(2, bool)}, ValueError, r"`reset_mask` must have shape \(3,\)"),
        ({"reset_mask": np.zeros(3, bool)}, ValueError, r"`reset_mask` must .* a True entry"),
    ],
)
def test_wrong_reset_option_is_refused_and_changes_nothing(options, error, message):
    envs, twin = make(3), make(3)
    for each in (envs, twin):
        each.reset(seed=0)
    with pytest.raises(error, match=message):
        envs.reset(options=options)
    assert_same(envs.step([SEARCH] * 3), twin.step([SEARCH] * 3))


def test_reset_mask_must_keep_groups_together():
    envs = make(4, group_size=2)
    mask = np.array([True, False, True, True])
    with pytest.raises(ValueError, match=r"`reset_mask` must reset whole groups of 2 slots"):
        envs.reset(options={"reset_mask": mask})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, r"`num_envs` must be an integer of at least 1, got 0"),
        ({"num_envs": "2"}, r"`num_envs` must be an integer of at least 1, got '2'"),
        ({"num_envs": 2.0}, r"`num_envs` must be an integer of at least 1, got 2.0"),
        ({"num_envs": True}, r"`num_envs` must be an integer of at least 1, got True"),
        ({"group_size": 3}, r"`group_size` must divide num_envs=4, got 3"),
        ({"group_size": 0}, r"`group_size` must be an integer of at least 1, got 0"),
        ({"group_size": "2"}, r"`group_size` must be an integer of at least 1, got '2'"),
        ({"group_size": True}, r"`group_size` must be an integer of at least 1, got True"),
        ({"autoreset_mode": "Sometimes"}, r"`autoreset_mode` must be .*SameStep.*'Sometimes'"),
        ({"render_mode": "human"}, r"`render_mode` must be None or one of ansi, .*, got 'human'"),
        ({"split": "dev"}, r"`split` must be one of train, validation, test, got 'dev'"),
    ],
)
def test_wrong_argument_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_wrong_actions_are_refused():
    envs = make(3)
    with pytest.raises(ResetNeeded):
        envs.step([SEARCH] * 3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"`actions` must have num_envs=3 entries, got 2"):
        envs.step([SEARCH] * 2)
    with pytest.raises(TypeError, match=r"`actions` must be one text a slot"):
        envs.step("abc")
    with pytest.raises(TypeError, match=r"`action` must be a string, got None"):
        envs.step([SEARCH, None, SEARCH])
    with pytest.raises(ValueError, match=r"`seed` must have num_envs=3 entries, got 2"):
        envs.reset(seed=[1, 2])


@pytest.mark.parametrize("actions", [5, None, {SEARCH: 1}, iter([SEARCH] * 3)])
def test_actions_that_are_no_sequence_are_refused(actions):
    envs = make(3)
    envs.reset(seed=0)
    with pytest.raises(TypeError, match="`actions` must be one text a slot, got "):
        envs.step(actions)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_seeds_may_be_integer_arrays(dtype):
    expected = make(2).reset(seed=[1, 2])
    assert_same(make(2).reset(seed=np.array([1, 2], dtype)), expected)
    assert_same(make(2).reset(seed=list(np.array([1, 2], dtype))), expected)
    assert_same(make(2).reset(seed=dtype(1)), expected)
    assert_same(make(2).reset(seed=np.array(1, dtype)), expected)


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        ("12", TypeError, r"`seed` must be None, an integer or one a slot, got '12'"),
        (1.0, TypeError, r"`seed` must be None, an integer or one a slot, got 1.0"),
        ({1, 2}, TypeError, r"`seed` must be None, an integer or one a slot, got \{1, 2\}"),
        (np.array([1, 2, 3]), ValueError, r"`seed` must have num_envs=2 entries, got 3"),
        (np.array([1.0, 2.0]), gym.error.Error, r"python integer"),
        ([1, "2"], gym.error.Error, r"python integer"),
        (-1, gym.error.Error, r"zero"),
    ],
)
def test_wrong_seed_is_refused(seed, error, message):
    with pytest.raises(error, match=message):
        make(2).reset(seed=seed)


def test_spaces_hold_what_is_returned_and_sampled():
    envs = make(3, render_mode="ansi")
    assert envs.reset(seed=0)[0] in envs.observation_space
    envs.action_space.seed(0)
    for _ in range(10):
        assert envs.step(envs.action_space.sample())[0] in envs.observation_space
    assert all(text.startswith("[environment]") for text in envs.render())


def test_make_vec_builds_it_with_all_its_arguments():
    envs = gym.make_vec(
        "ZeroSearch-v0",
        4,
        questions=QUESTIONS,
        engine=EchoEngine(),
        group_size=2,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    assert isinstance(envs, ZeroSearchVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert envs.metadata["action_stops"] == ("</search>", "</answer>")
    assert repr(envs) == "ZeroSearchVectorEnv(ZeroSearch-v0, num_envs=4)"


@pytest.mark.parametrize("engine", ["world", "bm25", "simulator"])
def test_named_engines_answer_a_batch(engine):
    envs = gym.make_vec("ZeroSearch-v0", 3, engine=engine)
    envs.reset(seed=0)
    observations, *_ = envs.step([SEARCH, "words", SEARCH])
    assert [text.startswith("<information>") for text in observations] == [True, False, True]

"""What an environment is built from: mistakes are named, and what passes is Python's own value."""

import json

import gymnasium as gym
import numpy as np
import pytest

from zs_env import Document, RecordTranscript, ZeroSearchEnv, ZeroSearchVectorEnv
from zs_env.search.curriculum import Curriculum, StepCurriculum
from zs_env.search.engine import NoiseKind
from zs_env.settings import EpisodeFactory, Settings

QUESTIONS = [{"id": "1", "question": "Who?", "answers": ["Zoë"]}]
CLASSES = [ZeroSearchEnv, ZeroSearchVectorEnv]


class Constant:
    """Finds the same document for every query."""

    def search(self, requests):
        return [[Document("fine")] for _ in requests]


class Returning(Curriculum):
    """A curriculum that says the same at any progress, whatever it is."""

    def __init__(self, value):
        self.value = value

    def __call__(self, progress):
        return self.value


def make(**kwargs):
    return gym.make("ZeroSearch-v0", **{"questions": QUESTIONS, "engine": Constant()} | kwargs)


def test_settings_are_kept_as_pythons_own_values():
    settings = Settings(
        noise=np.float32(0.5),
        top_k=np.int64(2),
        max_turns=np.uint8(3),
        max_action_length=np.int32(99),
        max_document_length=np.int16(9),
        split=np.str_("test"),
        noise_kinds=["partial"],
    )
    values = {name: getattr(settings, name) for name in ("noise", "top_k", "max_turns", "split")}
    assert values == {"noise": 0.5, "top_k": 2, "max_turns": 3, "split": "test"}
    assert [type(value) for value in values.values()] == [float, int, int, str]
    assert type(settings.max_action_length) is type(settings.max_document_length) is int
    assert settings.noise_kinds == (NoiseKind.PARTIAL,)
    assert Settings(noise=1).rules() == Settings().rules()
    assert type(Settings(noise=1).noise) is float


def test_numpy_numbers_reach_files_and_states_as_plain_ones(tmp_path):
    env = make(noise=np.float32(0.5), max_turns=np.int64(3), group_size=np.int64(2))
    recorded = RecordTranscript(env, tmp_path / "log.jsonl")
    recorded.reset(seed=0, options={"max_turns": np.int64(2), "noise_seed": np.uint64(7)})
    json.dumps(env.unwrapped.get_state())
    recorded.step("<answer>Zoë</answer>")
    assert json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8"))["noise"] == 0.5
    assert type(env.metadata["group_size"]) is int


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": None}, TypeError, r"`prompt` must be miniwiki, zerosearch or .*, got None"),
        ({"prompt": 5}, TypeError, r"`prompt` must be miniwiki, .*, got 5"),
        ({"prompt": []}, TypeError, r"`prompt` must be miniwiki, .*, got \[\]"),
        ({"questions": None}, TypeError, r"`questions` must be a name, a file or .*, got None"),
        ({"questions": 5}, TypeError, r"`questions` must be a name, a file or .*, got 5"),
        ({"noise_kinds": 5}, ValueError, r"`noise_kinds` must be a sequence of .*, got 5"),
        ({"noise_kinds": None}, ValueError, r"`noise_kinds` must be a sequence of .*, got None"),
        ({"noise": np.array(0.5)}, ValueError, r"`noise` must be a probability .*, got array"),
        ({"split": None}, ValueError, r"`split` must be one of train, .*, got None"),
        ({"split": np.array(["test"])}, ValueError, r"`split` must be one of train, .*array"),
        ({"max_turns": "3"}, ValueError, r"`max_turns` must be an integer of at least 1, got '3'"),
        ({"engine": Constant}, TypeError, r"`engine` must be .*, got <class"),
    ],
)
def test_argument_of_a_wrong_type_is_named_with_its_value(cls, arguments, error, message):
    with pytest.raises(error, match=message):
        cls(**arguments)


@pytest.mark.parametrize("env_id", ["ZeroSearch-v0", "ZeroSearch-NQ-v0"])
@pytest.mark.parametrize(
    ("make_any", "cls"), list(zip((gym.make, gym.make_vec), CLASSES, strict=True))
)
def test_unknown_argument_is_refused_by_name_with_the_known_ones(make_any, cls, env_id):
    own = {"num_envs", "autoreset_mode"} if cls is ZeroSearchVectorEnv else set()
    known = sorted({*Settings.__dataclass_fields__, "group_size", "render_mode", *own})
    message = f"{cls.__name__} got an unexpected keyword argument 'nose', must be among "
    message += ", ".join(known)
    with pytest.raises(TypeError, match=message):
        cls(nose=0.5)
    with pytest.raises(TypeError, match=message):
        make_any(env_id, nose=0.5)


@pytest.mark.parametrize("options", [5, ["noise"], "noise", [("noise", 0.5)]])
def test_options_must_be_a_mapping(options):
    for env in (make().unwrapped, ZeroSearchVectorEnv(2, questions=QUESTIONS)):
        with pytest.raises(TypeError, match="`options` must be a mapping or None, got "):
            env.reset(options=options)


def test_noise_is_always_a_float():
    curriculum = StepCurriculum((0, 0.25, 1))
    for kwargs, options, noise in [
        ({"noise": 0}, {}, 0.0),
        ({}, {"noise": 1}, 1.0),
        ({"curriculum": curriculum}, {"progress": 1}, 1.0),
        ({"curriculum": Returning(np.float32(0.5))}, {}, 0.5),
        ({"curriculum": lambda progress: 1}, {}, 1.0),
    ]:
        found = make(**kwargs).reset(options=options)[1]["noise"]
        assert (type(found), found) == (float, noise)


@pytest.mark.parametrize("value", [7, -0.1, float("nan"), None, "half", True])
def test_curriculum_that_returns_no_probability_is_refused_and_changes_nothing(value):
    class Late(Returning):
        def __call__(self, progress):
            return self.value if progress else 0.0

    env, twin = (make(curriculum=Late(value)).unwrapped for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(ValueError, match=r"`curriculum\(progress\)` must be a probability .*, got"):
        env.reset(seed=1, options={"progress": 1.0})
    assert env.get_state() == twin.get_state()
    assert env.np_random.bit_generator.state == twin.np_random.bit_generator.state


def test_records_without_an_id_are_told_apart_by_what_they_hold():
    factory = EpisodeFactory(Settings(questions=QUESTIONS))

    def question_id(text, answers, **more):
        record = {"question": text, "answers": answers} | more
        return factory.read_options({"question": record}).question.id

    ids = [question_id("A?", "a"), question_id("B?", "a"), question_id("A?", "b")]
    ids += [question_id("A?", ["a", "b"]), question_id("A?a", ["b"])]
    assert len(set(ids)) == 5
    assert question_id("A?", ["a"]) == ids[0]
    assert question_id("A?", "a", id=7) == "7"

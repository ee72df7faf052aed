"""Every id as a citizen of Gymnasium, alone and wrapped, and of Stable-Baselines3."""

import copy
import json
import multiprocessing
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs_registry import SPECS
from zs_env.wrappers import CurriculumNoise, RecordTranscript, TranscriptObservation

RECORDS = [
    {"id": "1", "question": "Who wrote Faust?", "answers": ["Goethe", "J. W. von Goethe"]},
    {"id": "2", "question": "Où est né Étienne?", "golden_answers": ["Orléans"]},
]
TEXT_IDS = [spec.id for spec in SPECS if spec.entry_point.endswith(":ZeroSearchEnv")]
NUMERIC_IDS = ["ZeroSearchMacro-v0", "ZeroSearchToken-v0"]
WRAPPERS = {
    "text": lambda env, folder: TranscriptObservation(env),
    "messages": lambda env, folder: TranscriptObservation(env, "messages"),
    "noise": lambda env, folder: CurriculumNoise(env, 10, "linear"),
    "record": lambda env, folder: RecordTranscript(env, folder / "log.jsonl"),
}


@pytest.fixture
def questions(tmp_path):
    """Return a local question file."""
    path = tmp_path / "local.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    return path


@pytest.fixture
def make(questions, tiny_tokenizer):
    """Return a function that makes any id on the local file, without a language model."""

    def build(env_id, **kwargs):
        if env_id == "ZeroSearchToken-v0":
            kwargs = {"tokenizer": tiny_tokenizer.backend_tokenizer, "window": 64} | kwargs
        return gym.make(env_id, questions=questions, engine="world", **kwargs)

    return build


def test_every_id_is_either_text_or_numbers():
    assert {spec.id for spec in SPECS} == {*TEXT_IDS, *NUMERIC_IDS}
    assert len(TEXT_IDS) == 8


@pytest.mark.parametrize("env_id", [*TEXT_IDS, *NUMERIC_IDS])
def test_check_env_passes_without_a_warning(make, env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(env_id).unwrapped)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("env_id", [*TEXT_IDS, *NUMERIC_IDS])
def test_check_env_passes_with_wrappers(make, env_id, wrapper, tmp_path):
    if env_id in NUMERIC_IDS and wrapper in ("text", "messages"):
        pytest.skip("only texts have a transcript to observe")
    env = WRAPPERS[wrapper](make(env_id), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The checker's first act is to warn of any wrapper, whatever it does: nothing can be done
        # about that one warning. All others are errors.
        message = r".*The environment \(.*\) is different from the unwrapped version"
        warnings.filterwarnings("ignore", message)
        check_env(env)


@pytest.mark.parametrize("env_id", NUMERIC_IDS)
def test_stable_baselines3_accepts_numeric_ids(make, env_id):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(make(env_id).unwrapped)


@pytest.mark.parametrize("env_id", TEXT_IDS)
def test_presets_hold_the_papers_settings(env_id):
    env = gym.make(env_id)
    rules = env.unwrapped.rules
    if env_id == "ZeroSearch-v0":
        assert (rules.top_k, rules.max_turns) == (3, 6)
    else:
        assert (rules.top_k, rules.max_turns) == (5, 6)
        assert "<information>" in rules.prompt


@pytest.mark.parametrize("env_id", TEXT_IDS)
def test_presets_play_a_local_file(make, env_id):
    env = make(env_id)
    observation, info = env.reset(options={"question": "2"})
    assert "Où est né Étienne?" in observation
    assert info["data_source"] == "local"
    assert env.step("<answer>orléans</answer>")[1] == 1.0


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_keep_the_spec(make, wrapper, tmp_path):
    env = WRAPPERS[wrapper](make("ZeroSearch-v0", max_turns=3), tmp_path)
    assert env.spec.id == "ZeroSearch-v0"
    again = gym.make(env.spec)
    assert type(again) is type(env)
    assert again.observation_space == env.observation_space
    assert again.unwrapped.rules.max_turns == 3


@pytest.mark.parametrize("env_id", ["ZeroSearch-v0", *NUMERIC_IDS])
def test_pickle_and_deepcopy_in_the_middle_of_an_episode(make, env_id):
    env = make(env_id).unwrapped
    action = 0 if env_id in NUMERIC_IDS else "<search>who</search>"
    env.reset(seed=0)
    env.step(action)
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    expected = env.step(action)
    for twin in copies:
        np.testing.assert_equal(twin.step(action), expected)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("env_id", NUMERIC_IDS)
def test_numeric_ids_run_in_gymnasiums_vector_environments(env_id, mode, tiny_tokenizer):
    kwargs = {"engine": "world"}
    if env_id == "ZeroSearchToken-v0":
        kwargs |= {"tokenizer": tiny_tokenizer.backend_tokenizer, "window": 32}
    envs = gym.make_vec(env_id, 2, mode, **kwargs)
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space
    observations, *_ = envs.step(np.zeros(2, np.int64))
    assert observations in envs.observation_space
    envs.close()


def play(seed):
    """Play an episode in a process of its own and return what happened."""
    import zs_env  # noqa: F401

    env = gym.make("ZeroSearch-v0", engine="world", noise=0.5)
    turns = ["<search>who directed it</search>", "nothing", "<answer>nobody</answer>"]
    return [env.reset(seed=seed), *(env.step(turn) for turn in turns)]


def test_four_spawned_processes_play_what_this_one_plays():
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(play, range(8)) == [play(seed) for seed in range(8)]

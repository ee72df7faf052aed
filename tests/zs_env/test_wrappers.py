"""Wrappers: whole transcripts, noise by a curriculum, episodes on file."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env import Document
from zs_env.search.curriculum import AdaptiveCurriculum, LinearCurriculum
from zs_env.task.reward_terms import PerTurn
from zs_env.wrappers import CurriculumNoise, RecordTranscript, TranscriptObservation, append_line

ROOT = Path(__file__).parents[2]
QUESTIONS = [{"id": "moon", "question": "Who was first?", "answers": ["Armstrong"]}]
SEARCH, ANSWER = "<search>first</search> and more", "<answer>Armstrong</answer>"


class Constant:
    """Finds the same document for every query."""

    def search(self, requests):
        return [[Document("Armstrong was.")] for _ in requests]


def make(**kwargs):
    return gym.make("ZeroSearch-v0", questions=QUESTIONS, engine=Constant(), **kwargs)


def test_text_form_is_the_whole_transcript():
    env = TranscriptObservation(make())
    observation, _ = env.reset(seed=0)
    assert observation == "Question: Who was first?\n"
    observation, *_ = env.step(SEARCH)
    assert observation == (
        "Question: Who was first?\n<search>first</search>"
        "<information>Doc 1: Armstrong was.</information>\n"
    )
    assert env.step(ANSWER)[0] == observation + ANSWER
    assert env.reset(seed=0)[0] == "Question: Who was first?\n"


def test_messages_form_is_a_chat():
    env = TranscriptObservation(make(), form="messages")
    env.reset(seed=0)
    env.step(SEARCH)
    observation, *_ = env.step(ANSWER)
    assert observation in env.observation_space
    assert observation == (
        {"role": "user", "content": "Question: Who was first?\n"},
        {"role": "assistant", "content": "<search>first</search>"},
        {"role": "user", "content": "<information>Doc 1: Armstrong was.</information>\n"},
        {"role": "assistant", "content": ANSWER},
    )


@pytest.mark.parametrize("form", ["text", "messages"])
def test_transcripts_stay_inside_their_space(form):
    env = TranscriptObservation(make(max_turns=4, max_action_length=50), form=form)
    assert env.reset(seed=0)[0] in env.observation_space
    for action in ("x" * 100, SEARCH, "é" * 50):
        assert env.step(action)[0] in env.observation_space


def test_transcript_observation_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"`form` must be one of text, messages, got 'chat'"):
        TranscriptObservation(make(), form="chat")
    with pytest.raises(TypeError, match=r"`env` must have text actions and observations"):
        TranscriptObservation(gym.make("ZeroSearchMacro-v0"))
    env = TranscriptObservation(make())
    for max_turns in (7, np.int64(60), np.uint8(7)):
        with pytest.raises(ValueError, match=r"`max_turns` must be at most 6 under .*, got "):
            env.reset(options={"max_turns": max_turns})
    assert env.reset(options={"max_turns": np.int64(6)})[0] in env.observation_space


@pytest.mark.parametrize(
    "wrap", [TranscriptObservation, lambda env: CurriculumNoise(env, num_episodes=3)]
)
def test_options_that_are_no_mapping_are_refused_by_the_environment(wrap):
    with pytest.raises(TypeError, match="`options` must be a"):
        wrap(make()).reset(options=["noise"])


def test_curriculum_noise_rises_with_the_episodes():
    env = CurriculumNoise(make(), num_episodes=4, curriculum=LinearCurriculum(0.0, 0.8))
    noises = [env.reset()[1]["noise"] for _ in range(6)]
    assert noises == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert env.progress == 1.0
    assert env.reset(seed=3)[1]["noise"] == 0.0


def test_curriculum_noise_leaves_what_a_reset_says():
    env = CurriculumNoise(make(), num_episodes=1, curriculum=LinearCurriculum(1.0, 1.0))
    assert env.reset(options={"noise": 0.25})[1]["noise"] == 0.25
    assert env.reset(options={"progress": 1.0})[1]["noise"] == 0.5
    assert env.reset(options={"question": "moon"})[1]["noise"] == 1.0


def test_curriculum_noise_learns_from_success():
    env = CurriculumNoise(make(), num_episodes=9, curriculum=AdaptiveCurriculum(window=1))
    seen = []
    for answer in (ANSWER, ANSWER, "<answer>no</answer>", ANSWER):
        seen.append(env.reset()[1]["noise"])
        env.step(answer)
    assert seen == pytest.approx([0.0, 0.05, 0.1, 0.05])


def test_episode_cut_short_by_another_wrapper_is_no_success():
    """It used to be a KeyError, as the environment gives no grades there."""
    limited = gym.wrappers.TimeLimit(make(), max_episode_steps=1)
    learning = AdaptiveCurriculum(noise=0.3, window=1)
    env = CurriculumNoise(limited, num_episodes=9, curriculum=learning)
    assert env.reset(seed=0)[1]["noise"] == 0.3
    assert env.step(SEARCH)[3]
    assert env.reset()[1]["noise"] == 0.25


def test_refused_reset_leaves_the_curriculum_where_it_is():
    env = CurriculumNoise(make(), num_episodes=4, curriculum=LinearCurriculum(0.0, 0.8))
    noises = [env.reset()[1]["noise"] for _ in range(2)]
    for seed in (None, 7):
        with pytest.raises(ValueError, match="got 'mood'"):
            env.reset(seed=seed, options={"mood": 1})
    assert env.progress == 0.5
    assert [*noises, env.reset()[1]["noise"]] == pytest.approx([0.0, 0.2, 0.4])


def test_curriculum_noise_refuses_bad_arguments():
    for wrong in (0, 2.5, math.nan, "3", True):
        with pytest.raises(ValueError, match=r"`num_episodes` must be an integer of at least 1"):
            CurriculumNoise(make(), num_episodes=wrong)
    with pytest.raises(ValueError, match=r"`curriculum` must be exponential, .*, got 'steep'"):
        CurriculumNoise(make(), num_episodes=3, curriculum="steep")


def test_record_holds_one_line_an_episode(tmp_path):
    path = tmp_path / "folder" / "log.jsonl"
    env = RecordTranscript(make(), path)
    env.reset(seed=0, options={"noise": 0.5})
    env.step(SEARCH)
    assert not path.exists()
    env.step(ANSWER)
    env.reset(seed=1)
    env.step("\ud800 \x00 é")
    env.close()
    first, second = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert first["return"] == first["f1"] == 1.0
    assert first["answer"] == "Armstrong"
    assert first["golden_answers"] == ["Armstrong"]
    assert first["stop_reason"] == "answered"
    assert first["noise"] == 0.5
    assert [message["role"] for message in first["transcript"]] == [
        "environment",
        "agent",
        "environment",
        "agent",
    ]
    assert second["stop_reason"] is None
    assert second["golden_answers"] is None
    assert second["transcript"][1]["text"] == "\ud800 \x00 é"


def test_record_is_appended_to(tmp_path):
    path = tmp_path / "log.jsonl"
    for seed in range(3):
        env = RecordTranscript(make(), str(path))
        env.reset(seed=seed)
        env.step(ANSWER)
        env.close()
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


def recorded(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_refused_reset_records_nothing(tmp_path):
    path = tmp_path / "log.jsonl"
    env = RecordTranscript(make(), path)
    env.reset(seed=0)
    env.step(SEARCH)
    with pytest.raises(ValueError, match="got 'mood'"):
        env.reset(options={"mood": 1})
    assert not path.exists()
    env.step(ANSWER)
    env.reset()
    assert [line["stop_reason"] for line in recorded(path)] == ["answered"]


def test_return_belongs_to_the_path_that_was_played(tmp_path):
    """After `set_state` the rewards of an abandoned branch used to stay in the sum."""
    path = tmp_path / "log.jsonl"
    reward = PerTurn(lambda turn: 10.0**turn.turn * len(turn.action.content))
    env = RecordTranscript(make(reward=reward), path)
    inner = env.unwrapped
    env.reset(seed=0)
    env.step("<search>a</search>")
    branch_a = inner.get_state()
    env.step("<search>bb</search>")
    env.step("<answer>c</answer>")
    inner.set_state(branch_a)
    env.step("<search>bbb</search>")
    branch_b = inner.get_state()
    inner.set_state(branch_a)
    env.step("<answer>ccccc</answer>")
    inner.set_state(branch_b)
    env.step("<answer>c</answer>")
    assert [line["return"] for line in recorded(path)] == [1210.0, 510.0, 1310.0]


def test_return_is_unknown_where_the_path_was_not_seen(tmp_path):
    other = make()
    other.reset(seed=0)
    other.step(SEARCH)
    env = RecordTranscript(make(), tmp_path / "log.jsonl")
    env.reset(seed=0)
    env.unwrapped.set_state(other.unwrapped.get_state())
    env.step(ANSWER)
    env.unwrapped.set_state(other.unwrapped.get_state())
    env.close()  # nothing was played since
    [line] = recorded(tmp_path / "log.jsonl")
    assert (line["return"], line["turn"], len(line["transcript"])) == (None, 2, 4)


def test_specification_of_a_recording_survives_json(tmp_path):
    spec = RecordTranscript(make(), tmp_path / "log.jsonl").spec
    spec.kwargs = {}  # the engine of these tests is no JSON
    env = gym.make(gym.envs.registration.EnvSpec.from_json(spec.to_json()), engine="empty")
    env.reset(seed=0)
    env.close()
    assert (tmp_path / "log.jsonl").exists()


WRITER = """
import sys
from pathlib import Path
from zs_env.wrappers import append_line
sys.stdin.readline()
for number in range(200):
    append_line(Path(sys.argv[1]), sys.argv[2] * 50_000)
"""


def test_several_processes_share_a_file(tmp_path):
    """A line that another process had written half used to be taken for a torn one."""
    path = tmp_path / "log.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "text": True, "env": environment}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter], **pipes)
        for letter in "abc"
    ]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert sorted(lines) == sorted(letter * 50_000 for letter in "abc" for _ in range(200))


@given(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20))
def test_torn_line_of_a_crash_does_not_spoil_the_next(tmp_path_factory, torn):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_bytes(b'{"whole": 1}\n' + torn.encode())
    append_line(path, '{"next": 2}')
    append_line(path, '{"last": 3}')
    lines = path.read_bytes().split(b"\n")
    assert lines[0] == b'{"whole": 1}'
    assert lines[-3:] == [b'{"next": 2}', b'{"last": 3}', b""]


ENDLESS = """
import sys, gymnasium as gym, zs_env
from zs_env.wrappers import RecordTranscript
env = RecordTranscript(gym.make("ZeroSearch-v0", engine="empty", questions=[
    {"question": "x" * 3000, "answers": ["y"]}]), sys.argv[1])
while True:
    env.reset()
    env.step("<answer>z</answer>")
    print("done", flush=True)
"""


def test_killed_process_leaves_whole_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", ENDLESS, str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        num_done = sum(process.stdout.readline() == "done\n" for _ in range(20))
        process.send_signal(signal.SIGKILL)
    *lines, last = path.read_text(encoding="utf-8").split("\n")
    assert num_done == 20
    assert len(lines) >= num_done
    assert all(json.loads(line)["answer"] == "z" for line in lines)
    assert last == "" or not last.endswith("}")


def test_any_id_can_be_recorded(tmp_path):
    env = RecordTranscript(gym.make("ZeroSearchMacro-v0"), tmp_path / "log.jsonl")
    env.reset(seed=0)
    env.step(0)
    env.step(7)
    [line] = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["num_searches"] == 1

"""Wrappers: whole transcripts, noise by a curriculum, episodes on file."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env import Document
from zs_env.search.curriculum import AdaptiveCurriculum, LinearCurriculum
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
    with pytest.raises(ValueError, match=r"`max_turns` must be at most 6 under .*, got 7"):
        env.reset(options={"max_turns": 7})


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


def test_curriculum_noise_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"`num_episodes` must be at least 1, got 0"):
        CurriculumNoise(make(), num_episodes=0)
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

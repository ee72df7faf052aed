"""Playing chunks: everything is recorded, failures too; and the folder it goes to."""

import json
import sys

import pytest

from agents.bench.config import BenchConfig
from agents.bench.plan import Chunk, key_of
from agents.bench.play import ChunkTask, play_chunk
from agents.bench.rows import EPISODES_FILE, Condition, EpisodeRow
from agents.bench.store import (
    append_rows,
    check_identity,
    cut_torn_row,
    drop_failed,
    read_rows,
)
from agents.tuning.records import DataError
from zs_env.task.miniwiki import default_world
from zs_env.task.questions import Question

QUESTIONS = default_world().questions("validation")[:6]

OWN = """
from agents.baselines.rules import PlayRules
from agents.baselines.scripted import ScriptedAgent

played = []

class Picky:
    "Fails on some questions, and plays the others by rules."
    bad = ()

    def __init__(self, rules):
        self.agent = ScriptedAgent(rules)

    def predict(self, observations, state, episode_start, deterministic=True):
        played.append(len(observations))
        for text in observations:
            if any(name in text for name in self.bad):
                raise RuntimeError(f"cannot\\n read {text!r}")
        return self.agent.predict(observations, state, episode_start, deterministic)
"""


@pytest.fixture
def picky(tmp_path, monkeypatch):
    """Return a module with an agent that fails on the questions that hold its `bad` texts."""
    (tmp_path / "picky_agents.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("picky_agents", None)
    import picky_agents

    from agents.baselines import registry

    registry._import.cache_clear()
    registry._make_own.cache_clear()
    return picky_agents


def play(agent="scripted", questions=QUESTIONS, **values):
    config = BenchConfig({"a": agent}, ("world",), 0, **values)
    condition = Condition("a", "ZeroSearch-v0", "world", 0.0, 0)
    return play_chunk(ChunkTask(config, Chunk(condition, tuple(questions))))


def test_rows_tell_what_happened_turn_by_turn():
    for question, row in zip(QUESTIONS, play(), strict=True):
        assert (row.question_id, row.data_source) == (question.id, question.data_source)
        assert (row.question, row.golden_answers) == (question.text, question.golden_answers)
        assert row.exact_match == row.f1 == row.sub_exact_match == row.reward == 1
        assert [turn.kind for turn in row.turns] == ["search"] * row.searches + ["answer"]
        assert row.turns[0].query in row.turns[0].action
        assert row.turns[0].observation.startswith("<information>Doc 1: ")
        assert row.turns[-1].observation == row.turns[-1].query == ""
        assert (row.stop_reason, row.error, row.tokens, row.invalid) == ("answered", "", None, 0)
        assert row.seconds > 0


def test_tokens_of_policies_are_counted():
    [row] = play("skill", QUESTIONS[:1])
    assert row.tokens > 5


def test_substring_match_is_of_the_answer_only():
    [row] = play("random", [Question("a", "Which of Ada Lane and Bo Lind is it?", ("Ada",))])
    assert row.sub_exact_match == float("Ada" in row.answer)


def test_question_that_fails_costs_itself_only(picky):
    picky.Picky.bad = (QUESTIONS[2].text,)
    rows = play("picky_agents:Picky")
    assert [row.stop_reason for row in rows] == ["answered"] * 2 + ["failed"] + ["answered"] * 3
    failed = rows[2]
    assert failed.error.startswith("RuntimeError: cannot read 'Question: ")
    assert (failed.answer, failed.exact_match, failed.turns, failed.tokens) == ("", 0, (), None)
    assert failed.question_id == QUESTIONS[2].id


def test_rest_is_not_tried_after_several_failures_in_a_row(picky):
    picky.Picky.bad = ("Question",)
    picky.played.clear()
    rows = play("picky_agents:Picky")
    assert {row.stop_reason for row in rows} == {"failed"}
    assert picky.played == [6, 1, 1, 1]
    assert rows[-1].error.startswith("not played after 3 failures in a row: RuntimeError: ")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("return observations[:-1] * (len(observations) > 1)", ""),
        ("return [None for _ in observations]", ""),
    ],
)
def test_agent_that_breaks_its_promise_costs_episodes_but_not_the_benchmark(
    tmp_path, monkeypatch, body, error
):
    name = f"broken_agent_{len(body)}"
    (tmp_path / f"{name}.py").write_text(
        f"""
class Broken:
    def predict(self, observations, state, episode_start, deterministic=True):
        return self.act(list(observations)), state

    def act(self, observations):
        {body}
"""
    )
    monkeypatch.chdir(tmp_path)
    rows = play(f"{name}:Broken", QUESTIONS[:2])
    assert [row.stop_reason for row in rows] == ["failed"] * 2
    assert error in rows[0].error


def test_agent_that_cannot_be_made_is_a_failure_of_every_question():
    rows = play("missing_module:x", QUESTIONS[:2])
    assert [row.stop_reason for row in rows] == ["failed"] * 2
    assert "missing_module" in rows[0].error


def test_rows_are_kept_and_found_again(tmp_path):
    rows = play()
    append_rows(tmp_path, rows[:2])
    append_rows(tmp_path, [])
    append_rows(tmp_path, rows[2:])
    assert list(read_rows(tmp_path, QUESTIONS).values()) == rows
    assert read_rows(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("cut", [1, 40, -30])
def test_torn_line_is_no_episode_and_is_cut(tmp_path, cut):
    rows = play(questions=QUESTIONS[:3])
    append_rows(tmp_path, rows)
    file = tmp_path / EPISODES_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    torn = b"".join(lines[:2]) + lines[2][:cut]
    file.write_bytes(torn)
    assert list(read_rows(tmp_path).values()) == rows[:2]
    assert file.read_bytes() == torn  # looking changes nothing
    with pytest.warns(UserWarning, match="the last line was torn"):
        cut_torn_row(tmp_path)
    append_rows(tmp_path, rows[2:])
    assert list(read_rows(tmp_path).values()) == rows


def test_line_without_its_line_break_is_whole(tmp_path):
    rows = play(questions=QUESTIONS[:2])
    append_rows(tmp_path, rows)
    file = tmp_path / EPISODES_FILE
    file.write_bytes(file.read_bytes()[:-1])
    cut_torn_row(tmp_path)
    assert list(read_rows(tmp_path).values()) == rows


def test_lines_that_are_no_episodes_are_told(tmp_path):
    append_rows(tmp_path, play(questions=QUESTIONS[:1]))
    with (tmp_path / EPISODES_FILE).open("a") as file:
        file.write('{"agent": "a"}\n')
    with pytest.raises(DataError, match=rf"{EPISODES_FILE}:2: not an episode: KeyError"):
        read_rows(tmp_path)


def test_same_id_must_be_the_same_question(tmp_path):
    [row] = play(questions=QUESTIONS[:1])
    append_rows(tmp_path, [row])
    other = Question(row.question_id, "Who else?", ("x",), row.data_source)
    with pytest.raises(DataError, match=r"is 'W.* here, got 'Who else\?': give another folder"):
        read_rows(tmp_path, [other])


def test_failed_episodes_can_be_dropped(tmp_path, picky):
    picky.Picky.bad = (QUESTIONS[1].text,)
    rows = play("picky_agents:Picky", QUESTIONS[:3])
    append_rows(tmp_path, rows)
    assert drop_failed(tmp_path, read_rows(tmp_path)) == 1
    assert list(read_rows(tmp_path).values()) == [rows[0], rows[2]]
    assert drop_failed(tmp_path, read_rows(tmp_path)) == 0


def test_keys_tell_episodes_apart(tmp_path):
    row = play(questions=QUESTIONS[:1])[0]
    twin = EpisodeRow.from_json(row.to_json() | {"seed": 1})
    assert key_of(row) != key_of(twin)


def test_folder_belongs_to_one_benchmark_that_may_grow(tmp_path):
    identity = {"settings": {"max_turns": 6}, "agents": {"a": "base"}}
    check_identity(tmp_path, identity)
    check_identity(tmp_path, identity | {"agents": {"b": "skill"}})
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["agents"] == {"a": "base", "b": "skill"}
    with pytest.raises(ValueError, match=r"settings 'max_turns' is 6 and not 5"):
        check_identity(tmp_path, {"settings": {"max_turns": 5}})
    with pytest.raises(ValueError, match=r"agents 'a' is 'base' and not 'skill'"):
        check_identity(tmp_path, {"agents": {"a": "skill"}})

"""Collecting whole trajectories, and going on after a crash."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.cli.main import main
from agents.policies.keyed import KeyedAgent, KeyedPolicyAgent
from agents.policies.text_agent import TextAgent
from agents.tuning.collect import collect, plan_episodes
from agents.tuning.records import DataError, read_episodes
from zs_env.random import uniform
from zs_env.search.world import WorldSearchEngine
from zs_env.task.actions import STOPS
from zs_env.task.miniwiki import default_world
from zs_env.task.questions import Question

QUESTIONS = default_world().questions("validation")[::40][:10]


class Guesser:
    """A text generator that searches or answers, as its seed and its prompt say."""

    def __init__(self):
        self.calls = []

    def complete(self, prompts, seeds, params):
        self.calls.append(list(prompts))
        return [self.write(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def write(self, prompt, seed):
        draw = int(uniform(seed) * 1000)
        if draw % 3 == 0:
            return f"<answer>{draw}</answer> and more"
        return f"<search>who directed {draw} {len(prompt)}</search>"


class Stopping(Guesser):
    """Breaks down in the call with this number."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def complete(self, prompts, seeds, params):
        if len(self.calls) == self.last:
            raise KeyboardInterrupt
        return super().complete(prompts, seeds, params)


def play(out, generator=None, questions=QUESTIONS, **kwargs):
    given = {"num_samples": 2, "num_envs": 4, "env_kwargs": {"max_turns": 3}} | kwargs
    return collect(TextAgent(generator or Guesser()), questions, "world", out, **given)


def lines(path):
    return sorted(path.read_bytes().splitlines())


def test_line_holds_the_whole_trajectory(tmp_path):
    class Scripted(Guesser):
        def write(self, prompt, seed):
            if "<information>" in prompt:
                return "<answer>Nobody</answer>"
            return "<think>hm</think><search>who directed The Silent Harbor</search> no"

    report = play(tmp_path / "e.jsonl", Scripted(), num_samples=1, seed=3)
    assert (report.num_played, report.num_found, report.num_searches) == (10, 0, 10)
    rows = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    question = QUESTIONS[0]
    assert rows[0]["id"] == question.id
    assert rows[0]["golden_answers"] == list(question.golden_answers)
    wanted = {"engine": "world", "agent": "TextAgent", "seed": 3, "sample": 0, "answer": "Nobody"}
    wanted |= {"exact_match": 0.0, "f1": 0.0, "stop_reason": "answered", "data_source": "miniwiki"}
    wanted |= {"settings": {"noise": 0.0, "deterministic": True, "max_turns": 3}}
    assert {name: rows[0][name] for name in wanted} == wanted
    search, answer = rows[0]["turns"]
    assert search["text"] == "<think>hm</think><search>who directed The Silent Harbor</search>"
    assert (search["action"], search["query"]) == ("search", "who directed The Silent Harbor")
    assert (answer["action"], answer["query"], answer["documents"]) == ("answer", "", [])
    assert all(document.keys() == {"title", "text"} for document in search["documents"])
    assert search["noisy"] is False


def test_noise_is_recorded_where_it_was_drawn(tmp_path):
    play(tmp_path / "e.jsonl", noise=0.5)
    turns = [t for _, e in read_episodes(tmp_path / "e.jsonl") for t in e.searches]
    assert {turn.noisy for turn in turns} == {True, False}


def test_episode_is_played_once_however_often_it_is_asked_for(tmp_path):
    out = tmp_path / "e.jsonl"
    play(out)
    before, generator, found = out.read_bytes(), Guesser(), []
    report = play(out, generator, on_progress=found.append)
    assert (report.num_found, report.num_played, found) == (20, 0, [20])
    assert out.read_bytes() == before
    assert generator.calls == []


def test_more_samples_and_questions_are_added(tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "e.jsonl"
    play(whole)
    first = play(out, questions=QUESTIONS[:3])
    second = play(out)
    assert (first.num_played, second.num_found, second.num_played) == (6, 6, 14)
    assert lines(out) == lines(whole)


@settings(max_examples=15)
@given(
    stops=st.lists(st.integers(0, 12), max_size=3),
    num_envs=st.integers(1, 21),
    torn=st.integers(0, 80),
)
def test_interruptions_do_not_show(tmp_path_factory, stops, num_envs, torn):
    folder = tmp_path_factory.mktemp("runs")
    whole, out = folder / "whole.jsonl", folder / "e.jsonl"
    play(whole, noise=0.5)
    for last in stops:
        with suppress(KeyboardInterrupt):
            play(out, Stopping(last), noise=0.5, num_envs=num_envs)
    if torn:
        with out.open("ab") as file:
            file.write(whole.read_bytes()[:torn])
        with pytest.warns(UserWarning, match="the last line was torn"):
            play(out, noise=0.5, num_envs=num_envs)
    else:
        play(out, noise=0.5, num_envs=num_envs)
    assert lines(out) == lines(whole)


def test_each_sample_of_a_question_is_its_own(tmp_path):
    play(tmp_path / "e.jsonl", questions=QUESTIONS[:1], num_samples=20)
    episodes = [episode for _, episode in read_episodes(tmp_path / "e.jsonl")]
    assert len({tuple(turn.text for turn in episode.turns) for episode in episodes}) > 10


def test_seed_decides_what_is_sampled(tmp_path):
    texts = []
    for seed in (0, 1):
        play(tmp_path / f"{seed}.jsonl", seed=seed)
        found = read_episodes(tmp_path / f"{seed}.jsonl")
        texts.append([[turn.text for turn in episode.turns] for _, episode in found])
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "e.jsonl:1: `seed` must be 0, as in this file, got 1"),
        (
            {"names": {"agent": "other"}},
            "`agent` must be 'TextAgent', as in .*, got 'other'",
        ),
        ({"names": {"engine": "bm25"}}, "`engine` must be 'world', as in this file, got 'bm25'"),
        ({"noise": 0.5}, "`noise` must be 0.0, as in this file, got 0.5"),
        ({"env_kwargs": {"max_turns": 4}}, "`max_turns` must be 3, as in this file, got 4"),
        ({"settings": {"weights": "b"}}, "`weights` must be None, as in this file, got 'b'"),
    ],
)
def test_file_of_another_run_is_refused(tmp_path, change, message):
    out = tmp_path / "e.jsonl"
    play(out)
    before = out.read_bytes()
    with pytest.raises(DataError, match=message):
        play(out, **change)
    assert out.read_bytes() == before


def test_file_that_asked_something_else_by_the_same_id_is_refused(tmp_path):
    out = tmp_path / "e.jsonl"
    play(out, questions=[Question("a", "Who?", ("Ann",))])
    for other in (Question("a", "When?", ("Ann",)), Question("a", "Who?", ("Bo",))):
        with pytest.raises(DataError, match=r"e.jsonl:1: question 'a' is 'Who"):
            play(out, questions=[other])


@pytest.mark.parametrize("content", ["my notes", "my notes\n", "{}\n"])
def test_file_of_something_else_is_refused_and_stays(tmp_path, content):
    out = tmp_path / "notes.txt"
    out.write_text(content)
    with pytest.raises(DataError, match=r"notes.txt:1: "):
        play(out)
    assert out.read_text() == content


def test_damage_in_the_middle_is_not_taken_for_a_crash(tmp_path):
    out = tmp_path / "e.jsonl"
    play(out)
    content = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([content[0], content[1][:50], b"\n", *content[2:]]))
    with pytest.raises(DataError, match=r"e.jsonl:2: "):
        play(out)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"num_envs": 0}, "`num_envs` must be at least 1, got 0"),
        ({"deterministic": True}, "`num_samples` must be 1 where nothing is random .* got 2"),
        ({"questions": []}, "`questions` must not be empty"),
        ({"questions": [QUESTIONS[0]] * 2}, "`questions` must have distinct ids, got 'miniwiki/"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        play(tmp_path / "e.jsonl", **kwargs)
    assert not list(tmp_path.iterdir())


def test_same_id_in_two_sets_is_two_questions():
    plan = plan_episodes([Question("1", "Who?", ("a",), name) for name in "ab"], 2)
    assert len({planned.key for planned in plan}) == len({p.draw(0, 1) for p in plan}) == 4


def test_failing_engine_leaves_what_was_finished(tmp_path):
    class Failing(WorldSearchEngine):
        left = 3

        def search(self, requests):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("down")
            return super().search(requests)

    out = tmp_path / "e.jsonl"
    with pytest.raises(RuntimeError, match="down"):
        collect(
            TextAgent(Guesser()),
            QUESTIONS,
            Failing(default_world()),
            out,
            num_samples=2,
            num_envs=4,
            env_kwargs={"max_turns": 3},
            names={"engine": "world"},
        )
    assert 0 < len(lines(out)) < 20
    play(tmp_path / "whole.jsonl")
    play(out)
    assert lines(out) == lines(tmp_path / "whole.jsonl")


def test_sampling_policy_does_not_depend_on_slots(tmp_path, make_policy):
    agent = KeyedPolicyAgent(make_policy(), STOPS, max_new_tokens=8)
    assert isinstance(agent, KeyedAgent)
    for num_envs in (2, 7):
        out = tmp_path / f"{num_envs}.jsonl"
        collect(agent, QUESTIONS, "world", out, num_samples=2, num_envs=num_envs)
    assert lines(tmp_path / "2.jsonl") == lines(tmp_path / "7.jsonl")
    texts = {e.turns[0].text for _, e in read_episodes(tmp_path / "2.jsonl")}
    assert len(texts) > 15


def test_policy_without_keys_samples_as_before(make_policy):
    policy = make_policy()
    agent = KeyedPolicyAgent(policy, STOPS, max_new_tokens=4, seed=5)
    state = agent.predict(["Question: who?\n"] * 2, None, [True, True], False)[1]
    plain = super(KeyedPolicyAgent, agent)._key(state, 1)
    assert agent._key(state, 1) == plain != agent.keyed([8, 9])._key(state, 1)


# --- the shipped policy, a real engine, and a real kill -----------------------------------------

ROOT = Path(__file__).parents[3]
NUM = 24
COMMAND = [
    *"tune collect --policy base --engine bm25 --threads 1 --num-envs 2".split(),
    *f"--num-questions {NUM} --out".split(),
]


def kill_after(out, num):
    """Start a run, kill it once `num` lines are there, and return how many there were."""
    command = [sys.executable, "-m", "agents.cli.main", *COMMAND, str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if out.exists() and out.read_bytes().count(b"\n") >= num:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL
    return out.read_bytes().count(b"\n")


def test_killed_run_goes_on_without_loss_or_duplicate(tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "e.jsonl"
    assert main([*COMMAND, str(whole)]) == 0
    assert 4 <= kill_after(out, 4) < NUM
    with out.open("ab") as file:  # what a kill in the middle of a write leaves
        file.write(whole.read_bytes()[:100])
    with pytest.warns(UserWarning, match="the last line was torn"):
        assert main([*COMMAND, str(out)]) == 0
    assert lines(out) == lines(whole)
    assert len(lines(whole)) == len({episode.key for _, episode in read_episodes(whole)}) == NUM
    assert sum(len(episode.searches) for _, episode in read_episodes(whole)) > 0

"""`zerosearch bench`."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from io import StringIO
from pathlib import Path
from threading import Lock

import pytest
import yaml
from rich.console import Console

from agents.bench.plan import key_of
from agents.bench.rows import EPISODES_FILE
from agents.bench.store import read_rows
from agents.cli.bench import results_tables
from agents.cli.main import main
from zs_env.lm.generator import Chat, SamplingParams
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.task.questions import Question

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ZS_DATA", "no-such-folder"))

SMALL = {
    "agents": ["random", "scripted", "oracle"],
    "engines": ["world", "bm25"],
    "noise": [0, 0.5],
    "num_questions": 7,
}

SLOW = """
import time
from agents.baselines.scripted import ScriptedAgent

class Slow(ScriptedAgent):
    def predict(self, *args):
        time.sleep(0.1)
        return super().predict(*args)

class Deadly(ScriptedAgent):
    def predict(self, *args):
        import os
        os._exit(3)
"""

CRASHING = """
from itertools import count
from agents.baselines.scripted import ScriptedAgent

calls = count(1)

class Broken(ScriptedAgent):
    def predict(self, *args):
        raise RuntimeError("no \\x1b[31mserver")

class Fickle(ScriptedAgent):
    def predict(self, *args):
        raise KeyError(f"call {next(calls)}")
"""


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(*options, **values):
    Path("small.yaml").write_text(yaml.safe_dump(SMALL | values))
    return main(["bench", "small.yaml", "--out", "out", "--threads", "1", *options])


def results():
    return json.loads(Path("out/results.json").read_text())


def episodes(folder="out"):
    return list(read_rows(Path(folder)).values())


def timeless(rows):
    """Return what must be the same whenever it is played, by episode."""
    return {key_of(row): {**row.to_json(), "seconds": 0} for row in rows}


def test_one_command_gives_episodes_results_and_a_report(in_tmp, capsys):
    assert bench("--workers", "1") == 0
    shown = capsys.readouterr().out
    assert shown.count("played at noise 0 only") == 1
    [oracle] = [line for line in shown.splitlines() if line.split()[:1] == ["oracle"]]
    assert oracle.split()[1:] == ["1.000"] * 3
    assert "out/report.html" in shown
    rows = episodes()
    assert len(rows) == len(Path("out", EPISODES_FILE).read_text().splitlines()) == 3 * 3 * 7
    asked = Counter((row.condition, row.question_id) for row in rows)
    assert set(asked.values()) == {1}
    assert len({row.question_id for row in rows}) == 7
    found = results()
    assert set(found) >= {
        *("benchmark", "config", "conditions", "comparisons", "aggregates", "robustness"),
        *("sim_to_real", "provenance"),
    }
    assert found["benchmark"] == "small"
    assert [each["agent"] for each in found["conditions"]][::3] == ["random", "scripted", "oracle"]
    scores = {(c["agent"], c["engine"], c["noise"]): c["metrics"] for c in found["conditions"]}
    assert scores["oracle", "world", 0.5]["exact_match"]["mean"] == 1
    assert scores["scripted", "bm25", 0]["exact_match"]["mean"] == 1
    assert found["provenance"]["command"] == "zerosearch bench small.yaml --out out"
    assert {"versions", "machine", "commit", "weights_sha256"} <= found["provenance"].keys()
    assert "scripted" in Path("out/report.md").read_text()


def test_processes_play_what_one_does(in_tmp):
    assert bench("--workers", "1", "--chunk-size", "3") == 0
    alone = timeless(episodes())
    Path("out").rename("alone")
    assert bench("--workers", "2", "--chunk-size", "3") == 0
    assert timeless(episodes()) == alone


def test_run_that_is_done_plays_nothing_and_grows_with_its_file(in_tmp, capsys):
    assert bench("--workers", "1", agents=["oracle"]) == 0
    before = Path("out", EPISODES_FILE).read_bytes()
    assert bench("--workers", "1", agents=["oracle"]) == 0
    assert Path("out", EPISODES_FILE).read_bytes() == before
    assert "0 episodes to play, 21 are there" in capsys.readouterr().out
    assert bench("--workers", "1", agents=["oracle", "random"]) == 0
    assert Path("out", EPISODES_FILE).read_bytes().startswith(before)
    assert len(results()["conditions"]) == 6
    assert bench("--workers", "1", agents=["random"]) == 0
    assert len(results()["conditions"]) == 3  # what the file no longer names is left alone


def test_dry_run_says_what_there_is_to_do_and_does_nothing(in_tmp, capsys):
    assert bench("--dry-run") == 0
    shown = capsys.readouterr().out
    assert "oracle · world · noise 0.5 · seed 0 · ZeroSearch-v0: 7 to play" in shown
    assert "63 of 63 episodes to play" in shown
    assert not Path("out").exists()


def test_other_settings_need_another_folder(in_tmp, capsys):
    assert bench("--workers", "1", agents=["oracle"]) == 0
    assert bench("--workers", "1", agents=["oracle"], max_turns=3) == 2
    assert "`out` must be a new folder or that of the same benchmark" in capsys.readouterr().err


def test_engine_whose_file_changed_needs_another_folder(in_tmp, capsys):
    cities = Path("cities.jsonl")
    cities.write_text('{"id": "1", "title": "Ada", "text": "Ada was born in Rome."}\n')
    values = {"agents": ["oracle"], "engines": ["bm25:cities.jsonl"], "num_questions": 2}
    assert bench("--workers", "1", **values) == 0
    [checksum] = results()["provenance"]["engines_sha256"]["bm25:cities.jsonl"]
    assert checksum == hashlib.sha256(cities.read_bytes()).hexdigest()
    cities.write_text('{"id": "1", "title": "Ada", "text": "Ada was born in Oslo."}\n')
    assert bench("--workers", "1", **values) == 2
    error = capsys.readouterr().err
    assert "of the same benchmark, but in out/bench.json engines_sha256 'bm25:cities" in error


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_goes_on_and_loses_and_repeats_nothing(in_tmp, kill):
    """Killed again and again, until it is done."""
    Path("slow_agents.py").write_text(SLOW)
    values = {"agents": ["slow_agents:Slow"], "engines": ["world"], "num_questions": 12}
    Path("small.yaml").write_text(yaml.safe_dump(SMALL | values))
    command = [sys.executable, "-m", "agents.cli.main", "bench", "small.yaml", "--out", "out"]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    file = Path("out", EPISODES_FILE)
    for wanted in (2, 8):
        process = subprocess.Popen(
            [*command, "--chunk-size", "2", "--workers", "1"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and (
            not file.exists() or file.read_bytes().count(b"\n") < wanted
        ):
            time.sleep(0.02)
        process.send_signal(kill)
        process.wait()
    lines = file.read_bytes().splitlines(keepends=True)
    assert 8 <= len(lines) < 24
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:50])  # and torn in mid-line
    with pytest.warns(UserWarning, match="the last line was torn"):
        assert main([*command[3:], "--chunk-size", "2", "--workers", "1"]) == 0
    assert file.read_bytes().startswith(b"".join(lines[:-1]))  # nothing was played again
    assert len(file.read_text().splitlines()) == len(episodes()) == 24
    slowly = timeless(episodes())
    Path("out").rename("killed")
    assert main([*command[3:], "--workers", "1"]) == 0
    assert timeless(episodes()) == slowly


def test_death_of_a_process_is_recorded_and_played_again_if_wanted(in_tmp, capsys):
    Path("slow_agents.py").write_text(SLOW)
    values = {"engines": ["bm25"], "num_questions": 2}
    agents = ["oracle", {"own": "slow_agents:Deadly"}]
    assert bench("--workers", "2", agents=agents, **values) == 0
    failed = [row for row in episodes() if row.stop_reason == "failed"]
    assert {(row.condition.agent, row.error) for row in failed} == {
        ("own", "the process ended with exit code 3")
    }
    assert [each["num_failed"] for each in results()["conditions"]] == [0, 2]
    assert "2 episodes failed" in capsys.readouterr().out
    Path("slow_agents.py").write_text(SLOW.replace("os._exit(3)", "return super().predict(*args)"))
    assert bench("--workers", "2", "--retry-failed", agents=agents, **values) == 0
    assert len(episodes()) == 4
    assert [each["num_failed"] for each in results()["conditions"]] == [0, 0]


def test_reasons_of_failures_are_told_once_with_their_counts(in_tmp, capsys):
    Path("crashing_agents.py").write_text(CRASHING)
    values = {"engines": ["world"], "noise": [0], "num_questions": 7}
    agents = [{name: f"crashing_agents:{name}"} for name in ("Broken", "Fickle")]
    assert bench("--workers", "1", agents=agents, **values) == 0
    shown = capsys.readouterr().out
    assert shown.count("RuntimeError: no <U+001B>[31mserver") == 1
    lines = shown[shown.index("14 episodes failed") :].splitlines()
    assert lines[1] == "  7 × RuntimeError: no <U+001B>[31mserver (4 of them not tried)"
    assert lines[2] == "  5 × KeyError: 'call 4' (4 of them not tried)"
    assert lines[3] == "  1 × KeyError: 'call 2'"
    assert lines[4] == "  and 1 other reason"
    assert "- 7 × RuntimeError" in Path("out/report.md").read_text()


def condition(agent, engine, noise):
    metrics = {"exact_match": {"mean": 0.5, "low": 0.25, "high": 0.75}}
    where = {"environment": "ZeroSearch-v0", "engine": engine, "noise": noise}
    return {"agent": agent, **where, "metrics": metrics}


def shown_tables(conditions, width):
    console = Console(width=width, file=StringIO())
    for table in results_tables(conditions, width):
        console.print(table)
    return console.file.getvalue()


def test_long_name_is_wrapped_before_a_number_is_cut_off():
    places = [("simulator-medium", 0), ("simulator-medium", 0.5), ("bm25", 0)]
    shown = shown_tables([condition("a" * 60, *place) for place in places], 80)
    assert shown.count("0.25–0.75") == 3
    assert shown.count("a") >= 60
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("agent") == 1


@pytest.mark.parametrize("name", ["world", "simulator-medium", "bm25:" + "x" * 70])
@pytest.mark.parametrize("agent", ["random", "q" * 70])
@pytest.mark.parametrize("width", [27, 40, 80, 200])
def test_no_number_of_conditions_costs_a_name_or_a_number(name, agent, width):
    noises = [0.1, 0.2, 0.4, 0.6, 0.8, 1]
    places = [*((name, noise) for noise in noises), ("bm25", 0)]
    shown = shown_tables([condition(who, *at) for who in (agent, "b") for at in places], width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert shown.count("0.500") == shown.count("0.25–0.75") == 14
    for noise in noises:
        assert shown.count(f"noise {noise:g}") == 1
    assert shown.count("x") == 1 + 6 * name.count("x")  # one is in the title
    assert shown.count("q") >= agent.count("q")


def test_every_block_of_the_table_names_the_agents(in_tmp, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    values = {"agents": ["random", "scripted"], "noise": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    assert bench("--workers", "1", **values, num_questions=1) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    for agent in ("random", "scripted"):
        scores = [words[1:] for words in lines if words[:1] == [agent]]
        assert list(map(len, scores)) == [5, 2]
    assert "…" not in shown
    assert shown.count("Exact match, 95 % intervals") == 1


def test_mistakes_are_told_in_one_line(in_tmp, capsys):
    for values, message in (
        ({"agents": ["fly"]}, "small.yaml:1: `agent` must be "),
        ({"noise": [2]}, "small.yaml:8: `noise` must be a probability in [0, 1], got 2.0"),
    ):
        assert bench(**values) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert bench("--workers", "0") == 2
    assert "`workers` must be at least 1, got 0" in capsys.readouterr().err
    assert not Path("out").exists()


def test_small_version_of_the_miniwiki_example(in_tmp):
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(model_folder("skill"))
    example = yaml.safe_load((ROOT / "examples" / "benchmarks" / "miniwiki.yaml").read_text())
    example |= {"num_questions": 8, "engines": ["simulator-tiny", "bm25"], "noise": [0, 0.5]}
    assert bench("--workers", "1", **example) == 0
    found = results()
    assert len(found["conditions"]) == 9 * 3
    assert not any(each["num_failed"] for each in found["conditions"])
    assert len(found["comparisons"]) == 3 * 36
    assert len(found["robustness"]) == len(found["sim_to_real"]) == 9
    tokens = {each["agent"]: each["metrics"]["tokens"] for each in found["conditions"]}
    assert [name for name, value in tokens.items() if value is None] == [
        *("random", "scripted", "oracle"),
    ]


SETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique", "bamboogle")


def test_the_papers_seven_sets_are_asked_whole(in_tmp, monkeypatch):
    """500 questions of each, whose ids are the same everywhere; nothing is dropped at the end."""

    def read(public, split):
        assert split == "test"
        num = 125 if public.name == "bamboogle" else 700
        told = (
            (str(i), f"What is {public.name} {i}?", (f"{public.name} {i}",)) for i in range(num)
        )
        return tuple(Question(*each, data_source=public.name) for each in told)

    monkeypatch.setattr("zs_env.readers.read_public_set", read)
    paper = yaml.safe_load((ROOT / "examples" / "benchmarks" / "paper.yaml").read_text())
    paper |= {"agents": ["oracle"], "engines": ["empty"]}
    assert bench("--workers", "1", "--chunk-size", "333", **paper) == 0
    [found] = results()["conditions"]
    expected = dict.fromkeys(SETS, 500) | {"bamboogle": 125}
    assert {name: part["num_episodes"] for name, part in found["by_source"].items()} == expected
    assert found["metrics"]["exact_match"]["mean"] == 1
    assert found["num_episodes"] == len({key_of(row) for row in episodes()}) == 3125


class Replier:
    """A shipped model behind a server, one reply at a time."""

    def __init__(self):
        self.lm, self.lock = TransformersLM.from_pretrained(model_folder("skill")), Lock()

    def __call__(self, body):
        params = SamplingParams(min(body["max_tokens"], 12), body["temperature"])
        messages = body.get("messages")
        prompt = Chat(messages[-1]["content"]) if messages else body["prompt"]
        with self.lock:
            [text] = self.lm.complete([prompt], [body["seed"]], params)
        return text, len(self.lm.encode(text))


@pytest.mark.skipif(not DATA.is_dir(), reason="ZS_DATA does not name a folder of real data")
def test_real_questions_are_asked_of_a_model_on_a_server(in_tmp, openai_server):
    """NQ, Bamboogle and HotpotQA from local files; BM25 over HotpotQA's own paragraphs."""
    names = ("nq_open_dev", "bamboogle", "hotpot_distractor")
    hotpot = (DATA / "hotpot_distractor.jsonl").read_text().splitlines()
    passages = [p for line in hotpot for p in json.loads(line)["passages"]]
    rows = ({"id": str(i), "title": p["title"], "text": p["text"]} for i, p in enumerate(passages))
    Path("corpus.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    server = openai_server(Replier())
    asked = {
        "agents": [
            *("scripted", "oracle"),
            *({name: f"{name}:{server.url}?tokens=12"} for name in ("direct", "rag", "ra-agent")),
            {"policy": f"openai:{server.url}?chat=false&tokens=12"},
        ],
        "engines": ["bm25:corpus.jsonl"],
        "noise": [0],
        "questions": [str(DATA / f"{name}.jsonl") for name in names],
        "num_questions": 3,
        "max_turns": 3,
        "top_k": 2,
    }
    assert bench("--workers", "1", "--chunk-size", "4", **asked) == 0
    found = {each["agent"]: each for each in results()["conditions"]}
    assert len(server.requests) >= 4 * 9
    for each in found.values():
        assert each["num_failed"] == 0
        sources = {name: part["num_episodes"] for name, part in each["by_source"].items()}
        assert sources == dict.fromkeys(names, 3)
    assert found["oracle"]["metrics"]["exact_match"]["mean"] == 1
    assert found["rag"]["metrics"]["searches"]["mean"] == 1
    assert found["direct"]["metrics"]["tokens"]["mean"] > 0
    shown = [t.observation for r in episodes() if r.condition.agent == "rag" for t in r.turns]
    titles = {passage["title"] for passage in passages}
    assert any(f"(Title: {title})" in text for title in titles for text in shown)


def test_prompt_that_does_not_fit_costs_its_own_question_only(in_tmp, openai_server):
    def reply(body):
        if "long" in body["messages"][-1]["content"]:
            return 400, "this model's maximum context length is 8 tokens"
        return "<answer>x</answer>", 1

    rows = [
        {"id": i, "question": f"Is {i} {'long' * (i == 1)}?", "answers": ["x"]} for i in range(4)
    ]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {"engines": ["empty"], "noise": [0], "questions": ["mine.jsonl"], "num_questions": 0}
    server = openai_server(reply)
    assert bench("--workers", "1", agents=[{"mine": f"openai:{server.url}"}], **values) == 0
    found = {row.question_id: row for row in episodes()}
    assert [found[str(i)].stop_reason for i in range(4)] == ["answered", "failed"] + 2 * [
        "answered"
    ]
    assert "maximum context length" in found["1"].error

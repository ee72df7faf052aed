"""`zerosearch tune collect`."""

import json
import re
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.tuning.records import read_episodes

SMALL = "tune collect --num-questions 6 --num-envs 3 --threads 1 --engine world".split()

MISTAKES = {
    "": "out",
    "--out {tmp}": "`out` must be a file that can be written, .* a folder",
    "--out e --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "--out e --policy {tmp}": "`policy` must name a shipped model or a folder",
    "--out e --noise 2": r"`noise` must be a probability in \[0, 1\], got 2.0",
    "--out e --num-samples 0": "`num_samples` must be at least 1, got 0",
    "--out e --num-samples 2": "`temperature` must be greater than 0 for num_samples=2, got 0",
    "--out e --num-envs 0": "`num_envs` must be at least 1, got 0",
    "--out e --temperature -1": "`temperature` must be at least 0, got -1.0",
    "--out e --max-turns 0": "`max_turns` must be an integer of at least 1, got 0",
    "--out e --prompt x": "`prompt` must be miniwiki, zerosearch or a template",
    "--out e --agent nowhere:x": "`agent` must name a module that exists, got 'nowhere:x'",
    "--out e --agent json": "`agent` must be module:attribute, got 'json'",
    "--out e --agent json:missing": "`agent` must name an attribute of 'json'",
    "--out e --agent json:loads": "`agent` must be an object of its kind, or a class or function",
    "--out e --agent json:JSONDecoder": "`agent` must be an object with a method predict or comp",
}

AGENTS = """
class Answers:
    def predict(self, observations, state, episode_start, deterministic=True):
        return ["<answer>Neil</answer>"] * len(observations), None

class Writes:
    def complete(self, prompts, seeds, params):
        return [f"<answer>{seed}</answer>" for seed in seeds]

ready = Answers()
"""


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_episodes_are_written_and_not_played_again(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--out", "new/e.jsonl"]) == 0
    assert "6 episodes (0 were there, 6 played)" in capsys.readouterr().out
    file = in_tmp / "new" / "e.jsonl"
    before = file.read_bytes()
    row = json.loads(before.splitlines()[0])
    assert (row["engine"], row["agent"], row["seed"]) == ("world", "base", 0)
    assert {"weights_sha256", "temperature", "max_turns", "prompt"} <= row["settings"].keys()
    assert main([*SMALL, "--out", "new/e.jsonl"]) == 0
    assert "6 episodes (6 were there, 0 played)" in capsys.readouterr().out
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--engine", "bm25"], "e.jsonl:1: `engine` must be 'world', as in this file, got 'bm25'"),
        (["--policy", "skill"], "e.jsonl:1: `agent` must be 'base', as in this file, got 'skill'"),
        (["--seed", "1"], "e.jsonl:1: `seed` must be 0, as in this file, got 1"),
        (["--max-turns", "2"], "e.jsonl:1: `max_turns` must be 6, as in this file, got 2"),
    ],
)
def test_file_of_another_run_gives_one_line(
    in_tmp: Path, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    assert main([*SMALL, "--out", "e.jsonl"]) == 0
    capsys.readouterr()
    assert main([*SMALL, "--out", "e.jsonl", *option]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("name", ["ready", "Answers", "Writes"])
def test_agent_of_ones_own_plays(in_tmp: Path, name: str) -> None:
    (in_tmp / "own_agents.py").write_text(AGENTS)
    assert main([*SMALL, "--out", "e.jsonl", "--agent", f"own_agents:{name}"]) == 0
    episodes = [episode for _, episode in read_episodes(in_tmp / "e.jsonl")]
    assert {episode.source.agent for episode in episodes} == {f"own_agents:{name}"}
    assert {episode.stop_reason for episode in episodes} == {"answered"}
    assert len({episode.answer for episode in episodes}) == (6 if name == "Writes" else 1)


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_gives_one_line_and_writes_nothing(
    line: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [part.replace("{tmp}", str(in_tmp)) for part in line.split()]
    assert main(["tune", "collect", *given]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert re.search(MISTAKES[line], error)
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("", ["collect", "label"]),
        ("collect", ["--out", "--agent", "--engine", "(default: bm25)", "(default: 32)"]),
        ("label", ["--input", "--output", "--rule", "--balance", "(default: evidence)"]),
    ],
)
def test_help_lists_options_and_their_defaults(
    command: str, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["tune", *command.split(), "--help"])
    text = capsys.readouterr().out
    assert not [part for part in shown if part not in text]

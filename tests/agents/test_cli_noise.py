"""Commands that are asked for noise which their engine cannot make say so once, in one line."""

import io
import json
from pathlib import Path

import pytest

from agents.cli.main import main

LINE = "warning: bm25 makes no noise: no search brings noisy documents, at any noise"
SMALL = "--engine bm25 --num-questions 2 --threads 1".split()
COMMANDS = {
    "play": "play",
    "audit": "audit --group-size 2 --policy skill",
    "collect": "tune collect --policy skill --out e.jsonl",
    "evaluate": "evaluate --policy skill",
}


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("noise", "count"), [("0.5", 1), ("0", 0)])
def test_command_says_once_that_the_engine_makes_no_noise(
    command: str, noise: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *SMALL, "--noise", noise]) == 0
    assert capsys.readouterr().out.splitlines().count(LINE) == count


def test_engine_of_ones_own_is_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "silent_engines.py").write_text(
        "class Silent:\n"
        "    makes_noise = False\n"
        "    def search(self, requests):\n"
        "        return [[] for _ in requests]\n"
    )
    options = "--engine silent_engines:Silent --noise 1 --num-questions 2 --threads 1"
    assert main(["evaluate", *options.split()]) == 0
    assert "warning: silent_engines:Silent makes no noise" in capsys.readouterr().out


def test_demo_says_so_and_reports_no_noise(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--steps 1 --noisy-questions 2 --hard-questions 2 --train-questions 2"
    assert (
        main(
            [
                "demo",
                *SMALL,
                *options.split(),
                "--group-size",
                "2",
                "--eval-questions",
                "2",
                "--out",
                "run",
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert shown.splitlines().count(LINE) == 1
    assert "after noisy documents: there were none" in shown
    results = json.loads(Path("run/demo.json").read_text())["evaluations"]
    assert {result["noise"] for result in results} == {0.0}

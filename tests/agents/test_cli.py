import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli import main as cli
from agents.cli.files import command_line, write_json
from agents.cli.main import check_package, main, unboxed
from agents.cli.play import Play
from agents.cli.threads import default_threads, num_physical_cores
from agents.cli.train import Train

COMMANDS = {
    "train": ["--algorithm", "--engine", "--policy", "--noise-end", "(default: 0.5)", "--cache"],
    "evaluate": ["--engine", "--policy", "--split", "--json", "(default: test)", "--cache-mode"],
    "bench": ["FILE", "--out", "--workers", "(default: 2)", "--retry-failed", "--dry-run"],
    "audit": ["--policy", "--engine", "--tolerance", "--json", "(default: 0.001)"],
    "play": ["--engine", "--noise", "--max-turns", "(default: 6)"],
    "demo": ["--steps", "--seed", "--out", "(default: 30)", "runs/demo"],
    "models build": ["--out", "--size", "--seed", "runs/models"],
    "models measure": ["--engine", "--num-requests", "(default: 500)"],
    "miniature": ["--out", "--seeds", "--workers", "(default: 8)"],
    "tune collect": ["--policy", "--engine", "--out"],
    "tune label": ["--input", "--output", "--rule"],
    "tune sft": ["--input", "--model", "--out", "--lora-rank"],
    "tune measure": ["--engine", "--num-requests"],
    "tune calibrate": ["--engine", "--num-requests"],
    "tune card": ["--model"],
    "tune run": ["--config", "--dry-run"],
    "cache show": ["FILE"],
    "cache export": ["FILE", "--output"],
    "cache import": ["FILE", "--input"],
}

MISTAKES = {
    "": "Expected one of",
    "fly": "Unrecognized options: fly",
    "trian --steps 3": r"^Unrecognized options: trian; did you mean train\?$",
    "evalute": r"^Unrecognized options: evalute; did you mean evaluate\?$",
    "bench nope.yaml --out x": "^`file` must be a file that is there, got 'nope.yaml'$",
    "bench {tmp} --out x": "^`file` must be a file that is there, got '.+'$",
    "train --recipe nope.yaml": "^`recipe` must be a file that is there, got 'nope.yaml'$",
    "train --noise-base 0": "^`noise_base` must be greater than 0 and finite, got 0.0$",
    "train --speed 9": "Unrecognized options: --speed",
    "train --steps many": "--steps",
    "train --steps 0": "`steps` must be at least 1, got 0",
    "train --algorithm foo": "`algorithm` must be one of .*grpo.* got 'foo'",
    "train --env-id Foo-v0 --engine world": "Foo",
    "train --noise-end 1.5": r"`noise_end` must be a probability in \[0, 1\], got 1.5",
    "train --learning-rate 0": "`learning_rate` must be greater than 0 and finite, got 0.0",
    "train --eval-every -1": "`eval_every` must be at least 0, got -1",
    "train --policy {tmp} --engine world": "`policy` must name a shipped model or a folder",
    "train --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "evaluate --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "evaluate --engine missing_module:x": "`engine` must name a module .*'missing_module:x'",
    "evaluate --engine json:missing": "`engine` must name an attribute of 'json'",
    "evaluate --engine json:loads": (
        "`engine` must be an object of its kind, or a class or function that returns one"
    ),
    "evaluate --engine json:JSONDecoder": "`engine` must be an object with a method search",
    "evaluate --noise 1.5": r"`noise` must be a probability in \[0, 1\], got 1.5",
    "evaluate --split dev": "`split` must be one of train, validation, test, got 'dev'",
    "evaluate --questions none.jsonl": "`questions` must be .* got 'none.jsonl'",
    "evaluate --num-questions -1": "`num_questions` must be at least 0, got -1",
    "evaluate --policy {tmp} --engine world": "`policy` must name a shipped model or a folder",
    "evaluate --policy hand:play": (
        "`policy` must name a shipped model or a folder .*got hand:play; "
        "`zerosearch bench` plays agents of your own$"
    ),
    "evaluate --json /dev/null/x.json": "`json` must be a file that can be written",
    "evaluate --episodes {tmp}": "`episodes` must be a file that can be written, .* a folder",
    "evaluate --threads -1": "`threads` must be at least 0, got -1",
    "audit --tolerance 0": "`tolerance` must be greater than 0, got 0.0",
    "audit --temperature 0": "`temperature` must be greater than 0, got 0.0",
    "audit --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "audit --group-size 0": "`group_size` must be at least 1, got 0",
    "audit --questions none.jsonl --engine world": "`questions` must be .* got 'none.jsonl'",
    "audit --json /dev/null/x.json": "`json` must be a file that can be written",
    "play --noise -0.1": r"`noise` must be a probability in \[0, 1\], got -0.1",
    "play --engine simulator:{tmp}/none": "none",
    "play --engine simulator:http://me:secret@host/v1": "`base_urls` must be like [^@]*$",
    "play --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "play --max-turns 0": "`max_turns` must be an integer of at least 1, got 0",
    "demo --steps 0": "`steps` must be at least 1, got 0",
    "demo --skill {tmp} --engine world": "`policy` must name a shipped model or a folder",
    "demo --engine google": "`engine` must be simulator, .*module:attribute, got 'google'",
    "models": "Expected one of",
    "models measure --num-requests 1": "`num_requests` must be at least 2, got 1",
    "models measure --models {tmp}": "`policy` must name a shipped model or a folder",
    "models build --size 0": "`size` must be greater than 0, got 0.0",
}

ENGINES = """
from zs_env import SearchEngineError

class Failing:
    def search(self, requests):
        raise SearchEngineError("the index\\nis down")

class Wrong:
    def search(self, requests):
        return 1 / 0
"""


def one_error_line(err: str) -> str:
    [line] = err.splitlines()
    return line.removeprefix("zerosearch: error: ")


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_options_and_their_defaults(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert exit_.value.code == 0
    assert not [text for text in COMMANDS[command] if text not in shown]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert not [
        name
        for name in (
            "train",
            "evaluate",
            "audit",
            "play",
            "demo",
            "models",
            "miniature",
            "tune",
            "cache",
        )
        if name not in shown
    ]


def test_help_loads_no_torch() -> None:
    code = "import sys, agents.cli.main; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_gives_one_line_and_writes_nothing(
    line: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([part.replace("{tmp}", str(in_tmp)) for part in line.split()])
    shown = capsys.readouterr()
    assert code == 2
    assert re.search(MISTAKES[line], one_error_line(shown.err))
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize("command", ["train", "demo", "models build"])
@pytest.mark.parametrize("out", ["/dev/null/x", "taken/x"])
def test_out_that_cannot_be_written_gives_one_line(
    command: str, out: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "taken").write_text("a file, not a folder")
    assert main([*command.split(), "--out", out]) == 2
    assert "`out` must be a folder that can be written" in one_error_line(capsys.readouterr().err)
    assert [path.name for path in in_tmp.iterdir()] == ["taken"]


def test_out_that_holds_a_model_is_refused(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "config.json").write_text("{}")
    assert main(["train", "--out", "."]) == 2
    assert "`out` must be a new folder" in one_error_line(capsys.readouterr().err)
    assert (in_tmp / "config.json").read_text() == "{}"


def test_failing_engine_gives_one_line(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "failing_engines.py").write_text(ENGINES)
    monkeypatch.setattr("sys.stdin", io.StringIO("a query\n"))
    assert main(["play", "--engine", "failing_engines:Failing"]) == 2
    assert one_error_line(capsys.readouterr().err) == "the index is down"


def test_mistake_in_a_program_keeps_its_traceback(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (in_tmp / "wrong_engines.py").write_text(ENGINES)
    monkeypatch.setattr("sys.stdin", io.StringIO("a query\n"))
    with pytest.raises(ZeroDivisionError):
        main(["play", "--engine", "wrong_engines:Wrong"])


def test_interruption_gives_one_line_and_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: Play) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Play, "run", interrupt)
    assert main(["play"]) == 130
    assert capsys.readouterr().err.strip() == "zerosearch: interrupted"


def test_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m agents.cli.main train --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")  # 0 where the help was written before the pipe shut


def test_foreign_agents_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OpenAIAgents:
        def locate_file(self, path: str) -> Path:
            return Path(str(cli.agents.__file__)).parents[1] / path

    monkeypatch.setattr(cli, "distribution", lambda name: OpenAIAgents())
    with pytest.raises(cli.CommandError, match="uninstall openai-agents"):
        check_package()


def test_own_agents_package_passes() -> None:
    check_package()


def test_unboxed_joins_wrapped_lines_and_drops_colours() -> None:
    box = "\x1b[31m╭─ Error ──╮\x1b[0m\n│ one      │\n│ two      │\n│ ──────── │\n│ help     │\n╰─╯"
    assert unboxed(box) == "one two"


def test_command_line_names_only_what_differs_from_the_defaults() -> None:
    assert command_line(Train()) == "zerosearch train"
    assert (
        command_line(Train(steps=5, noise_end=0.2)) == "zerosearch train --steps 5 --noise-end 0.2"
    )


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("4,2", 4)])
def test_default_threads_respects_omp_num_threads(value: str, threads: int) -> None:
    assert default_threads({"OMP_NUM_THREADS": value}) == threads


@pytest.mark.parametrize("environ", [{}, {"OMP_NUM_THREADS": ""}, {"OMP_NUM_THREADS": "0"}])
def test_default_threads_are_the_physical_cores(environ: dict[str, str]) -> None:
    assert default_threads(environ) == num_physical_cores() >= 1


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.json"
    for value in ({"a": 1}, {"b": 2}):
        write_json(file, value)
    assert file.read_text() == '{\n  "b": 2\n}\n'
    assert list(file.parent.iterdir()) == [file]

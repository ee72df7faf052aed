"""`zerosearch tune run`."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.cli.main import main
from agents.cli.tune_collect import Collect
from agents.cli.tune_run import COMMANDS, asks_for_more, known_options
from agents.experiments.run_files import claimed
from agents.tuning.pipeline import read_recipe
from agents.tuning.records import read_episodes, read_labelled

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "tuning"
DATA = Path(os.environ.get("ZS_DATA", "no-such-folder"))

RECIPE = """
out: run
collect:
- {policy: skill, engine: bm25, num_questions: 24, num_envs: 4, threads: 1}
- {policy: skill, engine: world, noise: 0.5, num_questions: 24, num_envs: 12, threads: 1}
label: {validation: 0.2, test: 0.1}
sft: {batch_size: 4, max_steps: 8, eval_every: 4, save_every: 2, warmup_steps: 2, threads: 1}
measure: {num_requests: 1, threads: 1}
calibrate: {num_requests: 4, check: false, threads: 1}
card:
"""
STAGES = ["collect", "collect-2", "label", "sft", "measure", "calibrate", "card"]

TRAJECTORY = {
    "id": "1",
    "question": "Who directed the film about Orla?",
    "answers": ["Bo Lind"],
    "predicted": "Cy",
    "correct": False,
    "turns": [{"query": "Orla director", "documents": ["It is by Bo Lind."]}],
}


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(recipe: str, *options: str) -> int:
    Path("run.yaml").write_text(recipe)
    return main(["tune", "run", "--config", "run.yaml", *options])


def steps(shown: str) -> dict[str, str]:
    """Return what was decided about each stage."""
    return dict(re.findall(r"^\[\d/\d\] ([\w-]+): (.*)$", shown, re.MULTILINE))


def snapshot(folder: Path) -> dict[str, Any]:
    """Return the content of every file, without clocks."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in str(path)
    ]
    return {str(file.relative_to(folder)): without_clocks(file) for file in files}


def without_clocks(file: Path) -> Any:
    if file.parent.name == "stages":  # checksums are of files with clocks
        return json.loads(file.read_text())["options"]
    if file.name == "metrics.json":
        return {k: v for k, v in json.loads(file.read_text()).items() if k != "speed"}
    if file.name == "README.md":
        return [line for line in file.read_text().splitlines() if not line.startswith("Speed: ")]
    if file.name == "metrics.jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    return file.read_bytes()


# --- kills --------------------------------------------------------------------------------------

# Where a stage is killed: in which call of a function that it uses.
KILLS = {
    "collect": ("agents.tuning.collect", "append_line", 6),
    "collect-2": ("agents.tuning.collect", "append_line", 3),
    "label": ("agents.tuning.records", "as_line", 8),
    "sft": ("agents.tuning.tune", "save_state", 2),
    "measure": ("agents.tuning.cards", "plot_report", 1),
    "calibrate": ("agents.tuning.calibrate", "searches", 3),
    "card": ("agents.tuning.cards", "plot_calibration", 1),
}

# Imports once and forks, so that a process a kill costs no time.
PROGRAM = """
import importlib, json, os, signal, sys
import accelerate, bm25s, matplotlib.backends.backend_agg, torch.utils.tensorboard
import transformers.models.qwen2.modeling_qwen2
import agents.tuning.calibrate, agents.tuning.cards, agents.tuning.collect, agents.tuning.tune
from agents.cli.main import main

def arm(module, name, call):
    home = importlib.import_module(module)
    real, calls = getattr(home, name), []
    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            if name == "append_line":
                with open(args[0], "a") as file:
                    file.write(args[1][: 3 * len(args[1]) // 5])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(home, name, dying)

def play(folder, kill):
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if kill:
        arm(*kill)
    os._exit(main(["tune", "run", "--config", "run.yaml"]))

for folder, kill in json.loads(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        play(folder, kill)
    status = os.waitpid(pid, 0)[1]
    begun = os.path.join(folder, "run", "stages")
    states = {name: json.load(open(f"{begun}/{name}")) for name in os.listdir(begun)}
    left = [name for name, state in states.items() if state["outputs"] is None]
    print(json.dumps([os.waitstatus_to_exitcode(status), left]), flush=True)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any]]:
    """Return a folder with a run that was killed in each stage, one that was not, and the kills."""
    disturbed, whole = tmp_path_factory.mktemp("disturbed"), tmp_path_factory.mktemp("whole")
    for folder in (disturbed, whole):
        (folder / "run.yaml").write_text(RECIPE)
    jobs = [(str(disturbed), KILLS[stage]) for stage in STAGES]
    jobs += [(str(disturbed), None), (str(whole), None)]
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(jobs)],
        env=os.environ | environ,
        check=True,
        stdout=subprocess.PIPE,
    )
    return disturbed, whole, [json.loads(line) for line in done.stdout.splitlines()]


def test_run_killed_in_every_stage_ends_as_one_that_was_not(
    runs: tuple[Path, Path, list[Any]],
) -> None:
    disturbed, whole, outcomes = runs
    killed = [[-signal.SIGKILL, [f"{stage}.json"]] for stage in STAGES]
    assert outcomes == [*killed, [0, []], [0, []]]
    found, expected = snapshot(disturbed / "run"), snapshot(whole / "run")
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    episodes = [e for _, e in read_episodes(disturbed / "run" / "trajectories.jsonl")]
    assert len(episodes) == len({episode.key for episode in episodes}) == 24
    assert {row.label for _, row in read_labelled(disturbed / "run/labelled.jsonl")} == {
        "useful",
        "noisy",
    }


def test_run_folder_holds_everything(runs: tuple[Path, Path, list[Any]]) -> None:
    folder = runs[1] / "run"
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {
        "trajectories.jsonl",
        "trajectories-2.jsonl",
        "labelled.jsonl",
        "label.json",
        "sft",
        "stages",
    }
    beside = {path.name for path in (folder / "sft/model").iterdir()}
    assert beside >= {"metrics.json", "metrics.png", "calibration.json", "README.md"}
    card = (folder / "sft/model/README.md").read_text()
    assert "useful: states the asked fact" in card
    assert "zerosearch tune calibrate" in card


@pytest.fixture
def finished(in_tmp: Path, runs: tuple[Path, Path, list[Any]]) -> Path:
    """Return a copy of a finished run, in whose folder we are."""
    shutil.copytree(runs[1] / "run", in_tmp / "run")
    return in_tmp / "run"


def test_finished_run_is_skipped(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(finished)
    assert run(RECIPE) == 0
    shown = capsys.readouterr().out
    assert steps(shown) == dict.fromkeys(STAGES, "done")
    assert "all stages are done: run" in shown
    assert snapshot(finished) == before


def test_what_takes_time_only_may_change(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(RECIPE.replace("threads: 1", "threads: 2").replace("num_envs: 4", "num_envs: 9")) == 0
    )
    assert steps(capsys.readouterr().out) == dict.fromkeys(STAGES, "done")


def test_changed_option_runs_a_stage_and_what_depends_on_it_again(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.replace("measure: {num_requests: 1", "measure: {num_requests: 2")
    assert run(recipe, "--dry-run") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "measure again `num_requests` was 1 and is 2" in shown
    assert "card done, perhaps again if that changes metrics.json" in shown
    assert run(recipe) == 0
    told = steps(capsys.readouterr().out)
    assert told == dict.fromkeys(STAGES, "done") | {
        "measure": "again: `num_requests` was 1 and is 2",
        "card": "again: metrics.json has changed",
    }
    assert "--num-requests 2" in (finished / "sft/model/README.md").read_text()


def test_tuning_with_other_options_starts_in_a_new_folder(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (finished / "sft/model/model.safetensors").read_bytes()
    recipe = RECIPE[: RECIPE.index("measure")].replace("max_steps: 8", "max_steps: 1")
    assert run(recipe) == 0
    assert steps(capsys.readouterr().out)["sft"] == "again: `max_steps` was 8 and is 1"
    assert (finished / "earlier/sft-1/sft/model/model.safetensors").read_bytes() == weights
    assert (finished / "sft/model/model.safetensors").is_file()


def test_stages_may_be_left_out_and_come_back(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("out: run\nsft:" + RECIPE.split("sft:")[1], "--dry-run") == 2
    assert "`input` must be given where no stage before makes it" in capsys.readouterr().err
    recipe = "out: run\nsft: {input: '{out}/labelled.jsonl'," + RECIPE.split("sft: {")[1]
    assert run(recipe) == 0
    assert steps(capsys.readouterr().out) == dict.fromkeys(STAGES[3:], "done")
    assert run(RECIPE) == 0
    assert steps(capsys.readouterr().out) == dict.fromkeys(STAGES, "done")


def test_result_that_somebody_changed_stops_the_run_before_it_begins(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (finished / "labelled.jsonl").open("a") as file:
        file.write("{}\n")
    for options in ([], ["--dry-run"]):
        assert run(RECIPE, *options) == 2
        told = capsys.readouterr()
        assert "what label made, but 'run/labelled.jsonl' was changed since" in told.err
        assert not told.out


# --- small runs ---------------------------------------------------------------------------------

COLLECT = "out: run\ncollect: {engine: world, num_questions: 3, threads: 1}\n"


def test_dry_run_writes_nothing(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(RECIPE, "--dry-run") == 0
    assert capsys.readouterr().out.count("to do") == len(STAGES)
    assert [path.name for path in in_tmp.iterdir()] == ["run.yaml"]


def test_more_questions_are_added_and_others_start_anew(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = in_tmp / "run" / "trajectories.jsonl"
    assert run(COLLECT) == 0
    first = file.read_bytes()
    assert run(COLLECT.replace("3", "5")) == 0
    assert file.read_bytes().startswith(first)
    assert "5 episodes (3 were there, 2 played)" in capsys.readouterr().out
    assert run(COLLECT.replace("3", "2")) == 0
    assert "2 episodes (0 were there, 2 played)" in capsys.readouterr().out
    assert len((in_tmp / "run/earlier/collect-1/trajectories.jsonl").read_bytes().splitlines()) == 5


def test_episodes_collected_by_hand_are_taken_over(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "tune collect --engine world --num-questions 3 --threads 1 --out run/trajectories.jsonl"
    assert main(line.split()) == 0
    assert run(COLLECT) == 0
    assert "3 episodes (3 were there, 0 played)" in capsys.readouterr().out
    (in_tmp / "run/stages/collect.json").unlink()
    assert run(COLLECT.replace("}", ", noise: 0.5}")) == 2
    assert "collect: run/trajectories.jsonl:1: `noise` must be 0.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"num_questions": 11}, True),
        ({"num_questions": 0}, True),
        ({"num_questions": 9}, False),
        ({"num_samples": 3}, True),
        ({"num_samples": 1}, False),
        ({"num_questions": 11, "seed": 1}, False),
        ({"split": "test"}, False),
    ],
)
def test_episodes_are_added_to_only_where_more_of_the_same_is_asked(
    changes: dict[str, Any], expected: bool
) -> None:
    before = {"num_questions": 10, "num_samples": 2, "seed": 0, "split": "train"}
    command = Collect(out=Path("e"), **(before | changes))
    assert asks_for_more(command, before) is expected
    assert not asks_for_more(Collect(out=Path("e"), num_questions=9), {"num_questions": 0})


def test_two_runs_of_one_folder_do_not_meet(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed(in_tmp / "run"):
        assert run(COLLECT) == 2
    assert "folder that no other process is writing" in capsys.readouterr().err


def test_results_about_a_shipped_model_go_into_the_folder(in_tmp: Path) -> None:
    measure = "measure: {model: simulator, num_requests: 1, document_tokens: 8, threads: 1}\n"
    assert run("out: run\n" + measure + "calibrate: {engine: world, num_requests: 4}\n") == 0
    names = {path.name for path in (in_tmp / "run").iterdir()}
    assert names >= {"metrics.json", "metrics.png", "calibration.json", "calibration.png"}


# --- mistakes -----------------------------------------------------------------------------------

MISTAKES = {
    "label: {input: in.jsonl, balanc: true}": "run.yaml:2: unknown option of label: `balanc`; "
    "known are input, rule, judge, grade, threshold, validation, test, balance, seed, threads$",
    "label: {input: in.jsonl, output: l.jsonl}": r"run.yaml:2: unknown option of label: `output`",
    "train: {}": "run.yaml:2: unknown part: `train`; known are out, collect, label, sft, measure, ",
    "label:": r"run.yaml:2: `input` must be given where no stage before makes it",
    "card:": r"run.yaml:2: `model` must be given where no stage before makes it",
    "label: {input: none.jsonl}": "input of label must exist, got 'none.jsonl'",
    "label: {input: in.jsonl, seed: many}": "run.yaml:2: `seed` must be an integer, got 'many'",
    "label: {input: in.jsonl, seed: true}": "run.yaml:2: `seed` must be an integer, got True",
    "label: {input: in.jsonl, seed: }": "run.yaml:2: `seed` must be an integer, got None",
    "label: {input: [in.jsonl, 3]}": r"run.yaml:2: `input` must be a path, got \['in.jsonl', 3\]",
    "label: {input: in.jsonl, balance: 1}": "run.yaml:2: `balance` must be true or false, got 1",
    "label: {input: in.jsonl, test: no}": "run.yaml:2: `test` must be a number, got False",
    "label: {input: in.jsonl, rule: 3}": "run.yaml:2: `rule` must be a text, got 3",
    "label: {input: in.jsonl, test: 2}": r"run.yaml:2: `test` must be in \[0, 1\), got 2.0",
    "label: {input: in.jsonl, grade: x}": "run.yaml:2: `grade` must be one of em, f1, got 'x'",
    "label: {input: in.jsonl}\nsft: {epochs: 0}": "run.yaml:3: `epochs` must be at least 1, got 0",
    "measure: {num_requests: 0}": "run.yaml:2: `num_requests` must be at least 1, got 0",
    "measure: {model: nowhere}": "`model` must be simulator.*, got 'nowhere'",
    "calibrate: {seed: -1}": "run.yaml:2: `seed` must be at least 0, got -1",
    "collect: {policy: nowhere}": "`policy` must name a shipped model or a folder with one",
    "collect: {noise: 2}": r"collect: `noise` must be a probability in \[0, 1\], got 2.0",
    "label: {input: in.jsonl}\nsft: {lora_rank: 2}\nmeasure:": "run.yaml:3: `lora_merge` must "
    "be true where measure is wanted, got false",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake_gives_one_line_and_runs_nothing(
    text: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_tmp / "in.jsonl").write_text(json.dumps(TRAJECTORY) + "\n")
    assert run("out: run\n" + text) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert re.search(MISTAKES[text], error)
    assert not list((in_tmp / "run").rglob("*.jsonl"))


def test_missing_recipe_is_told(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "run", "--config", "none.yaml"]) == 2
    assert "No such file or directory: 'none.yaml'" in capsys.readouterr().err


JUDGES = """
class Mumbles:
    def complete(self, prompts, seeds, params):
        return ["mm"] * len(prompts)
"""


@pytest.mark.parametrize(
    ("rows", "option", "message"),
    [
        ([TRAJECTORY, TRAJECTORY | {"turns": []}], "", "in.jsonl:2: `turns` must not be empty"),
        (
            [TRAJECTORY, TRAJECTORY | {"answers": []}],
            "",
            "in.jsonl:2: `answers` of a question must",
        ),
        ([{"id": "1", "text": "x"}], "", "in.jsonl:1: unknown kind of file"),
        ([], "", "in.jsonl:1: the file must have at least one row"),
        ([TRAJECTORY], ", judge: 'judges:Mumbles'", "in.jsonl:1: the judge 'judges:Mumbles' must"),
    ],
)
def test_bad_data_is_named_and_nothing_is_labelled(
    rows: list[Any],
    option: str,
    message: str,
    in_tmp: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = f"out: run\nlabel: {{input: in.jsonl{option}, validation: 0, test: 0}}\n"
    (in_tmp / "judges.py").write_text(JUDGES)
    (in_tmp / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(recipe) == 2
    assert f"error: label: {message}" in capsys.readouterr().err
    assert not (in_tmp / "run" / "labelled.jsonl").exists()
    (in_tmp / "in.jsonl").write_text(json.dumps(TRAJECTORY) + "\n")
    assert run(recipe.replace(option, "")) == 0
    assert len(list(read_labelled(in_tmp / "run" / "labelled.jsonl"))) == 1


# --- the examples -------------------------------------------------------------------------------


def test_options_of_a_table_are_those_of_the_command() -> None:
    assert known_options().keys() == COMMANDS.keys()
    assert known_options()["label"] == [
        *("input", "rule", "judge", "grade", "threshold"),
        *("validation", "test", "balance", "seed", "threads"),
    ]
    assert known_options()["card"] == ["model"]


@pytest.fixture
def with_data(in_tmp: Path) -> Path:
    """Return a folder in which the examples find files by the names that they give them."""
    (in_tmp / "data").mkdir()
    for name in ("search_trajectories", "hotpot_distractor"):
        row = TRAJECTORY | {"id": name, "question": f"{name}?"}
        (in_tmp / "data" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return in_tmp


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_can_be_run(
    example: Path, with_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "run", "--config", str(example), "--dry-run"]) == 0
    stages = read_recipe(example, known_options(), several=("collect",)).tables
    assert capsys.readouterr().out.count("to do") == sum(map(len, stages.values()))


def smaller(example: str, **changes: dict[str, Any]) -> str:
    """Return an example with other settings."""
    recipe = yaml.safe_load((EXAMPLES / example).read_text())
    for stage, settings in changes.items():
        recipe[stage] |= settings
    return yaml.safe_dump(recipe)


@pytest.mark.skipif(not DATA.is_dir(), reason="ZS_DATA does not name a folder of real data")
def test_real_files_go_from_end_to_end(in_tmp: Path) -> None:
    (in_tmp / "data").symlink_to(DATA.resolve())
    tuning = {"max_steps": 4, "eval_every": 4, "eval_rows": 8, "threads": 1}
    measuring = {"num_requests": 4, "document_tokens": 8, "threads": 1}
    assert run(smaller("real_files.yaml", sft=tuning, measure=measuring)) == 0
    folder = in_tmp / "runs" / "tuning-real-files"
    rows = [row for _, row in read_labelled(folder / "labelled.jsonl")]
    assert {row.question.data_source for row in rows} == {
        "search_trajectories",
        "hotpot_distractor",
    }
    assert min(sum(row.label == name for row in rows) for name in ("useful", "noisy")) > 100
    metrics = json.loads((folder / "sft/model/metrics.json").read_text())
    assert metrics["rates"]["useful_hit"]["real"]["count"] > 0
    assert "useful: gives the answer" in (folder / "sft/model/README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_run_killed_at_any_time_ends_as_one_that_was_not(
    in_tmp: Path, runs: tuple[Path, Path, list[Any]]
) -> None:
    (in_tmp / "run.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "agents.cli.main", "tune", "run", "--config", "run.yaml"]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    rng, num_kills, code = random.Random(0), 0, None
    while code != 0:
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the imports are behind it
            time.sleep(rng.uniform(0, 0.5 + num_kills))
            process.kill()
        code = process.returncode
        assert code in (0, -signal.SIGKILL)
        num_kills += code != 0
    assert num_kills >= 3
    found, expected = snapshot(in_tmp / "run"), snapshot(runs[1] / "run")
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []

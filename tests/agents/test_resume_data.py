"""A run goes on with the data that it was started with, or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agents.callbacks import TranscriptCallback
from agents.cli.data_digests import check_same_data, data_digests, joined
from agents.cli.main import main
from agents.cli.train import Train
from agents.cli.train_resume import check_data, read_run
from zs_env.models import model_folder

TINY = (
    "--policy base --steps 3 --num-questions 2 --group-size 2 --max-turns 2 --eval-every 0 "
    "--threads 1 --log-formats csv"
).split()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a corpus and questions, and keep indices there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZS_CACHE", str(tmp_path / "cache"))
    write_corpus("It is red.")
    write_questions("Mars")
    return tmp_path


def write_corpus(text: str) -> None:
    rows = [{"title": "Mars", "text": text}, {"title": "Danube", "text": "It is a river."}]
    Path("corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_questions(answer: str) -> None:
    rows = [{"question": f"Which planet is red, {i}?", "answers": [answer]} for i in range(4)]
    Path("q.jsonl").write_text("\n".join(map(json.dumps, rows)))


def break_off(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """Begin a run that dies in its second update."""

    def die(_: Any, trainer: Any, *__: Any) -> None:
        if trainer.num_updates_done == 2:
            raise SystemExit(9)

    options = [*TINY, "--engine", engine, "--questions", "q.jsonl", "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(TranscriptCallback, "on_update_end", die)
        with pytest.raises(SystemExit):
            main(["train", *options])


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_changed_questions_or_corpus_are_refused_and_the_same_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_off(monkeypatch, "bm25:corpus.jsonl")
    told = json.loads(Path("run/config.json").read_text())
    was = told["questions_sha256"]["q.jsonl"]
    assert told["engine_sha256"].keys() == {"corpus.jsonl"}

    write_questions("Venus")
    line = refusal(capsys)
    now = data_digests("q.jsonl", "")["questions_sha256"]["q.jsonl"]
    assert "`questions` must be those that the run started with" in line
    assert f"q.jsonl has changed: its SHA-256 was {was[:12]}… and is {now[:12]}…" in line
    write_questions("Mars")

    write_corpus("It is green.")
    assert "`engine` must be" in (line := refusal(capsys))
    assert "but corpus.jsonl has changed" in line
    write_corpus("It is red.")

    assert main(["train", "--resume", "run"]) == 0
    again = json.loads(Path("run/config.json").read_text())
    assert again["questions_sha256"] == told["questions_sha256"]


def test_run_of_an_older_version_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(monkeypatch, "bm25:corpus.jsonl")
    file = Path("run/config.json")
    description = json.loads(file.read_text())
    del description["questions_sha256"], description["engine_sha256"]
    file.write_text(json.dumps(description))
    write_questions("Venus")
    assert main(["train", "--resume", "run"]) == 0
    assert json.loads(file.read_text())["questions_sha256"]


def write_run(engine: str) -> Train:
    """Write what a run's folder tells of it, without training."""
    config = Train(engine=engine, questions="q.jsonl, miniwiki", out="run")
    Path("run").mkdir()
    options = {k: v for k, v in vars(config).items() if k not in ("resume", "recipe", "dry_run")}
    told = {"config": options, "start_weights_sha256": "", **data_digests(config.questions, engine)}
    Path("run/config.json").write_text(json.dumps(told))
    Path("run/metrics.jsonl").touch()
    return config


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("engine", ["simulator:sim", "cached:replies.sqlite#simulator:sim"])
def test_simulator_whose_files_changed_is_refused(engine: str, name: str) -> None:
    shutil.copytree(model_folder("simulator-tiny"), "sim")
    config = write_run(engine)
    check_data(config, read_run(Path("run")))
    with Path("sim", name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ValueError, match=r"`engine` must be .* but sim has changed"):
        check_data(config, read_run(Path("run")))


def test_template_of_a_simulator_on_a_server_that_changed_is_refused() -> None:
    Path("mine.jinja").write_text("Find {{ query }}")
    config = write_run("simulator:http://127.0.0.1:1/v1?prompt=mine.jinja")
    Path("mine.jinja").write_text("Find no {{ query }}")
    with pytest.raises(ValueError, match=r"but mine.jinja has changed"):
        check_data(config, read_run(Path("run")))


def test_dense_retrieval_is_told_by_corpus_and_every_file_of_its_model() -> None:
    Path("encoder", "1_Pooling").mkdir(parents=True)
    engine = "dense:corpus.jsonl?model=encoder"
    told = data_digests("miniwiki", engine)["engine_sha256"]
    assert told.keys() == {"corpus.jsonl", "encoder"}
    Path("encoder", "1_Pooling", "config.json").write_text("{}")
    now = data_digests("miniwiki", engine)["engine_sha256"]
    assert now["encoder"] != told["encoder"]
    assert now["corpus.jsonl"] == told["corpus.jsonl"]


@pytest.mark.parametrize(
    "engine",
    [
        "",
        "world",
        "bm25",
        "my.module:engine",
        "retriever:http://127.0.0.1:1/retrieve",
        "bm25:nowhere.jsonl",
        "simulator:nowhere",
        "cached:replies.sqlite?mode=replay-strict#bm25:corpus.jsonl",
    ],
)
def test_nothing_is_told_of_an_engine_without_files_here(engine: str) -> None:
    assert data_digests("miniwiki,nq", engine) == {"questions_sha256": {}, "engine_sha256": {}}


def test_engine_that_is_not_asked_for_once_stays_known() -> None:
    old = {"engine_sha256": {"corpus.jsonl": "a" * 64}}
    new = data_digests("q.jsonl", "")
    check_same_data(old, new)
    assert joined(old, new) == {**new, **old}


def test_evaluation_tells_its_files() -> None:
    options = "--num-questions 1 --max-turns 1 --max-new-tokens 4 --threads 1".split()
    files = "--questions q.jsonl --engine bm25:corpus.jsonl --json result.json".split()
    assert main(["evaluate", *options, *files]) == 0
    result = json.loads(Path("result.json").read_text())
    assert data_digests("q.jsonl", "bm25:corpus.jsonl").items() <= result.items()


@pytest.mark.parametrize("engine", ["simulator:some/sim", "dense:corpus.jsonl?model=some/sim"])
def test_model_of_the_hub_is_told_by_its_commit(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, commit = tmp_path / "models--some--sim", "a" * 40
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots").mkdir()
    shutil.copytree(model_folder("simulator-tiny"), home / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert data_digests("miniwiki", engine)["engine_sha256"]["some/sim"] == commit

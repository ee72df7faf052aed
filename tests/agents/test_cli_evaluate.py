import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.cli.evaluate import Evaluate, taken_from_run
from agents.cli.main import main, parse
from agents.cli.options import load_engine, load_policy, load_questions, sample
from zs_env.search.world import WorldSearchEngine

SMALL = "--engine world --num-questions 20 --max-turns 3 --threads 1".split()


def evaluate(folder: Path, *options: str) -> dict[str, Any]:
    file = folder / "result.json"
    assert main(["evaluate", *SMALL, "--json", str(file), *options]) == 0
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_json_has_the_headline_numbers_at_the_top(tmp_path: Path) -> None:
    result = evaluate(tmp_path)
    assert result["num_questions"] == 20
    for name in ("exact_match", "f1", "invalid_share"):
        assert 0 <= result[name] <= 1
    assert 0 <= result["searches"] <= 3
    low, high = result["exact_match_ci"]
    assert 0 <= low <= result["exact_match"] <= high <= 1
    assert sum(part["num_questions"] for part in result["by_hops"].values()) == 20
    assert result["config"]["engine"] == "world"
    assert {"versions", "miniwiki", "weights_sha256"} <= result.keys()


def test_same_options_give_the_same_result(tmp_path: Path) -> None:
    assert evaluate(tmp_path, "--noise", "0.5") == evaluate(tmp_path, "--noise", "0.5")


def test_episodes_are_written_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "new" / "episodes.jsonl"
    result = evaluate(tmp_path, "--episodes", str(file))
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({episode["question_id"] for episode in episodes}) == 20
    assert result["exact_match"] == sum(e["exact_match"] for e in episodes) / 20


def test_table_shows_hops_and_invalid_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "invalid" in shown
    assert [line.split()[0] for line in shown.splitlines() if "–" in line] == ["1", "2", "all"]
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("engine", ["bm25", "empty"])
def test_noise_that_the_engine_cannot_make_is_told_and_not_reported(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(tmp_path, "--policy", "skill", "--engine", engine, "--noise", "0.5")
    shown = capsys.readouterr().out
    assert shown.count(f"warning: {engine} makes no noise") == 1
    assert "noise 0.5" not in shown
    assert "searched again" not in shown
    assert result["searched_again_share"] is None
    assert result["config"]["noise"] == 0.5


@pytest.mark.parametrize(("engine", "noise"), [("world", "0.5"), ("bm25", "0")])
def test_nothing_is_told_of_noise_that_comes_as_asked(
    engine: str, noise: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tmp_path, "--engine", engine, "--noise", noise)
    shown = capsys.readouterr().out
    assert "makes no noise" not in shown
    assert f"noise {noise}" in shown


PLAYED = {"prompt": "zerosearch", "max_turns": 3, "top_k": 2, "max_new_tokens": 16}


@pytest.fixture
def make_run(tmp_path: Path, make_tiny_model: Any, tiny_tokenizer: Any) -> Callable[..., str]:
    def make(**config: Any) -> str:
        folder = tmp_path / "run"
        make_tiny_model().save_pretrained(folder / "checkpoint")
        tiny_tokenizer.save_pretrained(folder / "checkpoint")
        described = {"config": config, "start_weights_sha256": "0"}
        (folder / "config.json").write_text(json.dumps(described))
        return str(folder)

    return make


def read_evaluate(*options: str) -> Evaluate:
    command = parse(["evaluate", *options])
    assert isinstance(command, Evaluate)
    return command


def played(command: Evaluate) -> dict[str, Any]:
    return {name: getattr(command, name) for name in PLAYED}


def test_policy_of_a_run_plays_as_it_was_trained(
    make_run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    options = f"--policy {make_run(**PLAYED)} --engine world --num-questions 2 --threads 1"
    assert main(["evaluate", *options.split(), "--json", str(file)]) == 0
    config = json.loads(file.read_text())["config"]
    assert {name: config[name] for name in PLAYED} == PLAYED
    shown = " ".join(capsys.readouterr().out.split())
    taken = "prompt 'zerosearch', max_turns 3, top_k 2, max_new_tokens 16"
    assert f"as trained: {taken}" in shown


def test_option_that_is_given_wins_over_the_runs(make_run: Callable[..., str]) -> None:
    # 6 is the default, and given all the same.
    command = read_evaluate("--policy", make_run(**PLAYED), "--max-turns", "6", "--top-k=5")
    assert played(command) == PLAYED | {"max_turns": 6, "top_k": 5}
    [told] = taken_from_run(command)
    assert told == "as trained: prompt 'zerosearch', max_new_tokens 16"


@pytest.mark.parametrize("name", ["best", "checkpoint"])
def test_models_in_a_runs_folder_play_as_they_were_trained(
    name: str, make_run: Callable[..., str]
) -> None:
    command = read_evaluate("--policy", f"{make_run(**PLAYED)}/{name}")
    assert played(command) == PLAYED


def test_model_folder_and_shipped_policy_keep_the_defaults(
    make_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Path(make_run(**PLAYED))
    monkeypatch.chdir(tmp_path)
    (run / "checkpoint").rename(tmp_path / "model")
    run.rename("base")
    for policy in ("model", str(tmp_path / "model"), "base"):
        command = read_evaluate("--policy", policy)
        assert played(command) == played(Evaluate())
        assert taken_from_run(command) == []


def test_run_in_a_preset_is_played_with_the_presets_prompt_and_documents(
    make_run: Callable[..., str],
) -> None:
    usual = played(Evaluate()) | {"max_turns": 4}
    folder = make_run(**usual, env_id="envs_registry:ZeroSearch-NQ-v0")
    wanted = usual | {"prompt": "zerosearch", "top_k": 5}
    assert played(read_evaluate("--policy", folder)) == wanted


def test_run_of_a_version_that_knew_fewer_options_gives_what_it_has(
    make_run: Callable[..., str],
) -> None:
    command = read_evaluate("--policy", make_run(max_turns=4))
    assert played(command) == played(Evaluate()) | {"max_turns": 4}


def test_damaged_option_of_a_run_is_one_clear_line(
    make_run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--policy", make_run(top_k="two")]) == 2
    assert "config.json: `top_k` must be int, got 'two'" in capsys.readouterr().err


def test_question_file_and_engine_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moon_engine.py").write_text(
        "from zs_env import Document\n"
        "class Moon:\n"
        "    def search(self, requests):\n"
        "        return [[Document('Neil walked first.')] for _ in requests]\n"
        "engine = Moon()\n"
    )
    record = {"question": "Who walked first?", "answers": ["Neil"]}
    (tmp_path / "moon.jsonl").write_text(json.dumps(record) + "\n")
    result = evaluate(tmp_path, "--engine", "moon_engine:engine", "--questions", "moon.jsonl")
    assert result["num_questions"] == 1
    assert list(result["by_hops"]) == ["?"]


def test_sample_is_seeded_and_keeps_the_order() -> None:
    chosen = sample(range(1000), 50, seed=1)
    assert chosen == sample(range(1000), 50, seed=1) != sample(range(1000), 50, seed=2)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == 50


@pytest.mark.parametrize("num", [0, 5, 9])
def test_sample_of_all_is_everything(num: int) -> None:
    assert sample("abcde", num, seed=3) == tuple("abcde")


def test_sample_of_questions_mixes_their_kinds() -> None:
    questions = load_questions("miniwiki", "test", 100, seed=0)
    assert {question.num_hops for question in questions} == {1, 2}


def test_named_engine_is_built_once() -> None:
    engine = load_engine("world")
    assert isinstance(engine, WorldSearchEngine)
    assert load_engine("world") is engine


def test_folder_named_like_a_shipped_policy_can_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_tiny_model: Any, tiny_tokenizer: Any
) -> None:
    make_tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert load_policy("./base").model.config.hidden_size == 32


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_device_that_is_not_there_is_one_clear_line(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--num-questions", "1", "--device", device]) == 2
    said = capsys.readouterr().err
    assert f"`device` must be one that is there, got '{device}'" in said
    assert "Traceback" not in said

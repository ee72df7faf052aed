"""The whole promise of a cache: a training run is replayed without the model that it was made with.

The models are the shipped ones, and nothing is faked.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agents.cli.main import main
from agents.metrics import read_metrics
from zs_env.models import model_folder
from zs_env.search.store import ReplyStore

# Hot enough that episodes of a group differ, so that the policy does learn between updates.
SMALL = (
    "--policy skill --steps 3 --num-questions 2 --group-size 3 --max-turns 2 --temperature 1.5 "
    "--noise-start 0.5 --eval-every 3 --eval-questions 2 --threads 1"
).split()


def train(out: Path, engine: str, cache: Path, mode: str = "record", *options: str) -> int:
    cached = ["--engine", engine, "--cache", str(cache), "--cache-mode", mode]
    return main(["train", *SMALL, *cached, "--out", str(out), *options])


def without_times(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def num_requests(cache: Path) -> int:
    [summary] = ReplyStore(cache, read_only=True).summaries()
    return summary.num_requests


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path]:
    """Return a run, the name of its engine, whose model is gone, and the cache."""
    folder = tmp_path_factory.mktemp("recorded")
    model, cache = folder / "simulator", folder / "cache.sqlite"
    shutil.copytree(model_folder("simulator"), model)
    engine = f"simulator:{model}"
    assert train(folder / "run", engine, cache) == 0
    shutil.rmtree(model)
    return folder / "run", engine, cache


def test_run_is_replayed_exactly_without_the_simulators_weights(
    recorded: tuple[Path, str, Path], tmp_path: Path
) -> None:
    run, engine, cache = recorded
    content = cache.read_bytes()
    assert train(tmp_path / "again", engine, cache, "replay-strict") == 0
    transcripts = (tmp_path / "again" / "transcripts.jsonl").read_bytes()
    assert transcripts == (run / "transcripts.jsonl").read_bytes()
    assert without_times(tmp_path / "again") == without_times(run)
    assert cache.read_bytes() == content
    assert b'"kind": "search"' in transcripts
    assert sum(row["train/grad_norm"] > 0 for row in read_metrics(run)) >= 2
    assert num_requests(cache) >= 12


def test_run_of_another_seed_is_refused_in_one_line(
    recorded: tuple[Path, str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, engine, cache = recorded
    assert train(tmp_path / "run", engine, cache, "replay-strict", "--seed", "1") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(cache) in line
    assert "does not hold the reply" in line


def test_model_that_moved_answers_from_the_cache(
    recorded: tuple[Path, str, Path], tmp_path: Path
) -> None:
    run, _, cache = recorded
    num = num_requests(cache)
    moved = shutil.copytree(model_folder("simulator"), tmp_path / "moved")
    assert train(tmp_path / "again", f"simulator:{moved}", cache) == 0
    assert read_metrics(tmp_path / "again")[-1]["rollout/f1"] == read_metrics(run)[-1]["rollout/f1"]
    assert num_requests(cache) == num


def test_run_that_goes_on_from_a_checkpoint_is_replayed_too(
    recorded: tuple[Path, str, Path], tmp_path: Path
) -> None:
    run, _, _ = recorded
    world = tmp_path / "world.sqlite"
    again = ["--policy", str(run), "--steps", "1"]
    assert train(tmp_path / "first", "world", world, "record", *again) == 0
    assert train(tmp_path / "second", "world", world, "replay-strict", *again) == 0
    assert without_times(tmp_path / "second") == without_times(tmp_path / "first")
    config = json.loads((tmp_path / "second" / "config.json").read_text())["config"]
    assert (config["cache"], config["cache_mode"]) == (str(world), "replay-strict")

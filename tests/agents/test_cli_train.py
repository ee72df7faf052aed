import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.algorithms.grpo import GRPO
from agents.cli.main import main
from agents.cli.train import Train
from agents.metrics import read_metrics
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer_config import TrainerConfig
from zs_env.search.curriculum import ExponentialCurriculum

TINY = (
    "--engine world --steps 2 --num-questions 4 --group-size 4 --eval-questions 8 --eval-every 2 "
    "--max-turns 3 --threads 1"
).split()


def train(out: Path, *options: str) -> Path:
    assert main(["train", *TINY, "--out", str(out), *options]) == 0
    return out


def without_times(file: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "first")


@pytest.mark.parametrize("kind", [TrainerConfig, GRPO])
def test_defaults_are_those_of_the_library(kind: Any) -> None:
    ours, theirs = Train(), kind()
    shared = {field.name for field in fields(kind)} & {field.name for field in fields(Train)}
    assert len(shared) >= 2
    assert all(getattr(ours, name) == getattr(theirs, name) for name in shared)


def test_default_curriculum_is_that_of_the_library() -> None:
    config = Train()
    ours = ExponentialCurriculum(config.noise_start, config.noise_end, config.noise_base)
    assert ours == ExponentialCurriculum()


def test_default_folder_names_algorithm_engine_and_seed() -> None:
    assert Train(engine="world", seed=3).out_dir == Path("runs/grpo-world-seed3")


def test_run_folder_holds_everything(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint",
        "config.json",
        "learning_curve.png",
        "metrics.jsonl",
        "tensorboard",
        "transcripts.jsonl",
    ]


def test_metrics_have_one_row_an_update_counted_from_one(run: Path) -> None:
    assert [row["step"] for row in read_metrics(run)] == [1, 2]


def test_metrics_hold_the_curriculum_and_the_evaluation(run: Path) -> None:
    first, last = read_metrics(run)
    assert (first["rollout/noise"], last["rollout/noise"]) == (0.0, 0.5)
    for row in (first, last):
        low, high = (row[f"eval/world/exact_match_{end}"] for end in ("low", "high"))
        assert 0 <= low <= row["eval/world/exact_match"] <= high <= 1
        assert {"eval/world/f1", "eval/world/searches", "time/eval_s"} <= row.keys()


def test_tensorboard_shows_the_rows(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("rollout/f1")] == [1, 2]


def test_config_tells_options_versions_world_and_weights(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["num_questions"] == 4
    assert config["config"]["seed"] == 0
    assert {"zs-env", "torch", "transformers"} <= config["versions"].keys()
    assert len(config["miniwiki"]["checksum"]) == len(config["start_weights_sha256"]) == 64


def test_transcripts_hold_whole_episodes(run: Path) -> None:
    records = [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records] == [1, 1, 1, 2, 2, 2]
    for record in records:
        assert record["question"].endswith("?")
        assert record["question"][0].isupper()
        assert record["golden_answers"]
        assert 1 <= len(record["turns"]) <= 3
        assert record["turns"][0].keys() == {"action", "kind", "noisy", "observation"}


def test_checkpoint_loads_as_a_policy(run: Path) -> None:
    assert CausalLMPolicy.load(run).model.num_parameters() > 0


def test_same_seed_gives_the_same_run(run: Path, tmp_path: Path) -> None:
    again = train(tmp_path / "again")
    assert without_times(again / "metrics.jsonl") == without_times(run / "metrics.jsonl")
    transcripts = (again / "transcripts.jsonl").read_bytes()
    assert transcripts == (run / "transcripts.jsonl").read_bytes()


def test_other_seed_gives_another_run(run: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "other", "--seed", "1")
    assert (other / "transcripts.jsonl").read_bytes() != (run / "transcripts.jsonl").read_bytes()


def test_run_goes_on_from_a_run_folder_and_replaces_it(tmp_path: Path) -> None:
    out = train(tmp_path / "run", "--steps", "1", "--eval-every", "0")
    train(out, "--steps", "1", "--eval-every", "0", "--policy", str(out))
    assert len(read_metrics(out)) == 1
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert not [key for key in read_metrics(out)[0] if key.startswith("eval/")]


def test_engine_that_is_a_url_makes_one_folder_of_runs() -> None:
    config = Train(engine="simulator:http://localhost:8000/v1#model")
    assert config.out_dir == Path("runs/grpo-simulator-http-localhost-8000-v1-model-seed0")

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.algorithms.grpo import GRPO
from agents.batch import Batch
from agents.cli.main import main
from agents.cli.train import Train
from agents.learner import Learner, NonFiniteLossError
from agents.metrics import read_metrics
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory
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


def test_noise_that_the_engine_cannot_make_is_told_once_and_not_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = "--noise-start 0.5 --noise-end 0.5 --policy skill --steps 1 --eval-every 0".split()
    out = train(tmp_path / "run", "--engine", "bm25", *noise)
    shown = capsys.readouterr().out
    assert shown.count("warning: bm25 makes no noise") == 1
    assert "noise 0.50" not in shown
    [row] = read_metrics(out)
    assert row["rollout/noise"] == row["rollout/noisy_share"] == 0
    assert row["rollout/searches"] > 0


@pytest.mark.parametrize("kind", [TrainerConfig, GRPO])
def test_defaults_are_those_of_the_library(kind: Any) -> None:
    ours, theirs = Train(), kind()
    shared = {field.name for field in fields(kind)} & {field.name for field in fields(Train)}
    assert len(shared) >= 2
    # None leaves it to the algorithm.
    assert all(getattr(ours, name) in (None, getattr(theirs, name)) for name in shared)


def test_default_curriculum_is_that_of_the_library() -> None:
    config = Train()
    ours = ExponentialCurriculum(config.noise_start, config.noise_end, config.noise_base)
    assert ours == ExponentialCurriculum()


def test_default_folder_names_algorithm_engine_and_seed() -> None:
    assert Train(engine="world", seed=3).out_dir == Path("runs/grpo-world-seed3")


def test_run_folder_holds_everything(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "best",
        "checkpoint",
        "checkpoints",
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
    assert config["algorithm"] == {"kind": "GRPO", **asdict(GRPO())}
    assert {"zs-env", "torch", "transformers"} <= config["versions"].keys()
    assert len(config["miniwiki"]["checksum"]) == len(config["start_weights_sha256"]) == 64


def test_transcripts_hold_whole_episodes(run: Path) -> None:
    records = [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]
    assert [r["update"] for r in records if r["split"] == "train"] == [1, 1, 1, 2, 2, 2]
    for record in records:
        assert record["question"].endswith("?")
        assert record["question"][0].isupper()
        assert record["golden_answers"]
        assert 1 <= len(record["turns"]) <= 3
        assert record["turns"][0].keys() == {"action", "kind", "noisy", "observation"}
        tokens, text = record["tokens"], "".join(record["tokens"]["pieces"])
        assert record["question"] in text
        assert all(turn["action"] in text for turn in record["turns"])
        assert len(tokens["pieces"]) == len(tokens["mask"])
        assert len(tokens["logprobs"]) == tokens["mask"].count("1") > 0
        assert all(logprob <= 0 for logprob in tokens["logprobs"])


def test_transcripts_hold_the_advantages_that_were_learned_from(run: Path) -> None:
    records = [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]
    for record in records:
        advantages, logprobs = (record["tokens"][name] for name in ("advantages", "logprobs"))
        if record["split"] == "train":
            assert len(advantages) == len(logprobs)
        else:
            assert advantages is None


def test_transcripts_ask_the_same_held_out_questions_at_each_evaluation(run: Path) -> None:
    records = [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]
    asked: dict[int, list[str]] = {}
    for record in records:
        if record["split"] == "validation":
            asked.setdefault(record["update"], []).append(record["question_id"])
    assert list(asked) == [1, 2]
    assert asked[1] == asked[2]
    assert len(set(asked[1])) == len(asked[1]) > 0


def test_checkpoint_loads_as_a_policy(run: Path) -> None:
    assert CausalLMPolicy.load(run).model.num_parameters() > 0


def test_best_and_last_weights_load_as_policies(run: Path) -> None:
    rates = {row["step"]: row["eval/world/exact_match"] for row in read_metrics(run)}
    best = json.loads((run / "best" / "validation.json").read_text())
    assert best["value"] == rates[best["update"]] == max(rates.values())
    for name in ("best", "checkpoint"):
        assert CausalLMPolicy.load(run / name).model.num_parameters() > 0


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


def test_algorithm_takes_options_that_the_command_line_overrides(tmp_path: Path) -> None:
    options = ["--algorithm", "grpo?num_epochs=2&kl_coef=0.5", "--kl-coef", "0", "--steps", "1"]
    out = train(tmp_path / "run", *options)
    described = json.loads((out / "config.json").read_text())["algorithm"]
    assert (described["num_epochs"], described["kl_coef"]) == (2, 0.0)
    assert "train/kl" not in read_metrics(out)[0]


def test_questions_of_ones_own_are_asked_in_training_and_evaluation(tmp_path: Path) -> None:
    questions = tmp_path / "mine.jsonl"
    records = [{"id": f"q{i}", "question": f"Who is {i}?", "answers": ["x"]} for i in range(3)]
    questions.write_text("".join(json.dumps(record) + "\n" for record in records))
    out = train(tmp_path / "run", "--questions", str(questions), "--steps", "1")
    transcripts = (out / "transcripts.jsonl").read_text().splitlines()
    assert {json.loads(line)["question_id"] for line in transcripts} <= {"q0", "q1", "q2"}
    assert read_metrics(out)[0]["eval/world/exact_match"] == 0


def test_logs_are_written_in_the_formats_named(tmp_path: Path) -> None:
    out = train(tmp_path / "run", "--log-formats", "csv", "--steps", "1", "--eval-every", "0")
    assert not (out / "tensorboard").exists()
    [header, row] = (out / "metrics.csv").read_text().splitlines()
    assert len(header.split(",")) == len(row.split(",")) == len(read_metrics(out)[0])


def test_new_run_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    out = train(tmp_path / "run", "--log-formats", "csv", "--seed", "1")
    (out / "failed").mkdir()
    train(out, "--steps", "1", "--eval-every", "0")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["000001"]
    assert not {"best", "metrics.csv", "failed"} & {path.name for path in out.iterdir()}


def test_folder_with_other_checkpoints_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert main(["train", *TINY, "--out", str(tmp_path)]) == 2
    assert "whose checkpoints is not a run's" in capsys.readouterr().err


def test_weights_that_have_diverged_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The losses were finite: nothing is known of the new weights before they sample."""
    run = str(tmp_path / "run")
    options = ("--policy", "skill", "--temperature", "1.5", "--eval-every", "0")
    assert main(["train", *TINY, *options, "--learning-rate", "1e20", "--out", run]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "logits that are no finite numbers" in line
    assert main(["evaluate", "--policy", run, "--engine", "world", "--num-questions", "2"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "logits that are no finite numbers" in line


def test_loss_that_is_not_finite_leaves_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Learner, trajectories: list[Trajectory], *rest: float) -> dict[str, float]:
        raise NonFiniteLossError("the loss is nan", Batch.from_trajectories(trajectories))

    monkeypatch.setattr(Learner, "update", fail)
    assert main(["train", *TINY, "--out", str(tmp_path / "run")]) == 2
    file = tmp_path / "run" / "failed" / "update-000001.safetensors"
    assert load_file(file)["rewards"].shape == (16,)
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"zerosearch: error: update 1 failed: the loss is nan; its batch is in {file}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--group-size 1", "`group_size` must be at least 2 for GRPO, which compares"),
        ("--log-formats excel", "`log_formats` must be among json, csv, "),
        ("--device warp", "`device` must be one that is there, got 'warp'"),
        ("--keep-checkpoints 0", "`keep_checkpoints` must be at least 1, got 0"),
        ("--questions none.jsonl", "`questions` must be "),
        ("--split dev", "`split` must be one of train, validation, test, got 'dev'"),
        ("--eval-split dev", "`split` must be one of train, validation, test, got 'dev'"),
        ("--algorithm grpo?speed=9", "`speed` is no option of grpo"),
        ("--clip-range -1", "`clip_range` must be 0 or more, got -1.0"),
    ],
)
def test_mistake_is_told_before_anything_is_written(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", *TINY, *options.split(), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()

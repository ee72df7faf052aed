import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from agents.callbacks import (
    Best,
    CheckpointCallback,
    EvaluateCallback,
    MetricsCallback,
    PlotCallback,
    ProgressBarCallback,
    ProgressCallback,
    TranscriptCallback,
    check_files,
    evaluation_metrics,
    is_due,
    save_policy,
    sparkline,
)
from agents.checkpoint import Checkpoint, newest_checkpoint
from agents.distributed import ALONE
from agents.evaluate import EpisodeRecord, Evaluation
from agents.learner import LearnerState
from agents.metrics import Logger, read_metrics
from agents.rollout import Rollout
from agents.trajectory import Trajectory, Turn

NO_EPISODES = Rollout([], 0.0, 0.0)


class FakePolicy:
    """Its weights are a word, which it saves as a file."""

    def __init__(self, word: str) -> None:
        self.word = word

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "weights").write_text(self.word)


def make_trainer(update: int, word: str = "old", last: int = 9) -> Any:
    """Return what callbacks look at of a trainer: its weights and its optimiser are that word."""
    env = SimpleNamespace(metadata={"prompt": "Question: {question}\n"})
    learner: LearnerState = {
        "modules": {"policy": {word: torch.ones(1)}},
        "optimizer": {"state": {}, "param_groups": []},
    }
    return SimpleNamespace(
        processes=ALONE,
        num_updates_done=update,
        last_update=last,
        policy=FakePolicy(word),
        env=env,
        checkpoint=lambda more: Checkpoint(learner, {"update": update, **more}, {}),
    )


def make_evaluation(*scores: float) -> Evaluation:
    return Evaluation(
        tuple(
            EpisodeRecord(
                str(i), "miniwiki", 1, score, score, score, 2, 3, 0, 0, 0, "x", "answered"
            )
            for i, score in enumerate(scores)
        )
    )


def make_trajectory(group: int, question: str) -> Trajectory:
    trajectory = Trajectory(group=group, question_id=f"id-{group}")
    prompt = [ord(letter) for letter in f"Question: {question}\n"]
    trajectory.observe(prompt)
    trajectory.act([ord("a")], [-0.1])
    trajectory.turns.append(Turn("a", "answer", False, 1.0, len(prompt), len(prompt) + 1))
    trajectory.outcome = {
        "answer": "a",
        "golden_answers": ("a", "b"),
        "exact_match": 1.0,
        "f1": 1.0,
        "stop_reason": "answered",
    }
    return trajectory


def decode(token_ids: list[int]) -> str:
    return "".join(map(chr, token_ids))


def make_metrics(f1: float = 0.25, **more: float) -> dict[str, float]:
    names = "reward exact_match searches invalid_share noise".split()
    seconds = {f"time/{name}_s": 1.0 for name in ("policy", "engine", "update", "step")}
    return {"rollout/f1": f1, **{f"rollout/{name}": 0.5 for name in names}, **seconds, **more}


def test_nothing_is_due_never() -> None:
    assert not any(is_due(update, every=0, last=5) for update in range(1, 6))


def test_run_of_one_update_is_due_once() -> None:
    assert is_due(1, every=10, last=1)


def test_metrics_go_to_the_row_of_the_update(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        callback = MetricsCallback(writer)
        for update in (1, 2):
            callback.on_update_end(make_trainer(update), NO_EPISODES, {"train/loss": float(update)})
        assert read_metrics(tmp_path) == [
            {"step": 1, "train/loss": 1.0},
            {"step": 2, "train/loss": 2.0},
        ]


def test_evaluation_is_added_to_the_metrics_when_due() -> None:
    callback = EvaluateCallback("x", lambda policy: make_evaluation(1, 0), every=2)
    evaluated = []
    for update in range(1, 6):
        metrics: dict[str, float] = {}
        callback.on_update_end(make_trainer(update, last=5), NO_EPISODES, metrics)
        evaluated += [update] if "eval/x/exact_match" in metrics else []
    assert evaluated == [1, 2, 4, 5]


def test_evaluation_metrics_have_an_interval() -> None:
    metrics = evaluation_metrics("bm25", make_evaluation(1, 1, 0, 0))
    assert metrics["eval/bm25/exact_match"] == metrics["eval/bm25/f1"] == 0.5
    assert metrics["eval/bm25/searches"] == 2.0
    assert metrics["eval/bm25/exact_match_low"] < 0.5 < metrics["eval/bm25/exact_match_high"]


def write_transcripts(folder: Path, trajectories: list[Trajectory], num: int) -> list[Any]:
    callback = TranscriptCallback(folder, decode, num)
    callback.on_training_start(make_trainer(0))
    callback.on_update_end(make_trainer(1), Rollout(trajectories, 0.0, 0.0), {})
    return [json.loads(line) for line in (folder / "transcripts.jsonl").read_text().splitlines()]


def test_transcripts_come_from_different_groups(tmp_path: Path) -> None:
    groups = [7, 7, 3, 3, 5, 5]
    records = write_transcripts(tmp_path, [make_trajectory(g, f"Who is {g}?") for g in groups], 2)
    assert [record["question"] for record in records] == ["Who is 7?", "Who is 3?"]


def test_transcript_holds_the_episode(tmp_path: Path) -> None:
    [record] = write_transcripts(tmp_path, [make_trajectory(0, "Wer ist Zoë?")], 3)
    assert "".join(record.pop("tokens")["pieces"]) == "Question: Wer ist Zoë?\na"
    assert record == {
        "update": 1,
        "split": "train",
        "question_id": "id-0",
        "question": "Wer ist Zoë?",
        "turns": [{"action": "a", "kind": "answer", "noisy": False, "observation": ""}],
        "answer": "a",
        "golden_answers": ["a", "b"],
        "reward": 1.0,
        "exact_match": 1.0,
        "stop_reason": "answered",
    }


def test_same_questions_are_played_again_when_due(tmp_path: Path) -> None:
    asked = []

    def replay(policy: Any) -> list[Trajectory]:
        asked.append(policy.word)
        return [make_trajectory(0, "Held out?"), make_trajectory(1, "And this?")]

    callback = TranscriptCallback(tmp_path, decode, 1, replay=replay, replay_every=3)
    for update in (1, 2, 3, 4):
        rollout = Rollout([make_trajectory(0, "Who?")], 0.0, 0.0)
        callback.on_update_end(make_trainer(update, f"after {update}"), rollout, {})
    lines = (tmp_path / "transcripts.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert asked == ["after 1", "after 3"]
    held_out = [r["update"] for r in records if r["split"] == "validation"]
    assert held_out == [1, 1, 3, 3]


def test_transcripts_of_an_earlier_run_are_dropped(tmp_path: Path) -> None:
    for _ in range(2):
        records = write_transcripts(tmp_path, [make_trajectory(0, "Who?")], 1)
    assert len(records) == 1


def test_transcripts_of_a_run_that_goes_on_end_with_its_last_update(tmp_path: Path) -> None:
    callback = TranscriptCallback(tmp_path, decode, 1)
    file = tmp_path / "transcripts.jsonl"
    rollout = Rollout([make_trajectory(0, "Who?")], 0.0, 0.0)
    for update in (1, 2, 3):
        callback.on_update_end(make_trainer(update), rollout, {})
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"update": 4, "quest')
    TranscriptCallback(tmp_path, decode, 1).on_training_start(make_trainer(3))
    assert file.read_bytes() == whole
    TranscriptCallback(tmp_path, decode, 1).on_training_start(make_trainer(2))
    assert [json.loads(line)["update"] for line in file.read_text().splitlines()] == [1, 2]


def numbers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_are_exported_when_a_checkpoint_is_due(tmp_path: Path) -> None:
    callback = CheckpointCallback(tmp_path, every=2)
    for update, word in ((1, "first"), (2, "second"), (3, "third")):
        callback.on_update_end(make_trainer(update, word), NO_EPISODES, {})
    assert (tmp_path / "checkpoint" / "weights").read_text() == "second"
    assert numbers(tmp_path) == ["checkpoint", "checkpoints"]
    assert numbers(tmp_path / "checkpoints") == ["000001", "000002"]


def test_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    callback = CheckpointCallback(tmp_path, keep=3)
    for update in range(1, 6):
        callback.on_update_end(make_trainer(update), NO_EPISODES, {})
    assert numbers(tmp_path / "checkpoints") == ["000003", "000004", "000005"]


def test_training_that_stops_early_is_saved_once_more(tmp_path: Path) -> None:
    callback = CheckpointCallback(tmp_path, every=4)
    for update, word in ((1, "first"), (2, "second"), (3, "third")):
        callback.on_update_end(make_trainer(update, word), NO_EPISODES, {})
    callback.on_training_end(make_trainer(3, "third"))
    assert (tmp_path / "checkpoint" / "weights").read_text() == "third"
    assert numbers(tmp_path / "checkpoints") == ["000001", "000003"]


def test_training_that_did_nothing_saves_nothing(tmp_path: Path) -> None:
    for done in (0, 5):
        callback = CheckpointCallback(tmp_path)
        callback.on_training_start(make_trainer(done))
        callback.on_training_end(make_trainer(done))
    assert numbers(tmp_path) == []


def test_first_of_the_best_weights_stay(tmp_path: Path) -> None:
    callback = CheckpointCallback(tmp_path, every=0, best_key="eval/x/exact_match")
    rates = {1: 0.2, 2: 0.5, 4: 0.5, 5: 0.1}
    for update in range(1, 6):
        metrics = {"eval/x/exact_match": rates[update]} if update in rates else {}
        callback.on_update_end(make_trainer(update, f"after {update}"), NO_EPISODES, metrics)
    assert (tmp_path / "best" / "weights").read_text() == "after 2"
    record = json.loads((tmp_path / "best" / "validation.json").read_text())
    assert record == {"update": 2, "key": "eval/x/exact_match", "value": 0.5}


def test_resumed_run_knows_what_was_best(tmp_path: Path) -> None:
    best = Best(7, "eval/x/exact_match", 0.6)
    callback = CheckpointCallback(tmp_path, best_key=best.key, best=best)
    callback.on_update_end(make_trainer(8), NO_EPISODES, {best.key: 0.6})
    assert not (tmp_path / "best").exists()
    kept = newest_checkpoint(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.state["best"] == {"update": 7, "key": best.key, "value": 0.6}


def test_checkpoint_tells_how_long_the_files_were(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("12345")
    CheckpointCallback(tmp_path).on_update_end(make_trainer(1), NO_EPISODES, {})
    kept = newest_checkpoint(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.state["files"] == {"metrics.jsonl": 5}
    check_files(tmp_path, kept.state["files"])
    (tmp_path / "metrics.jsonl").write_text("1234")
    with pytest.raises(ValueError, match=r"metrics\.jsonl must hold the 5 bytes .* got 4"):
        check_files(tmp_path, kept.state["files"])
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match="got 0"):
        check_files(tmp_path, kept.state["files"])


def test_failed_save_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    class Failing(FakePolicy):
        def save(self, folder: Path) -> None:
            super().save(folder)
            raise OSError("disk full")

    save_policy(FakePolicy("good"), tmp_path / "checkpoint")
    with pytest.raises(OSError, match="disk full"):
        save_policy(Failing("bad"), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "weights").read_text() == "good"
    save_policy(FakePolicy("better"), tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "weights").read_text() == "better"


def test_figure_is_drawn_when_due(tmp_path: Path) -> None:
    callback = PlotCallback(tmp_path, every=2)
    with Logger(tmp_path) as writer:
        MetricsCallback(writer).on_update_end(make_trainer(2), NO_EPISODES, {"rollout/f1": 0.5})
    callback.on_update_end(make_trainer(2), NO_EPISODES, {})
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_figure_is_drawn_where_training_stops(tmp_path: Path) -> None:
    with Logger(tmp_path) as writer:
        MetricsCallback(writer).on_update_end(make_trainer(3), NO_EPISODES, {"rollout/f1": 0.5})
    callback = PlotCallback(tmp_path, every=5)
    callback.on_update_end(make_trainer(3), NO_EPISODES, {})
    assert not (tmp_path / "learning_curve.png").exists()
    callback.on_training_end(make_trainer(3))
    assert (tmp_path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_bar_counts_what_was_done_before() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with ProgressBarCallback(console) as callback:
        callback.on_training_start(make_trainer(3, last=5))
        callback.on_update_end(make_trainer(4, last=5), NO_EPISODES, {})
    assert isinstance(console.file, io.StringIO)
    assert "4/5" in console.file.getvalue()


def show_progress(console: Console, num_updates: int, rows: list[dict[str, float]]) -> str:
    with ProgressCallback(console, num_updates, "world") as callback:
        for update, row in enumerate(rows, start=1):
            callback.on_update_end(make_trainer(update), NO_EPISODES, row)
        callback.on_training_end(make_trainer(update))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def evaluated(rate: float) -> dict[str, float]:
    key = "eval/world/exact_match"
    return {key: rate, f"{key}_low": rate - 0.1, f"{key}_high": rate + 0.1}


def test_progress_is_one_plain_line_an_update_elsewhere_than_on_a_terminal() -> None:
    rows = [make_metrics(0.25), make_metrics(0.75, **evaluated(0.5))]
    first, second = show_progress(Console(file=io.StringIO(), width=80), 10, rows).splitlines()
    assert first.startswith("update  1/10  F1 0.250  EM 0.500  searches 0.50  noise 0.50  1.0 s")
    assert second.endswith("held out: EM 0.500 [0.40, 0.60]")
    assert "\x1b" not in first + second


@pytest.mark.parametrize("is_terminal", [False, True])
def test_updates_that_learned_nothing_are_told_at_the_end(is_terminal: bool) -> None:
    rows = [make_metrics(0.0) | {"train/num_steps": number} for number in (0.0, 1.0, 0.0)]
    console = Console(file=io.StringIO(), width=80, force_terminal=is_terminal)
    assert "nothing to learn from in 2 of 3 updates: no episode" in show_progress(console, 3, rows)
    console = Console(file=io.StringIO(), width=80, force_terminal=is_terminal)
    assert "nothing to learn" not in show_progress(console, 3, rows[1:2])


def test_progress_on_a_terminal_shows_curves_and_the_last_evaluation() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    rows = [make_metrics(0.0, **evaluated(0.2)), make_metrics(1.0)]
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", show_progress(console, 2, rows))
    last = shown[shown.rindex("updates") :]
    assert "2/2" in last
    assert "▁█" in last
    assert "[0.10, 0.30]" in last


def test_sparkline_clips_what_is_out_of_range() -> None:
    assert sparkline([-1.0, 2.0], top=1.0) == "▁█"

"""Mistakes with `--policy-engine`: one line and exit code 2, and nothing written."""

import json
import socket

import pytest

from agents.cli.main import main
from agents.cli.train import Train
from agents.cli.train_setup import prepare, with_importance_cap

TINY = (
    "--engine world --steps 1 --num-questions 2 --group-size 2 --eval-every 0 --threads 1".split()
)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--policy-engine sglang", "`policy_engine` must be one of transformers, vllm"),
        ("--policy-engine vllm-server", "`policy_url` must be given with"),
        ("--policy-url http://localhost:1/v1", "`policy_url` must be left out without"),
        ("--policy-engine vllm?model=x", "options of `policy_engine` vllm are"),
        (
            "--policy-engine vllm-server --policy-url localhost",
            "`policy_url` must be like http://host",
        ),
        ("--importance-cap 0.5", "`importance_cap` must be 0 or at least 1, got 0.5"),
        ("--dry-run --policy-engine sglang", "`policy_engine` must be one of"),
    ],
)
def test_mistake_is_one_line(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *TINY, "--out", str(out), *options.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("zerosearch: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_dead_server_is_one_line(tmp_path, capsys):
    url, out = f"http://127.0.0.1:{closed_port()}/v1", tmp_path / "run"
    options = [*TINY, "--policy-engine", "vllm-server", "--policy-url", url, "--out", str(out)]
    assert main(["train", *options]) == 2
    said = capsys.readouterr().err
    assert f"one that can be used, got 'vllm-server': the vLLM server at {url}" in said
    assert "4 tries" in said
    assert said.count("\n") == 1
    assert not out.exists()


def test_missing_vllm_is_one_line(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *TINY, "--policy-engine", "vllm", "--out", str(out)]) == 2
    assert "this language model needs vLLM: pip install 'zs-env[vllm]'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "cap"),
    [
        ({}, 0.0),
        ({"policy_engine": "vllm"}, 2.0),
        ({"policy_engine": "vllm", "importance_cap": 0.0}, 0.0),
        ({"importance_cap": 3.0}, 3.0),
    ],
)
def test_cap_of_importance_weights_is_the_engines(options, cap):
    assert with_importance_cap(Train(**options)).importance_cap == cap


def test_policy_plays_its_own_episodes_by_default(tmp_path):
    config = Train(engine="world", num_questions=2, group_size=2, out=str(tmp_path / "run"))
    trainer = prepare(config).trainer
    assert trainer.sampler is None
    assert trainer.config.importance_cap == 0
    trainer.env.close()


def test_cap_with_transformers_is_logged_and_near_one(tmp_path):
    out = tmp_path / "run"
    assert main(["train", *TINY, "--importance-cap", "2", "--out", str(out)]) == 0
    [row] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert row["train/importance_mean"] == pytest.approx(1, abs=1e-4)
    assert row["train/importance_clipped_share"] == 0
    assert 0 < row["train/logprob_gap"] < 1e-4


class Engine:
    """Stands for an engine that was started."""

    def __init__(self):
        self.is_closed = False

    def close(self):
        self.is_closed = True


def test_engine_that_was_started_is_closed_where_training_cannot_begin(
    tmp_path, monkeypatch, capsys
):
    """It has a folder, and processes of its own."""
    started = []

    def load(*_):
        started.append(Engine())
        return started[-1]

    def refuse(*_):
        raise ValueError("no room")

    run = str(tmp_path / "run")
    assert main(["train", *TINY, "--out", run]) == 0
    monkeypatch.setattr("agents.cli.train_setup.load_sampler", load)
    assert main(["train", "--resume", run, "--policy", "skill"]) == 2
    assert "must be the weights that the run started from" in capsys.readouterr().err
    monkeypatch.setattr("agents.trainer.Learner", refuse)
    assert main(["train", *TINY, "--out", run]) == 2
    assert "no room" in capsys.readouterr().err
    assert [engine.is_closed for engine in started] == [True, True]

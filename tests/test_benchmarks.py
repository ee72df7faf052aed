"""Benchmarks run, at sizes that say nothing, and cost grows as it should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
PATIENCE = 500.0


def run(script, *options):
    """Return what a benchmark printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(**size):
    """Return the numbers of one point of the growth benchmark."""
    out = run("bench_growth.py", "--threads", "1", "--size", json.dumps(size))
    return json.loads(out.splitlines()[-1])


def test_cost_of_episodes_grows_in_proportion_at_most():
    few, many = (measured(episodes=n, turns=2, shown=24) for n in (32, 128))
    assert many["rollout_cpu_s"] < 4 * 1.5 * few["rollout_cpu_s"]
    assert many["update_cpu_s"] < 4 * 1.5 * few["update_cpu_s"]
    # What is kept of an episode's context: keys and values, of 4 layers with one head of 64.
    assert many["rollout_mb"] < 100


@pytest.mark.slow
def test_thousand_slots_run_in_one_process():
    found = measured(episodes=1024, turns=3, shown=40)
    assert found["peak_mb"] < 1500
    half = measured(episodes=512, turns=3, shown=40)
    assert found["rollout_cpu_s"] < 2 * 1.5 * half["rollout_cpu_s"]
    assert found["update_cpu_s"] < 2 * 1.5 * half["update_cpu_s"]


def test_gpu_benchmark_runs_on_a_cpu(tmp_path):
    run("bench_gpu.py", "--device", "cpu", "--sizes", "tiny", "--result", str(tmp_path / "gpu"))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"] is found["peak_tflops"] is None
    tiny = found["models"]["tiny"]
    assert tiny["decode"]["batch_8"]["tokens_per_second"] > 0
    assert tiny["update"]["share_of_peak"] is None
    assert found["shipped_models"]["step_s"] > 0


@pytest.mark.slow
def test_training_benchmark_compares_the_same_work(tmp_path):
    pytest.importorskip("trl")
    sizes = "--rounds 1 --num-questions 4 --group-size 4 --trl-batch-size 8".split()
    out = run("bench_train.py", "--policies", "skill", *sizes, "--result", str(tmp_path / "train"))
    found = json.loads((tmp_path / "train.json").read_text())["policies"]["skill"]
    assert found["loss_difference"] < 1e-4
    assert found["same_episodes"] >= 0.95
    lines = out.splitlines()[-4:]
    assert [line.partition(":")[0].split(",")[0] for line in lines] == [
        "vs TRL",
        "vs reference loop",
    ] * 2


@pytest.mark.slow
def test_waves_benchmark_runs(tmp_path):
    sizes = "--rounds 1 --num-questions 4 --latency 0.05".split()
    run("bench_waves.py", *sizes, "--result", str(tmp_path / "waves"))
    found = json.loads((tmp_path / "waves.json").read_text())["seconds"]
    assert found["elsewhere_0.05s"]["1_waves"]["speedup"] == 1


def test_sampler_benchmark_measures_nothing_without_vllm(tmp_path, monkeypatch):
    monkeypatch.delenv("ZS_VLLM_PYTHON", raising=False)
    result = tmp_path / "gap"
    out = run("bench_sampler_gap.py", "--result", str(result))
    assert out.startswith("nothing is measured: --vllm-python must name")
    assert not result.with_suffix(".json").exists()


def test_page_has_the_table_of_the_sampler_benchmark():
    found = json.loads((BENCHMARKS / "results" / "sampler_gap.json").read_text())
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for name, updates in found["updates"].items():
        gaps = [f"{row['train/logprob_gap']:.1e}".replace("e-0", "e-") for row in updates]
        assert f"| `{name}` | {' | '.join(gaps)} |" in page
        assert all(0 < row["train/logprob_gap"] < 1e-4 for row in updates)


@pytest.mark.vllm
def test_sampler_benchmark_runs(tmp_path):
    python = os.environ.get("ZS_VLLM_PYTHON")
    if not python:
        pytest.skip("ZS_VLLM_PYTHON names no interpreter with vLLM: make test-vllm")
    python = str(ROOT / python) if "/" in python else python
    run("bench_sampler_gap.py", "--vllm-python", python, "--result", str(tmp_path / "gap"))
    found = json.loads((tmp_path / "gap.json").read_text())["updates"]
    assert set(found) == {"vllm", "vllm-server"}
    gaps = [row["train/logprob_gap"] for rows in found.values() for row in rows]
    assert len(gaps) == 6
    assert max(gaps) < 1e-4


@pytest.mark.slow
def test_two_processes_are_compared_with_one(tmp_path):
    others = ("ppo", "dapo", "reinforce", "LoRA")
    size = ("--updates", "1", "--num-questions", "2", "--skip", *others)
    run("bench_processes.py", *size, "--result", str(tmp_path / "processes"))
    found = json.loads((tmp_path / "processes.json").read_text())
    assert list(found["differences"]) == ["grpo, 2"]
    assert found["differences"]["grpo, 2"]["same_episodes"]
    assert found["differences"]["grpo, 2"]["weight"] < 1e-4
    assert len(found["left_out"]) == 7

"""The benchmark that was recorded is what its page says, and what its file asks for."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def bench_table():
    spec = importlib.util.spec_from_file_location("bench_table", ROOT / "docs" / "bench_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_numbers_of_the_page_are_those_of_the_recorded_benchmark(bench_table):
    results = json.loads(bench_table.RECORD.read_text())
    page = bench_table.PAGE.read_text()
    assert bench_table.with_table(page, results) == page


def test_recorded_benchmark_is_that_of_the_example(bench_table):
    results = json.loads(bench_table.RECORD.read_text())
    example = yaml.safe_load((ROOT / "examples" / "benchmarks" / "miniwiki.yaml").read_text())
    for name in ("engines", "noise", "seeds", "num_questions"):
        assert results["config"][name] == example[name]
    labels = [next(iter(each)) if isinstance(each, dict) else each for each in example["agents"]]
    assert list(results["config"]["agents"]) == labels
    assert len(results["conditions"]) == len(labels) * 5
    assert all(each["num_episodes"] == 200 for each in results["conditions"])
    report = (bench_table.RECORD.parent / "report.md").read_text()
    assert all(f"| {label} |" in report for label in labels)

import json
from pathlib import Path

import pytest

from agents.audit import Check
from agents.cli.main import main

SMALL = "--engine world --num-questions 3 --group-size 2 --max-turns 3 --threads 1".split()


def test_table_has_a_row_a_check_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *SMALL]) == 0
    shown = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in shown if line.split()[:1] and line.split()[0] in list(Check)]
    assert [row[0] for row in rows] == list(Check)
    assert {row[-1] for row in rows} == {"0"}
    assert max(len(line.rstrip()) for line in shown) <= 90
    assert shown[-1] == "passed: what would be trained is what was sampled"


def test_json_has_counts_gaps_and_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    assert main(["audit", *SMALL, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["passed"] is True
    assert list(result["checks"]) == list(Check)
    assert all(check["num_checked"] > 0 for check in result["checks"].values())
    assert 0 < result["mean_logprob_gap"] <= result["max_logprob_gap"] < 1e-4
    assert result["violations"] == []
    assert result["config"]["engine"] == "world"
    assert {"versions", "weights_sha256"} <= result.keys()


def test_prompt_documents_and_several_sets_are_those_of_training(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    options = ["--questions", "miniwiki,miniwiki-hard", "--prompt", "zerosearch", "--top-k", "1"]
    sizes = []
    for more in ([], options):
        assert main(["audit", *SMALL, *more, "--json", str(file)]) == 0
        checks = json.loads(file.read_text())["checks"].values()
        sizes.append(max(check["num_checked"] for check in checks if check["unit"] == "tokens"))
    assert sizes[1] > 2 * sizes[0]  # the paper's prompt is long


def test_violation_gives_code_1_and_shows_spans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "audit.json"
    with pytest.raises(SystemExit) as exit_:
        main(["audit", *SMALL, "--tolerance", "1e-12", "--json", str(file)])
    assert exit_.value.code == 1
    assert "FAILED: " in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["passed"] is False
    first = result["violations"][0]
    assert first["check"] == "logprobs"
    assert first["text"]
    assert first["start"] < first["end"]
    assert result["checks"]["logprobs"]["num_violations"] == len(result["violations"])

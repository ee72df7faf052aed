"""`zerosearch tune label`."""

import json
import re
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.tuning.records import read_labelled

ROW = {
    "id": "1",
    "question": "Who directed the film about Orla?",
    "answers": ["Bo Lind"],
    "predicted": "Cy",
    "correct": False,
    "turns": [
        {"query": "Orla director", "documents": ["It is by Bo Lind."]},
        {"query": "Orla", "documents": ["Nothing."]},
    ],
}

MISTAKES = {
    "--output l.jsonl": "--input",
    "--input in.jsonl": "--output",
    "--input none.jsonl --output l.jsonl": "No such file or directory: 'none.jsonl'",
    "--input {tmp} --output l.jsonl": "Is a directory",
    "--input in.jsonl --output in.jsonl": "`output` must be a file of its own, got 'in.jsonl'",
    "--input in.jsonl --output l --report l": "`report` must be a file of its own, got 'l'",
    "--input in.jsonl --output {tmp}": "`output` must be a file that can be written",
    "--input in.jsonl --output l --rule most": "`rule` must be one of outcome, evidence, judge, ag",
    "--input in.jsonl --output l --rule judge": "`judge` must be given for the rule 'judge'",
    "--input in.jsonl --output l --grade sub": "`grade` must be one of em, f1, got 'sub'",
    "--input in.jsonl --output l --threshold 0": r"`threshold` must be in \(0, 1\], got 0.0",
    "--input in.jsonl --output l --test 1": r"`test` must be in \[0, 1\), got 1.0",
    "--input in.jsonl --output l --judge none": "`judge` must be simulator, .* a model folder or",
    "--input in.jsonl --output l --judge no:x": "`judge` must name a module that exists",
    "--input in.jsonl bad.jsonl --output l": "bad.jsonl:1: unknown kind of file",
    "--input in.jsonl --output l --judge judges:Mumbles": "in.jsonl:1: the judge 'judges:Mumbles'",
}

JUDGES = """
class Mumbles:
    def complete(self, prompts, seeds, params):
        return ["mm"] * len(prompts)

class Agrees:
    def complete(self, prompts, seeds, params):
        return ["Yes."] * len(prompts)
"""


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "judges.py").write_text(JUDGES)
    return tmp_path


def test_rows_report_and_tables(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--input", "in.jsonl", "--output", "new/l.jsonl", "--report", "new/r.json"]
    assert main(["tune", "label", *options, "--judge", "judges:Agrees"]) == 0
    rows = [row for _, row in read_labelled(in_tmp / "new" / "l.jsonl")]
    assert [(r.label, r.outcome, r.evidence, r.judge) for r in rows] == [
        ("useful", "noisy", "useful", "useful"),
        ("noisy", "noisy", "noisy", "useful"),
    ]
    report = json.loads((in_tmp / "new" / "r.json").read_text())
    assert report["config"]["rule"] == "evidence"
    assert [pair["share"] for pair in report["agreement"]] == [0.5, 0.0, 0.5]
    shown = capsys.readouterr().out
    assert "2 of 2 searches" in shown
    assert "evidence, judge" in shown
    assert "answer is in the documents" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_same_files_give_the_same_bytes(in_tmp: Path) -> None:
    for name in ("a", "b"):
        assert main(["tune", "label", "--input", "in.jsonl", "--output", name]) == 0
    assert (in_tmp / "a").read_bytes() == (in_tmp / "b").read_bytes()


def test_what_was_collected_can_be_labelled(in_tmp: Path) -> None:
    collect = "tune collect --num-questions 40 --threads 1 --policy skill --out e.jsonl".split()
    assert main(collect) == 0
    assert main("tune label --input e.jsonl in.jsonl --output l.jsonl".split()) == 0
    rows = [row for _, row in read_labelled(in_tmp / "l.jsonl")]
    assert {row.question.data_source for row in rows} == {"miniwiki", "in"}
    assert sum(row.label == "useful" for row in rows) > 20


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_gives_one_line_and_writes_nothing(
    line: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in in_tmp.iterdir()}
    given = [part.replace("{tmp}", str(in_tmp)) for part in line.split()]
    assert main(["tune", "label", *given]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert re.search(MISTAKES[line], error)
    assert {path.name for path in in_tmp.iterdir()} - {"__pycache__"} == before

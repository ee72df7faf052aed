"""What the page of a training run is made of."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cli.main import main
from agents.viewing import columns, read_transcripts, spread, view_blocks

RECORD = {
    "update": 1,
    "split": "train",
    "question_id": "q",
    "question": "Who?",
    "turns": [],
    "answer": "a",
    "golden_answers": ["a"],
    "reward": 1.0,
    "exact_match": 1.0,
    "stop_reason": "answered",
    "tokens": {"pieces": ["Q", "a"], "mask": "01", "logprobs": [-0.5], "advantages": None},
}


def record(**changes):
    return RECORD | changes


def write_run(folder, records, num_rows=4):
    folder.mkdir()
    lines = (json.dumps(each) + "\n" for each in records)
    (folder / "transcripts.jsonl").write_text("".join(lines))
    rows = (json.dumps({"step": n, "rollout/reward": 0.5}) + "\n" for n in range(1, num_rows + 1))
    (folder / "metrics.jsonl").write_text("".join(rows))
    return folder


@given(st.lists(st.integers(0, 999), unique=True, min_size=1).map(sorted), st.integers(1, 30))
def test_values_are_spread_from_the_first_to_the_last(values, count):
    found = spread(values, count)
    assert len(found) == len(set(found)) == min(count, len(values))
    assert found == sorted(found)
    assert set(found) <= set(values)
    assert found[-1] == values[-1]
    assert count == 1 or found[0] == values[0]


def test_metrics_that_are_missing_or_not_finite_are_unknown():
    rows = [{"step": 1, "a": math.nan}, {"step": 2, "b": 3.0}]
    assert columns(rows) == {"step": [1, 2], "a": [None, None], "b": [None, 3.0]}


def test_long_run_keeps_some_updates_and_all_evaluations(tmp_path):
    made = [record(update=n) for n in range(1, 10)]
    made += [record(update=n, split="validation", question_id="v") for n in (2, 9)]
    blocks = view_blocks(write_run(tmp_path / "run", made), max_updates=3)
    main_block = blocks["run"]
    assert main_block["updates"] == [1, 2, 5, 9]
    assert main_block["num_left_out"] == 6
    assert [each["split"] for each in blocks["update-2"]] == ["validation"]
    assert [each["split"] for each in blocks["update-9"]] == ["train", "validation"]
    first, second = main_block["questions"]
    assert (first["id"], first["updates"]) == ("v", [2, 9])
    assert (second["id"], second["updates"]) == ("q", [1, 5, 9])


def test_question_asked_once_cannot_be_compared(tmp_path):
    assert view_blocks(write_run(tmp_path / "run", [record()]))["run"]["questions"] == []


def test_run_of_an_earlier_version_is_one_without_tokens(tmp_path):
    old = {key: value for key, value in RECORD.items() if key not in ("split", "tokens")}
    run = write_run(tmp_path / "run", [old])
    [found] = read_transcripts(run / "transcripts.jsonl")
    assert (found["split"], found["tokens"]) == ("train", None)
    assert view_blocks(run)["run"]["config"] == {}


def test_line_that_is_still_being_written_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", [record()])
    with (run / "transcripts.jsonl").open("a") as file:
        file.write('{"update": 2, "quest')
    assert len(read_transcripts(run / "transcripts.jsonl")) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: must be JSON"),
        ("[]", "line 2: must be a JSON object, got list"),
        ('{"update": 1}', "line 2: must hold 'question_id', got update"),
        (
            json.dumps(record(tokens=RECORD["tokens"] | {"logprobs": [-1.0, -2.0]})),
            "line 2: `logprobs` must have 1 entries as `mask` says, got 2",
        ),
        (
            json.dumps(record(tokens=RECORD["tokens"] | {"pieces": ["a"]})),
            "line 2: `pieces` must have 2 entries as `mask` says, got 1",
        ),
    ],
)
def test_damaged_line_is_named(tmp_path, line, message):
    run = write_run(tmp_path / "run", [record()])
    with (run / "transcripts.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_transcripts(run / "transcripts.jsonl")


def test_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 2
    assert "it has no metrics.jsonl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_page_goes_where_it_is_wanted(tmp_path, capsys):
    run = write_run(tmp_path / "run", [record()])
    file = tmp_path / "new" / "page.html"
    assert main(["view", str(run), "--out", str(file)]) == 0
    assert "page.html" in capsys.readouterr().out
    assert "<title>Training run run</title>" in file.read_text()
    assert not (run / "view.html").exists()

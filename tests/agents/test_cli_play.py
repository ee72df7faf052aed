import io

import pytest

from agents.cli.main import main
from agents.cli.options import load_questions
from agents.cli.play import to_action


def play(text: str, monkeypatch: pytest.MonkeyPatch, *options: str, engine: str = "world") -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["play", "--engine", engine, *options]) == 0


def test_piped_game_shows_documents_score_and_mean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play("a query\n\nanswer: Nobody\n", monkeypatch, "--num-questions", "1")
    shown = capsys.readouterr().out
    assert "question 1" in shown
    assert "documents" in shown
    assert "your answer: Nobody" in shown
    assert "useful  (a query)" in shown
    assert "1 question, mean score 0.00" in shown


def test_noisy_documents_are_told_apart_only_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play("where\nanswer: X\n", monkeypatch, "--num-questions", "1", "--noise", "1")
    before, after = capsys.readouterr().out.split("your answer")
    assert "noisy  (where)" in after
    assert "noisy" not in before.split("question 1")[1]


def test_end_of_input_ends_politely(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play("a query\n", monkeypatch)
    shown = capsys.readouterr()
    assert "No question was finished." in shown.out
    assert shown.err == ""


def test_malformed_input_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play("<information>\nanswer:\n", monkeypatch)
    shown = capsys.readouterr().out
    assert "<information> is written by the search engine only" in shown
    assert "the <answer> is empty" in shown


def test_game_without_answer_ends_after_its_turns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play("a\nb\n", monkeypatch, "--max-turns", "2", "--num-questions", "1")
    shown = capsys.readouterr().out
    assert "no answer: out of turns" in shown
    assert "useful  (a)" in shown
    assert "too late  (b)" in shown


def test_right_answer_scores_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play("", monkeypatch, "--num-questions", "1")
    asked = capsys.readouterr().out
    [question] = [q for q in load_questions("miniwiki", "test", 0, 0) if f" {q.text} " in asked]
    play(f"Answer: {question.golden_answers[0]}\n", monkeypatch, "--num-questions", "1")
    assert "mean score 1.00" in capsys.readouterr().out


def test_engine_without_documents_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play("a query\n", monkeypatch, engine="empty")
    assert "nothing found" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["answer:Ida", "ANSWER:  Ida ", "Answer: Ida"])
def test_answer_prefix_is_read_in_any_case(line: str) -> None:
    assert to_action(line) == "<answer>Ida</answer>"

"""Where questions come from: parquet files, public sets, records."""

import json
import sys
import time
import types

import gymnasium as gym
import pytest

from zs_env import readers
from zs_env.task.public_sets import PUBLIC_SETS
from zs_env.task.question_sets import QuestionSet, QuestionSetError

RECORDS = [
    {"id": "a", "question": "Où?", "golden_answers": ["Orléans", ""], "metadata": {"x": 1}},
    {"id": None, "question": "Who?", "golden_answers": ["Zoë"], "metadata": {"x": 2}},
]


@pytest.fixture
def write_parquet(tmp_path):
    """Return a function that writes records to a parquet file."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(records, name="mine.parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def hub(monkeypatch):
    """Put a fake library `datasets` in place of the hub; return what it was asked for."""
    asked = []

    def load_dataset(path, **kwargs):
        asked.append((path, kwargs))
        return RECORDS

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(readers, "_check_hub_is_reachable", lambda: None)
    return asked


def test_parquet_files_hold_questions(write_parquet):
    path = write_parquet(RECORDS)
    for source in (path, str(path)):
        first, second = QuestionSet(source).split("test")
        assert (first.id, first.golden_answers, first.data_source) == ("a", ("Orléans",), "mine")
        assert (second.id, second.golden_answers) == ("2", ("Zoë",))


def test_broken_parquet_row_is_named(write_parquet, tmp_path):
    path = write_parquet([{"question": "x", "answers": ["y"]}, {"question": "x", "answers": [""]}])
    with pytest.raises(ValueError, match=r"mine\.parquet:2: `answers` of a question must be one"):
        QuestionSet(path).split("train")
    (tmp_path / "text.parquet").write_text("no parquet", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.parquet: "):
        QuestionSet(tmp_path / "text.parquet").split("train")


@pytest.mark.parametrize("answers", [None, [], "", [" "], [3], 3, {"a": 1}])
def test_question_without_answers_is_refused(answers):
    with pytest.raises(ValueError, match=r"`answers` of a question must be one or more texts"):
        QuestionSet([{"question": "x", "answers": answers}])


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_public_set_asks_the_hub_for_one_file_a_split(hub, name):
    questions = QuestionSet(name)
    assert hub == []
    for split, file in PUBLIC_SETS[name].files.items():
        assert questions.split(split)[0].data_source == name
        assert questions.split(split)[0].golden_answers == ("Orléans",)
        assert hub[-1] == (
            "RUC-NLPIR/FlashRAG_datasets",
            {"data_files": {split: file}, "split": split},
        )
    assert len(hub) == len(PUBLIC_SETS[name].files)
    assert questions.find("a").text == "Où?"


def test_split_that_a_public_set_lacks_is_refused(hub):
    env = gym.make("ZeroSearch-Bamboogle-v0", engine="empty")
    with pytest.raises(ValueError, match=r"`split` must be one of test for .*'bamboogle', got 'tr"):
        env.reset(options={"split": "train"})
    assert "Où?" in env.reset(options={"question": "a"})[0]


def test_preset_loads_at_the_first_reset(hub):
    env = gym.make("ZeroSearch-HotpotQA-v0", engine="empty", split="test")
    assert hub == []
    assert env.reset(seed=0)[1]["data_source"] == "hotpotqa"
    env.reset()
    assert len(hub) == 1


def test_failing_hub_is_one_clear_error(monkeypatch, hub):
    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fail)
    env = gym.make("ZeroSearch-NQ-v0", engine="empty")
    with pytest.raises(
        QuestionSetError, match=r"questions='nq' could not be loaded .*questions=<a"
    ):
        env.reset(seed=0)


@pytest.mark.parametrize("offline", [True, False])
def test_no_network_is_an_error_within_seconds(monkeypatch, offline):
    constants = pytest.importorskip("huggingface_hub.constants")
    pytest.importorskip("datasets")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("zs_env.readers.getproxies", dict)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens at "discard"
    start = time.monotonic()
    with pytest.raises(QuestionSetError, match=r"questions='popqa' could not be loaded"):
        QuestionSet("popqa").split("test")
    assert time.monotonic() - start < 20


def test_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs datasets: pip install 'zs-env\[data\]'"):
        QuestionSet("nq").split("train")


def test_both_words_for_answers_are_read(tmp_path):
    path = tmp_path / "both.jsonl"
    records = [{"question": "x", "answers": "one"}, {"question": "y", "golden_answers": ["two"]}]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert [q.golden_answers for q in QuestionSet(path).split("train")] == [("one",), ("two",)]

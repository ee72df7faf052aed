"""Where questions come from: parquet files, public sets, records."""

import json
import re
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


def test_damaged_parquet_file_is_named(write_parquet):
    path = write_parquet([{"question": f"x{i}", "answers": ["y"]} for i in range(500)])
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396  # the body; the footer, which lies at the end, is whole
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.parquet: "):
        QuestionSet(path).split("train")


def test_case_of_a_suffix_does_not_matter(write_parquet):
    path = write_parquet(RECORDS, "MINE.PARQUET")
    assert len(QuestionSet(path).split("train")) == 2


LINE = b'{"question": "x", "answers": ["y"]}\n'


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (b'{"question": "\xff", "answers": ["y"]}\n', "'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000 + b"\n", "the JSON is nested too deeply"),
        (b"{}\n", "`question` of a question must be a text, got None"),
        (b'{"question": " ", "answers": ["y"]}\n', "`question` of a question must be a text"),
        (b'{"question": "x", "answers": ["y"], "num_hops": true}\n', "`num_hops` .* got True"),
        (b'["x"]\n', r"a question must be a Question or a mapping, got \['x'\]"),
        (b"{\n", "Expecting property name"),
    ],
)
def test_wrong_line_is_named_with_its_file(tmp_path, second, message):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(LINE + second)
    with pytest.raises(ValueError, match=re.escape(f"{path}:2: ") + message):
        QuestionSet(path).split("train")


def test_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE + b"\r\n" + LINE)
    assert [question.id for question in QuestionSet(path).split("train")] == ["1", "3"]


def test_wrong_record_is_named_by_its_index():
    good = {"question": "x", "answers": ["y"]}
    for bad in ({"question": "x"}, "x", 3, {"question": "x" * 5000, "answers": ["y"]}):
        with pytest.raises(ValueError, match=r"`questions`\[1\]: "):
            QuestionSet([good, bad])


@pytest.mark.parametrize("source", [5, None, b"mine.jsonl", {"question": "x", "answers": ["y"]}])
def test_source_that_is_no_sequence_of_records_is_refused(source):
    with pytest.raises(TypeError, match=r"`questions` must be a name, a file .*, got"):
        QuestionSet(source)


def test_id_may_come_back_in_another_data_source():
    records = [
        {"id": "1", "question": f"{name}?", "answers": ["x"], "data_source": name}
        for name in ("a", "b")
    ]
    questions = QuestionSet([*records, {"id": "2", "question": "c?", "answers": ["x"]}])
    assert len(questions.split("train")) == 3
    assert questions.find("2").text == "c?"
    with pytest.raises(ValueError, match=r"`question` must be an id that one .* '1', .* in a, b"):
        questions.find("1")
    with pytest.raises(ValueError, match="must have distinct ids, got '1' twice in 'a'"):
        QuestionSet([records[0], records[0]])


def test_id_in_several_splits_is_found_if_it_means_the_same(hub):
    assert QuestionSet("nq").find("a").text == "Où?"


@pytest.mark.parametrize("empty", [[], "", None, [" "]])
def test_empty_golden_answers_do_not_hide_answers(empty):
    record = {"question": "x", "golden_answers": empty, "answers": ["y"]}
    assert QuestionSet([record]).split("train")[0].golden_answers == ("y",)


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

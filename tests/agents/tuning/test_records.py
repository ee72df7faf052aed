"""Records of simulator tuning, and the files they stand in."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tuning.records import (
    LABELS,
    NOISY,
    CollectedEpisode,
    CollectedTurn,
    DataError,
    LabelledSearch,
    Source,
    as_line,
    cut_torn_line,
    read_episodes,
    read_json_lines,
    read_labelled,
    write_records,
)
from zs_env.search.engine import Document, NoiseKind
from zs_env.task.actions import ActionKind
from zs_env.task.questions import Question

words = st.text(max_size=20)
names = st.text("abc é\ud800\n", min_size=1, max_size=8).filter(str.strip)
documents = st.lists(st.builds(Document, words, words), max_size=3).map(tuple)
questions = st.builds(
    Question,
    id=names,
    text=names,
    golden_answers=st.lists(names, min_size=1, max_size=3).map(tuple),
    data_source=names,
    num_hops=st.none() | st.integers(1, 3),
)
episodes = st.builds(
    CollectedEpisode,
    question=questions,
    source=st.builds(
        Source, words, words, st.integers(0, 9), st.dictionaries(words, words, max_size=2)
    ),
    sample=st.integers(0, 9),
    turns=st.lists(
        st.builds(
            CollectedTurn,
            text=words,
            action=st.sampled_from(ActionKind),
            query=words,
            documents=documents,
            noisy=st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    answer=words,
    exact_match=st.sampled_from([0.0, 1.0]),
    f1=st.floats(0, 1),
    stop_reason=st.sampled_from(["answered", "max_turns"]),
)
labels = st.none() | st.sampled_from(LABELS)
searches = st.builds(
    LabelledSearch,
    question=questions,
    query=words,
    documents=documents,
    label=st.sampled_from(LABELS),
    outcome=labels,
    evidence=labels,
    judge=labels,
    split=st.sampled_from(["train", "test"]),
)

EPISODE = {
    "id": "q1",
    "data_source": "set",
    "question": "Who?",
    "golden_answers": ["Ann"],
    "num_hops": None,
    "engine": "bm25",
    "agent": "base",
    "seed": 0,
    "settings": {},
    "sample": 0,
    "turns": [
        {"text": "t", "action": "search", "query": "q", "documents": ["d"], "noisy": False},
        {"text": "t", "action": "answer", "query": "", "documents": [], "noisy": False},
    ],
    "answer": "Ann",
    "exact_match": 1.0,
    "f1": 1,
    "stop_reason": "answered",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@given(episodes)
def test_episode_survives_its_line(episode: CollectedEpisode) -> None:
    line = as_line(episode.as_json())
    assert "\n" not in line
    assert line.startswith('{"id": ')
    assert CollectedEpisode.from_json(json.loads(line)) == episode


@given(searches)
def test_labelled_search_survives_its_line(search: LabelledSearch) -> None:
    row = search.as_json()
    assert ("judge" in row) == (search.judge is not None)
    assert "noise_kind" not in row
    assert LabelledSearch.from_json(json.loads(as_line(row))) == search


@pytest.mark.parametrize("kind", NoiseKind)
def test_kind_of_noise_survives_its_line(kind: NoiseKind) -> None:
    question = Question("q", "Who?", ("Ann",))
    search = LabelledSearch(
        question, "q", (), NOISY, None, NOISY, None, split="train", noise_kind=kind
    )
    assert LabelledSearch.from_json(json.loads(as_line(search.as_json()))) == search


def test_files_are_read_with_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    write_records(file, [EPISODE, EPISODE | {"sample": 1}])
    assert [(number, episode.sample) for number, episode in read_episodes(file)] == [(1, 0), (2, 1)]
    assert [path.name for path in file.parent.iterdir()] == ["rows.jsonl"]


def test_last_search_of_an_episode_cut_short_reached_nobody() -> None:
    search = EPISODE["turns"][0]
    row = EPISODE | {"turns": [search, search], "stop_reason": "max_turns", "answer": ""}
    assert len(CollectedEpisode.from_json(row).searches) == 1
    assert len(CollectedEpisode.from_json(row | {"stop_reason": "answered"}).searches) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "`id` must be a text or an integer, got None"),
        ({"question": ""}, "`question` of a question must be a text"),
        ({"golden_answers": []}, "`answers` of a question must be one or more texts"),
        ({"golden_answers": [" "]}, "`answers` of a question must be one or more texts"),
        ({"turns": []}, "`turns` must not be empty"),
        ({"turns": [3]}, "an object was expected, got 3"),
        ({"turns": [{"text": "t", "action": "fly"}]}, "'fly' is not a valid ActionKind"),
        ({"sample": True}, "`sample` must be an integer, got True"),
        ({"f1": 1.5}, r"`f1` must be a number in \[0, 1\], got 1.5"),
        ({"f1": float("nan")}, r"`f1` must be a number in \[0, 1\], got nan"),
        ({"engine": 3}, "`engine` must be a text, got 3"),
    ],
)
def test_wrong_episode_is_named_by_file_and_line(tmp_path, change, message) -> None:
    file = write(tmp_path / "e.jsonl", EPISODE, EPISODE | change)
    with pytest.raises(DataError, match=f"e.jsonl:2: {message}"):
        list(read_episodes(file))


@pytest.mark.parametrize("name", sorted(EPISODE.keys() - {"num_hops"}))
def test_missing_field_of_an_episode_is_named(tmp_path, name) -> None:
    row = {key: value for key, value in EPISODE.items() if key != name}
    word = "answers" if name == "golden_answers" else name
    with pytest.raises(DataError, match=f"e.jsonl:1: `{word}`"):
        list(read_episodes(write(tmp_path / "e.jsonl", row)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "`label` must be useful or noisy, got None"),
        ({"label": "good"}, "`label` must be useful or noisy, got 'good'"),
        ({"judge": "maybe"}, "`judge` must be useful or noisy, got 'maybe'"),
        ({"documents": [{"title": "t"}]}, "`text` is missing"),
        ({"documents": "d"}, "`documents` must be a list, got 'd'"),
        ({"noise_kind": "empty"}, "`noise_kind` must come with the label 'noisy', got 'empty'"),
        ({"label": "noisy", "noise_kind": "loud"}, "`noise_kind` must be one of irr.* got 'loud'"),
        ({"label": "noisy", "noise_kind": 3}, "`noise_kind` must be one of irrelevant, .* got 3"),
    ],
)
def test_wrong_labelled_search_is_named_by_file_and_line(tmp_path, change, message) -> None:
    row = {"id": "q", "data_source": "s", "question": "Who?", "golden_answers": ["Ann"]}
    row |= {"query": "q", "documents": ["d"], "label": "useful"}
    row |= {"outcome": None, "evidence": "useful", "split": "train"}
    file = write(tmp_path / "l.jsonl", row)
    [(_, search)] = read_labelled(file)
    assert search.judge is None
    write(file, row | change)
    with pytest.raises(DataError, match=f"l.jsonl:1: {message}"):
        list(read_labelled(file))


@pytest.mark.parametrize("line", [b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 200_000, b"\x00"])
def test_line_that_is_no_object_is_named(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=r"x.jsonl:3: "):
        list(read_json_lines(file))


def test_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"old": 1})

    def rows():
        yield {"new": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(file, rows())
    assert file.read_text() == '{"old": 1}\n'


@given(st.integers(0, 200))
def test_torn_line_is_cut_wherever_it_was_torn(tmp_path_factory, length: int) -> None:
    line = as_line(EPISODE).encode()
    file = tmp_path_factory.mktemp("torn") / "e.jsonl"
    file.write_bytes(line + b"\n" + line[:length])
    if length:
        with pytest.warns(UserWarning, match=rf"the last line was torn.* \({length} bytes\)"):
            cut_torn_line(file, '{"id": ')
    else:
        cut_torn_line(file, '{"id": ')
    assert file.read_bytes() == line + b"\n"


@pytest.mark.parametrize("content", [b"", b"my notes", b'{"id": 1}', b'{"id": 1}\n', b"\nx"])
def test_what_is_not_torn_stays(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "e.jsonl"
    file.write_bytes(content)
    cut_torn_line(file, '{"id": ')
    assert file.read_bytes() == content


def test_missing_file_is_not_torn(tmp_path: Path) -> None:
    cut_torn_line(tmp_path / "none", "{")
    assert not list(tmp_path.iterdir())

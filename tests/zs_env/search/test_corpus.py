"""Corpus files, their copies on disk, and what is built of them once."""

import json
import multiprocessing
import os
import pickle
import sys
import threading
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.search import build_once
from zs_env.search.build_once import built, default_folder, file_digest, folder_digest
from zs_env.search.corpus import DocumentStore, open_corpus, read_corpus, write_documents
from zs_env.search.engine import Document
from zs_env.search.records import join_contents, read_document, split_contents

RECORDS = {
    "text": ({"text": "It is red."}, Document("It is red.")),
    "title and text": ({"title": "Mars", "text": "Red.", "id": 3}, Document("Red.", title="Mars")),
    "contents": ({"contents": '"Mars"\nRed.\nFar.'}, Document("Red.\nFar.", title="Mars")),
    "contents and the same title": (
        {"contents": '"Mars"\nRed.', "title": "Mars"},
        Document("Red.", title="Mars"),
    ),
    "another title": (
        {"contents": '"Mars"\nRed.', "title": "Planets"},
        Document('"Mars"\nRed.', title="Planets"),
    ),
    "quotes within": ({"contents": '"The "Red" One"\nx'}, Document("x", title='The "Red" One')),
    "no quotes": ({"contents": "Mars\nRed."}, Document("Mars\nRed.")),
    "only a title": ({"contents": '"Mars"\n '}, Document('"Mars"\n ')),
    "no title": ({"title": None, "text": "Red."}, Document("Red.")),
    "text before contents": ({"contents": "x", "text": "y"}, Document("y")),
    "null text": ({"contents": "x", "text": None}, Document("x")),
    "lone surrogate": ({"text": "a \ud800 b"}, Document("a \ud800 b")),
}
TEXTS = st.text(st.characters(), min_size=1)
DOCUMENTS = st.builds(Document, TEXTS, title=st.text(st.characters()))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes lines to a file, an hour ago."""

    def write(*lines, name="corpus.jsonl"):
        path = tmp_path / name
        texts = [line if isinstance(line, str | bytes) else json.dumps(line) for line in lines]
        path.write_bytes(b"\n".join(t if isinstance(t, bytes) else t.encode() for t in texts))
        long_ago = time.time() - 3600
        os.utime(path, (long_ago, long_ago))
        return path

    return write


@pytest.mark.parametrize("name", RECORDS)
def test_record_is_read_in_the_usual_fields(name):
    record, expected = RECORDS[name]
    assert read_document(record) == expected


@given(st.from_regex(r'[^"\n\r]+', fullmatch=True), TEXTS.filter(str.strip))
def test_contents_are_split_where_they_were_joined(title, text):
    document = Document(text, title=title)
    assert split_contents(join_contents(document)) == document


@given(st.text())
def test_splitting_never_fails_and_loses_no_word(contents):
    document = split_contents(contents)
    assert "".join(contents.split()) in (
        "".join(document.text.split()),
        "".join(f'"{document.title}"{document.text}'.split()),
    )


@given(st.lists(DOCUMENTS, max_size=5))
def test_store_gives_back_what_was_written(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("store")
    documents = [Document("first"), *documents]
    write_documents(folder, documents)
    store = DocumentStore(folder)
    assert list(store) == documents
    assert [store[i] for i in reversed(range(len(store)))] == documents[::-1]
    assert pickle.loads(pickle.dumps(store))[0] == documents[0]


@pytest.mark.parametrize("place", [-1, 2])
def test_store_has_no_passage_beyond_its_ends(place, tmp_path):
    write_documents(tmp_path, [Document("a"), Document("b")])
    with pytest.raises(IndexError, match=rf"must be in \[0, 2\), got {place}"):
        DocumentStore(tmp_path)[place]


def test_store_keeps_no_text_in_memory(tmp_path):
    write_documents(tmp_path, (Document("word " * 100, title=str(i)) for i in range(20_000)))
    store = DocumentStore(tmp_path)
    assert store[19_999] == Document("word " * 100, title="19999")
    assert len(pickle.dumps(store)) < 1000
    assert not [v for v in map(store.__getattribute__, vars(store)) if sys.getsizeof(v) > 10_000]


def test_lines_and_rows_read_the_same(write, tmp_path):
    records = [{"title": f"T{i}", "text": f"text {i}", "id": i} for i in range(3000)]
    table = tmp_path / "corpus.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), table, row_group_size=700)
    expected = [Document(f"text {i}", title=f"T{i}") for i in range(3000)]
    assert list(read_corpus(write(*records))) == expected
    assert list(read_corpus(table)) == expected


def test_blank_lines_and_a_byte_order_mark_are_no_passages(write):
    path = write(b"\xef\xbb\xbf" + json.dumps({"text": "a"}).encode(), "", "  ", {"text": "b"})
    assert [document.text for document in read_corpus(path)] == ["a", "b"]


WRONG_LINES = {
    "not JSON": ("{", "Expecting property name"),
    "not UTF-8": (b'{"text": "\xff"}', "can't decode byte 0xff"),
    "nested": ("[" * 100_000, "nested too deeply"),
    "a list": ("[1]", r"a document must be a mapping, got \[1\]"),
    "no text": ({"title": "T"}, "`text` or `contents` of a document must be a text, got None"),
    "a number": ({"text": 5}, "`text` or `contents` of a document must be a text, got 5"),
    "a title that is none": ({"text": "x", "title": 5}, "`title` of a document must be a text"),
    "blank": ({"text": " \n"}, "must not be blank"),
}


@pytest.mark.parametrize("wrong", WRONG_LINES)
def test_wrong_line_is_named_by_file_and_number(wrong, write, tmp_path):
    line, reason = WRONG_LINES[wrong]
    path = write({"text": "fine"}, "", line)
    with pytest.raises(ValueError, match=rf"^{path}:3: .*{reason}"):
        open_corpus(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("corpus-*"))
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_wrong_row_is_named_by_file_and_number(tmp_path):
    path = tmp_path / "corpus.parquet"
    rows = [{"text": "fine"}] * 1500 + [{"text": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(ValueError, match=rf"^{path}:1501: .*must be a text, got None"):
        list(read_corpus(path))
    path.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=rf"^{path}: "):
        list(read_corpus(path))


@pytest.mark.parametrize("lines", [[], ["", " "]])
def test_empty_corpus_is_refused(lines, write):
    with pytest.raises(ValueError, match="must hold at least one passage, got none"):
        list(read_corpus(write(*lines)))


def test_empty_table_is_refused(tmp_path):
    path = tmp_path / "corpus.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), path)
    with pytest.raises(ValueError, match="must hold at least one passage, got none"):
        list(read_corpus(path))


def test_missing_file_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl"):
        open_corpus(tmp_path / "no.jsonl", tmp_path)


def test_missing_pyarrow_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'zs-env\[data\]'"):
        list(read_corpus(tmp_path / "corpus.parquet"))


# Digests


def test_digest_is_of_the_content_and_remembered(write, tmp_path, monkeypatch):
    path, root = write("one"), tmp_path / "cache"
    first = file_digest(path, root)
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    assert file_digest(copy, root) == first
    monkeypatch.setattr(build_once, "_digest", lambda path: pytest.fail("was read again"))
    assert file_digest(path, root) == first


def test_change_of_content_is_seen_whatever_the_size(write, tmp_path):
    path, root = write("one"), tmp_path / "cache"
    first = file_digest(path, root)
    path.write_text("two")
    assert file_digest(path, root) != first
    assert file_digest(write("one"), root) == first


def test_file_that_changed_just_now_is_not_remembered(tmp_path):
    path, root = tmp_path / "file", tmp_path / "cache"
    path.write_text("one")
    status = path.stat()
    first = file_digest(path, root)
    path.write_text("two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # within a tick of the clock
    assert file_digest(path, root) != first


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256": 5}'])
def test_damaged_memory_is_forgotten(content, write, tmp_path):
    path, root = write("one"), tmp_path / "cache"
    first = file_digest(path, root)
    [memory] = (root / "digests").iterdir()
    memory.write_bytes(content)
    assert file_digest(path, root) == first


def test_digest_is_told_where_it_cannot_be_remembered(write, tmp_path):
    path, root = write("one"), tmp_path / "cache"
    root.mkdir()
    (root / "digests").write_text("in the way")
    assert file_digest(path, root) == file_digest(path, tmp_path / "another")


def test_digest_of_a_folder_is_of_names_and_contents(tmp_path):
    root, folder = tmp_path / "cache", tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "config.json").write_text("{}")
    first = folder_digest(folder, root)
    (folder / ".hidden").write_text("x")
    assert folder_digest(folder, root) == first
    (folder / "part" / "config.json").rename(folder / "part" / "other.json")
    assert folder_digest(folder, root) != first


# Entries


def test_entry_is_built_once_for_all_that_it_is_made_from(tmp_path):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "x").write_text("done")

    entries = [built(tmp_path, "kind", {"k1": k1}, build) for k1 in (1, 2, 1)]
    assert len(calls) == 2
    assert entries[0] == entries[2] != entries[1]
    assert (entries[0] / "x").read_text() == "done"
    assert json.loads((entries[1] / "made_from.json").read_text()) == {"k1": 2}


def test_entry_that_failed_leaves_nothing_and_is_built_the_next_time(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        built(tmp_path, "kind", {}, fail)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert list(built(tmp_path, "kind", {}, lambda folder: None).iterdir())


def test_left_over_of_a_killed_process_is_cleared_away(tmp_path):
    left_over = tmp_path / f".{built(tmp_path / 'a', 'kind', {}, lambda f: None).name}.12ab.tmp"
    left_over.mkdir()
    built(tmp_path, "kind", {}, lambda folder: None)
    assert not left_over.exists()


def _build_slowly(folder):
    with (folder.parent / "log").open("a") as log:
        log.write("built\n")
    time.sleep(0.3)
    (folder / "x").write_text("done")


def _build_and_read(root, start, queue):
    start.wait()
    queue.put((built(root, "kind", {}, _build_slowly) / "x").read_text())


def test_processes_that_start_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    start, queue = context.Event(), context.SimpleQueue()
    processes = [
        context.Process(target=_build_and_read, args=(tmp_path, start, queue)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    start.set()
    assert [queue.get() for _ in processes] == ["done"] * 3
    for process in processes:
        process.join(30)
    assert (tmp_path / "log").read_text() == "built\n"


def test_other_process_that_was_first_is_let_win_where_locks_do_not_hold(tmp_path):
    """As on a network drive: the place is taken while this process builds."""
    name = built(tmp_path / "a", "kind", {}, lambda folder: None).name

    def build(folder):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("theirs")
        (folder / "x").write_text("ours")

    assert (built(tmp_path, "kind", {}, build) / "x").read_text() == "theirs"
    assert not list(tmp_path.glob(".*.tmp"))


def test_threads_wait_for_each_other(tmp_path):
    threads = [
        threading.Thread(target=built, args=(tmp_path, "kind", {}, _build_slowly)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "log").read_text() == "built\n"


def test_folder_is_that_of_the_environment_or_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("ZS_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("ZS_CACHE")
    assert default_folder() == Path.home() / ".cache" / "zs_env"


def test_same_content_is_copied_once(write, tmp_path):
    root = tmp_path / "cache"
    one, digest = open_corpus(write({"text": "a"}), root)
    other, same = open_corpus(write({"text": "a"}, name="other.jsonl"), root)
    assert (list(one), digest) == (list(other), same)
    assert len(list(root.glob("corpus-*"))) == 1


def test_file_that_changes_while_it_is_read_is_refused(write, tmp_path, monkeypatch):
    path = write({"text": "a"})

    def read(path):
        yield Document("a")
        path.write_text('{"text": "longer"}')

    monkeypatch.setattr("zs_env.search.corpus.read_corpus", read)
    with pytest.raises(ValueError, match="must not change while it is read"):
        open_corpus(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("corpus-*"))

"""`zerosearch cache`, and `--cache` of `zerosearch evaluate`."""

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agents.cli.cache import shown_size
from agents.cli.main import main
from zs_env.search.cached import CachedSearchEngine
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.search.store import ReplyStore

SMALL = "--policy skill --num-questions 4 --max-turns 2 --threads 1".split()
REQUESTS = [
    SearchRequest("wer gründete das?", "Wer?", ("Ada\u2028", "\0"), True, 3, 2, NoiseKind.PARTIAL),
    SearchRequest("", seed=2**62),
]


class Fixed:
    def __init__(self, text: str = "Ada 🎉 \x00 founded it.") -> None:
        self.text = text

    def describe(self) -> dict[str, Any]:
        return {"engine": "fixed", "size": 1.5}

    def search(self, requests: Any) -> list[list[Document]]:
        return [[Document(self.text, "Ada"), Document("")], []][: len(requests)]


def record(file: Path, engine: Any = None, name: str = "fixed") -> None:
    cache = CachedSearchEngine(engine or Fixed(), file, name=name)
    cache.search(REQUESTS)
    cache.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "cache.sqlite")
    return tmp_path / "cache.sqlite"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]


def error_line(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(["cache", *command]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("zerosearch: error: ")


def test_show_lists_engines_and_counts(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CachedSearchEngine("world", cache).search([SearchRequest("who", top_k=5)])
    assert main(["cache", "show", str(cache)]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    digests = [source.digest[:12] for source in ReplyStore(cache).sources()]
    assert [row[:4] for row in rows if row[:1] == ["fixed"]] == [["fixed", digests[0], "2", "2"]]
    assert [row[:4] for row in rows if row[:1] == ["world"]] == [["world", digests[1], "1", "5"]]
    assert [row[:3] for row in rows if row[:1] == ["all"]] == [["all", "3", "7"]]
    assert f'{digests[0]}: {{"engine":"fixed","size":1.5}}' in shown
    assert re.search(r" · \d+\.\d kB", shown)
    assert len(re.findall(r"20\d\d-\d\d-\d\d", shown)) == 6


def test_show_of_an_empty_cache_counts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.jsonl").touch()
    command = ["cache", "import", str(tmp_path / "x"), "--input", str(tmp_path / "none.jsonl")]
    assert main(command) == 0
    assert "0 replies added, 0 were there" in capsys.readouterr().out


def test_export_has_a_line_a_reply_that_stands_for_itself(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "export", "cache.sqlite", "--output", "new/out.jsonl"]) == 0
    assert capsys.readouterr().out == "2 replies: new/out.jsonl\n"
    first, second = lines(Path("new/out.jsonl"))
    assert first["engine"] == second["engine"] == {"engine": "fixed", "size": 1.5}
    assert first["names"] == ["fixed"]
    assert first["request"] == {
        "query": "wer gründete das?",
        "question": "Wer?",
        "golden_answers": ["Ada\u2028", "\x00"],
        "noisy": True,
        "seed": 3,
        "top_k": 2,
        "noise_kind": "partial",
    }
    assert first["documents"] == [
        {"text": "Ada 🎉 \x00 founded it.", "title": "Ada"},
        {"text": "", "title": ""},
    ]
    assert second["documents"] == []


def test_import_of_an_export_gives_the_same_cache(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cache", "export", "cache.sqlite", "--output", "out.jsonl"])
    for report in ("2 replies added, 0 were there", "0 replies added, 2 were there"):
        capsys.readouterr()
        assert main(["cache", "import", "copy.sqlite", "--input", "out.jsonl"]) == 0
        assert capsys.readouterr().out == f"{report}: copy.sqlite\n"
    assert list(ReplyStore("copy.sqlite").replies()) == list(ReplyStore(cache).replies())
    strict = CachedSearchEngine("fixed", "copy.sqlite", mode="replay-strict")
    assert strict.search(REQUESTS) == Fixed().search(REQUESTS)


def test_import_keeps_what_is_there(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cache", "export", "cache.sqlite", "--output", "out.jsonl"])
    content = Path("out.jsonl").read_text()
    Path("out.jsonl").write_text(content + content.splitlines()[0] + "\n")
    record(Path("other.sqlite"), Fixed("Bo founded it."), name="another")
    capsys.readouterr()
    assert main(["cache", "import", "other.sqlite", "--input", "out.jsonl"]) == 0
    report = "0 replies added, 3 were there, 2 of them with other documents, which stay"
    assert capsys.readouterr().out == f"{report}: other.sqlite\n"
    [(source, reply), _] = ReplyStore("other.sqlite").replies()
    assert reply.documents[0].text == "Bo founded it."
    assert source.names == ("another", "fixed")


def wrong(field: str, value: Any) -> Any:
    return lambda row: row | {field: value}


def wrong_request(field: str, value: Any) -> Any:
    return lambda row: row | {"request": row["request"] | {field: value}}


WRONG_LINES = {
    "`engine` is missing": lambda row: {k: v for k, v in row.items() if k != "engine"},
    "`engine` must be an object, got 'world'": wrong("engine", "world"),
    "Out of range float values": wrong("engine", {"size": float("nan")}),
    "`engine` must be text without lone surrogates": wrong("engine", {"size": "\ud800"}),
    "`names` must be texts, got": wrong("names", [5]),
    "`created` must be at least 0, got -1": wrong("created", -1),
    "`created` must be at most 253402300799, got 1000": wrong("created", 10**30),
    "`documents` must be objects of texts, got 'text'": wrong("documents", ["text"]),
    "`documents` must be objects of texts, got {'text': 5}": wrong("documents", [{"text": 5}]),
    "`documents` must have the fields of a document": wrong("documents", [{"texts": ""}]),
    "`documents` must be text without lone": wrong("documents", [{"text": "\udfff"}]),
    "`request` must have the fields of a request: 'noise_kind'": wrong("request", {"query": "a"}),
    "`request` must have the fields of a request: .*'more'": wrong_request("more", 1),
    "'wild' is not a valid NoiseKind": wrong_request("noise_kind", "wild"),
    "`seed` of `request` must be int, got True": wrong_request("seed", True),
    "`noisy` of `request` must be bool, got 1": wrong_request("noisy", 1),
    "`query` of `request` must be str, got 5": wrong_request("query", 5),
    "`golden_answers` of `request` must be texts, got 5": wrong_request("golden_answers", [5]),
    "`golden_answers` of `request` must be a list, got 'Ada'": wrong_request(
        "golden_answers", "Ada"
    ),
    "`request` must be text without lone surrogates": wrong_request("query", "\ud800"),
}


@pytest.mark.parametrize("message", WRONG_LINES)
def test_wrong_line_is_named_and_nothing_is_added(
    message: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cache", "export", "cache.sqlite", "--output", "out.jsonl"])
    first, second = lines(Path("out.jsonl"))
    rows = [first, WRONG_LINES[message](second)]
    Path("out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = error_line(capsys, "import", "new.sqlite", "--input", "out.jsonl")
    assert shown.startswith("out.jsonl:2: ")
    assert re.search(message, shown)
    assert not Path("new.sqlite").exists()


MISTAKES = {
    "show none.sqlite": "there is no cache at .*none.sqlite",
    "show out.txt": "the cache .*out.txt cannot be used: file is not a database",
    "show foreign.sqlite": "foreign.sqlite cannot be used: it is a database of another program",
    "export cache.sqlite --output cache.sqlite": "`output` must be another file",
    "export cache.sqlite --output /dev/null/x": "`output` must be a file that can be written",
    "export none.sqlite --output x": "there is no cache at .*none.sqlite",
    "import foreign.sqlite --input out.txt": "foreign.sqlite cannot be used",
    "import new.sqlite --input none.jsonl": "No such file",
    "import new.sqlite --input cache.sqlite": "cache.sqlite:1: ",
    "import new.sqlite --input out.txt": "out.txt:1: ",
    "import new.sqlite --input /dev/null": "`input` must be a file, got '/dev/null'",
    "import new.sqlite": "--input",
    "": "Expected one of",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_gives_one_line_and_writes_nothing(
    line: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.txt").write_text("not a database " * 100)
    connection = sqlite3.connect("foreign.sqlite")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    before = {file: file.read_bytes() for file in cache.parent.iterdir()}
    assert re.search(MISTAKES[line], error_line(capsys, *line.split()))
    assert {file: file.read_bytes() for file in cache.parent.iterdir()} == before


@pytest.mark.parametrize("size", [(0, "0 B"), (1000, "1.0 kB"), (5 * 10**15, "5000.0 TB")])
def test_size_has_a_unit(size: tuple[int, str]) -> None:
    assert shown_size(size[0]) == size[1]


# --- --cache ------------------------------------------------------------------------------------


def evaluate(*options: str) -> int:
    return main(["evaluate", *SMALL, "--json", "result.json", *options])


def test_evaluation_is_replayed_without_its_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "moon_for_cache.py"
    module.write_text(
        "from zs_env import Document\n"
        "class Moon:\n"
        "    def search(self, requests):\n"
        "        return [[Document(f'Moon {request.seed}')] for request in requests]\n"
    )
    engine = ["--engine", "moon_for_cache:Moon", "--cache", "new/cache.sqlite"]
    assert evaluate(*engine, "--episodes", "first.jsonl") == 0
    module.unlink()
    again = ["--cache-mode", "replay-strict", "--episodes", "again.jsonl"]
    assert evaluate(*engine, *again) == 0
    assert Path("again.jsonl").read_bytes() == Path("first.jsonl").read_bytes()
    assert b"Moon" in Path("new/cache.sqlite").read_bytes()
    result = json.loads(Path("result.json").read_text())
    assert result["config"]["cache_mode"] == "replay-strict"
    assert result["searches"] > 0


CACHE_MISTAKES = {
    "--cache-mode replay-strict": "`cache` must name a file for cache_mode='replay-strict', got ''",
    "--cache-mode play": "`cache_mode` must be one of record, replay, replay-strict, got 'play'",
    "--cache new.sqlite --cache-mode replay": "there is no cache at .*new.sqlite",
    "--cache new.sqlite --cache-mode replay-strict": "there is no cache at .*new.sqlite",
    "--cache cache.sqlite --cache-mode replay-strict": "holds no engine of 'world'.*fixed",
    "--cache /dev/null/x": "`cache` must be a file that can be written",
    "--cache new.sqlite --policy none": "`policy` must name a shipped model or a folder",
}


@pytest.mark.parametrize("command", ["evaluate", "train"])
@pytest.mark.parametrize("line", CACHE_MISTAKES)
def test_wrong_cache_gives_one_line_and_writes_nothing(
    line: str, command: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cache.read_bytes()
    assert main([command, "--engine", "world", *line.split()]) == 2
    [shown] = capsys.readouterr().err.splitlines()
    assert re.search(CACHE_MISTAKES[line], shown)
    assert list(cache.parent.iterdir()) == [cache]
    assert cache.read_bytes() == before

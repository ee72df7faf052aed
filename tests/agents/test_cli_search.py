import json
import re
from typing import Any

import pytest

from agents.cli.main import main
from zs_env.search.engine import NoiseKind, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.task.miniwiki import default_world

FACT = default_world().facts[0]
QUERY = f"{FACT.subject} {FACT.relation}"

ENGINES = """
from zs_env import Document, SearchEngineError

class Hostile:
    def search(self, requests):
        return [[Document("[bold]red[/bold]\\x1b[2J", "[blink]\\u202eTitle")] for _ in requests]

class Failing:
    def search(self, requests):
        raise SearchEngineError("the index is down")

class Curious:
    def search(self, requests):
        return [[Document(repr(request)) for request in requests]]
"""


@pytest.fixture
def engines(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "search_engines.py").write_text(ENGINES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def search(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["search", QUERY, *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("engine", ["world", "bm25"])
def test_json_holds_request_documents_and_time(
    engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(search(capsys, "--engine", engine, "--json", "--top-k", "2", "--seed", "4"))
    [documents] = make_engine(engine).search([SearchRequest(QUERY, QUERY, seed=4, top_k=2)])
    assert shown.pop("seconds") >= 0
    assert shown == {
        "engine": engine,
        "query": QUERY,
        "question": QUERY,
        "golden_answers": [],
        "noisy": False,
        "noise_kind": None,
        "seed": 4,
        "top_k": 2,
        "documents": [{"text": each.text, "title": each.title} for each in documents],
    }


def test_noise_that_the_engine_ignores_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--engine", "bm25", "--kind", "partial")
    assert "noisy" not in search(capsys, *options)
    shown = json.loads(search(capsys, *options, "--json"))
    assert (shown["noisy"], shown["noise_kind"]) == (False, None)


def test_options_reach_the_engine(capsys: pytest.CaptureFixture[str], engines: None) -> None:
    options = "--question Q? --answer one --answer two --kind partial --seed 7 --top-k 5"
    engine = ("--engine", "search_engines:Curious", "--json")
    [document] = json.loads(search(capsys, *options.split(), *engine))["documents"]
    request = SearchRequest(QUERY, "Q?", ("one", "two"), True, 7, 5, NoiseKind.PARTIAL)
    assert document["text"] == repr(request)


@pytest.mark.parametrize(
    ("options", "badge"),
    [((), "useful"), (("--noise",), "noisy"), (("--kind", "outdated"), "noisy: outdated")],
)
def test_badge_says_what_was_asked_for(
    options: tuple[str, ...], badge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    *panels, last = search(capsys, "--engine", "world", *options).splitlines()
    assert re.fullmatch(rf" {badge}  world · 3 documents · \d+\.\d ms", last)
    assert [number for number in "123" if any(f"─ {number}. ─" in line for line in panels)] == [
        *"123"
    ]


def test_nothing_found_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    shown = search(capsys, "--engine", "empty")
    assert "empty · 0 documents" in shown
    assert shown.endswith("nothing found\n")


def test_documents_are_shown_and_never_act(
    capsys: pytest.CaptureFixture[str], engines: None
) -> None:
    shown = search(capsys, "--engine", "search_engines:Hostile")
    assert "1. [blink]\ufffdTitle" in shown
    assert "[bold]red[/bold]\ufffd[2J" in shown
    assert "\x1b" not in shown


def test_shipped_simulator_writes_documents(capsys: pytest.CaptureFixture[str]) -> None:
    shown = search(capsys, "--question", f"{QUERY}?", "--answer", FACT.object, "--seed", "1")
    assert "useful  simulator" in shown
    assert "─ 1. ─" in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q --engine google", "`engine` must be simulator, .*, got 'google'"),
        ("q --engine a:http://me:se/cret@h/r", "`engine` must be .*, got 'a:http://…@h/r'"),
        ("q --kind loud", "`kind` must be one of irrelevant, .*, empty, got 'loud'"),
        ("q --top-k 0", "`top_k` must be at least 1, got 0"),
        ("q --seed -1", "`seed` must be at least 0, got -1"),
        ("q --engine search_engines:Failing", "the index is down"),
        ("", ".*QUERY.*"),
    ],
)
def test_mistake_or_failure_gives_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str], engines: None
) -> None:
    assert main(["search", *line.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(f"zerosearch: error: {message}\n", shown.err)

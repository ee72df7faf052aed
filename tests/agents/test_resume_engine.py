"""A run whose search engine is lost says how to go on, and goes on with it wherever it is now."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agents.cli.main import main
from agents.cli.train_resume import only_moved
from agents.metrics import read_metrics

STEPS = 3
TINY = (
    f"--policy skill --steps {STEPS} --num-questions 2 --group-size 2 --max-turns 2 --eval-every 1 "
    "--eval-questions 2 --threads 1 --log-formats csv"
).split()


class Retriever(BaseHTTPRequestHandler):
    """Finds the same passage for every query, until its server has nothing left to give."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.num_left <= 0:  # type: ignore[attr-defined]
            return self.send_error(503)
        self.server.num_left -= 1  # type: ignore[attr-defined]
        hit = {"document": {"contents": '"Mars"\nIt is red.'}, "score": 1.0}
        reply = json.dumps({"result": [[hit] for _ in body["queries"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def retriever(num_replies: int = 10**6) -> Iterator[str]:
    """Serve so many replies; what is yielded is the engine's name."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Retriever) as server:
        server.num_left = num_replies  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"retriever:http://127.0.0.1:{server.server_port}/retrieve"
        server.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zs_env.remote.limits.Limits.backoff", lambda *_: 0.0)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_run_whose_retriever_was_lost_goes_on_at_another_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    with retriever() as engine:
        assert main(["train", *TINY, "--engine", engine, "--out", str(unbroken)]) == 0
    capsys.readouterr()
    with retriever(num_replies=4) as first:
        assert main(["train", *TINY, "--engine", first, "--out", str(run)]) == 2
    line = error_line(capsys)
    assert "the retriever at " in line
    assert line.endswith(f"; go on with: zerosearch train --resume {run}")
    assert len(read_metrics(run)) < STEPS

    with retriever() as second:
        assert main(["train", "--resume", str(run), "--engine", f"{second}?max_batch=2"]) == 2
        assert f"`engine` must be '{first}', as in the run" in error_line(capsys)
        assert main(["train", "--resume", str(run), "--engine", second]) == 0
    rows = read_metrics(run)
    assert len(rows) == STEPS
    assert all(f"eval/{first}/exact_match" in row for row in rows)
    assert not any(second in key for row in rows for key in row)
    told = json.loads((run / "config.json").read_text())
    assert (told["config"]["engine"], told["engine_label"]) == (second, first)
    last = Path("checkpoints", f"{STEPS:06}", "policy.safetensors")
    assert (run / last).read_bytes() == (unbroken / last).read_bytes()


def test_run_that_loses_its_engine_before_a_checkpoint_promises_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with retriever(num_replies=0) as engine:
        assert main(["train", *TINY, "--engine", engine, "--out", str(tmp_path / "run")]) == 2
    assert "go on with" not in error_line(capsys)


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("retriever:http://a:1/r", "retriever:http://b/r/", True),
        ("retriever:http://a:1/r", "retriever:http://b:1/r,http://c:1/r", True),
        ("simulator:http://a/v1?chat=true#m", "simulator:http://[::1]:9/v1?chat=true#m", True),
        ("simulator:http://a/v1#m", "simulator:http://a/v1#n", False),
        ("simulator:http://a/v1#m", "simulator:http://a/v1", False),
        ("simulator:http://a/v1", "simulator:http://a/v2", False),
        ("simulator:http://a/v1", "simulator:http://a/v1?chat=true", False),
        ("simulator:http://a/v1", "simulator:https://a/v1", False),
        ("simulator:http://a/v1", "retriever:http://a/v1", False),
        ("simulator:http://a/v1", "simulator:runs/sim", False),
        ("simulator:runs/sim", "simulator:runs/other", False),
        ("world", "bm25", False),
        ("cached:a.sqlite#retriever:http://a/r", "cached:a.sqlite#retriever:http://b/r", False),
    ],
)
def test_engine_has_only_moved_if_all_but_hosts_and_ports_is_the_same(
    old: str, new: str, is_same: bool
) -> None:
    assert only_moved(old, new) is is_same
    assert only_moved(new, old) is is_same


def test_simulator_model_beside_resume_may_name_another_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It gets as far as to look for the server, which is not there."""
    run = tmp_path / "run"
    assert main(["train", *TINY, "--engine", "world", "--eval-every", "0", "--out", str(run)]) == 0
    file = run / "config.json"
    told = json.loads(file.read_text())
    told["config"]["engine"] = "simulator:http://127.0.0.1:1/v1#m"
    file.write_text(json.dumps(told))
    capsys.readouterr()
    options = ["--resume", str(run), "--simulator-model"]
    assert main(["train", *options, "http://127.0.0.1:2/v1#m"]) == 2
    assert "`engine` must name a server that replies, got simulator:http://127.0.0.1:2/v1" in (
        error_line(capsys)
    )
    assert main(["train", *options, "http://127.0.0.1:2/v1#n"]) == 2
    assert "`engine` must be 'simulator:http://127.0.0.1:1/v1#m'" in error_line(capsys)

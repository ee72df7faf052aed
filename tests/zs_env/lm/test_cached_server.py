"""A cache in front of a simulator on a real server, which needs a key that nobody may find."""

import pytest

from agents.cli.main import main
from zs_env.lm.openai import OpenAIGenerator
from zs_env.remote.limits import Limits
from zs_env.search.cached import CachedSearchEngine
from zs_env.search.engine import SearchEngineError, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.search.simulator import SimulatedSearchEngine

SECRETS = {
    "ZS_API_KEY": "sk-planted-4f2a9c",
    "OPENAI_API_KEY": "sk-openai-8b1d77",
    "HF_TOKEN": "hf_planted5e6f",
}
FAST = Limits(deadline=20.0, max_tries=2, first_delay=0.01, longest_delay=0.02)
REQUESTS = [SearchRequest(f"query {i}", "question?", ("gold",), seed=i) for i in range(3)]


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def echo_the_key(request):
    """Fail as a server does that repeats what it was sent."""
    return ("garbage", request.headers.get("Authorization", "").encode())


def test_no_secret_is_written_or_told(make_server, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = make_server()
    name = f"simulator:{server.url}#model"
    generator = OpenAIGenerator(server.url, "model", limits=FAST)
    cache = CachedSearchEngine(SimulatedSearchEngine(generator), "cache.sqlite", name=name)
    found = cache.search(REQUESTS)
    assert server.requests[0].headers["Authorization"] == f"Bearer {SECRETS['ZS_API_KEY']}"

    server.script.plan = echo_the_key
    told = []
    for engine in (cache, CachedSearchEngine(None, "cache.sqlite", mode="replay-strict")):
        with pytest.raises(SearchEngineError) as caught:
            engine.search([SearchRequest("not recorded")])
        told += [repr(engine), str(caught.value), repr(caught.value.__cause__)]
    assert main(["cache", "export", "cache.sqlite", "--output", "export.jsonl"]) == 0
    assert main(["cache", "show", "cache.sqlite"]) == 0
    output = capsys.readouterr()
    written = [file.read_bytes() for file in tmp_path.iterdir()]
    everything = b"".join(written) + "".join([*told, output.out, output.err]).encode()
    assert len(written) >= 2
    assert b"query 2" in everything
    assert server.url.encode() in everything
    assert not [secret for secret in SECRETS.values() if secret.encode() in everything]

    server.die()
    replayed = make_engine(f"cached:{tmp_path}/cache.sqlite?mode=replay-strict#{name}")
    assert replayed.search(REQUESTS) == found
    generator.close()


def test_server_by_name_is_asked_once(make_server, tmp_path):
    server = make_server()
    name = f"cached:{tmp_path}/cache.sqlite#simulator:{server.url}#model"
    first = make_engine(name).search(REQUESTS)
    assert len(server.requests) == 3
    assert make_engine(name).search(REQUESTS * 2) == first * 2
    assert len(server.requests) == 3

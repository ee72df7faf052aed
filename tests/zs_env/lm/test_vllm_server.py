"""Requests to vLLM's development mode and their replies, over HTTP on loopback.

What a real vLLM says to the same is tested in tests/agents/test_vllm_training.py.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zs_env.lm.generator import FinishReason, LanguageModelError, SamplingParams
from zs_env.lm.vllm_server import LIMITS, VLLMServer, load_request, read_state
from zs_env.lm.vllm_worker import EXTENSION
from zs_env.remote.limits import Limits

FAST = Limits(max_tries=2, first_delay=0.01, deadline=20)
PARAMS = SamplingParams(5, 0.7, ("</a>",))


class Server:
    """Answers as vLLM 0.32 does; a context manager.

    Attributes:
        info: Entries of its configuration that differ from those of a suitable server.
        requests: (path, body) of every POST.
        resets: What the next resets of the prefix cache say; True after that.
        failures: HTTP errors that the next orders get.
    """

    def __init__(self, **info):
        self.info, self.requests, self.resets, self.failures = info, [], [], []
        self.headers = []

    def __enter__(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, owner.get(self.path))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.headers.append(dict(self.headers))
                owner.requests.append((self.path, body))
                self.reply(*owner.post(self.path, body))

            def reply(self, status, reply):
                content = json.dumps(reply).encode()
                self.send_response(404 if reply is None else status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        return self

    def __exit__(self, *error):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def get(self, path):
        if path == "/v1/models":
            return {"data": [{"id": "policy", "owned_by": "vllm", "max_model_len": 64}]}
        if path == "/server_info?config_format=json" and self.info.get("development", True):
            return {"vllm_config": self.config()}
        return None

    def config(self):
        given = {
            "instance": "1",
            "device": "cpu",
            "extension": EXTENSION,
            "mode": "processed_logprobs",
        } | self.info
        return {
            "instance_id": given["instance"],
            "device_config": {"device": given["device"]},
            "parallel_config": {"worker_extension_cls": given["extension"]},
            "model_config": {"logprobs_mode": given["mode"], "max_model_len": 64},
        }

    def post(self, path, body):
        if self.failures:
            return self.failures.pop(0), {"error": "busy"}
        if path == "/collective_rpc":
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache":
            return 200, {"success": self.resets.pop(0) if self.resets else True}
        ids = [*body["prompt"][-1:], body["seed"] % 7]
        choice = {
            "text": "what the server makes of it",
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-0.5, -1.5]},
            "finish_reason": "stop",
            "stop_reason": 0,
        }
        return 200, {"choices": [choice]}


@pytest.fixture
def server():
    with Server() as server:
        yield server


def connect(*servers, ends=(0, 9), temperature=1.0):
    client = VLLMServer([server.url for server in servers], ends, limits=FAST)
    client.check(temperature)
    return client


def test_request_names_ends_seeds_and_stops(server):
    client = connect(server)
    [found] = client.complete_tokens([[4, 5]], [12], PARAMS)
    [(path, body)] = server.requests
    assert path == "/v1/completions"
    assert body["prompt"] == [4, 5]
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (12, 0.7, 5)
    assert (body["stop"], body["include_stop_str_in_output"]) == (["</a>"], True)
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([0, 9], True)
    assert (body["top_k"], body["top_p"], body["repetition_penalty"]) == (0, 1.0, 1.0)
    assert body["skip_special_tokens"] is False
    assert (found.token_ids, found.logprobs) == ([5, 5], [-0.5, -1.5])
    assert found.finish_reason is FinishReason.EOS
    client.close()


def test_weights_are_loaded_before_the_prefix_cache_is_reset(server):
    connect(server).load_weights(Path("/shared/weights"))
    assert server.requests == [
        (
            "/collective_rpc",
            {"method": "load_policy_weights", "kwargs": {"folder": "/shared/weights"}},
        ),
        ("/reset_prefix_cache", {}),
    ]


def test_gpu_server_needs_no_extension():
    with Server(device="cuda", extension="") as server:
        connect(server).load_weights(Path("/shared/weights"))
        body = server.requests[0][1]
    assert body == load_request("reload_weights", Path("/shared/weights"))
    assert body["kwargs"] == {"weights_path": "/shared/weights"}


def test_every_server_gets_the_weights(server):
    with Server() as other:
        connect(server, other).load_weights(Path("/w"))
        assert server.requests == other.requests
        assert len(other.requests) == 2


def test_failed_order_is_tried_again(server):
    server.failures = [503]
    connect(server).load_weights(Path("/w"))
    assert [path for path, _ in server.requests] == [
        "/collective_rpc",
        "/collective_rpc",
        "/reset_prefix_cache",
    ]


def test_prefix_cache_in_use_is_asked_again_and_then_an_error(server):
    client = connect(server)
    server.resets = [False]
    client.load_weights(Path("/w"))
    server.resets = [False] * 2
    with pytest.raises(LanguageModelError, match=r"2 tries.*the prefix cache is in use"):
        client.load_weights(Path("/w"))


def test_failure_that_stays_is_an_error_with_its_reason(server):
    client = connect(server)
    server.failures = [500] * 2
    with pytest.raises(LanguageModelError, match=r"2 tries.*HTTP 500.*busy"):
        client.load_weights(Path("/w"))


def test_server_that_was_started_anew_has_other_weights(server):
    client = connect(server)
    client.complete_tokens([[4]], [1], PARAMS)
    server.info["instance"] = "2"
    with pytest.raises(LanguageModelError, match="started anew"):
        client.complete_tokens([[4]], [1], PARAMS)


def test_cpu_server_without_extension_is_refused():
    with (
        Server(extension="") as server,
        pytest.raises(ValueError, match=f"with --worker-extension-cls {EXTENSION}"),
    ):
        connect(server)


@pytest.mark.parametrize(("temperature", "suits"), [(1.0, True), (0.7, False)])
def test_raw_logprobs_do_at_temperature_one_only(temperature, suits):
    with Server(mode="raw_logprobs") as server:
        if suits:
            connect(server, temperature=temperature)
            return
        with pytest.raises(ValueError, match="with --logprobs-mode processed_logprobs"):
            connect(server, temperature=temperature)


def test_server_that_is_not_in_development_mode_is_told():
    with (
        Server(development=False) as server,
        pytest.raises(LanguageModelError, match=r"1 try.*VLLM_SERVER_DEV_MODE=1"),
    ):
        connect(server)


def test_key_of_its_own_is_sent(server, monkeypatch):
    monkeypatch.setenv("ZS_API_KEY", "another-company")
    monkeypatch.setenv("ZS_POLICY_API_KEY", "ours")
    connect(server).load_weights(Path("/w"))
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer ours"}


def test_shortest_context_of_all_servers_counts(server):
    assert connect(server).max_context == 64


def test_url_that_is_none_is_refused():
    with pytest.raises(ValueError, match="`base_urls` must be like http"):
        VLLMServer(["localhost:8000"], {0})


@pytest.mark.parametrize("reply", [None, {}, {"vllm_config": {"instance_id": "1"}}])
def test_reply_that_says_nothing_is_no_state(reply):
    with pytest.raises((LookupError, TypeError)):
        read_state(reply)


def test_server_that_is_gone_is_given_up_before_another_could_have_started():
    pauses = sum(LIMITS.backoff(number, 1.0) for number in range(1, LIMITS.max_tries))
    assert pauses < 10

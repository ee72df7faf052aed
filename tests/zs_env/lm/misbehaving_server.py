"""A server on a real socket that fails in every way a real one does.

It is OpenAI-compatible, or speaks whatever `Speech` it is given.

`plan` names, request by request, what happens; `BEHAVIOURS` are the names. Behaving well, the
server answers with a text that is a function of prompt and seed, so that a test can tell a lost,
doubled or exchanged completion.
"""

import json
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    """One request that arrived, but for health checks.

    Attributes:
        body: What it says; of one without a body the fields of its query.
        nth: How many with this prompt there have been so far, this one included.
        time: When, on the monotonic clock.
    """

    path: str
    headers: dict
    body: dict
    nth: int
    time: float
    method: str = "POST"

    @property
    def prompt(self):
        return prompt_of(self.body)


@dataclass(frozen=True)
class Speech:
    """What a server that is not OpenAI-compatible understands and says.

    Attributes:
        answer: From what a request says to the bytes of a good reply.
        key: From the same to what tells requests apart.
        decode: From a request's bytes to what it says.
    """

    answer: object
    key: object
    decode: object = json.loads


def prompt_of(body):
    """Return the prompt of a request as a text."""
    if "messages" in body:
        return body["messages"][0]["content"]
    prompt = body["prompt"]
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def expected_text(prompt, seed):
    """Return what a server that behaves well writes."""
    return f"Doc 1: {prompt} / {seed}"


def fail_first(times, *behaviour):
    """Return a plan: each prompt fails so many times, then goes well."""
    return lambda request: behaviour if request.nth <= times else ("well",)


@dataclass
class Script:
    """What a server is and does; may be changed while it runs."""

    plan: object = lambda request: ("well",)
    text: object = lambda body: expected_text(prompt_of(body), body["seed"])
    owner: str = "vllm"
    models: tuple = ("model",)
    max_context: int = 64
    is_sick: bool = False  # then the health check fails
    requests: list = field(default_factory=list)
    num_checks: int = 0
    speech: Speech | None = None
    path: str = "/v1"


class MisbehavingServer:
    """The server; a context manager that ends it."""

    def __init__(self, **script):
        self.script = Script(**script)
        self.num_connections = 0
        self._seen = Counter()
        self._lock = threading.Lock()
        self._port = 0
        self.come_back()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}{self.script.path}"

    @property
    def requests(self):
        return self.script.requests

    def come_back(self):
        """Listen (again, at the same port)."""
        self.down = threading.Event()
        self._connections = set()
        self._listener = _Listener(("127.0.0.1", self._port), _Handler)
        self._listener.owner = self
        self._port = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,))
        self._thread.start()

    def die(self):
        """Stop listening and reset every connection, as a killed process does."""
        if self.down.is_set():
            return
        self.down.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        with self._lock:
            for connection in self._connections:
                reset(connection)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.die()

    def connected(self, connection):
        with self._lock:
            self.num_connections += 1
            self._connections.add(connection)

    def disconnected(self, connection):
        with self._lock:
            self._connections.discard(connection)

    def received(self, handler, body):
        key = self.script.speech.key(body) if self.script.speech else prompt_of(body)
        with self._lock:
            self._seen[key] += 1
            nth, now, headers = self._seen[key], time.monotonic(), dict(handler.headers)
            request = Request(handler.path, headers, body, nth, now, handler.command)
            self.requests.append(request)
        return request


def reset(connection):
    """Close a connection with a TCP reset, in the middle of whatever it does."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()
    except OSError:
        pass


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """Say nothing: connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.owner.connected(self.connection)

    def finish(self):
        self.server.owner.disconnected(self.connection)
        super().finish()

    def log_message(self, *args):
        pass

    def do_GET(self):
        script = self.server.owner.script
        if script.speech:
            return self.behave(dict(parse_qsl(urlsplit(self.path).query)))
        script.num_checks += 1
        if script.is_sick:
            self.reply(503, {"error": "sick"})
        elif self.path == "/v1/models" and script.models:
            entries = [
                {"id": name, "owned_by": script.owner, "max_model_len": script.max_context}
                for name in script.models
            ]
            self.reply(200, {"object": "list", "data": entries})
        else:
            self.reply(404, {"error": "no such page"})

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        speech = self.server.owner.script.speech
        self.behave(speech.decode(content) if speech else json.loads(content))

    def behave(self, body):
        request = self.server.owner.received(self, body)
        name, *args = self.server.owner.script.plan(request)
        BEHAVIOURS[name](self, body, *args)

    def reply(self, status, value, **headers):
        self.reply_bytes(status, json.dumps(value).encode(), len_=None, **headers)

    def reply_bytes(self, status, content, len_=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if len_ is None else len_))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def wait(self, seconds):
        """Sleep, unless the server goes down meanwhile; return whether it is still up."""
        return not self.server.owner.down.wait(seconds)


def well(handler, body):
    """Answer as the server that the script names would."""
    if speech := handler.server.owner.script.speech:
        return handler.reply_bytes(200, speech.answer(body))
    if handler.path == "/tokenize":
        return handler.reply(200, {"tokens": [ord(char) for char in body["prompt"]]})
    script = handler.server.owner.script
    text, choice = script.text(body), {"index": 0, "finish_reason": "length"}
    for stop in body.get("stop", ()):
        if stop in text:
            end = text.index(stop)
            keeps = body.get("include_stop_str_in_output") or body.get("no_stop_trim")
            text = text[: end + len(stop) if keeps else end]
            choice |= {"finish_reason": "stop", "stop_reason": stop}
    if body.get("return_token_ids"):
        ids = [ord(char) for char in text]
        choice |= {"token_ids": ids, "logprobs": {"token_logprobs": [-0.5] * len(ids)}}
    chat = handler.path.endswith("/chat/completions")
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    handler.reply(200, {"id": "x", "choices": [choice]})


def slow(handler, body, seconds):
    """Answer late."""
    if handler.wait(seconds):
        well(handler, body)


def status(handler, body, code, detail="no", **headers):
    """Answer with an error."""
    handler.reply(code, {"error": {"message": detail}}, **headers)


def too_many(handler, body, seconds):
    """Ask to come back later."""
    status(handler, body, 429, Retry_After=str(seconds))


def reset_midway(handler, body):
    """Send half a reply, then reset the connection."""
    handler.reply_bytes(200, b'{"choices": [{"text": "Doc 1: ha', len_=500)
    reset(handler.connection)


def torn(handler, body):
    """Send half a reply, then close the connection in good order."""
    handler.reply_bytes(200, b'{"choices": [{"text": "Doc 1: ha', len_=500)
    handler.close_connection = True


def garbage(handler, body, content=b"<html>busy</html>"):
    """Send something that is no completion, with status 200."""
    handler.reply_bytes(200, content)


def endless(handler, body):
    """Send a reply that never ends, as fast as it is read."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    chunk = b"x" * 65536
    while handler.wait(0):
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))


def dribble(handler, body):
    """Send a reply a byte at a time, too slowly to ever be done."""
    handler.reply_bytes(200, b"{", len_=100_000)
    while handler.wait(0.05):
        handler.wfile.write(b" ")


def silent(handler, body):
    """Never answer."""
    while handler.wait(1.0):
        pass


def finished(handler, body, reason):
    """Send a completion that ended for an unusual reason."""
    choice = {"index": 0, "text": "Doc 1: ha", "finish_reason": reason}
    handler.reply(200, {"choices": [choice]})


BEHAVIOURS = {
    "well": well,
    "slow": slow,
    "status": status,
    "too_many": too_many,
    "reset": reset_midway,
    "torn": torn,
    "garbage": garbage,
    "endless": endless,
    "dribble": dribble,
    "silent": silent,
    "finished": finished,
}

"""`zerosearch serve`: a search engine over HTTP, for other frameworks' agents."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from socket import socket
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from agents.cli.checks import check_at_least, usage_errors
from agents.cli.options import EngineName, Threads, load_engine, noise_warnings
from agents.cli.threads import needs_torch, use_threads

if TYPE_CHECKING:
    from zs_env.serve.app import ServeConfig


@dataclass(frozen=True)
class Serve:
    """Answer the retriever requests of Search-R1, verl, skyrl-gym, GEM and ZeroSearch over HTTP.

    They go to http://HOST:PORT/retrieve; /health and /metrics tell how it goes. If the environment
    variable ZS_SERVE_TOKEN is set, clients must send it as bearer token.

    Attributes:
        host: Address to listen at; the default is reached from this machine only.
        port: Where to listen; 0 takes a port that is free.
        top_k: Documents a query, where a request names no number.
        seed: Key of what is random, where a request brings no seed.
        max_batch_size: Queries in one call of the engine at most.
        max_wait_ms: Milliseconds that a query waits for others while the engine is idle.
        max_queue: Queries that may wait; more are refused with status 503.
        max_body_bytes: Bytes of a request at most.
        neutralise: Take tags, control tokens and what cannot be seen out of documents, as our own
            environments do and others do not.
        drain_seconds: How long what was asked may take to be answered after SIGTERM or Ctrl-C.
    """

    engine: EngineName = "simulator"
    host: str = "127.0.0.1"
    port: int = 8000
    noise: Annotated[
        float,
        arg(
            metavar="P",
            help="Probability in [0, 1] that a search brings noisy documents, where a request says "
            "nothing about it.",
        ),
    ] = 0.0
    top_k: int = 3
    seed: int = 0
    max_batch_size: int = 64
    max_wait_ms: float = 5.0
    max_queue: int = 4096
    max_body_bytes: int = 8 << 20
    neutralise: bool = True
    drain_seconds: int = 60
    threads: Threads = 0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        with usage_errors():
            from zs_env.serve.app import make_app
            from zs_env.serve.server import bind, serve, url_of

            config = serve_config(self)
            bound = bind(self.host, self.port)  # a port that is taken is told before a model loads
        with bound:
            with usage_errors():
                if needs_torch(self.engine):
                    use_threads(self.threads)
                engine = load_engine(self.engine)
                app = make_app(engine, config)
            warn_of_open_door(bound, config)
            for warning in noise_warnings(self.engine, engine, self.noise):
                print(f"zerosearch: {warning}", file=sys.stderr, flush=True)
            ready = f"serving {self.engine} at {url_of(bound)}"
            serve(app, bound, lambda: print(ready, flush=True), self.drain_seconds)


def warn_of_open_door(bound: socket, config: ServeConfig) -> None:
    """Say so where others than this machine can ask without a token."""
    from zs_env.serve.app import TOKEN_VARIABLE
    from zs_env.serve.server import is_loopback

    if config.token or is_loopback(bound):
        return
    host = bound.getsockname()[0]
    message = f"anybody who reaches {host} may ask: set {TOKEN_VARIABLE}, or leave --host out"
    print(f"zerosearch: warning: {message}", file=sys.stderr, flush=True)


def serve_config(config: Serve) -> ServeConfig:
    """Check every option but the engine and the address; return what they say.

    Raises:
        ValueError: If one is out of its range, or ZS_SERVE_TOKEN holds no token.
        ImportError: If the extra is not installed.
    """
    from zs_env.serve.app import ServeConfig, read_token
    from zs_env.serve.batcher import BatchLimits
    from zs_env.serve.contracts import Rules

    check_at_least(0, max_wait_ms=config.max_wait_ms)
    check_at_least(1, drain_seconds=config.drain_seconds)
    return ServeConfig(
        name=config.engine.partition(":")[0],  # the rest may tell of what is not for everybody
        rules=Rules(
            top_k=config.top_k,
            noise=config.noise,
            seed=config.seed,
            # More would never fit into the queue, and be told to come back for ever.
            max_queries=min(Rules().max_queries, max(1, config.max_queue)),
        ),
        batches=BatchLimits(
            max_batch_size=config.max_batch_size,
            max_wait=config.max_wait_ms / 1000,
            max_queue=config.max_queue,
        ),
        max_body_bytes=config.max_body_bytes,
        neutralise=config.neutralise,
        token=read_token(),
    )

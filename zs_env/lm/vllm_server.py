"""vLLM servers that sample for a training, and are given its weights.

Beyond what every OpenAI-compatible server does, they are told to load weights from a folder that
they see, which vLLM allows in its development mode only:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs \
        --worker-extension-cls zs_env.lm.vllm_worker.PolicyWorker

The extension is needed on a CPU (see `vllm_worker.py`); on a GPU vLLM does without. Whoever reaches
such a server controls it: it belongs on loopback, or into a network of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from zs_env.lm.generator import Completion, LanguageModelError, SamplingParams
from zs_env.lm.openai import OpenAIGenerator
from zs_env.lm.vllm import end_fields
from zs_env.lm.vllm_worker import EXTENSION
from zs_env.remote.client import NO_PROBE, Call, RemoteClient
from zs_env.remote.endpoints import check_base_urls
from zs_env.remote.failures import RemoteError
from zs_env.remote.limits import Limits

T = TypeVar("T")

API_KEY_VARIABLE: Final = "ZS_POLICY_API_KEY"
"""Not that of the simulator's server, which may be another company's."""

LIMITS: Final = Limits(
    max_concurrency=256, try_timeout=1200.0, deadline=3600.0, max_tries=4, longest_delay=2.0
)
"""Patient with a server that is busy, and not with one that is gone: it would come back with
other weights."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a vLLM server says of itself in development mode.

    Attributes:
        instance: Names one start of the server.
        on_cpu: Whether it computes on a CPU.
        extension: Which class its workers were extended by; may be empty.
        logprobs_mode: Of which distribution its log-probabilities are.
        max_context: Tokens that a context can hold.
    """

    instance: str
    on_cpu: bool
    extension: str
    logprobs_mode: str
    max_context: int

    @property
    def loader(self) -> str:
        """The method of its workers that loads weights."""
        return "load_policy_weights" if self.extension == EXTENSION else "reload_weights"


def read_state(reply: Any) -> ServerState:
    """Return what a server's `/server_info` says.

    Raises:
        LookupError, TypeError, ValueError: If it says nothing of the kind.
    """
    config = reply["vllm_config"]
    return ServerState(
        instance=str(config["instance_id"]),
        on_cpu=config["device_config"]["device"] == "cpu",
        extension=str(config["parallel_config"]["worker_extension_cls"]),
        logprobs_mode=str(config["model_config"]["logprobs_mode"]),
        max_context=int(config["model_config"]["max_model_len"]),
    )


class VLLMServer:
    """One or more vLLM servers with the same model (`TokenCompleter`) that can be given weights."""

    def __init__(
        self,
        base_urls: str | Sequence[str],
        end_ids: Collection[int],
        model: str | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """Set up connections; nothing is asked before `check`.

        Args:
            base_urls: Like "http://localhost:8000/v1"; several take turns.
            end_ids: The ids that end a text.
            model: Name of the model; None means the only one that the server has.
            limits: Bounds in time and tries.

        Raises:
            ValueError: If a URL is none.
        """
        urls = check_base_urls(base_urls)
        self._generator = OpenAIGenerator(
            urls,
            model,
            api_key_variable=API_KEY_VARIABLE,
            extra_fields=end_fields(end_ids),
            processed_logprobs=True,
            limits=limits,
        )
        self._controls = [_Control(url, limits) for url in urls]
        self._states: list[ServerState] = []

    @property
    def max_context(self) -> int:
        """Number of tokens that a context can hold, in each of the servers."""
        return min(state.max_context for state in self._states)

    def check(self, temperature: float) -> None:
        """Ask what the servers are, and remember it.

        Args:
            temperature: At which they are to sample.

        Raises:
            LanguageModelError: If one does not answer.
            ValueError: If one was started in a way that does not do.
        """
        self._states = self._ask_states()
        for control, state in zip(self._controls, self._states, strict=True):
            _check_state(control.url, state, temperature)

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], params: SamplingParams
    ) -> list[Completion]:
        """Return the continuation of each prompt of token ids; see `TokenCompleter`.

        Raises:
            LanguageModelError: If a server does not answer within the limits, refuses, or has
                been started anew meanwhile, so that it has other weights.
        """
        completions = self._generator.complete_tokens(prompts, seeds, params)
        for control, before, now in zip(
            self._controls, self._states, self._ask_states(), strict=True
        ):
            if before.instance != now.instance:
                raise LanguageModelError(
                    f"the vLLM server at {control.url} was started anew: its weights are not those "
                    "that it was given"
                )
        return completions

    def load_weights(self, folder: Path) -> None:
        """Give all servers the weights in a folder, and let them forget all cached prefixes.

        Args:
            folder: In Hugging Face format; the servers have to see it under the same path.

        Raises:
            LanguageModelError: If one does not answer, or cannot load them.
        """
        pairs = list(zip(self._controls, self._states, strict=True))
        with ThreadPoolExecutor(len(pairs)) as pool:
            list(pool.map(lambda pair: pair[0].load_weights(pair[1].loader, folder), pairs))

    def close(self) -> None:
        """Close all connections; the servers go on."""
        self._generator.close()
        for control in self._controls:
            control.close()

    def _ask_states(self) -> list[ServerState]:
        with ThreadPoolExecutor(len(self._controls)) as pool:
            return list(pool.map(_Control.state, self._controls))


class _Control:
    """What is asked of one server beyond completions."""

    def __init__(self, url: str, limits: Limits) -> None:
        self.url = url
        self._client = RemoteClient(url, NO_PROBE, limits, API_KEY_VARIABLE)

    def state(self) -> ServerState:
        """Return what the server is."""
        call: Call[None, ServerState] = Call(
            "../server_info",
            lambda _: {"config_format": "json"},
            lambda _, reply: read_state(reply),
            method="GET",
        )
        return self._ask(call)

    def load_weights(self, loader: str, folder: Path) -> None:
        """Let the server take over the weights in a folder."""
        self._ask(_order("../collective_rpc", load_request(loader, folder), _check_nothing))
        # Contexts that were read with the old weights must not be continued with the new ones.
        self._ask(_order("../reset_prefix_cache", {}, _check_reset))

    def close(self) -> None:
        self._client.close()

    def _ask(self, call: Call[None, T]) -> T:
        try:
            return self._client.call_all([call])[0]
        except RemoteError as error:
            missing = error.status in (404, 405)
            hint = "; it has to be started with VLLM_SERVER_DEV_MODE=1" if missing else ""
            raise LanguageModelError(f"the vLLM server at {error}{hint}") from error


def load_request(loader: str, folder: Path) -> dict[str, Any]:
    """Return the body of `/collective_rpc` that lets workers load weights.

    Example:
        >>> load_request("reload_weights", Path("/shared/weights"))
        {'method': 'reload_weights', 'kwargs': {'weights_path': '/shared/weights'}}
    """
    name = "weights_path" if loader == "reload_weights" else "folder"
    return {"method": loader, "kwargs": {name: str(folder)}}


def _order(path: str, body: Mapping[str, Any], check: Callable[[Any], None]) -> Call[None, None]:
    return Call(path, lambda _: body, lambda _, reply: check(reply))


def _check_nothing(reply: Any) -> None:
    """Accept a reply: what failed has another status."""


def _check_reset(reply: Any) -> None:
    if reply["success"] is not True:
        raise ValueError("the prefix cache is in use")


def _check_state(url: str, state: ServerState, temperature: float) -> None:
    """Raise ValueError if a server was started in a way that does not do."""
    wanted = f"`policy_url` must be a vLLM server with %s, got {url}, which was started without"
    if state.on_cpu and state.loader == "reload_weights":
        raise ValueError(wanted % f"--worker-extension-cls {EXTENSION}")
    if state.logprobs_mode != "processed_logprobs" and temperature != 1:
        raise ValueError(wanted % "--logprobs-mode processed_logprobs")

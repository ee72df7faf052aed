"""Policy engines by name: `transformers`, `vllm?dtype=bfloat16`, `vllm-server?model=policy`.

Nothing here loads torch or vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from zs_env.search.names import read_place
from zs_env.search.options import OptionKinds, read_options

OWN: Final = "transformers"
IN_PROCESS: Final = "vllm"
SERVER: Final = "vllm-server"

OPTIONS: Final[Mapping[str, OptionKinds]] = {
    OWN: {},
    IN_PROCESS: {
        "dtype": str,
        "gpu_memory_utilization": float,
        "kv_cache_memory_bytes": int,
        "max_model_len": int,
        "max_num_seqs": int,
        "tensor_parallel_size": int,
        "folder": Path,
    },
    SERVER: {"model": str, "folder": Path},
}
"""What each engine can be told; of `vllm` they are arguments of `vllm.LLM`, but for `folder`."""

DEFAULT_CAP: Final = 2.0
"""Bound of importance weights where another engine samples."""


@dataclass(frozen=True, slots=True)
class SamplerName:
    """A policy engine, as it was written.

    Attributes:
        kind: One of `OPTIONS`.
        options: What it is told.
        folder: Through which weights pass; None leaves that to the engine.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def read_sampler_name(text: str, url: str = "") -> SamplerName:
    """Return what `--policy-engine` and `--policy-url` say.

    Raises:
        ValueError: If there is no such engine or option, or it and the URL do not go together.

    Example:
        >>> read_sampler_name("vllm?max_num_seqs=64").options
        {'max_num_seqs': 64}
    """
    kind, mark, query = text.partition("?")
    if kind not in OPTIONS:
        raise ValueError(f"`policy_engine` must be one of {', '.join(OPTIONS)}, got {text!r}")
    if (kind == SERVER) != bool(url):
        wanted = "be given with" if kind == SERVER else "be left out without"
        raise ValueError(f"`policy_url` must {wanted} the policy engine {SERVER}, got {url!r}")
    if url:
        _check_urls(url)
    written = read_place(f"{kind}{mark}{query}").options
    for option in written:
        if option not in OPTIONS[kind]:
            known = ", ".join(OPTIONS[kind]) or "none"
            raise ValueError(f"options of `policy_engine` {kind} are {known}, got {option!r}")
    options = read_options(written, OPTIONS[kind])
    return SamplerName(kind, options, options.pop("folder", None))


def _check_urls(url: str) -> None:
    from zs_env.remote.endpoints import check_base_urls

    try:
        check_base_urls(url.split(","))
    except ValueError as error:
        raise ValueError(str(error).replace("`base_urls`", "`policy_url`")) from None


def importance_cap(kind: str, given: float | None) -> float:
    """Return the bound of importance weights, by default that of the engine that samples.

    Example:
        >>> importance_cap("transformers", None), importance_cap("vllm", None)
        (0.0, 2.0)
    """
    if given is not None:
        return given
    return 0.0 if kind == OWN else DEFAULT_CAP

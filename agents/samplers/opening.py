"""From a policy engine's name to a sampler; vLLM is imported here, and only if it is named."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.samplers.names import IN_PROCESS, OWN, SamplerName
from agents.samplers.sampler import EngineSampler, Sampler
from zs_env.lm.generator import LanguageModelError

if TYPE_CHECKING:
    from agents.policies.causal_lm import CausalLMPolicy

CPU_CACHE_BYTES: Final = 256 << 20
"""Left alone, vLLM takes nearly all memory of a machine without a GPU for its cache."""


def open_sampler(
    name: SamplerName,
    policy: CausalLMPolicy,
    model: Path,
    *,
    url: str = "",
    folder: Path,
    temperature: float = 1.0,
    num_processes: int = 1,
) -> Sampler | None:
    """Return what plays episodes in a policy's place; None where the policy does so itself.

    Args:
        name: Which engine.
        policy: What is trained.
        model: The folder that it was loaded from.
        url: Of the server, or of several with commas between.
        folder: Through which weights pass to a server, unless the name has one.
        temperature: Of sampling.
        num_processes: How many train together.

    Raises:
        ValueError: If an option does not suit, or a server was started in a way that does not do.
        LanguageModelError: If a server does not answer, or vLLM does not start.
        ImportError: If what the engine needs is not installed.
    """
    if name.kind == OWN:
        return None
    if name.kind != IN_PROCESS:
        return _open_server(name, policy, url, folder, temperature)
    check_sampler(name, num_processes)
    return _open_in_process(name, policy, model)


def check_sampler(name: SamplerName, num_processes: int) -> None:
    """Check that an engine can play for so many processes.

    Raises:
        ValueError: If not.
    """
    if name.kind == IN_PROCESS and num_processes > 1:
        raise ValueError(
            "`policy_engine` must be transformers or vllm-server in several processes, "
            f"got {name.kind!r}"
        )


def _open_in_process(name: SamplerName, policy: CausalLMPolicy, model: Path) -> Sampler:
    from zs_env.lm.vllm import VLLMGenerator

    arguments = engine_arguments(name.options, str(policy.model.dtype).removeprefix("torch."))
    try:
        engine = VLLMGenerator.from_pretrained(model, policy.end_ids(), **arguments)
    except RuntimeError as error:
        raise LanguageModelError(f"vLLM does not start: {error}") from error
    folder = name.folder or Path(tempfile.mkdtemp(prefix="zerosearch-"))
    return EngineSampler(policy, engine, folder)


def engine_arguments(options: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`; on a CPU, prepare this process for it, too.

    Args:
        options: What is given.
        dtype: Of the policy, which the engine has, too, where no other is given.
    """
    import torch

    arguments = {"dtype": dtype, **options}
    if not torch.cuda.is_available():
        # It then starts in seconds rather than half a minute, and needs no compiler. The variable
        # for the latter is read when torch is imported, which has happened.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        torch._dynamo.config.disable = True
        arguments = {"kv_cache_memory_bytes": CPU_CACHE_BYTES, **arguments}
    return arguments


def _open_server(
    name: SamplerName, policy: CausalLMPolicy, url: str, folder: Path, temperature: float
) -> Sampler:
    from zs_env.lm.vllm_server import VLLMServer

    server = VLLMServer(url.split(","), policy.end_ids(), **name.options)
    server.check(temperature)
    return EngineSampler(policy, server, name.folder or folder)

"""One model below two adapters: the policy's, and that of the simulator that writes its documents.

Nothing is switched. The simulator gets a second tree of modules around the same tensors, with its
own adapter in it; so both can write at the same time, and neither sees the other's adapter. That
tensors are shared is right because nothing below an adapter ever changes.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.policies.folders import adapter_shares_model
from zs_env.search.names import read_place
from zs_env.search.registry import simulate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.lora import LoraPolicy
    from zs_env.lm.transformers import TransformersLM
    from zs_env.search.engine import SearchEngine


def adapter_to_share(engine: str, policy: str | Path) -> Path | None:
    """Return the adapter of an engine's language model if it is for the model below a policy.

    Args:
        engine: The engine's name, such as simulator:FOLDER.
        policy: As for `find_policy`: a whole model, or an adapter of it.

    Returns:
        The adapter's folder; None where the engine's model is none, whole, or another's adapter.

    Raises:
        FileNotFoundError: If the model below one of them is not there.
    """
    scheme, _, rest = engine.partition(":")
    if scheme != "simulator" or not rest:
        return None
    folder = Path(read_place(rest).name)
    return folder if adapter_shares_model(folder, policy) else None


def who_shares(engine: str, name: str | Path, policy: CausalLMPolicy) -> LoraPolicy | None:
    """Return a loaded policy if an engine's model is to share the model below its adapter.

    Args:
        engine: The engine's name.
        name: Where the policy was loaded from.
        policy: The policy.

    Raises:
        FileNotFoundError: If the model below the engine's adapter is not there.
    """
    from agents.policies.lora import LoraPolicy

    if isinstance(policy, LoraPolicy) and adapter_to_share(engine, name):
        return policy
    return None


def shared_simulator(engine: str, policy: LoraPolicy) -> SearchEngine:
    """Return the simulator that an engine's name means, on the model below a policy's adapter.

    Args:
        engine: A name that has an `adapter_to_share`.
        policy: What is trained; its device and type of numbers are the simulator's, too.

    Raises:
        ValueError: If an option is not what it should be.
    """
    scheme, _, rest = engine.partition(":")
    return simulate(scheme, partial(_on_model_of, policy), read_place(rest))


def _on_model_of(policy: LoraPolicy, folder: str) -> TransformersLM:
    from peft import PeftModel
    from transformers import AutoTokenizer

    from agents.policies.lora import no_future_warnings
    from zs_env.lm.transformers import TransformersLM

    with no_future_warnings():
        adapter = PeftModel.from_pretrained(model_below(policy), folder)
    model: Any = adapter.get_base_model()
    return TransformersLM(
        model.eval(),
        AutoTokenizer.from_pretrained(folder),
        policy.max_batch_size,
        source=Path(folder).absolute(),
    )


def model_below(policy: LoraPolicy) -> PreTrainedModel:
    """Return the model below a policy's adapter: modules of its own around the same tensors."""
    tensors = (*policy.adapter.parameters(), *policy.adapter.buffers())
    twin: Any = copy.deepcopy(policy.adapter, {id(tensor): tensor for tensor in tensors})
    model: PreTrainedModel = twin.unload()
    return model

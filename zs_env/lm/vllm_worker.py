"""What a vLLM worker needs to take over weights: an extension that vLLM mixes into its workers.

    vllm serve MODEL --worker-extension-cls zs_env.lm.vllm_worker.PolicyWorker

vLLM's own `reload_weights` is enough on a GPU. On a CPU, vLLM multiplies by packed copies of the
weights, and of an output head that shares its weights with the embedding it packs none anew: the
head would stay what it was at first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

EXTENSION: Final = "zs_env.lm.vllm_worker.PolicyWorker"


class PolicyWorker:
    """A part of a vLLM worker; its method is called by name."""

    model_runner: Any
    reload_weights: Any

    def load_policy_weights(self, folder: str) -> None:
        """Take over the weights in a folder, of the model that the worker has.

        Raises:
            FileNotFoundError: If the worker sees no such folder; it goes on with what it has.
        """
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"the worker sees no folder {folder}")
        self.reload_weights(weights_path=folder)
        _pack_heads(self.model_runner.get_model())


def _pack_heads(model: Any) -> None:
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)

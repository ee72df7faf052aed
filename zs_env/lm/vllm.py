"""vLLM inside this process: continuous batching and a prefix cache, without a server.

vLLM is a guest that rearranges the house: building an engine reseeds the global generators of
random numbers, and its CPU build also binds threads and turns `torch.set_num_threads` into a
no-op. The generators are put back here; a program that trains on the same CPU is better served by
a server (`openai.py`). After a change of the weights the prefix cache has to be reset, which
`load_weights` does.

On a CPU set, before vLLM is imported, `VLLM_ENABLE_V1_MULTIPROCESSING=0` (it then starts in
seconds) and, without a C++ compiler, `TORCH_COMPILE_DISABLE=1`.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zs_env.lm.chat import prompt_text
from zs_env.lm.generator import (
    Chat,
    Completion,
    FinishReason,
    LanguageModelError,
    SamplingParams,
)
from zs_env.lm.identity import model_digest
from zs_env.lm.transcripts import TranscriptSession
from zs_env.lm.vllm_worker import EXTENSION


class VLLMGenerator:
    """A causal LM in `vllm.LLM` that continues ids (`TokenGenerator`) and text (`TextGenerator`).

    The same seed and prompt give the same completion, up to ties of floating point, but another
    one than `TransformersLM` gives: vLLM draws from generators of its own.
    """

    def __init__(self, llm: Any, end_ids: Collection[int] | None = None) -> None:
        """Wrap an engine.

        Args:
            llm: A `vllm.LLM` built with `logprobs_mode="processed_logprobs"`, so that
                log-probabilities are those of the distribution that was sampled from.
            end_ids: The ids that end a text; None means those that the model's files name.
        """
        self._llm, self._tokenizer = llm, llm.get_tokenizer()
        self._ends = {} if end_ids is None else end_fields(end_ids)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, end_ids: Collection[int] | None = None, **engine_arguments: Any
    ) -> VLLMGenerator:
        """Load a model folder or hub id: on a CPU in float32, on a GPU in the model's own dtype.

        Args:
            path: The model.
            end_ids: The ids that end a text; None means those that the model's files name.
            **engine_arguments: Of `vllm.LLM`, like `max_model_len` and `gpu_memory_utilization`.

        Raises:
            ImportError: If vLLM is missing.
        """
        vllm = _import_vllm()
        from vllm.platforms import current_platform

        arguments = {
            "seed": 0,
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
            "worker_extension_cls": EXTENSION,
        }
        if current_platform.is_cpu():
            # Blocks of 128 tokens, the default there, would leave short prompts out of the cache.
            arguments |= {"dtype": "float32", "enforce_eager": True, "block_size": 32}
        with _kept_random_states():
            return cls(vllm.LLM(model=str(path), **(arguments | engine_arguments)), end_ids)

    @property
    def max_context(self) -> int:
        """Number of tokens that a context can hold."""
        return int(self._llm.model_config.max_model_len)

    def describe(self) -> dict[str, Any]:
        """Return what completions depend on: a digest of the model, and its type of numbers."""
        config = self._llm.model_config
        return {"back_end": "vllm", "model": model_digest(config.model), "dtype": str(config.dtype)}

    @property
    def has_chat_template(self) -> bool:
        """Whether a `Chat` is more than its plain text here."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with no special token added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def session(self, num_rows: int) -> TranscriptSession:
        """Return `num_rows` empty contexts; the prefix cache saves reading them anew."""
        return TranscriptSession(self, num_rows)

    def complete(
        self, prompts: Sequence[str | Chat], seeds: Sequence[int], params: SamplingParams
    ) -> list[str]:
        """Return the continuation of each prompt; see `TextGenerator`.

        Raises:
            ValueError: If a prompt does not fit into the model's context, or its chat template
                refuses it.
        """
        encoded = [self.encode(prompt_text(prompt, self._tokenizer)) for prompt in prompts]
        longest = max(map(len, encoded), default=0)
        if longest >= self.max_context:
            raise ValueError(
                f"`prompts` must be shorter than {self.max_context} tokens, got one of {longest}"
            )
        outputs = self._generate(encoded, seeds, params, logprobs=None)
        return [self._text(output.token_ids, _finish_reason(output)) for output in outputs]

    def complete_tokens(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], params: SamplingParams
    ) -> list[Completion]:
        """Return the continuation of each prompt of token ids; see `TokenCompleter`."""
        fits = [len(prompt) < self.max_context for prompt in prompts]
        asked = [
            (prompt, seed) for prompt, seed, fit in zip(prompts, seeds, fits, strict=True) if fit
        ]
        outputs = self._generate(
            [prompt for prompt, _ in asked], [seed for _, seed in asked], params, logprobs=0
        )
        found = iter([self._completion(output) for output in outputs])
        full = Completion([], [], "", FinishReason.LENGTH)
        return [next(found) if fit else full for fit in fits]

    def load_weights(self, folder: Path) -> None:
        """Take over the weights in a folder, of the same model, and forget all cached prefixes.

        Args:
            folder: In Hugging Face format; it is not needed any more afterwards.

        Raises:
            LanguageModelError: If contexts of the old weights cannot be forgotten.
            FileNotFoundError: If there is no such folder.
        """
        with _kept_random_states():
            self._llm.collective_rpc("load_policy_weights", args=(str(folder),))
            forgotten = self._llm.reset_prefix_cache()
        if not forgotten:
            raise LanguageModelError("vLLM did not reset its prefix cache, which is in use")

    def close(self) -> None:
        """End the engine, and the processes that it started; it cannot be used any more."""
        self._llm.llm_engine.engine_core.shutdown()

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
        logprobs: int | None,
    ) -> list[Any]:
        """Return one `vllm.CompletionOutput` a prompt."""
        if not prompts:
            return []
        vllm = _import_vllm()
        sampling = [
            vllm.SamplingParams(
                temperature=params.temperature,
                max_tokens=min(params.max_new_tokens, self.max_context - len(prompt)),
                seed=seed,
                stop=list(params.stop),
                include_stop_str_in_output=True,
                logprobs=logprobs,
                **self._ends,
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        with _kept_random_states():
            replies = self._llm.generate(inputs, sampling, use_tqdm=False)
        return [reply.outputs[0] for reply in replies]

    def _completion(self, output: Any) -> Completion:
        ids, reason = list(output.token_ids), _finish_reason(output)
        logprobs = [_chosen(at, token) for at, token in zip(output.logprobs, ids, strict=True)]
        return Completion(ids, logprobs, self._text(ids, reason), reason)

    def _text(self, ids: Sequence[int], reason: FinishReason) -> str:
        # Decoded here, so that the text is what every other back end in process makes of the ids.
        visible = ids[:-1] if reason is FinishReason.EOS else ids
        return str(self._tokenizer.decode(list(visible)))


def end_fields(end_ids: Collection[int]) -> dict[str, Any]:
    """Return what tells vLLM that these ids end a text, and no others.

    Special tokens count as text, so that stop strings are looked for in what the ids decode to.

    Example:
        >>> end_fields({2, 0})
        {'stop_token_ids': [0, 2], 'ignore_eos': True, 'skip_special_tokens': False}
    """
    return {
        "stop_token_ids": sorted(end_ids),
        "ignore_eos": True,
        "skip_special_tokens": False,
    }


def _chosen(logprobs: Mapping[int, Any], token: int) -> float:
    return float(logprobs[token].logprob)


def _finish_reason(output: Any) -> FinishReason:
    if output.finish_reason == "length":
        return FinishReason.LENGTH
    return FinishReason.STOP if isinstance(output.stop_reason, str) else FinishReason.EOS


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ImportError("this language model needs vLLM: pip install 'zs-env[vllm]'") from error
    return vllm


@contextmanager
def _kept_random_states() -> Iterator[None]:
    """Leave the global generators of random numbers as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

"""TRL's GRPOTrainer at our work: `rollout_func`, Hugging Face's `generate`, our environment.

The whole transcript is read again each turn, in one padded batch of the episodes that go on. Draws
are keyed as ours are, so that the same policy writes the same episodes, and the work is the same.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    LogitsProcessor,
    StoppingCriteria,
    TrainerCallback,
)

from zs_env.lm.decoding import MayEnd
from zs_env.lm.sampling import sample
from zs_env.lm.transformers import TransformersLM
from zs_env.random import derive, uniforms


@dataclass
class Episode:
    """What TRL needs of an episode.

    Attributes:
        prompt: Ids of its first observation.
        ids: All that follow.
        is_action: Which of these were sampled.
        logprobs: Those of sampled ids, 0 elsewhere.
        reward: Sum over its turns.
    """

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    is_action: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reward: float = 0.0

    def add(self, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """Append what was sampled, with its log-probabilities, or what was shown."""
        self.ids += ids
        self.is_action += [int(logprobs is not None)] * len(ids)
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs


class KeyedSampling(LogitsProcessor):
    """Leaves one id a row, that which our sampler would draw."""

    def __init__(self, seeds: Sequence[int], max_new_tokens: int, temperature: float) -> None:
        """Draw every uniform number."""
        drawn = uniforms(np.array(seeds, dtype=np.int64), max_new_tokens).T
        self._uniforms, self._temperature = torch.tensor(drawn), temperature
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores whose largest entry is the id that was drawn."""
        ids, logprobs = sample(scores, self._uniforms[len(self.logprobs)], self._temperature)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(1, ids[:, None], 0.0)


class StopsAtActions(StoppingCriteria):
    """Ends rows where our sampler would; text is decoded only where a row may have ended."""

    def __init__(self, may_end: MayEnd, start: int, num_rows: int) -> None:
        """Look at what is sampled from column `start` on."""
        self._may_end, self._start = may_end, start
        self.lengths = [0] * num_rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows have ended."""
        num_new = input_ids.shape[1] - self._start
        for row, last in enumerate(input_ids[:, -1].tolist()):
            if not self.lengths[row] and last in self._may_end.ids:
                ids = input_ids[row, self._start :].tolist()
                self.lengths[row] = num_new if self._may_end.reason(ids) is not None else 0
        return torch.tensor([bool(length) for length in self.lengths])


@dataclass
class HuggingFacePlayer:
    """Plays with `generate`.

    Attributes:
        lm: Tokenizer and rules of what ends an action; another model's forward passes are used.
        env: A text vector environment.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling.
        policy_seconds: Time spent in `generate` by the last call.
        engine_seconds: Time spent in the environment by the last call.
    """

    lm: TransformersLM
    env: gym.vector.VectorEnv[Any, Any, Any]
    max_new_tokens: int
    temperature: float = 1.0
    policy_seconds: float = 0.0
    engine_seconds: float = 0.0

    def play(self, model: Any, seed: int) -> list[Episode]:
        """Play the episodes of `agents.rollout.collect` with the same seed."""
        self.policy_seconds = self.engine_seconds = 0.0
        observations, _ = self.env.reset(seed=derive(seed, 0) % 2**31)
        episodes = [Episode(self.lm.encode(text)) for text in observations]
        active, turn = list(range(len(episodes))), 0
        while active:
            start = time.perf_counter()
            seeds = [derive(seed, 1, slot, turn) for slot in active]
            contexts = [[*episodes[slot].prompt, *episodes[slot].ids] for slot in active]
            texts = [""] * len(episodes)
            for slot, (ids, logprobs) in zip(
                active, self._generate(model, contexts, seeds), strict=True
            ):
                episodes[slot].add(ids, logprobs)
                ends = ids[-1:] == [self.lm.tokenizer.eos_token_id]
                texts[slot] = self.lm.tokenizer.decode(ids[:-1] if ends else ids)
            sampled = time.perf_counter()
            shown, rewards, terminated, truncated, _ = self.env.step(texts)
            self.policy_seconds += sampled - start
            self.engine_seconds += time.perf_counter() - sampled
            for slot in active:
                episodes[slot].reward += float(rewards[slot])
            active = [slot for slot in active if not (terminated[slot] or truncated[slot])]
            for slot in active:
                episodes[slot].add(self.lm.encode(shown[slot]))
            turn += 1
        return episodes

    @torch.no_grad()
    def _generate(
        self, model: Any, contexts: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> list[tuple[list[int], list[float]]]:
        longest = max(map(len, contexts))
        pad = self.lm.tokenizer.pad_token_id
        padded = [[*[pad] * (longest - len(ids)), *ids] for ids in contexts]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in contexts]
        sampling = KeyedSampling(seeds, self.max_new_tokens, self.temperature)
        stops = tuple(self.env.metadata["action_stops"])
        stopping = StopsAtActions(self.lm.may_end(stops), longest, len(contexts))
        written = model.generate(
            input_ids=torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            logits_processor=[sampling],
            stopping_criteria=[stopping],
        )[:, longest:].tolist()
        logprobs = torch.stack(sampling.logprobs, 1).tolist()
        lengths = [
            length or len(ids) for length, ids in zip(stopping.lengths, written, strict=True)
        ]
        return [
            (ids[:length], its[:length])
            for ids, its, length in zip(written, logprobs, lengths, strict=True)
        ]


@dataclass(frozen=True)
class TRLSettings:
    """How TRL is to do what our learner does.

    Attributes:
        folder: A model.
        group_size: Episodes of a question.
        num_episodes: Episodes of an update.
        num_minibatches: Gradient steps an update.
        batch_size: Rows of a forward and backward pass.
        attention: Which of Transformers' attention functions.
        kl_coef: Weight of the penalty.
    """

    folder: str
    group_size: int
    num_episodes: int
    num_minibatches: int = 2
    batch_size: int = 16
    attention: str = "eager"
    kl_coef: float = 0.005

    def config(self, num_updates: int) -> Any:
        """Return TRL's own settings for a number of updates, with a learning rate of 0."""
        import trl

        return trl.GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=True,
            bf16=False,
            report_to=[],
            learning_rate=0.0,
            weight_decay=0.0,
            adam_beta2=0.95,
            per_device_train_batch_size=self.batch_size,
            gradient_accumulation_steps=self.num_episodes
            // self.num_minibatches
            // self.batch_size,
            steps_per_generation=self.num_episodes // self.batch_size,
            num_generations=self.group_size,
            max_completion_length=1024,
            gradient_checkpointing=False,
            loss_type="grpo",
            scale_rewards="none",
            beta=self.kl_coef,
            use_bias_correction_kl=False,
            max_steps=num_updates * self.num_minibatches,
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )


def make_trl_trainer(
    settings: TRLSettings,
    tokenizer: Any,
    play: Callable[[Any], Sequence[Episode]],
    num_updates: int = 1,
    callbacks: Sequence[TrainerCallback] = (),
) -> Any:
    """Return a GRPOTrainer.

    Args:
        settings: What it does.
        tokenizer: The model's.
        play: From a model to the episodes of an update.
        num_updates: How many `train` makes.
        callbacks: Called by `train`.
    """
    import trl
    from datasets import Dataset

    def rollout(prompts: Any, trainer: Any) -> dict[str, Any]:
        episodes = play(trainer.accelerator.unwrap_model(trainer.model))
        return {
            "prompt_ids": [each.prompt for each in episodes],
            "completion_ids": [each.ids for each in episodes],
            "logprobs": [each.logprobs for each in episodes],
            "env_mask": [each.is_action for each in episodes],
            "score": [each.reward for each in episodes],
        }

    def reward(score: list[float], **kwargs: Any) -> list[float]:
        return score

    model = AutoModelForCausalLM.from_pretrained(
        settings.folder, dtype=torch.float32, attn_implementation=settings.attention
    )
    num_questions = settings.num_episodes // settings.group_size
    prompts = [f"question {number}" for number in range(num_questions)]
    return trl.GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=settings.config(num_updates),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        rollout_func=rollout,
        callbacks=list(callbacks),
    )

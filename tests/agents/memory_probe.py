"""Started by test_memory_plan.py: trains a model, and tells what that took beside what was planned.

The peak is that of the process's resident memory, over what it had when a miniature of the same
training was done. Linux only.
"""

import gc
import json
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from agents.algorithms.grpo import GRPO
from agents.algorithms.ppo import PPO
from agents.batch import Batch
from agents.cli.plan import read_shape
from agents.learner import Learner
from agents.memory_plan import Workload, plan
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.model_options import ModelOptions
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn
from zs_env.lm.generator import SamplingParams
from zs_env.models import model_folder

ALGORITHMS = {"grpo": GRPO(kl_coef=0.1), "ppo": PPO(kl_coef=0.0)}
NUM_TURNS = 2


def save_model(folder, hidden_size, intermediate_size, num_layers, vocab_size):
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder("base")).save_pretrained(folder)


def play(policy, num_episodes, num_read, num_written):
    """Return episodes in which all that may be read and written is."""
    session, rows = policy.session(num_episodes), range(num_episodes)
    trajectories = [Trajectory(group=row // 2) for row in rows]
    for turn in range(NUM_TURNS):
        shown = [[(7 * i + row + turn) % 300 for i in range(num_read)] for row in rows]
        seeds = [100 * turn + row for row in rows]
        written = session.generate(rows, shown, seeds, SamplingParams(num_written))
        for row, (ids, completion) in enumerate(zip(shown, written, strict=True)):
            trajectory = trajectories[row]
            trajectory.observe(ids)
            start = len(trajectory.token_ids)
            trajectory.act(completion.token_ids, completion.logprobs)
            end = len(trajectory.token_ids)
            trajectory.turns.append(Turn("", "answer", False, float(row % 2), start, end))
    return trajectories


def resident():
    """Return the bytes of this process's memory now, and at the most since `forget`."""
    text = Path("/proc/self/status").read_text()
    lines = {line.split(":")[0]: line for line in text.splitlines()}
    return tuple(int(lines[name].split()[1]) * 1024 for name in ("VmRSS", "VmHWM"))


def forget():
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def train(folder, algorithm, options, work):
    """Load, play and learn twice, the second time with moments; return the last batch."""
    policy = CausalLMPolicy.load(folder, options=options)
    config = TrainerConfig(num_minibatches=1, max_tokens_per_pass=work["tokens_per_pass"])
    learner = Learner(policy, algorithm, config)
    for number in range(2):
        episodes = play(policy, work["num_episodes"], work["num_read"], work["num_written"])
        learner.update(episodes, number, 0.0)
    return Batch.from_trajectories(episodes)


def main(folder, settings):
    torch.set_num_threads(1)
    options = ModelOptions(**settings["options"])
    algorithm = ALGORITHMS[settings["algorithm"]]
    small = settings["work"] | {"num_episodes": 2, "num_read": 4, "num_written": 2}
    save_model(folder / "small", 32, 48, 2, 2048)
    save_model(folder / "large", **settings["model"])
    train(folder / "small", algorithm, options, small)
    forget()
    before = resident()[0]
    batch = train(folder / "large", algorithm, options, settings["work"])
    peak = resident()[1] - before
    work, lora = settings["work"], options.lora_rank > 0
    new = work["num_read"] + 1
    planned = plan(
        read_shape(folder / "large", options),
        Workload(
            weight_bytes=4,
            needs_reference=settings["algorithm"] == "grpo",
            needs_critic=settings["algorithm"] == "ppo",
            num_episodes=work["num_episodes"],
            rollout_batch_size=options.rollout_batch_size,
            tokens_read=work["num_episodes"] * new if lora else max(2048, new),
            context=batch.token_ids.shape[1],
            tokens_per_pass=work["tokens_per_pass"],
            logit_chunk=options.logit_chunk,
            gradient_checkpointing=options.gradient_checkpointing,
            keeps_scores=True,
        ),
    )
    return {"measured": peak, "planned": planned.peak}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))

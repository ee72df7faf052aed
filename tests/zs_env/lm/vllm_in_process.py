"""Runs the shipped simulator in `vllm.LLM` and writes what it says as JSON.

    python vllm_in_process.py tasks.json results.json

A program of its own because vLLM needs other versions than the tests do, and rearranges the
process that it runs in. The tests read the results.
"""

import json
import random
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from zs_env.lm.generator import Chat, SamplingParams
from zs_env.lm.vllm import VLLMGenerator


def random_numbers():
    """Return a draw of each global generator, seeded alike."""
    return [random.random(), float(np.random.rand()), float(torch.rand(1))]


def seeded_random_numbers():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    return random_numbers()


def outcome(function, *args):
    """Return the name and text of what a call raises."""
    try:
        function(*args)
    except ValueError as error:
        return f"ValueError: {error}"
    return ""


def play_session(lm, turns, params):
    """Return the completions of two rows, of which the second skips a turn."""
    session = lm.session(2)
    first, second = (lm.encode(text) for text in turns)
    found = session.generate([0, 1], [first, second], [5, 6], params)
    found += session.generate([0], [second], [7], params)
    session.clear([1])
    return found + session.generate([1], [second], [6], params)


def main(tasks_path, results_path):
    tasks = json.loads(Path(tasks_path).read_text())
    expected = seeded_random_numbers()
    seeded_random_numbers()
    lm = VLLMGenerator.from_pretrained(
        tasks["model"], max_num_seqs=64, kv_cache_memory_bytes=64 << 20
    )
    prompts, seeds = tasks["prompts"], tasks["seeds"]
    chats = [Chat(prompts[0]), Chat(prompts[1], "The film"), Chat(prompts[0], "")]
    results = {
        "greedy": lm.complete(prompts, seeds, SamplingParams(tasks["max_new_tokens"], 0.0)),
        "sampled": [
            lm.complete(order, keys, SamplingParams(tasks["max_new_tokens"], 0.8))
            for order, keys in ((prompts, seeds), (prompts[::-1], seeds[::-1]))
        ],
        "has_chat_template": lm.has_chat_template,
        "chats": lm.complete(chats, seeds[:3], SamplingParams(tasks["max_new_tokens"], 0.0)),
        "ids": [lm.encode(prompt) for prompt in prompts],
        "max_context": lm.max_context,
        "too_long": outcome(lm.complete, ["who " * 2000], [0], SamplingParams(4, 0.0)),
        "full": asdict(lm.complete_tokens([[5] * 1024], [0], SamplingParams(4, 1.0))[0]),
        "session": [
            asdict(c) for c in play_session(lm, tasks["turns"], SamplingParams(24, 0.7, (":",)))
        ],
        "random_states_are_kept": random_numbers() == second_draws(expected),
    }
    Path(results_path).write_text(json.dumps(results))


def second_draws(expected):
    """Return what the generators give after one seeded draw, which has to be `expected`."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert seeded_random_numbers() == expected
    drawn = random_numbers()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return drawn


if __name__ == "__main__":
    main(*sys.argv[1:])

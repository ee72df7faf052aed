"""A simulator that knows what a reply looks like, but nothing of the world that is asked about.

It stands in for the paper's prompted simulator: a model that was shown the format and must make
up, or take from the prompt, what it says. It is trained like the shipped simulator of its size,
but on encyclopaedias that were made for a few examples each and thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from agents.durable import write_folder
from agents.experiments.design import FORMAT_ONLY, SMALL, Protocol
from agents.experiments.run_files import RECIPE_FILE, recipe
from agents.tuning.build import SIMULATORS, BuildConfig, build_copier, save_model
from agents.tuning.sft import Example, finetune
from agents.tuning.simulator_data import simulator_examples
from zs_env.random import derive
from zs_env.task.miniwiki import MiniWiki

EXAMPLES_A_WORLD = 240


def train_format_only(folder: Path, protocol: Protocol) -> None:
    """Train the simulator and write it to `folder`, which is never seen half written.

    Args:
        folder: Gets the model and the recipe that it was made by.
        protocol: Says how many examples.
    """
    seed, like = recipe(protocol)["seed"], SIMULATORS[SMALL]
    model, tokenizer = build_copier(FORMAT_ONLY, like.shape, BuildConfig(seed=seed))
    examples = list(format_examples(tokenizer, protocol.format_examples, seed))
    finetune(model, examples, replace(like.sft, seed=seed))

    def write(partial: Path) -> None:
        save_model(model, tokenizer, partial)
        recipe_text = json.dumps(recipe(protocol)) + "\n"
        (partial / RECIPE_FILE).write_text(recipe_text, encoding="utf-8")

    write_folder(folder, write)


def format_examples(tokenizer: PreTrainedTokenizerBase, num: int, seed: int) -> Iterator[Example]:
    """Yield `num` examples, no more than `EXAMPLES_A_WORLD` of them about the same world."""
    for number, done in enumerate(range(0, num, EXAMPLES_A_WORLD)):
        world = MiniWiki.generate(derive(seed, number))
        count = min(EXAMPLES_A_WORLD, num - done)
        yield from simulator_examples(world, tokenizer, count, derive(seed, number, 1))

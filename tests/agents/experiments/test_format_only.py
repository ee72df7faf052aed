import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from agents.experiments import format_only
from agents.experiments.design import Protocol
from agents.experiments.format_only import EXAMPLES_A_WORLD, format_examples, train_format_only
from zs_env.models import model_folder
from zs_env.task.miniwiki import default_world


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_folder("simulator"))


def test_examples_say_nothing_of_the_shipped_world(tokenizer) -> None:
    known = {fact.subject for fact in default_world().facts}
    texts = [tokenizer.decode(each.token_ids) for each in format_examples(tokenizer, 40, 0)]
    assert len(texts) == 40
    assert all("Query: " in text for text in texts)
    # Single names may be invented twice; facts about them would be others.
    sentences = {passage for fact in default_world().facts for passage in fact.passages}
    assert not [text for text in texts if any(sentence in text for sentence in sentences)]
    assert sum(any(name in text for name in known) for text in texts) < 10


def test_worlds_are_thrown_away(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def no_examples(world, tokenizer, num, seed):
        seeds.append(world.seed)
        return iter([seed] * num)

    monkeypatch.setattr(format_only, "simulator_examples", no_examples)
    examples = list(format_examples(tokenizer, 2 * EXAMPLES_A_WORLD + 10, 0))
    assert len(set(seeds)) == len(seeds) == len(set(examples)) == 3
    assert len(examples) == 2 * EXAMPLES_A_WORLD + 10
    assert default_world().seed not in seeds


def test_examples_are_the_same_every_time_and_others_with_another_seed(tokenizer) -> None:
    first, again, other = (list(format_examples(tokenizer, 5, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_training_replaces_what_a_kill_left_and_ends_with_the_same_weights(
    tokenizer, make_tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny_copier(name, shape, config):
        return make_tiny_model(vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer

    monkeypatch.setattr(format_only, "build_copier", tiny_copier)
    first, second = tmp_path / "a" / "format-only", tmp_path / "b" / "format-only"
    leftover = tmp_path / "b" / ".format-only.partial"
    leftover.mkdir(parents=True)
    (leftover / "config.json").write_text("{")
    for folder in (first, second):
        train_format_only(folder, Protocol(format_examples=8))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    assert json.loads((first / "recipe.json").read_text()) == {"format_examples": 8, "seed": 0}
    assert not leftover.exists()

"""The tokenizer of the shipped models."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from agents.tuning.induction import TinyShape, tiny_config
from agents.tuning.policy_data import WEAK, TranscriptWriter, fresh_world
from agents.tuning.simulator_data import RequestSampler
from zs_env.models import MODELS, model_folder
from zs_env.search.prompts import format_documents, tuned_prompt
from zs_env.task.actions import TAGS
from zs_env.task.miniwiki import default_world


def texts():
    """Return what the models read and write, and what they may meet besides."""
    rng = Random(0)
    writer = TranscriptWriter(fresh_world(rng), WEAK, rng)
    found = [piece.text for _ in range(40) for piece in writer.write()]
    sampler = RequestSampler(default_world(), ["test"], seed=0)
    found += [tuned_prompt(sampler.draw().request) for _ in range(200)]
    found += [format_documents(default_world().passages[i : i + 3]) for i in range(0, 900, 3)]
    return [*found, "born in 1984", "don't", "a  b\t c\n\n d", " Doc 12: x", "é ü 北京 🦊"]


@pytest.fixture(scope="module")
def loaded(tokenizer, tmp_path_factory):
    """Return the tokenizer as AutoTokenizer, and with it vLLM, finds it beside a model."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    tiny_config(TinyShape(vocab_size=len(tokenizer)), tokenizer.eos_token_id).save_pretrained(
        folder
    )
    return AutoTokenizer.from_pretrained(folder)


def test_loaded_tokenizer_gives_the_ids_of_training(tokenizer, loaded):
    for text in texts():
        assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text), text
    assert len(loaded) == len(tokenizer)
    assert loaded.eos_token_id == tokenizer.eos_token_id


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_gives_the_ids_of_training(tokenizer, loaded, text):
    assert loaded.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("name", MODELS)
def test_shipped_model_meets_the_ids_that_it_was_trained_on(name):
    """Its tokenizer as AutoTokenizer loads it, against its tokenizer as it was saved."""
    folder = model_folder(name)
    trained = PreTrainedTokenizerFast.from_pretrained(folder)
    used = AutoTokenizer.from_pretrained(folder)
    assert len(used) == len(trained)
    assert [t for t in texts() if used.encode(t) != trained.encode(t)] == []


def test_decoding_undoes_encoding(tokenizer):
    for text in texts():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_tag_is_one_token_that_decodes_to_itself(tokenizer):
    for tag in TAGS:
        for text in (f"<{tag}>", f"</{tag}>"):
            assert len(tokenizer.encode(text)) == 1
            assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_end_of_text_is_no_text(tokenizer):
    assert tokenizer.decode([tokenizer.eos_token_id], skip_special_tokens=True) == ""

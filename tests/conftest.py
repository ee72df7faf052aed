"""Tiny language models, built on the spot: random weights, a byte-level tokenizer."""

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

# A busy machine stalls now and then, and no property here is about time.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

TEXT = [
    "Question: who directed the film The Silent Harbor?\n",
    "<think> I have to search.</think><search> who founded Altek Labs</search>",
    "<information>Doc 1: Heldra Nimstone was born in the city of Port Vardale.</information>\n",
    "<answer> Heldra Nimstone</answer>",
]
CLASSES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Return a byte-level BPE tokenizer of about 350 tokens whose tags take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=352,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )


@pytest.fixture(scope="session")
def make_tiny_model(tiny_tokenizer):
    """Return a function that makes a random model of two layers."""

    def make(kind="qwen2", dtype=torch.float32, seed=0, **overrides):
        config_class, model_class = CLASSES[kind]
        settings = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            # Large weights, so that what is sampled depends on the whole context.
            "initializer_range": 0.35,
            "bos_token_id": None,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "pad_token_id": tiny_tokenizer.eos_token_id,
        }
        torch.manual_seed(seed)
        return model_class(config_class(**(settings | overrides))).to(dtype).eval()

    return make

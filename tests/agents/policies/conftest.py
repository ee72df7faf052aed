"""Tiny models and tokenizers in the layouts of those that are trained in earnest."""

import copy

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe useful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = {
    "granite": {"logits_scaling": 7.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "gemma2": {
        "final_logit_softcapping": 2.0,
        "sliding_window": 6,
        "head_dim": 8,
    },
    "mistral": {"sliding_window": 6},
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
}


@pytest.fixture(scope="session")
def make_model():
    """Return a function that makes a random model of two layers."""

    def make(kind, vocab_size=352, **overrides):
        torch.manual_seed(0)
        if kind == "gpt2":
            config = GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4)
            return GPT2LMHeadModel(config).eval()
        config_class, model_class = FAMILIES[kind]
        settings = {
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.35,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": 0,
        }
        config = config_class(**(settings | SPECIAL.get(kind, {}) | overrides))
        return model_class(config).eval()

    return make


@pytest.fixture(scope="session")
def chat_tokenizer(tiny_tokenizer):
    """Return a tokenizer with ChatML's template and tokens."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def bos_tokenizer(tiny_tokenizer):
    """Return a tokenizer that begins every text with a token of its own."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
    )
    return tokenizer

"""Models beyond Llama's family are read by their own code, whatever is special about them."""

import copy

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from zs_env.lm.generator import SamplingParams
from zs_env.lm.reading import HuggingFaceReader, LeanReader, attention_windows, lean_agrees
from zs_env.lm.transformers import TransformersLM

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.35,
}
MODELS = {
    # Scales logits, which the output embedding alone does not.
    "granite": (
        GraniteForCausalLM,
        GraniteConfig(**SHAPE, logits_scaling=8.0, attention_multiplier=0.2),
    ),
    # Caps logits and scores, and alternates windows with full attention.
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config(
            **SHAPE,
            head_dim=8,
            sliding_window=5,
            final_logit_softcapping=3.0,
            attn_logit_softcapping=2.0,
        ),
    ),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.35),
    ),
    "windows_everywhere": (MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=6)),
    "windows_in_some_layers": (
        Qwen2ForCausalLM,
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "fused_projections": (Phi3ForCausalLM, Phi3Config(**SHAPE, sliding_window=7, pad_token_id=0)),
}
TURNS = [
    ["Question: who founded Altek Labs and where", "Hi", "Port Vardale?"],
    [" Doc 1: it was Heldra Nimstone", "\n", " who else, then, was it"],
]


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request, tiny_tokenizer):
    """Return a random model that the lean pass must leave alone."""
    model_class, config = MODELS[request.param]
    config = copy.deepcopy(config)
    config.vocab_size = len(tiny_tokenizer)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    torch.manual_seed(0)
    return model_class(config).eval()


def recomputed(plain, context, ids):
    """Return the log-probabilities of `ids` after `context`, from one full forward pass."""
    with torch.no_grad():
        logits = plain(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[:, None])[:, 0]


def test_turns_of_a_session_have_the_models_own_probabilities(model, tiny_tokenizer):
    plain = copy.deepcopy(model)
    lm = TransformersLM(copy.deepcopy(model), tiny_tokenizer)
    assert isinstance(lm.reader(8), HuggingFaceReader)
    session, transcripts = lm.session(3), [[], [], []]
    for turn, texts in enumerate(TURNS):
        new = [lm.encode(text) for text in texts]
        found = session.generate(range(3), new, [turn, 7, 9], SamplingParams(9, 1.0))
        for transcript, tokens, completion in zip(transcripts, new, found, strict=True):
            transcript += tokens
            expected = recomputed(plain, transcript, completion.token_ids)
            assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
            transcript += completion.token_ids


def test_greedy_text_equals_hugging_faces_generate(model, tiny_tokenizer):
    plain = copy.deepcopy(model)
    lm = TransformersLM(copy.deepcopy(model), tiny_tokenizer)
    prompt = lm.encode(TURNS[0][0])
    found = lm.session(1).generate([0], [prompt], [0], SamplingParams(12, 0.0))[0]
    expected = plain.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.eos_token_id,
    )[0, len(prompt) :]
    assert found.token_ids == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_by_the_models_own_code(make_tiny_model, tiny_tokenizer, dtype):
    model = make_tiny_model("qwen2", dtype)
    plain = copy.deepcopy(model).float()
    lm = TransformersLM(model, tiny_tokenizer)
    assert isinstance(lm.reader(8), HuggingFaceReader)
    prompt = lm.encode(TURNS[0][0])
    found = lm.session(1).generate([0], [prompt], [0], SamplingParams(6, 1.0))[0]
    expected = recomputed(plain, prompt, found.token_ids)
    # Logits reach 30 here, where bfloat16 has steps of 1/8.
    assert found.logprobs == pytest.approx(expected.tolist(), abs=1.5)


def test_lean_pass_is_taken_where_it_agrees(make_tiny_model, tiny_tokenizer):
    for kind in ("qwen2", "llama"):
        lm = TransformersLM(make_tiny_model(kind), tiny_tokenizer)
        assert isinstance(lm.reader(8), LeanReader)


def test_lean_pass_is_left_where_it_disagrees(make_tiny_model, tiny_tokenizer, monkeypatch):
    """Should a future version of a model compute something else, its own code goes on."""
    model = make_tiny_model("qwen2")
    lm = TransformersLM(model, tiny_tokenizer)
    assert lean_agrees(model, lm.empty_past())
    model.model.layers[1].self_attn.scaling *= 1.5
    assert not lean_agrees(model, lm.empty_past())
    assert isinstance(lm.reader(8), HuggingFaceReader)


def test_recurrent_layers_are_refused(tiny_tokenizer):
    config = Qwen2Config(**SHAPE)
    config.layer_types = ["linear_attention", "full_attention", "full_attention"]
    with pytest.raises(ValueError, match="got qwen2, which has layers of linear_attention"):
        attention_windows(config)

"""The lean pass, held against the code of Hugging Face's models."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from zs_env.lm.cache import RaggedCache
from zs_env.lm.lean import is_recognised
from zs_env.lm.reading import LeanReader

VOCABULARY = 97
FAMILY = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}


def make_model(kind="qwen2", seed=0, **overrides):
    """Return a random model whose every parameter matters."""
    config_class, model_class = FAMILY[kind]
    arguments = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "sliding_window": None,
    } | overrides
    if kind == "llama":
        del arguments["sliding_window"]
    torch.manual_seed(seed)
    model = model_class(config_class(**arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def lean_logits(model, transcripts, num_read):
    """Return the logits after the first `num_read` tokens of each row, and after each later one."""
    heads = model.config.num_key_value_heads
    head_dim = model.model.layers[0].self_attn.head_dim
    past = torch.empty(model.config.num_hidden_layers, 2, 0, heads, head_dim, dtype=model.dtype)
    with torch.inference_mode():
        cache = RaggedCache.from_rows([past] * len(transcripts), 64)
        reader = LeanReader(model, 64)
        starts = [0] * len(transcripts)
        prompts = [row[:n] for row, n in zip(transcripts, num_read, strict=True)]
        logits = [reader.read_prompts(cache, prompts, starts)]
        for step in range(len(transcripts[0]) - num_read[0]):
            ids = torch.tensor(
                [row[n + step] for row, n in zip(transcripts, num_read, strict=True)]
            )
            positions = torch.tensor(num_read) + step
            logits.append(reader.read_next(cache, ids, positions, max(num_read) + step + 1))
    return torch.stack(logits, 1)


def own_logits(model, transcripts, num_read):
    with torch.no_grad():
        return torch.stack(
            [
                model(torch.tensor([row])).logits[0, n - 1 :]
                for row, n in zip(transcripts, num_read, strict=True)
            ]
        )


@st.composite
def models(draw):
    """Draw a member of the family."""
    kind = draw(st.sampled_from(sorted(FAMILY)))
    key_value_heads = draw(st.integers(1, 3))
    overrides = {
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_key_value_heads": key_value_heads,
        "num_attention_heads": key_value_heads * draw(st.integers(1, 3)),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": ROPES[draw(st.sampled_from(sorted(ROPES)))],
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
    }
    overrides["hidden_size"] = 8 * overrides["num_attention_heads"]
    if kind in ("llama", "mistral", "qwen3"):
        overrides["head_dim"] = draw(st.sampled_from([4, 8, 16]))
    if kind in ("llama", "qwen3"):
        overrides["attention_bias"] = draw(st.booleans())
    if kind == "llama":
        overrides["mlp_bias"] = draw(st.booleans())
    return make_model(kind, draw(st.integers(0, 3)), **overrides)


@settings(max_examples=40, deadline=None)
@given(models(), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 3), st.data())
def test_logits_equal_those_of_the_models_own_code(model, num_read, num_more, data):
    assert is_recognised(model)
    ids = st.integers(0, VOCABULARY - 1)
    transcripts = [
        data.draw(st.lists(ids, min_size=n + num_more, max_size=n + num_more)) for n in num_read
    ]
    torch.testing.assert_close(
        lean_logits(model, transcripts, num_read),
        own_logits(model, transcripts, num_read),
        atol=1e-5,
        rtol=1e-5,
    )


def test_long_prompts_are_read_in_parts(monkeypatch):
    model = make_model()
    transcripts = [[(7 * row + 3 * i) % VOCABULARY for i in range(5 + row)] for row in range(9)]
    lengths = list(map(len, transcripts))
    whole = lean_logits(model, transcripts, lengths)
    monkeypatch.setattr("zs_env.lm.reading.TOKENS_AT_ONCE", 20)
    torch.testing.assert_close(lean_logits(model, transcripts, lengths), whole)


@pytest.mark.parametrize("kind", sorted(FAMILY))
def test_model_of_the_family_is_recognised(kind):
    model = make_model(kind)
    assert is_recognised(model)
    assert is_recognised(copy.deepcopy(model).double())
    assert is_recognised(model.train())


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("llama", {"hidden_act": "gelu"}),
        ("mistral", {"sliding_window": 8}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        ),
    ],
)
def test_model_that_computes_something_else_is_not_recognised(kind, overrides):
    assert not is_recognised(make_model(kind, **overrides))


class Subclass(Qwen2ForCausalLM):
    pass


def with_hook(model):
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def with_pre_hook(model):
    model.model.norm.register_forward_pre_hook(lambda *_: None)


def with_other_forward(model):
    model.model.layers[0].mlp.forward = lambda x: x


def with_other_part(model):
    model.model.layers[0].mlp.down_proj = torch.nn.Sequential(model.model.layers[0].mlp.down_proj)


def with_parametrization(model):
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.down_proj)


def with_adapter(model):
    peft = pytest.importorskip("peft")
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))


def in_half_precision(model):
    model.half()


def with_one_part_in_half_precision(model):
    model.lm_head.to(torch.bfloat16)


def of_another_class(model):
    model.__class__ = Subclass


@pytest.mark.parametrize(
    "change",
    [
        with_hook,
        with_pre_hook,
        with_other_forward,
        with_other_part,
        with_parametrization,
        with_adapter,
        in_half_precision,
        with_one_part_in_half_precision,
        of_another_class,
    ],
)
def test_changed_model_is_not_recognised(change):
    model = make_model(tie_word_embeddings=False)
    assert is_recognised(model)
    change(model)
    assert not is_recognised(model)


def test_model_that_drops_out_is_not_recognised():
    model = make_model(attention_dropout=0.5)
    assert is_recognised(model)
    assert not is_recognised(model.train())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapted_model_is_not_recognised():
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(make_model(), peft.LoraConfig(target_modules=["v_proj"]))
    assert not is_recognised(adapted)
    assert not is_recognised(adapted.get_base_model())

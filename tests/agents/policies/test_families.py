"""Families of models: each samples and is trained alike, or is refused in one line."""

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from agents.batch import Batch
from agents.cli.main import main
from agents.cli.plan import read_shape
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.model_options import ModelOptions
from agents.trajectory import Trajectory
from zs_env.lm.generator import SamplingParams
from zs_env.lm.reading import check_config

COMMON = {
    "vocab_size": 352,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
GPT2 = {
    "vocab_size": 352,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "eos_token_id": 0,
    "bos_token_id": None,
    "initializer_range": 0.3,
}
LATENT = COMMON | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
OPT = COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3}
FALCON = COMMON | {"alibi": False, "parallel_attn": True, "new_decoder_architecture": False}
EXPERTS = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW = GROUPED | {"head_dim": 8, "sliding_window": 6}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

WORKING = {
    "llama": ("llama", GROUPED),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 8}),
    "granite": ("granite", GROUPED | {"logits_scaling": 7.0}),
    "deepseek v2": ("deepseek_v2", LATENT | {"q_lora_rank": None}),
    "deepseek v3": ("deepseek_v3", LATENT | {"q_lora_rank": 16}),
    "minicpm3, whose key is wider": (
        "minicpm3",
        {k: v for k, v in LATENT.items() if "_nope_" not in k}
        | {"qk_nope_head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 4, "qk_rope_head_dim": 8},
    ),
    "opt": ("opt", OPT),
    "opt, projected": ("opt", OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "falcon, one key for all": ("falcon", FALCON | {"multi_query": True}),
    "falcon, grouped": ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gemma": ("gemma", GROUPED | {"head_dim": 8}),
    "gemma 2": ("gemma2", WINDOW),
    "gemma 3": ("gemma3_text", WINDOW),
    "gemma 3 with images": ("gemma3", {"text_config": WINDOW, "vision_config": VISION}),
    "mistral": ("mistral", WINDOW),
    "phi3": ("phi3", GROUPED),
    "gpt2": ("gpt2", GPT2),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "gpt_neox": ("gpt_neox", COMMON),
    "mixtral": ("mixtral", GROUPED | {"num_local_experts": 4}),
    "qwen2_moe": ("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("qwen3_moe", EXPERTS | {"head_dim": 8}),
    "cohere2": ("cohere2", WINDOW),
    "xglm": ("xglm", COMMON | {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "init_std": 0.3}),
}
TOLD_BY_THE_CONFIGURATION = {
    "bloom": (
        "bloom",
        GPT2 | {"hidden_size": 32},
        "whose ALiBi takes no rows of different lengths",
    ),
    "falcon, alibi": ("falcon", FALCON | {"alibi": True, "multi_query": False}, "whose ALiBi"),
    "mpt": ("mpt", {"vocab_size": 352, "d_model": 32, "n_layers": 2, "n_heads": 4}, "whose ALiBi"),
    "gpt_neo": (
        "gpt_neo",
        {
            "vocab_size": 352,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
        },
        "whose local attention",
    ),
    "mamba": ("mamba", COMMON | {"state_size": 4}, "which has layers of linear_attention"),
    "mamba2": (
        "mamba2",
        COMMON | {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1},
        "which has layers of linear_attention",
    ),
    "jamba": (
        "jamba",
        GROUPED | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
        "which has layers of linear_attention",
    ),
    "rwkv": (
        "rwkv",
        {"vocab_size": 352, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
        "whose configuration has no num_attention_heads",
    ),
    "recurrent_gemma": (
        "recurrent_gemma",
        COMMON | {"num_hidden_layers": 3, "lru_width": 32},
        "which has layers of linear_attention",
    ),
    "lfm2": (
        "lfm2",
        GROUPED | {"layer_types": ["conv", "full_attention"]},
        "which has layers of conv",
    ),
    "llama4": (
        "llama4_text",
        GROUPED | {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48},
        "which has layers of chunked_attention",
    ),
}
TOLD_BY_A_TRIAL = {
    "bert": ("bert", COMMON, "which reads otherwise with our cache than without"),
    "openai-gpt": ("openai-gpt", GPT2, "which cannot use our cache (RuntimeError: "),
}


@pytest.fixture
def make_folder(tiny_tokenizer, tmp_path):
    """Return a function that writes a random model as the hub has it."""

    def make(model_type, settings):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **settings)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tiny_tokenizer.save_pretrained(tmp_path)
        return tmp_path

    transformers.utils.logging.disable_progress_bar()
    yield make
    transformers.utils.logging.enable_progress_bar()


def failure(capsys, folder, *options):
    """Return the one line that a training ends with."""
    arguments = ["--policy", str(folder), "--engine", "world", "--out", str(folder / "run")]
    assert main(["train", *arguments, "--threads", "1", *options]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    return message


def play(policy):
    """Return episodes of three turns whose contexts are of different lengths throughout."""
    session, rows, params = policy.session(3), range(3), SamplingParams(8)
    trajectories = [Trajectory() for _ in rows]
    for turn in range(3):
        shown = [[(7 * i + row + turn) % 340 + 1 for i in range(2 + 5 * row)] for row in rows]
        seeds = [10 * turn + row for row in rows]
        completions = session.generate(rows, shown, seeds, params)
        for trajectory, ids, completion in zip(trajectories, shown, completions, strict=True):
            trajectory.observe(ids)
            trajectory.act(completion.token_ids, completion.logprobs)
    return trajectories


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "granite", "gemma2"])
def test_sampler_stores_what_score_finds(make_model, tiny_tokenizer, kind):
    policy = CausalLMPolicy(make_model(kind), tiny_tokenizer, logit_chunk=4)
    session, trajectories = policy.session(3), [Trajectory() for _ in range(3)]
    texts = (["Question: who", "Hi", "x y z"], [" found", "<search>", "\n\n and then what was it"])
    for turn in range(2):
        new = [policy.encode(text) for text in texts[turn]]
        found = session.generate(range(3), new, [turn, 5, 9], SamplingParams(6, 0.8))
        for trajectory, tokens, completion in zip(trajectories, new, found, strict=True):
            trajectory.observe(tokens)
            trajectory.act(completion.token_ids, completion.logprobs)
    batch = Batch.from_trajectories(trajectories)
    stored = batch.logprobs[batch.action_mask]
    torch.testing.assert_close(policy.score(batch, 0.8).logprobs, stored, atol=1e-3, rtol=0)


# Transformers compiles a part of GPT-BigCode so.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", WORKING)
def test_what_was_sampled_is_scored_as_it_was(make_folder, name, capsys):
    folder = make_folder(*WORKING[name])
    policy = CausalLMPolicy.load(folder)
    batch = Batch.from_trajectories(play(policy))
    scores = policy.score(batch)
    sampled = batch.logprobs[:, 1:][batch.action_mask[:, 1:]]
    torch.testing.assert_close(scores.logprobs.detach(), sampled, atol=1e-4, rtol=1e-4)
    scores.logprobs.sum().backward()
    assert sum(float(p.grad.abs().sum()) for p in policy.parameters() if p.grad is not None) > 0
    layers, pair, length, heads, size = policy._generator.empty_past().shape
    shape = read_shape(folder, ModelOptions())
    assert (layers, pair, length, heads * size) == (shape.num_layers, 2, 0, shape.kv_size)
    options = ["--policy", str(folder), "--engine", "world", "--dry-run", "--threads", "1"]
    assert main(["train", *options]) == 0
    assert f"policy: {shape.architecture}, " in capsys.readouterr().out


@pytest.mark.parametrize("name", TOLD_BY_THE_CONFIGURATION)
def test_what_the_configuration_tells_is_refused_before_weights_are_loaded(
    make_folder, capsys, name
):
    model_type, settings, reason = TOLD_BY_THE_CONFIGURATION[name]
    folder = make_folder(model_type, settings)
    message = failure(capsys, folder, "--dry-run")
    wanted = "`model` must be a decoder that keeps keys and values of every token"
    assert f"{wanted}, got {model_type}, {reason}" in message
    assert reason in failure(capsys, folder)
    with pytest.raises(ValueError, match=f"got {model_type}, {reason}"):
        CausalLMPolicy.load(folder)
    assert not (folder / "run").exists()


@pytest.mark.parametrize("name", TOLD_BY_A_TRIAL)
def test_what_only_a_trial_tells_is_refused_when_weights_are_there(make_folder, capsys, name):
    model_type, settings, reason = TOLD_BY_A_TRIAL[name]
    folder = make_folder(model_type, settings)
    check_config(AutoConfig.from_pretrained(folder))
    assert f", got {model_type}, {reason}" in failure(capsys, folder)
    assert not (folder / "run").exists()


def test_a_full_memory_in_the_trial_is_no_fault_of_the_model(make_folder, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    folder = make_folder(*WORKING["gpt2"])
    monkeypatch.setattr("zs_env.lm.reading.HuggingFaceReader._read", full)
    with pytest.raises(torch.OutOfMemoryError):
        CausalLMPolicy.load(folder)

"""How a context begins: as a chat, with a first token, or as it is."""

import json

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

import zs_env  # noqa: F401 - registers the environments
from agents.audit import audit
from agents.evaluate import evaluate
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.chat import end_of_turn, opening_ids
from agents.policies.folders import POLICY_FILE
from agents.policies.model_options import ModelOptions
from agents.policies.opening import encode_opening
from agents.rollout import collect
from zs_env.task.question_sets import QuestionSet

OPENING = (
    "<|im_start|>system\nBe useful.<|im_end|>\n<|im_start|>user\nQuestion: who?\n<|im_end|>\n"
    "<|im_start|>assistant\n"
)
STOPS = ("</search>", "</answer>")


@pytest.fixture(scope="module")
def chat_policy(make_model, chat_tokenizer):
    model = make_model("qwen2", len(chat_tokenizer), max_position_embeddings=1024)
    return CausalLMPolicy(model, chat_tokenizer)


def make_env(num_envs=4, **kwargs):
    return gym.make_vec(
        "ZeroSearch-v0",
        num_envs=num_envs,
        engine="world",
        max_turns=3,
        autoreset_mode=AutoresetMode.DISABLED,
        **kwargs,
    )


def test_a_chat_begins_in_the_template_and_goes_on_as_it_is(chat_policy):
    opening = chat_policy.encode_prompt("Question: who?\n")
    assert chat_policy.decode(opening) == OPENING
    assert chat_policy.decode(chat_policy.encode("Doc 1: x\n")) == "Doc 1: x\n"


def test_the_template_is_used_where_there_is_one(make_model, tiny_tokenizer, chat_tokenizer):
    assert not CausalLMPolicy(make_model("qwen2"), tiny_tokenizer).chat
    model = make_model("qwen2", len(chat_tokenizer))
    assert CausalLMPolicy(model, chat_tokenizer).chat
    plain = CausalLMPolicy(model, chat_tokenizer, chat=False)
    assert plain.encode_prompt("Who?") == plain.encode("Who?")


def test_a_chat_without_a_template_is_refused(make_model, tiny_tokenizer):
    with pytest.raises(ValueError, match="`chat` must be false for a tokenizer without"):
        CausalLMPolicy(make_model("qwen2"), tiny_tokenizer, chat=True)


def test_the_first_token_comes_once_and_only_where_the_tokenizer_has_one(
    tiny_tokenizer, bos_tokenizer
):
    first = bos_tokenizer.bos_token_id
    plain = tiny_tokenizer.encode("Who?")
    assert opening_ids("Who?", bos_tokenizer, False) == [first, *plain]
    assert opening_ids("Who?", tiny_tokenizer, False) == plain


def test_a_templates_own_first_token_is_not_doubled(bos_tokenizer, monkeypatch):
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}>"
    monkeypatch.setattr(bos_tokenizer, "chat_template", template)
    ids = opening_ids("Who?", bos_tokenizer, True)
    assert ids.count(bos_tokenizer.bos_token_id) == 1
    assert ids[0] == bos_tokenizer.bos_token_id


def test_the_end_of_turn_ends_a_text_though_the_model_does_not_know_it(chat_policy, make_model):
    tokenizer = chat_policy.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn(tokenizer) == end
    assert chat_policy.end_ids() == {end, tokenizer.eos_token_id}
    plain = CausalLMPolicy(make_model("qwen2", len(tokenizer)), tokenizer, chat=False)
    assert plain.end_ids() == {tokenizer.eos_token_id}


def test_a_template_without_a_special_end_of_turn_has_none(chat_tokenizer, monkeypatch):
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    monkeypatch.setattr(chat_tokenizer, "chat_template", template)
    assert end_of_turn(chat_tokenizer) is None


def biased(policy, token, bias=40.0):
    """Make the policy end every text at once."""
    import torch

    head = policy.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    with torch.no_grad():
        head.bias[token] = bias
    return policy


def test_ending_the_turn_without_an_action_costs_a_turn_and_stays_in_the_context(
    make_model, chat_tokenizer
):
    """The end token was sampled, so it is trained; what the environment says follows it as is."""
    model = make_model("qwen2", len(chat_tokenizer), max_position_embeddings=1024)
    policy = CausalLMPolicy(model, chat_tokenizer)
    end = end_of_turn(chat_tokenizer)
    env = make_env()
    rollout = collect(biased(policy, end), env, seed=0, max_new_tokens=4)
    for trajectory in rollout.trajectories:
        assert [turn.kind for turn in trajectory.turns] == ["malformed"] * 3
        assert [turn.action for turn in trajectory.turns] == [""] * 3
        first, second = trajectory.turns[:2]
        assert trajectory.token_ids[first.start : first.end] == [end]
        assert trajectory.action_mask[first.start]
        between = trajectory.token_ids[first.end : second.start]
        assert between == policy.encode(first.observation)
    report = audit(policy, rollout.trajectories, metadata=env.metadata, max_new_tokens=4)
    assert report.passed, report


def test_a_rollout_of_chats_passes_the_audit(chat_policy):
    env = make_env(prompt="zerosearch")
    rollout = collect(chat_policy, env, seed=1, max_new_tokens=12)
    for trajectory in rollout.trajectories:
        opening = trajectory.token_ids[: trajectory.turns[0].start]
        assert opening == chat_policy.encode_prompt(trajectory.prompt)
        assert opening != chat_policy.encode(trajectory.prompt)
    report = audit(chat_policy, rollout.trajectories, metadata=env.metadata, max_new_tokens=12)
    assert report.passed, report


def test_the_audit_finds_a_prompt_that_was_read_otherwise(chat_policy, make_model):
    plain = CausalLMPolicy(chat_policy.model, chat_policy.tokenizer, chat=False)
    env = make_env()
    rollout = collect(plain, env, seed=1, max_new_tokens=6)
    assert not audit(chat_policy, rollout.trajectories, metadata=env.metadata).passed


class Recording:
    """A token generator that keeps what it reads."""

    def __init__(self, policy):
        self.policy, self.read = policy, []

    def encode(self, text):
        return self.policy.encode(text)

    def encode_prompt(self, text):
        return self.policy.encode_prompt(text)

    def session(self, num_rows):
        self.inner = self.policy.session(num_rows)
        return self

    def clear(self, rows):
        self.inner.clear(rows)

    def generate(self, rows, new_tokens, seeds, params):
        self.read.append(new_tokens)
        return self.inner.generate(rows, new_tokens, seeds, params)


def test_an_evaluated_agent_reads_what_a_trained_one_does(chat_policy):
    recording = Recording(chat_policy)
    questions = QuestionSet("miniwiki").split("test")[:2]
    agent = PolicyAgent(recording, STOPS, max_new_tokens=4)
    evaluate(agent, questions, env_kwargs={"engine": "world", "max_turns": 2})
    first, second = recording.read
    assert all(chat_policy.decode(ids).startswith("<|im_start|>system") for ids in first)
    assert not any("<|im_start|>" in chat_policy.decode(ids) for ids in second)


def test_a_generator_without_prompts_of_its_own_encodes_them_like_any_text(scripted):
    assert encode_opening(scripted(lambda *_: ""), "ab") == [97, 98]


@pytest.mark.parametrize("chat", [True, False])
def test_a_saved_policy_begins_as_it_was_trained(make_model, chat_tokenizer, tmp_path, chat):
    policy = CausalLMPolicy(make_model("qwen2", len(chat_tokenizer)), chat_tokenizer, chat=chat)
    policy.save(tmp_path)
    assert (tmp_path / POLICY_FILE).exists() == (not chat)
    loaded = CausalLMPolicy.load(tmp_path)
    assert loaded.encode_prompt("Who?") == policy.encode_prompt("Who?")
    assert loaded.end_ids() == policy.end_ids()
    options = ModelOptions(chat="false" if chat else "true")
    assert CausalLMPolicy.load(tmp_path, options=options).chat is not chat


def test_a_damaged_policy_file_is_named(make_model, chat_tokenizer, tmp_path):
    CausalLMPolicy(make_model("qwen2", len(chat_tokenizer)), chat_tokenizer).save(tmp_path)
    (tmp_path / POLICY_FILE).write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"policy\.json must be a JSON object"):
        CausalLMPolicy.load(tmp_path)

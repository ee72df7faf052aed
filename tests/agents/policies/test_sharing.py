"""A policy and a simulator that are two adapters on one model."""

import threading

import pytest
import torch
from safetensors import safe_open

from agents.algorithms.grpo import GRPO
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.model_options import ModelOptions
from agents.policies.sharing import adapter_to_share, model_below, shared_simulator, who_shares
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from agents.tuning.sft_config import SFTOptions
from agents.tuning.sft_model import load_model, save_model
from zs_env.lm.generator import SamplingParams
from zs_env.lm.transformers import TransformersLM
from zs_env.search.engine import SearchRequest
from zs_env.search.registry import make_engine

REQUESTS = [
    SearchRequest(f"who founded {name}", f"Who founded {name}?", ("Ada",), noisy, seed)
    for seed, (name, noisy) in enumerate([("it", False), ("Altek Labs", True)] * 3)
]


@pytest.fixture(params=["qwen2", "llama"])
def base(request, make_model, tiny_tokenizer, tmp_path):
    """Return the folder of a model below two adapters."""
    model = make_model(request.param, max_position_embeddings=1024)
    CausalLMPolicy(model, tiny_tokenizer).save(tmp_path / "base")
    return tmp_path / "base"


def disturb(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def adapter(base, tiny_tokenizer, tmp_path):
    """Return the folder of a simulator's adapter, as fine-tuning writes it."""
    options = SFTOptions(lora_rank=3)
    tuned = load_model(str(base), tiny_tokenizer, options)
    disturb(tuned.trained().values(), 1)
    save_model(tuned, options, tmp_path / "simulator")
    return tmp_path / "simulator"


@pytest.fixture
def policy(base):
    policy = CausalLMPolicy.load(base, options=ModelOptions(lora_rank=4))
    disturb(policy.parameters(), 2)
    return policy


def name_of(adapter):
    return f"simulator:{adapter}?tokens=12&temperature=0.7"


def below(model):
    """Return where the tensors of a model are that belong to no adapter."""
    return {
        name.replace(".base_layer", ""): tensor.data_ptr()
        for name, tensor in model.named_parameters()
        if ".lora_" not in name
    }


def test_documents_are_those_of_the_simulator_apart(adapter, policy):
    shared = shared_simulator(name_of(adapter), policy)
    apart = make_engine(name_of(adapter))
    assert shared.replies(REQUESTS) == apart.replies(REQUESTS)
    assert shared.describe() == apart.describe()
    plain = TransformersLM(model_below(policy), policy.tokenizer)
    params = SamplingParams(12)
    asked = ["Who founded it?"], [0], params
    assert shared.generator.complete(*asked) != plain.complete(*asked)


def test_there_is_one_copy_of_the_model(adapter, policy):
    simulator = shared_simulator(name_of(adapter), policy).generator.model
    assert below(simulator) == below(policy.model)
    adapters = [
        {p.data_ptr() for n, p in model.named_parameters() if ".lora_" in n}
        for model in (simulator, policy.model)
    ]
    assert all(len(each) == 2 * 7 * 2 for each in adapters)
    assert not adapters[0] & adapters[1]


def test_the_policy_is_what_it_was(adapter, policy):
    prompts, seeds = [policy.encode("Question: who?")], [3]
    before, reference = policy.session(1), policy.frozen_copy()
    wanted = before.generate([0], prompts, seeds, SamplingParams(20))
    names = set(policy.module.state_dict())
    simulator = shared_simulator(name_of(adapter), policy)
    simulator.search(REQUESTS)
    assert policy.session(1).generate([0], prompts, seeds, SamplingParams(20)) == wanted
    assert set(policy.module.state_dict()) == names
    assert {id(p) for p in policy.model.parameters() if p.requires_grad} == {
        id(p) for p in policy.parameters()
    }
    assert not any(p.requires_grad for p in simulator.generator.model.parameters())
    assert reference.model is policy.model


def make_trainer(policy, engine, make_env):
    def documents(turn):
        return engine.search(REQUESTS[:1])[0][0].text

    env = make_env(num_turns=3, observation=documents)
    settings = {"num_minibatches": 1, "learning_rate": 1e-2, "max_new_tokens": 6}
    return Trainer(policy, env, GRPO(kl_coef=0.1), config=TrainerConfig(**settings))


def test_training_changes_the_adapter_of_the_policy_alone(
    adapter, base, make_letters_env, tmp_path
):
    """And it is the training with the simulator apart, number by number."""
    found = []
    for share in (True, False):
        policy = CausalLMPolicy.load(base, options=ModelOptions(lora_rank=4))
        disturb(policy.parameters(), 2)
        name = name_of(adapter)
        engine = shared_simulator(name, policy) if share else make_engine(name)
        trainer = make_trainer(policy, engine, make_letters_env)
        before = [p.clone() for p in engine.generator.model.parameters()]
        trainer.learn(2)
        after = list(engine.generator.model.parameters())
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        assert all(p.grad is None for p in after)
        found.append([p.clone() for p in policy.parameters()])
        trainer.save(tmp_path / f"share-{share}")
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    for file in ("policy.safetensors", "policy/adapter_model.safetensors"):
        with safe_open(tmp_path / "share-True" / file, "pt") as saved:
            keys = list(saved.keys())
        assert len(keys) == 2 * 7 * 2
        assert all("lora_" in key for key in keys)


def test_both_may_write_at_the_same_time(adapter, policy):
    simulator = shared_simulator(name_of(adapter), policy)
    prompt = [policy.encode("Question: who?")]

    def act():
        return policy.session(1).generate([0], prompt, [3], SamplingParams(20))

    wanted = act(), simulator.replies(REQUESTS)
    together, start = [], threading.Barrier(2)

    def ask():
        start.wait(30)
        together.extend(simulator.replies(REQUESTS) for _ in range(10))

    thread = threading.Thread(target=ask)
    thread.start()
    start.wait(30)
    acts = [act() for _ in range(10)]
    thread.join(60)
    assert acts == [wanted[0]] * 10
    assert together == [wanted[1]] * 10


def test_an_adapter_is_shared_only_where_its_model_is_the_policys(adapter, base, tmp_path):
    name = name_of(adapter)
    assert adapter_to_share(name, base) == adapter
    other = tmp_path / "other"
    other.mkdir()
    for file in base.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert adapter_to_share(name, other) is None
    assert adapter_to_share(f"simulator:{base}", base) is None
    for engine in ("simulator", "world", "simulator:http://localhost:1/v1#x", "mine:Engine"):
        assert adapter_to_share(engine, base) is None
    base.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=f"{adapter} is an adapter for {base}: "):
        adapter_to_share(name, other)


def test_whole_policies_share_nothing(adapter, base):
    assert who_shares(name_of(adapter), base, CausalLMPolicy.load(base)) is None
    with_adapter = CausalLMPolicy.load(base, options=ModelOptions(lora_rank=2))
    assert who_shares(name_of(adapter), base, with_adapter) is with_adapter


def test_the_simulator_has_the_types_of_the_policys_model(adapter, base):
    options = ModelOptions(lora_rank=2, dtype="bfloat16", rollout_batch_size=3)
    policy = CausalLMPolicy.load(base, options=options)
    lm = shared_simulator(name_of(adapter), policy).generator
    assert lm.describe()["dtype"] == "torch.bfloat16"
    assert {p.dtype for n, p in lm.model.named_parameters() if ".lora_" in n} == {torch.float32}
    assert lm.max_batch_size == 3
    assert len(lm.complete(["Who?"] * 5, range(5), SamplingParams(4))) == 5

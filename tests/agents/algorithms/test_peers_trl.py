"""Advantages, losses and gradients beside those of TRL's own trainers, on the same tokens.

Two groups of four episodes are handed to TRL's trainers as if those had sampled them; what their
`_generate_and_score_completions` and `_compute_loss` make of them is theirs alone. Between the two
the weights move, so that ratios are not 1 and some are clipped.

TRL divides by the deviation of a sample plus 1e-4, where we take that of the population plus 1e-6;
where advantages are scaled, they are compared up to that factor, and both losses get TRL's. Its
KL penalty is taken without the correction by the ratio, which the paper does not have.
"""

from dataclasses import replace

import pytest
import torch

from agents.algorithms.dapo import DAPO
from agents.algorithms.dr_grpo import DrGRPO
from agents.algorithms.grpo import GRPO
from agents.algorithms.gspo import GSPO
from agents.algorithms.rloo import RLOO
from agents.batch import Batch
from agents.policies.causal_lm import CausalLMPolicy

REWARDS = [0.0, 1.0, 0.5, 0.5, 1.0, 0.0, 0.0, 0.25]
BUDGET = 24
GROUP = 4
CLOSE = {"atol": 1e-5, "rtol": 1e-5}

CASES = {
    "grpo": (
        GRPO(kl_coef=0.1),
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False},
    ),
    "grpo without scale": (
        GRPO(kl_coef=0, scale_rewards=False),
        {"loss_type": "grpo", "scale_rewards": "none"},
    ),
    "dr-grpo": (DrGRPO(token_budget=BUDGET), {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dapo": (DAPO(), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "gspo": (
        GSPO(),
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
        },
    ),
}


def parts(number, two_turns):
    """Return the ids of an episode: prompt, action, then perhaps an observation and an action."""
    first = ([5, 6, 7, number // GROUP], [10 + number] * (2 + number % 3))
    return [first, ([40, 41], [50 + number] * (1 + number % 4))] if two_turns else [first]


def rollout(prompts, trainer):
    """Return the episodes in the form of TRL's `rollout_func`."""
    rows = [parts(number, two_turns=True) for number in range(len(REWARDS))]
    texts = [(a, o, b) for (_, a), (o, b) in rows]
    return {
        "prompt_ids": [first[0] for first, _ in rows],
        "completion_ids": [a + o + b for a, o, b in texts],
        "logprobs": [[0.0] * len(a + o + b) for a, o, b in texts],
        "env_mask": [[1] * len(a) + [0] * len(o) + [1] * len(b) for a, o, b in texts],
    }


def reward(completions, **kwargs):
    return REWARDS


@pytest.fixture(scope="module")
def start(make_tiny_model, tiny_tokenizer, tmp_path_factory):
    """Return a folder with the model that is the reference."""
    folder = tmp_path_factory.mktemp("start")
    make_tiny_model(initializer_range=0.2).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def make_trainer(kind, start, tmp_path, tokenizer, **settings):
    """Return one of TRL's trainers as it is in the middle of training."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    config = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=len(REWARDS),
        num_generations=GROUP,
        max_completion_length=BUDGET,
        steps_per_generation=1,
        gradient_checkpointing=False,
        **settings,
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        model=str(start),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["hello"] * len(REWARDS)}),
        processing_class=tokenizer,
        **({"rollout_func": rollout} if kind == "GRPO" else {}),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def move(model, seed, size=0.01):
    """Change the weights a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def copy_of(model, make_tiny_model, tokenizer):
    policy = CausalLMPolicy(make_tiny_model(), tokenizer)
    policy.model.load_state_dict(model.state_dict())
    return policy


def our_batch(episode, sampler, reference, two_turns):
    """Return the episodes with the log-probabilities of the sampler and of the reference."""
    made = [
        episode(*parts(i, two_turns), rewards=r, group=i // GROUP) for i, r in enumerate(REWARDS)
    ]
    batch = Batch.from_trajectories(made)

    def spread(policy):
        tokens = torch.zeros_like(batch.logprobs)
        with torch.no_grad():
            tokens[:, 1:][batch.action_mask[:, 1:]] = policy.score(batch).logprobs
        return tokens

    return replace(batch, logprobs=spread(sampler), reference_logprobs=spread(reference))


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same_loss_and_gradients(ours, policy, theirs, model):
    torch.testing.assert_close(ours, theirs, **CLOSE)
    ours.backward()
    theirs.backward()
    expected, found = gradients(model), gradients(policy.model)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **CLOSE, msg=name)
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-3


def scaled_as_ours(advantages):
    """Return TRL's scaled advantages with the deviation of the population plus 1e-6."""
    groups = torch.tensor(REWARDS).view(-1, GROUP)
    theirs = groups.std(1, keepdim=True) + 1e-4
    ours = groups.std(1, keepdim=True, correction=0) + 1e-6
    return (advantages.view(-1, GROUP) * theirs / ours).flatten()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trls_grpo_trainer(
    name, start, tmp_path, make_tiny_model, tiny_tokenizer, episode, look
):
    algorithm, settings = CASES[name]
    trainer = make_trainer("GRPO", start, tmp_path, tiny_tokenizer, **settings)
    reference = copy_of(trainer.model, make_tiny_model, tiny_tokenizer)
    move(trainer.model, 1)
    sampler = copy_of(trainer.model, make_tiny_model, tiny_tokenizer)
    inputs = trainer._generate_and_score_completions([{"prompt": "hello"}] * len(REWARDS))
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    with torch.no_grad():
        inputs["old_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, inputs["completion_ids"].shape[1]
        )[0]
    move(trainer.model, 2)
    policy = copy_of(trainer.model, make_tiny_model, tiny_tokenizer)

    batch = our_batch(episode, sampler, reference, two_turns=True)
    targets = algorithm.targets(algorithm.shape_rewards(batch))
    first = targets.advantages[torch.arange(len(batch)), batch.action_mask.int().argmax(1)]
    theirs = inputs["advantages"]
    unscaled = settings.get("scale_rewards") == "none"
    torch.testing.assert_close(first, theirs if unscaled else scaled_as_ours(theirs), **CLOSE)

    targets = replace(targets, advantages=theirs[:, None] * batch.action_mask)
    wanted = batch.reference_logprobs if algorithm.needs else None
    loss = algorithm.loss(look(batch, targets, policy.score(batch).logprobs, wanted))
    assert 0 < float(loss.statistics["clip_share"]) < 1
    expected = trainer._compute_loss(trainer.model, inputs)
    assert_same_loss_and_gradients(loss.value, policy, expected, trainer.model)


@pytest.mark.filterwarnings("ignore")
def test_loss_and_gradient_are_those_of_trls_rloo_trainer(
    start, tmp_path, make_tiny_model, tiny_tokenizer, episode, look, monkeypatch
):
    """TRL's RLOO knows no observations between actions: these episodes have one turn."""
    algorithm = RLOO(kl_coef=0.3)
    trainer = make_trainer("RLOO", start, tmp_path, tiny_tokenizer, beta=0.3)
    reference = copy_of(trainer.model, make_tiny_model, tiny_tokenizer)
    move(trainer.model, 1)
    sampler = copy_of(trainer.model, make_tiny_model, tiny_tokenizer)
    [*rows] = [parts(number, two_turns=False)[0] for number in range(len(REWARDS))]
    sampled = [row[0] for row in rows], [row[1] for row in rows], ["text"] * len(rows)
    monkeypatch.setattr(trainer, "_generate", lambda prompts: sampled)
    inputs = trainer._generate_and_score_completions([{"prompt": "hello"}] * len(REWARDS))
    move(trainer.model, 2)
    policy = copy_of(trainer.model, make_tiny_model, tiny_tokenizer)

    batch = our_batch(episode, sampler, reference, two_turns=False)
    targets = algorithm.targets(algorithm.shape_rewards(batch))
    torch.testing.assert_close(
        targets.advantages.sum(1), inputs["advantages"] * batch.action_mask.sum(1), **CLOSE
    )

    loss = algorithm.loss(look(batch, targets, policy.score(batch).logprobs))
    assert 0 < float(loss.statistics["clip_share"]) < 1
    expected = trainer._compute_loss(trainer.model, inputs)
    assert_same_loss_and_gradients(loss.value, policy, expected, trainer.model)

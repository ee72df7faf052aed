"""The examples that learn: their parts, by themselves."""

import ast
import copy
import importlib.util
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.algorithms.advantages import group_advantages
from agents.algorithms.algorithm import TokenView
from agents.algorithms.registry import make_algorithm
from agents.batch import Batch
from agents.cli.main import main
from agents.trajectory import Trajectory, Turn
from zs_env.models import model_folder

ROOT = Path(__file__).parents[1]
SMALL = {"num_questions": 3, "group_size": 4, "max_turns": 3}


@pytest.fixture(scope="module", autouse=True)
def examples():
    """Return a function that imports an example, as a module that can be found by its name."""
    loaded = []

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in loaded:
        del sys.modules[name]


@pytest.fixture(scope="module")
def raft(examples):
    return examples("custom_algorithm").Raft


@pytest.fixture(scope="module")
def scratch(examples):
    return examples("grpo_from_scratch")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_folder("base"))


@pytest.fixture
def model():
    return AutoModelForCausalLM.from_pretrained(model_folder("base"), dtype=torch.float32).eval()


def make_env(settings):
    return gym.make_vec(
        "ZeroSearch-v0",
        num_envs=settings.num_questions * settings.group_size,
        group_size=settings.group_size,
        engine="world",
        max_turns=settings.max_turns,
        autoreset_mode="Disabled",
    )


@pytest.fixture
def played(scratch, model, tokenizer):
    """Return the settings, and a batch of episodes that the start model played."""
    settings = scratch.Settings(**SMALL)
    torch.manual_seed(1)
    return settings, scratch.play(model, tokenizer, make_env(settings), 5, settings)


def batch_of(rewards, groups):
    """Return one episode a reward: one token read, two sampled."""
    trajectories = []
    for reward, group in zip(rewards, groups, strict=True):
        trajectory = Trajectory(group=group, turns=[Turn("", "answer", False, reward, 1, 3)])
        trajectory.observe([5])
        trajectory.act([6, 7], [-1.0, -1.0])
        trajectories.append(trajectory)
    return Batch.from_trajectories(trajectories)


@pytest.mark.parametrize(
    ("rewards", "min_reward", "chosen"),
    [
        ([0.2, 0.9, 0.9, 0.4, 0.1, 0.3], 0.0, [1, 2, 3]),
        ([0.2, 0.9, 0.9, 0.4, 0.1, 0.3], 0.5, [1, 2]),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 0.0, [5]),
        ([0.0] * 6, 0.0, []),
    ],
)
def test_raft_imitates_the_best_of_each_group(raft, rewards, min_reward, chosen):
    batch = batch_of(rewards, groups=[8, 8, 8, 9, 9, 9])
    targets = raft(min_reward=min_reward).targets(batch)
    assert targets.advantages.sum(1).nonzero().flatten().tolist() == chosen
    assert not targets.advantages[~batch.action_mask].any()
    assert float(targets.weights.sum()) == pytest.approx(1.0 if chosen else 0.0)


def test_raft_makes_only_what_was_chosen_likelier(raft):
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    view = TokenView(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        advantages=torch.tensor([1.0, 0.0, 1.0]),
        weights=torch.tensor([0.5, 0.0, 0.5]),
        **_the_rest(),
    )
    raft().loss(view).value.backward()
    assert logprobs.grad.tolist() == [-0.5, 0.0, -0.5]


def _the_rest():
    """Return the fields of a view that the example does not look at."""
    used = {"logprobs", "old_logprobs", "advantages", "weights"}
    return dict.fromkeys(set(TokenView.__slots__) - used)


def test_algorithm_of_ones_own_is_named_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = "examples.custom_algorithm:Raft?min_reward=0.5&num_epochs=2"
    algorithm = make_algorithm(spec)
    assert (algorithm.min_reward, algorithm.num_epochs) == (0.5, 2)
    small = "--engine world --steps 1 --num-questions 4 --group-size 2 --eval-every 0 --threads 1"
    out = tmp_path / "run"
    assert main(["train", "--algorithm", spec, "--out", str(out), *small.split()]) == 0
    assert (out / "metrics.jsonl").read_text().count("\n") == 1


def test_grpo_from_scratch_is_short_and_stands_alone():
    source = (ROOT / "examples" / "grpo_from_scratch.py").read_text(encoding="utf-8")
    assert source.count("\n") <= 200
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {
        "gymnasium",
        "torch",
        "transformers",
        "zs_env",
    }


def parts_of(episode):
    """Return the runs of one writer's tokens, in order: (whether they were sampled, ids)."""
    parts = []
    for token, sampled in zip(episode.ids, episode.sampled, strict=True):
        if not parts or parts[-1][0] != sampled:
            parts.append((sampled, []))
        parts[-1][1].append(token)
    return parts


def test_masks_tell_who_wrote_what(played, tokenizer):
    """The environment, told again what was sampled, shows again what was not."""
    settings, episodes = played
    env = make_env(settings)
    observations, _ = env.reset(seed=5)
    shown = list(observations)
    rewards = [0.0] * len(episodes)
    parts = [parts_of(episode) for episode in episodes]
    assert any(len(each) > 2 for each in parts)
    for turn in range(settings.max_turns):
        texts = [""] * len(episodes)
        for slot, each in enumerate(parts):
            if 2 * turn < len(each):
                assert each[2 * turn] == (False, tokenizer.encode(shown[slot]))
                sampled, ids = each[2 * turn + 1]
                assert sampled
                texts[slot] = tokenizer.decode(ids).removesuffix("<|endoftext|>")
        shown, step_rewards, *_ = env.step(texts)
        rewards = [total + reward for total, reward in zip(rewards, step_rewards, strict=True)]
    assert rewards == pytest.approx([episode.reward for episode in episodes])


def test_actions_end_with_their_stop_tokens(played, tokenizer):
    settings, episodes = played
    for episode in episodes:
        for sampled, ids in parts_of(episode):
            text = tokenizer.decode(ids)
            stops = ("</search>", "</answer>", "<|endoftext|>")
            assert not sampled or text.endswith(stops) or len(ids) == settings.max_new_tokens


def test_sampler_and_learner_give_a_token_the_same_probability(scratch, played, model):
    _, episodes = played
    for episode in episodes:
        scored = scratch.token_logprobs(model, torch.tensor([episode.ids]))[0].tolist()
        pairs = zip(episode.sampled[1:], scored, episode.logprobs[1:], strict=True)
        gaps = [abs(new - old) for sampled, new, old in pairs if sampled]
        assert max(gaps) < 1e-3


def test_advantages_are_those_of_the_library(scratch):
    rewards = [0.0, 1.0, 0.5, 0.5, 1.0, 1.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0]
    expected = group_advantages(torch.tensor(rewards), torch.arange(12) // 4)
    torch.testing.assert_close(scratch.group_advantages(rewards, 4), expected)


def test_first_loss_is_that_of_the_plain_policy_gradient(scratch, played, model):
    """The ratio is 1 then, and nothing is clipped; the model is its own reference."""
    settings, episodes = played
    advantages = torch.linspace(-1, 2, len(episodes))
    settings = scratch.Settings(**SMALL, kl_coef=0.1)
    loss = scratch.grpo_loss(model, copy.deepcopy(model), episodes, advantages, settings)
    assert float(loss.detach()) == pytest.approx(-float(advantages.sum()), abs=1e-3)
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    for episode, advantage in zip(episodes, advantages, strict=True):
        scored = scratch.token_logprobs(model, torch.tensor([episode.ids]))[0]
        own = scored[torch.tensor(episode.sampled[1:])]
        (-advantage * own.mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float((found - expected).norm()) < 1e-3 * float(expected.norm())


def test_learning_changes_the_weights_and_keeps_them_finite(scratch, played, model):
    settings, episodes = played
    for number, episode in enumerate(episodes):
        episode.reward = float(number % 2)
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    scratch.learn(model, None, optimizer, episodes, settings)
    pairs = list(zip(before, model.parameters(), strict=True))
    assert all(bool(after.isfinite().all()) for _, after in pairs)
    assert any(not old.equal(new) for old, new in pairs)


def test_equal_rewards_teach_nothing(scratch, played, model):
    settings, episodes = played
    for episode in episodes:
        episode.reward = 1.0
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    scratch.learn(model, None, optimizer, episodes, settings)
    assert all(old.equal(new) for old, new in zip(before, model.parameters(), strict=True))


def test_two_updates_print_a_line_each(scratch, capsys):
    curve = scratch.main(scratch.Settings(num_updates=2, kl_coef=0.01, **SMALL))
    assert len(curve) == 2
    assert all(0 <= f1 <= 1 for f1 in curve)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["update", str(number + 1), "F1", f"{f1:.3f}"] for number, f1 in enumerate(curve)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # against hanging only: about a minute of processor time
def test_grpo_from_scratch_learns_to_search(scratch):
    curve = scratch.main(scratch.Settings(num_updates=10))
    assert sum(curve[:2]) / 2 < 0.35
    assert sum(curve[-3:]) / 3 >= sum(curve[:2]) / 2 + 0.2

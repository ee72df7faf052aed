"""The training loop."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.algorithms.algorithm import Loss
from agents.algorithms.grpo import GRPO
from agents.algorithms.registry import make_algorithm
from agents.algorithms.reinforce import REINFORCE
from agents.batch import Batch
from agents.checkpoint import CheckpointError, write_checkpoint
from agents.evaluate import evaluate
from agents.learner import tensors
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollout_metrics import rollout_metrics
from agents.trainer import Callback, Trainer
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn
from zs_env.search.curriculum import AdaptiveCurriculum, ExponentialCurriculum, LinearCurriculum
from zs_env.task.question_sets import QuestionSet


def share_of_letters(question, action):
    return sum(char.isascii() and char.isalpha() for char in action) / max(1, len(action))


def train(policy, env, num_updates=2, algorithm=None, curriculum=None, callbacks=(), **config):
    """Return the trainer and the metrics of each update."""
    rows = []

    class Keep(Callback):
        def on_update_end(self, trainer, rollout, metrics):
            rows.append(dict(metrics))

    settings = TrainerConfig(**({"max_new_tokens": 6, "learning_rate": 1e-3} | config))
    trainer = Trainer(policy, env, algorithm or GRPO(), config=settings, curriculum=curriculum)
    trainer.learn(num_updates, [Keep(), *callbacks])
    return trainer, rows


def make_trainer(policy, env, algorithm=None, curriculum=None):
    settings = TrainerConfig(max_new_tokens=6, learning_rate=1e-3)
    return Trainer(policy, env, algorithm, config=settings, curriculum=curriculum)


def lasting(row):
    """Return what does not depend on the clock."""
    return {key: value for key, value in row.items() if not key.startswith("time/")}


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def test_same_seed_gives_the_same_run(make_policy, share_env):
    policies = [make_policy() for _ in range(3)]
    runs = [
        train(policy, share_env, seed=seed)[1]
        for policy, seed in zip(policies, (5, 5, 6), strict=True)
    ]
    assert [lasting(row) for row in runs[0]] == [lasting(row) for row in runs[1]]
    assert torch.equal(weights(policies[0]), weights(policies[1]))
    assert [lasting(row) for row in runs[0]] != [lasting(row) for row in runs[2]]


def test_run_does_not_depend_on_the_global_random_state(make_policy, share_env):
    runs = []
    for seed in (1, 2):
        policy = make_policy()
        torch.manual_seed(seed)
        runs.append([lasting(row) for row in train(policy, share_env)[1]])
    assert runs[0] == runs[1]


def test_sampler_and_trainer_agree_before_the_first_step(make_policy, share_env):
    _, rows = train(make_policy(), share_env, num_updates=1)
    assert 0 < rows[0]["train/logprob_gap"] < 1e-3


def test_learning_changes_the_weights_and_only_the_policys(make_policy, share_env):
    policy = make_policy()
    before = weights(policy)
    trainer, _ = train(policy, share_env, algorithm=GRPO(kl_coef=0.1))
    assert not torch.equal(weights(policy), before)
    assert torch.equal(weights(trainer.learner.reference), before)


def test_no_reference_is_kept_where_none_is_needed(make_policy, share_env):
    trainer, rows = train(make_policy(), share_env, 1, GRPO(kl_coef=0.0))
    assert trainer.learner.reference is None
    assert "train/kl" not in rows[0]


def test_policy_that_is_its_reference_has_no_divergence(make_policy, share_env):
    _, rows = train(make_policy(), share_env, 2, num_minibatches=1)
    assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["train/kl"] > 1e-4


def test_callbacks_are_called_in_order(make_policy, share_env):
    events = []

    class Log(Callback):
        def __init__(self, name):
            self.name = name

        def on_training_start(self, trainer):
            events.append(f"{self.name} start {trainer.num_updates_done}")

        def on_rollout_start(self, trainer):
            events.append(f"{self.name} plays {trainer.num_updates_done}")

        def on_rollout_end(self, trainer, rollout):
            assert len(rollout.trajectories) == 8
            events.append(f"{self.name} played {trainer.num_updates_done}")

        def on_update_end(self, trainer, rollout, metrics):
            assert len(rollout.trajectories) == 8
            events.append(f"{self.name} update {trainer.num_updates_done}")

        def on_training_end(self, trainer):
            events.append(f"{self.name} end {trainer.num_updates_done}")

    train(make_policy(), share_env, callbacks=[Log("a"), Log("b")])
    assert events == [
        "a start 0",
        "b start 0",
        "a plays 0",
        "b plays 0",
        "a played 0",
        "b played 0",
        "a update 1",
        "b update 1",
        "a plays 1",
        "b plays 1",
        "a played 1",
        "b played 1",
        "a update 2",
        "b update 2",
        "a end 2",
        "b end 2",
    ]


def test_rollout_ends_before_the_weights_change(make_policy, share_env):
    """A callback can score the episodes with the very weights that sampled them."""
    gaps = []

    class Compare(Callback):
        def on_rollout_end(self, trainer, rollout):
            batch = Batch.from_trajectories(rollout.trajectories)
            mask = batch.action_mask[:, 1:]
            with torch.no_grad():
                scored = trainer.policy.score(batch, trainer.config.temperature).logprobs
            gaps.append(float((scored - batch.logprobs[:, 1:][mask]).abs().max()))

    _, rows = train(make_policy(), share_env, 3, callbacks=[Compare()])
    assert max(gaps) < 1e-4
    assert rows[0]["train/grad_norm"] > 0


def test_function_is_called_at_the_end_of_each_update(make_policy, share_env):
    seen = []
    trainer = make_trainer(make_policy(), share_env)
    trainer.learn(2, lambda trainer, rollout, metrics: seen.append(trainer.num_updates_done))
    trainer.learn(1, [[lambda *arguments: seen.append(len(arguments))]])
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("callback", [Callback, "stop", 3])
def test_what_is_no_callback_is_refused(make_policy, share_env, callback):
    with pytest.raises(TypeError, match="`callback` must be a Callback, a function or"):
        make_trainer(make_policy(), share_env).learn(1, [callback])


def test_callback_stops_training_after_all_have_seen_the_update(make_policy, share_env):
    seen = []

    class Late(Callback):
        def on_update_end(self, trainer, rollout, metrics):
            seen.append(trainer.num_updates_done)

        def on_training_end(self, trainer):
            seen.append("end")

    trainer = make_trainer(make_policy(), share_env)
    trainer.learn(5, [lambda trainer, *_: trainer.num_updates_done < 2, Late()])
    assert seen == [1, 2, "end"]
    assert trainer.num_updates_done == 2


def test_training_that_was_stopped_goes_on_as_if_it_had_not(make_policy, make_letters_env):
    curriculum = ExponentialCurriculum(0.0, 0.5)
    runs = []
    for stops in ((), (1, 3)):
        rows, policy = [], make_policy()
        env = make_letters_env(num_turns=2, score=share_of_letters)
        trainer = make_trainer(policy, env, curriculum=curriculum)

        def keep(trainer, rollout, metrics, rows=rows, stops=stops):
            rows.append(lasting(metrics))
            return trainer.num_updates_done not in stops

        trainer.learn(4, keep)
        for _ in stops:
            trainer.learn(callback=keep)
        runs.append((rows, weights(policy).tolist()))
    assert len(runs[0][0]) == 4
    assert runs[0] == runs[1]


def test_second_call_of_learn_does_as_many_updates_more(make_policy, make_letters_env):
    env = make_letters_env()
    trainer = make_trainer(make_policy(), env, curriculum=LinearCurriculum(0.0, 0.5))
    assert trainer.learn(2).learn(2) is trainer
    assert trainer.num_updates_done == 4
    assert [options["noise"] for options in env.unwrapped.options] == [0.0, 0.5, 0.0, 0.5]


@pytest.mark.parametrize("num_updates", [None, 0, -1])
def test_number_of_updates_is_checked(make_policy, share_env, num_updates):
    with pytest.raises(ValueError, match=f"`num_updates` must be .* got {num_updates}"):
        make_trainer(make_policy(), share_env).learn(num_updates)


def test_progress_bar_counts_updates(make_policy, share_env, capsys):
    make_trainer(make_policy(), share_env).learn(2, progress_bar=True)
    assert "2/2" in capsys.readouterr().out


def test_curriculum_that_learns_is_taught_every_episode(make_policy, share_env):
    curriculum = AdaptiveCurriculum(start=0.1, end=0.9, step=0.2, target=1e-9, window=8)

    def solve(trainer, rollout, metrics):
        for trajectory in rollout.trajectories:
            trajectory.outcome["exact_match"] = 1.0

    trainer = make_trainer(make_policy(), share_env, curriculum=curriculum)
    hook = Callback()
    hook.on_rollout_end = lambda trainer, rollout: solve(trainer, rollout, {})
    noises = []
    trainer.learn(3, [hook, lambda t, rollout, metrics: noises.append(metrics["rollout/noise"])])
    assert noises == pytest.approx([0.1, 0.3, 0.5])
    assert trainer.curriculum(0.0) == pytest.approx(0.7)


def test_predict_continues_every_slots_context(make_policy, share_env):
    policy = make_policy()
    trainer = make_trainer(policy, share_env)
    agent = PolicyAgent(policy, share_env.metadata["action_stops"], max_new_tokens=6)
    observations, _ = share_env.reset(seed=3)
    mine, state = trainer.predict(observations)
    theirs, other = agent.predict(observations, None, np.ones(8, bool))
    assert mine == theirs
    more = [" and then:"] * 8
    going_on = np.zeros(8, bool)
    assert trainer.predict(more, state)[0] == agent.predict(more, other, going_on)[0]
    assert trainer.predict(observations, deterministic=False)[0] != mine


def test_trainer_is_an_agent_that_can_be_evaluated(make_policy):
    env = gym.make_vec("envs_registry:ZeroSearch-v0", engine="world", autoreset_mode="Disabled")
    trainer = make_trainer(make_policy(), env)
    questions = QuestionSet("miniwiki").split("test")[:3]
    assert len(evaluate(trainer, questions, env_kwargs={"engine": "world"}).records) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_trainer_has_the_type_of_numbers_that_was_saved(
    dtype, make_policy, make_letters_env, tmp_path
):
    policy = make_policy(dtype=dtype)
    make_trainer(policy, make_letters_env()).save(tmp_path / "saved")
    loaded = Trainer.load(tmp_path / "saved", make_letters_env()).policy
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert torch.equal(weights(loaded), weights(policy))


@pytest.mark.parametrize("spec", ["grpo?kl_coef=0.1", "ppo?kl_coef=0.1", "dapo", "rloo?kl_coef=0"])
def test_trainer_that_was_saved_and_loaded_goes_on_bit_for_bit(
    make_policy, make_letters_env, tmp_path, spec
):
    def make_env():
        return make_letters_env(num_turns=2, score=share_of_letters)

    runs = []
    for saves in (False, True):
        rows = []

        def keep(trainer, rollout, metrics, rows=rows):
            rows.append(lasting(metrics))
            return trainer.num_updates_done != 2

        trainer = make_trainer(
            make_policy(),
            make_env(),
            make_algorithm(spec),
            curriculum=AdaptiveCurriculum(target=0.01, window=5),
        ).learn(4, keep)
        if saves:
            trainer.save(tmp_path / "saved")
            trainer = Trainer.load(tmp_path / "saved", make_env())
        trainer.learn(callback=keep)
        modules = trainer.learner.modules().values()
        numbers = [t.tolist() for module in modules for t in tensors(module).values()]
        runs.append((rows, numbers, trainer.curriculum))
    assert len(runs[0][0]) == 4
    assert runs[0] == runs[1]
    assert ("train/kl" in runs[0][0][-1]) == ("kl_coef=0.1" in spec)
    assert runs[0][2].num_episodes == 32 % 5


def test_saved_trainer_is_replaced_and_holds_a_plain_model(make_policy, share_env, tmp_path):
    trainer = make_trainer(make_policy(), share_env)
    for _ in range(2):
        trainer.learn(1).save(str(tmp_path / "saved"))
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    policy = CausalLMPolicy.load(tmp_path / "saved" / "policy")
    assert torch.equal(weights(policy), weights(trainer.policy))


def test_what_a_file_cannot_hold_has_to_be_given(make_policy, share_env, tmp_path):
    class Mine(GRPO):
        pass

    curriculum = lambda progress: progress / 2  # noqa: E731
    trainer = make_trainer(make_policy(), share_env, Mine(), curriculum=curriculum)
    trainer.learn(1).save(tmp_path)
    with pytest.raises(
        ValueError, match="`algorithm` must be given, for a file cannot hold it: it is a Mine"
    ):
        Trainer.load(tmp_path, share_env)
    with pytest.raises(ValueError, match="`curriculum` must be given"):
        Trainer.load(tmp_path, share_env, algorithm=Mine())
    loaded = Trainer.load(
        tmp_path, share_env, algorithm=Mine(), curriculum=curriculum, policy=make_policy(seed=5)
    )
    assert torch.equal(weights(loaded.policy), weights(trainer.policy))
    assert loaded.config == trainer.config


def test_checkpoint_that_no_trainer_saved_is_refused(make_policy, share_env, tmp_path):
    trainer = make_trainer(make_policy(), share_env)
    write_checkpoint(tmp_path / "c", trainer.checkpoint())
    with pytest.raises(CheckpointError, match="must be what `save` wrote"):
        Trainer.load(tmp_path / "c", share_env)


def test_checkpoint_of_another_policy_is_refused(make_policy, share_env):
    other = make_trainer(make_policy(hidden_size=48), share_env)
    with pytest.raises(ValueError, match="must hold the tensors of 'policy'"):
        make_trainer(make_policy(), share_env).restore(other.checkpoint())


def test_groups_of_one_are_refused_where_the_algorithm_compares(make_policy):
    env = gym.make_vec("ZeroSearch-v0", num_envs=2, engine="world", autoreset_mode="Disabled")
    with pytest.raises(ValueError, match=r"`group_size` must be at least 2 for GRPO, .*got 1"):
        Trainer(make_policy(), env).learn(1)
    trainer = Trainer(make_policy(), env, REINFORCE(kl_coef=0.0))
    trainer.learn(1)
    assert trainer.num_updates_done == 1
    env.close()


@pytest.mark.parametrize("algorithm", [GRPO, "grpo"])
def test_what_is_no_algorithm_is_refused(make_policy, share_env, algorithm):
    with pytest.raises(TypeError, match=r"`algorithm` must be an instance .*(GRPO|grpo)"):
        Trainer(make_policy(), share_env, algorithm)


def test_what_is_no_policy_is_refused(share_env):
    with pytest.raises(TypeError, match=r"`policy` must be one, .*got 'base'"):
        Trainer("base", share_env)


def test_queries_that_nobody_reads_are_not_counted():
    """The environment sends none in the last turn."""
    trajectory = Trajectory(turns=[Turn("", "search", noisy, 0.0, 0, 0) for noisy in (True, False)])
    assert rollout_metrics([trajectory])["rollout/searches"] == 2
    trajectory.outcome["num_searches"] = 1
    assert rollout_metrics([trajectory])["rollout/searches"] == 1
    assert rollout_metrics([trajectory])["rollout/noisy_share"] == 1


def test_curriculum_runs_from_its_start_to_its_end(make_policy, make_letters_env):
    env = make_letters_env()
    _, rows = train(make_policy(), env, 3, curriculum=ExponentialCurriculum(0.1, 0.7))
    noises = [options["noise"] for options in env.unwrapped.options]
    assert noises == [row["rollout/noise"] for row in rows]
    assert (noises[0], noises[-1]) == (0.1, 0.7)


def test_without_a_curriculum_the_environments_noise_stays(make_policy, make_letters_env):
    env = make_letters_env()
    train(make_policy(), env, 1)
    assert env.unwrapped.options == [{}]


def test_updates_play_different_episodes(make_policy, share_env):
    policy = make_policy()
    texts = []

    class Keep(Callback):
        def on_update_end(self, trainer, rollout, metrics):
            texts.append([turn.action for t in rollout.trajectories for turn in t.turns])

    train(policy, share_env, learning_rate=1e-12, callbacks=[Keep()])
    assert texts[0] != texts[1]


@pytest.mark.parametrize("num_minibatches", [1, 2, 4])
def test_every_useful_episode_is_seen_once_an_epoch(make_policy, make_letters_env, num_minibatches):
    """Fault 14: the last partial mini-batch. The parts' shares add up to the whole."""
    shares = []

    class Spy(GRPO):
        def loss(self, view):
            shares.append(float(view.weights.sum()))
            return super().loss(view)

    env = make_letters_env(
        num_envs=20, num_turns=2, score=lambda q, action: float(ord(action[:1] or "a"))
    )
    train(make_policy(), env, 1, Spy(kl_coef=0), num_minibatches=num_minibatches)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert len(shares) >= num_minibatches


def test_single_useful_group_is_not_scaled_by_the_number_of_minibatches(
    make_policy, make_letters_env
):
    """Where there are fewer groups than parts, there are fewer gradient steps."""
    norms = []
    for num_minibatches in (1, 4):
        policy = make_policy()
        env = make_letters_env(num_envs=4, group_size=4, num_turns=2, score=lambda q, a: len(a) % 5)
        _, rows = train(policy, env, 1, GRPO(kl_coef=0), num_minibatches=num_minibatches)
        norms.append(rows[0]["train/grad_norm"])
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 0


@pytest.mark.parametrize("num_epochs", [1, 2])
def test_entropy_is_a_mean_whatever_share_is_useful(make_policy, make_letters_env, num_epochs):
    """Groups that teach nothing must not make a policy look more certain than it is."""

    def only_low(question, action):
        return float(ord(action[:1] or "a")) if question == "low" else 0.5

    env = make_letters_env(num_envs=64, score=only_low)
    algorithm = GRPO(kl_coef=0, num_epochs=num_epochs)
    policy = make_policy(initializer_range=1e-4)  # every token equally likely
    _, rows = train(policy, env, 1, algorithm, learning_rate=1e-9)
    assert rows[0]["train/useful_share"] < 0.9
    assert rows[0]["train/entropy"] == pytest.approx(math.log(len(policy.tokenizer)), rel=1e-3)


def test_metrics_are_finite_numbers(make_policy, share_env):
    _, rows = train(make_policy(), share_env)
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        assert all(key.split("/")[0] in ("rollout", "train", "time") for key in row)


def test_rollout_metrics_are_means_over_episodes(make_policy, share_env):
    _, rows = train(make_policy(), share_env, 1)
    assert rows[0]["rollout/turns"] == 2
    assert rows[0]["rollout/searches"] == 1
    assert rows[0]["rollout/answered"] == 1
    assert 0 < rows[0]["rollout/reward"] < 2


def test_loss_that_is_not_wanted_is_not_logged_under_another_name(make_policy, share_env):
    class Silent(GRPO):
        def loss(self, view):
            return Loss(super().loss(view).value, {})

    _, rows = train(make_policy(), share_env, 1, Silent())
    assert "train/loss" not in rows[0]
    assert "train/weight" not in rows[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be greater than 0 and finite, got 0.0"),
        ({"learning_rate": math.inf}, "`learning_rate` must be greater than 0 and finite, got inf"),
        ({"critic_learning_rate": math.inf}, "`critic_learning_rate` must be .* finite, got inf"),
        ({"temperature": 0.0}, "`temperature` must be greater than 0 and finite, got 0.0"),
        ({"temperature": math.inf}, "`temperature` must be greater than 0 and finite, got inf"),
        ({"max_grad_norm": -1.0}, "`max_grad_norm` must be greater than 0 and finite, got -1.0"),
        ({"max_grad_norm": math.inf}, "`max_grad_norm` must be greater than 0 and finite, got inf"),
        ({"num_minibatches": 0}, "`num_minibatches` must be at least 1, got 0"),
        ({"max_tokens_per_pass": 0}, "`max_tokens_per_pass` must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, got 0"),
    ],
)
def test_bad_hyper_parameter_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**config)

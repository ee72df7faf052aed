import pickle
from dataclasses import fields, replace

import pytest

from agents.algorithms.registry import make_algorithm
from agents.cli.compare import Compare
from agents.cli.demo import Demo
from agents.cli.miniature import Miniature
from agents.cli.train import Train
from agents.experiments.comparison import COMPARISON
from agents.experiments.design import Protocol, Run, plan
from agents.experiments.experiment import find_arms
from agents.experiments.miniature import ARMS, MINIATURE
from zs_env.search.curriculum import ExponentialCurriculum

DEFAULT_ARMS = MINIATURE.default_arms


def test_all_arms_of_a_seed_come_before_the_next_seed() -> None:
    runs = plan(find_arms(MINIATURE, DEFAULT_ARMS), num_seeds=3)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert [run.arm.name for run in runs[: len(DEFAULT_ARMS)]] == list(DEFAULT_ARMS)


def test_every_trained_arm_has_every_seed_and_names_are_unique() -> None:
    runs = plan(ARMS.values(), num_seeds=4)
    assert len({run.name for run in runs}) == len(runs) == 4 * (len(ARMS) - 1) + 1


def test_untrained_policy_is_examined_once() -> None:
    assert [run.name for run in plan(find_arms(MINIATURE, ["untrained"]), 8)] == ["untrained-seed0"]


@pytest.mark.parametrize("name", ARMS)
def test_arm_can_be_sent_to_another_process(name: str) -> None:
    assert pickle.loads(pickle.dumps(ARMS[name])) == ARMS[name]


def test_schedules_of_the_curriculum_arms() -> None:
    forward = ARMS["small"].curriculum
    assert forward == ExponentialCurriculum(0.0, 0.5)
    at = {name: [ARMS[name].curriculum(x) for x in (0.0, 1.0)] for name in DEFAULT_ARMS}
    assert at["small"] == at["tiny"] == at["medium"] == at["format-only"] == [0.0, 0.5]
    assert (at["hard-to-easy"], at["constant"], at["no-noise"]) == ([0.5, 0], [0.25] * 2, [0, 0])


def test_backwards_and_matched_constant_schedules_have_the_mean_noise_of_the_forward_one() -> None:
    forward = ARMS["small"].mean_noise(15)
    assert forward == pytest.approx(0.198, abs=5e-4)
    assert ARMS["hard-to-easy"].mean_noise(15) == pytest.approx(forward)
    assert ARMS["constant-matched"].mean_noise(15) == pytest.approx(forward, abs=5e-4)
    assert ARMS["constant"].mean_noise(15) == 0.25


@pytest.mark.parametrize("name", ["real", "no-noise", "untrained"])
def test_arm_without_noise(name: str) -> None:
    assert ARMS[name].mean_noise(15) == 0.0


def test_arms_name_their_models() -> None:
    models = {name: arm.model for name, arm in ARMS.items()}
    assert models["tiny"] == "simulator-tiny"
    assert models["format-only"] == "format-only"
    assert models["real"] is models["exact"] is models["untrained"] is None


def test_hyper_parameters_are_those_of_the_demo() -> None:
    protocol, demo, train = Protocol(), Demo(), Train()
    assert protocol.num_questions == demo.train_questions
    assert protocol.group_size == demo.group_size
    assert protocol.max_turns == train.max_turns
    assert protocol.max_new_tokens == train.max_new_tokens


def test_defaults_of_the_command_are_those_of_the_protocol() -> None:
    assert Miniature().protocol == Protocol()
    assert {field.name for field in fields(Protocol)} >= {"num_updates", "num_eval_questions"}


@pytest.mark.parametrize(
    ("names", "message"),
    [(["huge"], "`arms` must be among tiny, .*, got 'huge'"), ([], "`arms` must name at least")],
)
def test_unknown_arms_raise(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_arms(MINIATURE, names)


def test_arm_named_twice_counts_once() -> None:
    assert [arm.name for arm in find_arms(MINIATURE, ["real", "small", "real"])] == [
        "real",
        "small",
    ]


@pytest.mark.parametrize("name", COMPARISON.arms)
def test_compared_arms_differ_in_their_algorithm_only(name: str) -> None:
    arm = COMPARISON.arms[name]
    make_algorithm(arm.algorithm)
    assert arm == replace(
        COMPARISON.arms["grpo"], name=name, algorithm=arm.algorithm, about=arm.about
    )
    assert pickle.loads(pickle.dumps(arm)) == arm


def test_any_algorithm_is_an_arm_and_names_its_files_plainly() -> None:
    [arm] = find_arms(COMPARISON, ["agents.algorithms.grpo:GRPO?clip_range=0.1"])
    assert arm.algorithm == arm.name
    assert Run(arm, 2).name == "agents.algorithms.grpo-GRPO-clip_range-0.1-seed2"
    with pytest.raises(ValueError, match="`algorithm` must be one of"):
        find_arms(COMPARISON, ["huge"])


def test_comparison_gives_every_algorithm_three_seeds() -> None:
    config = Compare()
    runs = plan(config.chosen_arms, config.seeds)
    assert len(runs) == 3 * len(COMPARISON.default_arms)

import json
from typing import Any

import pytest

from agents.algorithms.registry import make_algorithm
from agents.recipe import describe, rebuild
from agents.trainer_config import TrainerConfig
from zs_env.search.curriculum import (
    CURRICULA,
    AdaptiveCurriculum,
    ReversedCurriculum,
    StepCurriculum,
    make_curriculum,
)


@pytest.mark.parametrize(
    "value",
    [
        None,
        TrainerConfig(learning_rate=0.1 + 0.2, seed=7),
        make_algorithm("grpo?kl_coef=0&scale_rewards=false"),
        *CURRICULA.values(),
        ReversedCurriculum(StepCurriculum((0.1, 0.2))),
        AdaptiveCurriculum(noise=0.3, total=0.5, num_episodes=2),
    ],
    ids=repr,
)
def test_value_comes_back_from_its_description(value: Any) -> None:
    assert rebuild("x", json.loads(json.dumps(describe(value)))) == value


def test_class_that_is_not_shipped_is_not_made_from_a_file() -> None:
    with pytest.raises(
        ValueError, match="`x` must be given, for a file cannot hold it: it is a Popen"
    ):
        rebuild("x", {"kind": "Popen", "args": "true"})


def test_function_has_to_be_given() -> None:
    described = json.loads(json.dumps(describe(make_curriculum(lambda progress: 0.5))))
    with pytest.raises(ValueError, match="`curriculum` must be given"):
        rebuild("curriculum", described)


def test_field_of_another_version_is_named() -> None:
    with pytest.raises(ValueError, match="`x` must be given, for it was saved otherwise"):
        rebuild("x", {"kind": "TrainerConfig", "speed": 9})

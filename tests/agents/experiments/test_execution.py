import pytest

from agents.experiments import execution
from agents.experiments.design import Protocol, Run
from agents.experiments.miniature import ARMS
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollout import Rollout
from agents.trainer import Callback, Trainer
from zs_env.search.registry import make_engine


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """Return a function that trains one arm and tells which questions every update asked."""

    class Asked(Callback):
        def __init__(self) -> None:
            self.rows: list[list[str]] = []

        def on_update_end(
            self, trainer: Trainer, rollout: Rollout, metrics: dict[str, float]
        ) -> None:
            self.rows.append([trajectory.question_id for trajectory in rollout.trajectories])

    def train(name: str, seed: int) -> object:
        monkeypatch.setattr(execution, "_Rows", Asked)
        protocol = Protocol(num_updates=2, num_questions=3, group_size=2, max_turns=2)
        arm = ARMS[name]
        policy = CausalLMPolicy.load("base")
        return execution.train(Run(arm, seed), protocol, policy, make_engine(arm.engine))

    return train


def test_arms_of_one_seed_are_asked_the_same_and_other_seeds_other_questions(asked) -> None:
    assert asked("real", seed=1) == asked("exact", seed=1) != asked("exact", seed=2)

"""One run of an experiment: train a policy in one way, then examine it in all ways."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

import zs_env  # noqa: F401 - registers the ids
from agents.algorithms.registry import make_algorithm
from agents.audit import AuditCallback
from agents.evaluate import Evaluation, evaluate
from agents.experiments.design import EXAM_NOISE, Protocol, Run
from agents.experiments.measures import BM25_EXAM, NOISY_EXAM, SIMULATOR_EXAM
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.policy import Policy
from agents.rollout import Rollout
from agents.trainer import Callback, Trainer
from agents.trainer_config import TrainerConfig
from zs_env.lm.transformers import TransformersLM
from zs_env.search.engine import SearchEngine
from zs_env.search.registry import make_engine
from zs_env.search.simulator import SimulatedSearchEngine
from zs_env.task.actions import STOPS
from zs_env.task.questions import Question

ENV_ID = "ZeroSearch-v0"
NUM_EVAL_ENVS = 128


@dataclass(frozen=True, slots=True)
class Exam:
    """One way to examine a policy.

    Attributes:
        name: Of what is measured.
        engine: What answers queries.
        questions: What is asked.
        noise: Probability of noisy documents, in [0, 1].
    """

    name: str
    engine: SearchEngine
    questions: Sequence[Question]
    noise: float = 0.0


def load_simulator(folder: Path) -> SearchEngine:
    """Return the simulator whose model is in `folder`, in float32 on the CPU."""
    return SimulatedSearchEngine(TransformersLM.from_pretrained(folder))


def make_exams(
    measures: Sequence[str],
    examiner: Path,
    questions: Sequence[Question],
    noisy_questions: Sequence[Question],
) -> tuple[Exam, ...]:
    """Return those exams that are among the measures of an experiment.

    Args:
        measures: Their names; those that are no exams do not matter.
        examiner: Folder of the simulator's model.
        questions: Asked with the real engine, and with the simulator without noise.
        noisy_questions: Asked with the simulator at noise `EXAM_NOISE`.
    """
    simulator = load_simulator(examiner)
    exams = (
        Exam(BM25_EXAM, make_engine("bm25"), questions),
        Exam(SIMULATOR_EXAM, simulator, questions),
        Exam(NOISY_EXAM, simulator, noisy_questions, EXAM_NOISE),
    )
    return tuple(exam for exam in exams if exam.name in measures)


def execute(
    run: Run,
    protocol: Protocol,
    policy: CausalLMPolicy,
    engine: SearchEngine | None,
    exams: Sequence[Exam],
) -> dict[str, Any]:
    """Train `policy` in place as `run` says, examine it, and return what came of it.

    Args:
        run: Arm and seed.
        protocol: What all runs have in common.
        policy: The start policy.
        engine: What answers queries in training; None trains nothing.
        exams: What the policy has to pass.

    Returns:
        JSON values: `updates`, the metrics of each; `exams`, by their names the headline numbers
        and `correct`, a 1 or a 0 a question in the order asked; and `seconds`, by the clock, and
        those of the processor.
    """
    start, processor = time.perf_counter(), time.process_time()
    updates = [] if engine is None else train(run, protocol, policy, engine)
    trained = time.perf_counter()
    results = {exam.name: describe(examine(policy, exam, protocol, run.seed)) for exam in exams}
    end = time.perf_counter()
    seconds = {
        "training": trained - start,
        "exams": end - trained,
        "total": end - start,
        "processor": time.process_time() - processor,
    }
    return {
        "exams": results,
        "updates": updates,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def train(
    run: Run, protocol: Protocol, policy: CausalLMPolicy, engine: SearchEngine
) -> list[dict[str, float]]:
    """Train `policy` in place and return the metrics of each update."""
    env = gym.make_vec(
        ENV_ID,
        num_envs=protocol.num_questions * protocol.group_size,
        group_size=protocol.group_size,
        engine=engine,
        split="train",
        max_turns=protocol.max_turns,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    config = TrainerConfig(max_new_tokens=protocol.max_new_tokens, seed=run.seed)
    algorithm = make_algorithm(run.arm.algorithm)
    trainer = Trainer(policy, env, algorithm, config=config, curriculum=run.arm.curriculum)
    rows = _Rows()
    trainer.learn(protocol.num_updates, [AuditCallback(), rows])
    env.close()
    return rows.rows


class _Rows(Callback):
    """Keeps the metrics of every update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: dict[str, float]) -> None:
        self.rows.append({name: round(float(value), 6) for name, value in metrics.items()})


def examine(policy: Policy, exam: Exam, protocol: Protocol, seed: int) -> Evaluation:
    """Let `policy` answer every question of `exam` once, greedily."""
    return evaluate(
        PolicyAgent(policy, STOPS, max_new_tokens=protocol.max_new_tokens),
        exam.questions,
        env_id=ENV_ID,
        env_kwargs={"engine": exam.engine, "max_turns": protocol.max_turns},
        noise=exam.noise,
        seed=seed,
        num_envs=NUM_EVAL_ENVS,
    )


def describe(evaluation: Evaluation) -> Mapping[str, Any]:
    """Return an evaluation as JSON values: its summary, and a bit a question."""
    correct = "".join(str(int(record.exact_match)) for record in evaluation.records)
    return {**evaluation.summary(), "correct": correct}

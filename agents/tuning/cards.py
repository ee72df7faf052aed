"""Measure the shipped models and write what was found into their cards.

zerosearch models measure --models zs_env/models
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.evaluate import Evaluation, evaluate
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from agents.tuning.measure import measure_simulator
from zs_env.lm.transformers import TransformersLM
from zs_env.search.engine import SearchEngine
from zs_env.search.simulator import SimulatedSearchEngine
from zs_env.task.actions import STOPS
from zs_env.task.miniwiki import WORLD_VERSION, default_world

METRICS_FILE = "metrics.json"

DESCRIPTIONS: Mapping[str, str] = {
    "simulator": "A search engine: from a question, its answers, a query and the word *useful* or "
    "*noisy* it writes three documents about the shipped MiniWiki, whose facts it knows by heart.",
    "skill": "A search agent after perfect play in worlds that were thrown away: it reads names it "
    "has never seen, searches on, and searches again when the documents are about somebody else.",
    "base": "The `skill` model after a short training on bad habits: it stops at the bridge "
    "entity, guesses, and believes noisy documents. Reinforcement learning starts here.",
}


_VALIDATION = "All tuning looked at the validation split."
TUNED_ON: Mapping[str, str] = {
    "simulator": "Its sampling temperature was chosen on requests of\nthe kind measured here.",
    "skill": _VALIDATION,
    "base": _VALIDATION,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One column of a policy's table."""

    name: str
    engine: str
    noise: float = 0.0
    hard: bool = False


SETTINGS = (
    Setting("simulator, p = 0", "simulator"),
    Setting("simulator, p = 0.5", "simulator", noise=0.5),
    Setting("BM25", "bm25"),
    Setting("world, p = 0", "world"),
    Setting("hard set, simulator", "simulator", hard=True),
    Setting("no documents", "empty"),
)


def write_cards(models: Path, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure every model in `models` and write `metrics.json` and `README.md` beside each.

    Args:
        models: Folder of the models; the engine "simulator" is the one in it.
        report: Receives a line when a model is done.

    Returns:
        The metrics by model.
    """
    simulator = SimulatedSearchEngine(TransformersLM.from_pretrained(models / "simulator"))
    found: dict[str, Any] = {"simulator": measure_simulator(simulator).as_dict()}
    for name in ("base", "skill"):
        found[name] = measure_policy(models / name, simulator)
    for name, metrics in found.items():
        text = json.dumps(metrics, indent=2, sort_keys=True) + "\n"
        (models / name / METRICS_FILE).write_text(text, encoding="utf-8")
        (models / name / "README.md").write_text(card(name, metrics), encoding="utf-8")
        report(f"{name}: {models / name / 'README.md'}")
    return found


def measure_policy(folder: Path, simulator: SearchEngine) -> dict[str, Any]:
    """Play all test questions greedily in every setting; return a summary for each."""
    agent = PolicyAgent(CausalLMPolicy.load(folder), STOPS)
    return {setting.name: _evaluate(agent, setting, simulator).summary() for setting in SETTINGS}


def _evaluate(agent: PolicyAgent, setting: Setting, simulator: SearchEngine) -> Evaluation:
    engine = simulator if setting.engine == "simulator" else setting.engine
    questions = default_world().questions("test", hard=setting.hard)
    return evaluate(agent, questions, env_kwargs={"engine": engine}, noise=setting.noise)


def card(name: str, metrics: Mapping[str, Any]) -> str:
    """Return the text of a model's card."""
    table = _simulator_table(metrics) if name == "simulator" else _policy_table(metrics)
    return (
        f"# zs-env/{name}\n\n{DESCRIPTIONS[name]}\n\n"
        f"Plain Qwen2 architecture, 1.05 M parameters, float16, Apache-2.0. Made from nothing by\n"
        f"`zerosearch models build`. {TUNED_ON[name]}\n"
        f"Measured by `zerosearch models measure --models DIR` on MiniWiki version\n"
        f"{WORLD_VERSION} (95 % Wilson intervals).\n\n{table}\n"
        f"It knows the language of MiniWiki and nothing else.\n"
    )


def _simulator_table(metrics: Mapping[str, Any]) -> str:
    rows = [
        f"| {name.replace('_', ' ')} | {rate['value']:.3f} "
        f"[{rate['low']:.3f}, {rate['high']:.3f}] | {rate['count']} |"
        for name, rate in metrics.items()
    ]
    head = "| held-out requests | share | cases |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _policy_table(metrics: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {found['exact_match']:.3f} "
        f"[{found['exact_match_ci'][0]:.3f}, {found['exact_match_ci'][1]:.3f}] "
        f"| {found['f1']:.3f} | {found['searches']:.2f} | {found['invalid_share']:.3f} "
        f"| {found['num_questions']} |"
        for name, found in metrics.items()
    ]
    head = (
        "| greedy, test split | exact match | F1 | searches | invalid actions | questions |\n"
        "|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"

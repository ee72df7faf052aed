"""Cards: what a model is, how it was made, and what was measured of it.

A card says nothing that does not stand in a file beside the model: `metrics.json` (the measured
shares), `calibration.json` and `control.json` where there are any, the weights themselves, and the
figures drawn from these. So it can be written again at any time, and never disagrees with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from agents.agent import Agent
from agents.durable import write_text
from agents.evaluate import evaluate
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.keyed import KeyedPolicyAgent
from agents.tuning.build import SIMULATORS
from agents.tuning.control import CONTROL_FILE, Control
from agents.tuning.figures import plot_calibration, plot_report
from agents.tuning.measure import MeasureOptions, measure_simulator
from agents.tuning.policy_data import SKILL, WEAK
from agents.tuning.report import SimulatorReport
from agents.weights import Weights
from zs_env.lm.transformers import TransformersLM
from zs_env.models import MODELS
from zs_env.search.calibration import CALIBRATION_FILE, Calibration
from zs_env.search.engine import SearchEngine
from zs_env.search.simulator import SimulatedSearchEngine
from zs_env.task.actions import STOPS
from zs_env.task.miniwiki import default_world

METRICS_FILE: Final = "metrics.json"
CARD_FILE: Final = "README.md"
FIGURE_FILE: Final = "metrics.png"
CALIBRATION_FIGURE_FILE: Final = "calibration.png"

SIMULATOR, POLICY = "simulator", "policy"
KINDS: Final = (SIMULATOR, POLICY)

_WRITES: Final = (
    "A search engine: from a question, its answers, a query and the word *useful* or *noisy* it "
    "writes documents about the shipped MiniWiki, whose facts it knows by heart."
)
DESCRIPTIONS: Final[Mapping[str, str]] = {
    "simulator-tiny": f"{_WRITES} The smallest of three.",
    "simulator": _WRITES,
    "simulator-medium": f"{_WRITES} The largest of three.",
    "skill": "A search agent after perfect play in worlds that were thrown away: it reads names it "
    "has never seen, searches on, and searches again when the documents are about somebody else.",
    "base": "The `skill` model after a short training on bad habits: it stops at the bridge "
    "entity, guesses, and believes noisy documents. Reinforcement learning starts here.",
}
_OTHER: Final = "A simulator of a search engine: it writes useful or noisy documents on demand."


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a policy's table."""

    name: str
    engine: str
    noise: float = 0.0
    hard: bool = False
    sampled: bool = False


SETTINGS: Final = (
    Setting("simulator, p = 0", "simulator"),
    Setting("simulator, p = 0.5", "simulator", noise=0.5),
    Setting("simulator, p = 0.5, sampled", "simulator", noise=0.5, sampled=True),
    Setting("BM25", "bm25"),
    Setting("world, p = 0", "world"),
    Setting("hard set, simulator", "simulator", hard=True),
    Setting("no documents", "empty"),
)


# --- measuring ----------------------------------------------------------------------------------


def write_cards(
    models: Path,
    options: MeasureOptions | None = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Measure every shipped model in a folder; write its metrics, its figure and its card.

    Args:
        models: Folder of the models; agents search with the `simulator` among them.
        options: How much is measured of simulators.
        origin: What the numbers depend on beside the weights, JSON values to be kept with them.
    """
    origin = origin or {}
    for name in MODELS:
        folder = models / name
        if name in SIMULATORS:
            measured = measure_simulator(_simulator(folder), options)
            write_simulator_metrics(folder, measured, origin)
        else:
            settings = measure_policy(folder, _simulator(models / "simulator"))
            found = _policy_metrics(name, settings)
            write_metrics(folder, {**found, **weights_of(folder), **origin})
        print(f"{name}: {write_card(folder)}")


def _simulator(folder: Path) -> SimulatedSearchEngine:
    return SimulatedSearchEngine(TransformersLM.from_pretrained(folder))


def measure_policy(folder: Path, simulator: SearchEngine) -> dict[str, Any]:
    """Play all test questions in every setting; return a summary for each."""
    agent = KeyedPolicyAgent(CausalLMPolicy.load(folder), STOPS)
    return {setting.name: _summary(agent, setting, simulator) for setting in SETTINGS}


def _summary(agent: Agent, setting: Setting, simulator: SearchEngine) -> dict[str, Any]:
    engine = simulator if setting.engine == "simulator" else setting.engine
    questions = default_world().questions("test", hard=setting.hard)
    found = evaluate(
        agent,
        questions,
        env_kwargs={"engine": engine},
        noise=setting.noise,
        deterministic=not setting.sampled,
    )
    return found.summary()


def _policy_metrics(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    # The habits are kept as they were when the model was measured, whatever becomes of them.
    habits = {"habits": {"skill": asdict(SKILL), "base": asdict(WEAK)}} if name == "base" else {}
    return {"kind": POLICY, "settings": settings, **habits}


def write_simulator_metrics(
    folder: Path, found: SimulatorReport, origin: Mapping[str, Any], weights: Path | None = None
) -> None:
    """Write what was measured of a simulator, as numbers and as a figure.

    Args:
        folder: Gets the files.
        found: What was measured.
        origin: What the numbers depend on beside the weights, JSON values to be kept with them.
        weights: Folder of the model, if not `folder`; one without weights is no model at all.
    """
    weights = weights or folder
    described = weights_of(weights) if list(weights.glob("*.safetensors")) else {}
    metrics = {"kind": SIMULATOR, **found.as_json(), **described, **origin}
    write_metrics(folder, metrics)
    plot_report(metrics, folder / FIGURE_FILE)


def weights_of(folder: Path) -> dict[str, Any]:
    """Return what tells the weights in a model folder from all others, as JSON values."""
    return asdict(Weights.read(folder))


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics beside a model, the whole file or nothing."""
    write_text(folder / METRICS_FILE, json.dumps(metrics, indent=2) + "\n")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics beside a model.

    Raises:
        FileNotFoundError: If it was not measured.
        ValueError: If the file holds something else, or the weights have changed since.
    """
    file = folder / METRICS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}: run `zerosearch tune measure` first")
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(metrics, dict) or metrics.get("kind") not in KINDS:
        raise ValueError(f"{file} must hold what was measured of a {' or '.join(KINDS)}")
    if metrics.get("weights_sha256") != Weights.read(folder).weights_sha256:
        raise ValueError(f"{file} must be about the weights beside it: measure them again")
    return metrics


# --- the card -----------------------------------------------------------------------------------


def write_card(folder: Path) -> Path:
    """Write the card of a measured model, and the figure of its calibration; return where it is.

    Raises:
        FileNotFoundError: If the model was not measured.
        ValueError: If a file beside it holds something else, or is about other weights.
    """
    text = card(folder)
    if (folder / CALIBRATION_FILE).is_file():
        plot_calibration(Calibration.load(folder), folder / CALIBRATION_FIGURE_FILE)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return folder / CARD_FILE


def card(folder: Path) -> str:
    """Return the text of a model's card.

    Raises:
        FileNotFoundError: If the model was not measured.
        ValueError: If a file beside it holds something else, or is about other weights.
    """
    metrics, name = read_metrics(folder), folder.resolve().name
    parts = [f"# zs-env/{name}" if name in MODELS else f"# {name}"]
    parts.append(DESCRIPTIONS.get(name, _OTHER))
    parts.append(_made(name, metrics, _architecture(folder)))
    parts.extend(_habits(metrics))
    sections = _simulator_parts if metrics["kind"] == SIMULATOR else _policy_parts
    parts.extend(sections(folder, metrics))
    if name in MODELS:
        parts.append("It knows the language of MiniWiki and nothing else.")
    return "\n\n".join(parts) + "\n"


def _architecture(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return str(config["model_type"])


def _made(name: str, metrics: Mapping[str, Any], architecture: str) -> str:
    size = f"{metrics['num_parameters'] / 1e6:.2f} M parameters"
    stored = ", ".join(metrics["dtypes"])
    if name not in MODELS:
        return f"Architecture {architecture}, {size}, stored as {stored}."
    tuned = (
        "The sampling temperature was chosen on requests of the kind measured here."
        if name in SIMULATORS
        else "All tuning looked at the validation split."
    )
    return (
        f"Plain {architecture} architecture, {size}, stored as {stored}, Apache-2.0. "
        f"Made from nothing by `zerosearch models build`. {tuned}"
    )


def _habits(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a model was made weak, if it was."""
    if "habits" not in metrics:
        return
    skill, base = metrics["habits"]["skill"], metrics["habits"]["base"]
    rows = [
        (name.replace("_", " "), f"{skill[name]:g}", f"{share:g}")
        for name, share in base.items()
        if share != skill[name]
    ]
    yield (
        "Its weakness is planted: it was trained further on transcripts spoilt on purpose, in "
        "these shares (`agents.tuning.policy_data.Habits` says what each means)."
    )
    yield table(("habit", "skill", "base"), rows)


def _simulator_parts(folder: Path, metrics: Mapping[str, Any]) -> Iterator[str]:
    yield _measured_with(metrics)
    yield table(
        ("held-out requests", "share", "cases", "real engine"),
        [
            (rate["label"], interval(rate), str(rate["count"]), _real(rate["real"]))
            for rate in metrics["rates"].values()
            if rate["count"]
        ],
    )
    yield table(
        ("all useful replies", "value", "compare"),
        [(s["label"], f"{s['value']:.3f}", f"{s['real']:.3f}") for s in metrics["scores"].values()],
    )
    if (folder / FIGURE_FILE).is_file():
        yield f"![What was measured]({FIGURE_FILE})"
    yield from _obedience(metrics["confusion"])
    yield from _calibration(folder, metrics)
    yield _speed(metrics)


def _measured_with(metrics: Mapping[str, Any]) -> str:
    config = metrics.get("config", {})
    options = "".join(
        f" --{name.replace('_', '-')} {config[name]}"
        for name in (*(("input", "split") if config.get("input") else ()), "num_requests", "seed")
        if name in config
    )
    text = f"Measured by `zerosearch tune measure{options}`"
    if not config.get("input") and "miniwiki" in metrics:
        text += f" on MiniWiki version {metrics['miniwiki']['version']}"
    return (
        f"{text} (95 % Wilson intervals). Where it can be compared, the last column is a real "
        "engine's, asked the same; but the distance in style is compared with that of two halves "
        "of the real engine's own replies."
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _real(rate: Mapping[str, Any] | None) -> str:
    return f"{rate['value']:.3f}" if rate else "–"


def _obedience(confusion: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    if not confusion:
        return
    columns = list(next(iter(confusion.values())))
    yield "What was found, by what was requested:"
    yield table(
        ("requested", *columns),
        [(name, *(str(found[column]) for column in columns)) for name, found in confusion.items()],
    )


def _calibration(folder: Path, metrics: Mapping[str, Any]) -> Iterator[str]:
    if not (folder / CALIBRATION_FILE).is_file():
        return
    calibration = Calibration.load(folder)
    if calibration.origin.get("weights_sha256") != metrics["weights_sha256"]:
        raise ValueError(
            f"{folder / CALIBRATION_FILE} must be about the weights beside it: "
            "run `zerosearch tune calibrate` again, or remove it"
        )
    rise = calibration.ceiling - calibration.floor
    yield (
        f"Of searches that are noisy with probability p, {calibration.floor:.3f} + {rise:.3f} p "
        "lack what is needed (`zerosearch tune calibrate`):"
    )
    rows = [
        (f"{p.requested:g}", f"{p.effective:.3f} [{p.low:.3f}, {p.high:.3f}]", str(p.count))
        for p in calibration.points
    ]
    yield table(("p", "effective noise", "searches"), rows)
    yield f"![Calibration]({CALIBRATION_FIGURE_FILE})"


def _speed(metrics: Mapping[str, Any]) -> str:
    speed, machine = metrics["speed"], metrics.get("machine", {})
    text = f"Speed: {speed['requests_per_second']:.0f} requests/s"
    if speed["tokens_per_second"]:
        text += f", {speed['tokens_per_second']:.0f} tokens/s"
    if machine:
        text += f" ({machine['cpu']}, torch threads: {machine['threads']})"
    return f"{text}."


def _policy_parts(folder: Path, metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "Measured by `zerosearch models measure --models DIR` (95 % Wilson intervals)."
    yield table(
        (
            "test split, greedy unless sampled",
            "exact match",
            "F1",
            "searches",
            "invalid actions",
            "search again after noise",
            "questions",
        ),
        [
            (
                name,
                exact_match(found),
                f"{found['f1']:.3f}",
                f"{found['searches']:.2f}",
                f"{found['invalid_share']:.3f}",
                _share(found["searched_again_share"]),
                str(found["num_questions"]),
            )
            for name, found in metrics["settings"].items()
        ],
    )
    if (folder / CONTROL_FILE).is_file():
        control = Control.load(folder / CONTROL_FILE)
        yield control.text
        yield table(("after", "wall time", "exact match", "questions"), control.cells())


def exact_match(found: Mapping[str, Any]) -> str:
    """Return the exact match of a summary with its interval."""
    low, high = found["exact_match_ci"]
    return f"{found['exact_match']:.3f} [{low:.3f}, {high:.3f}]"


def interval(rate: Mapping[str, Any]) -> str:
    """Return a share with its interval."""
    return f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [f"| {' | '.join(map(str.strip, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])

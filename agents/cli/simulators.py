"""Which simulator a command is about: a model, or any search engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from agents.cli.checks import check_at_least
from agents.cli.options import load_engine
from agents.weights import Weights
from zs_env.models import MODELS, model_folder
from zs_env.search.engine import SearchEngine

ModelName = Annotated[
    str,
    arg(
        metavar="MODEL",
        help="Instead of an engine: a language model that writes documents, a shipped one by its "
        "name or any in a folder.",
    ),
]
DocumentTokens = Annotated[
    int, arg(metavar="N", help="Tokens that a model may write for each document wanted.")
]


@dataclass(frozen=True)
class Simulator:
    """What a command is about.

    Attributes:
        name: As the caller named it.
        engine: What answers.
        folder: Where its model is; None if it is no model that we know of.
        is_shipped: Whether it is one of the models that ship with the package.
    """

    name: str
    engine: SearchEngine
    folder: Path | None
    is_shipped: bool

    @property
    def own_folder(self) -> Path | None:
        """Where its results belong: the folder of a model, if it is the caller's own."""
        return None if self.is_shipped else self.folder


def load_simulator(engine: str, model: str, document_tokens: int) -> Simulator:
    """Return what `--model`, or else `--engine`, names.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        TypeError: If the engine cannot be one.
        FileNotFoundError: If there is no model where one should be.
    """
    from zs_env.lm.transformers import TransformersLM
    from zs_env.search.simulator import SimulatedSearchEngine

    check_at_least(1, document_tokens=document_tokens)
    name = model or engine
    if not model and engine not in MODELS:
        return Simulator(engine, load_engine(engine), None, False)
    folder = find_model(name)
    Weights.read(folder)  # damaged ones are the caller's mistake, and are told in one line
    lm = TransformersLM.from_pretrained(folder)
    found = SimulatedSearchEngine(lm, max_tokens_per_document=document_tokens)
    return Simulator(name, found, folder, name in MODELS)


def find_model(name: str) -> Path:
    """Return the folder of the model that `--model` names: a shipped one, or one in a folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    if name in MODELS:
        return model_folder(name)
    for folder in (Path(name), Path(name) / "model"):  # the second is where tuning leaves it
        if (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
            return folder
    known = ", ".join(MODELS)
    raise FileNotFoundError(f"`model` must be {known} or a folder with a model, got {name!r}")

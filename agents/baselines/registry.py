"""Agents by name, as engines are: `direct`, `rag:skill`, `openai:http://host:8000/v1#model`.

Third parties add names of their own as entry points of the group `zs_env.agents`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

from agents.agent import Agent
from agents.baselines.cot import ChainOfThought, ChainOfThoughtPrompt
from agents.baselines.direct import Direct, DirectPrompt
from agents.baselines.function import FunctionAgent
from agents.baselines.oracle import OracleAgent
from agents.baselines.programs import Program, ProgramAgent
from agents.baselines.prompted import Method, PromptedAgent
from agents.baselines.r1 import R1, R1Prompt
from agents.baselines.ra_agent import ReAct, ReActPrompt
from agents.baselines.rag import RAG, RAGPrompt
from agents.baselines.random import RandomAgent
from agents.baselines.rules import PlayRules
from agents.baselines.scripted import ScriptedAgent
from agents.baselines.search_o1 import SearchO1, SearchO1Agent, SearchO1Prompt
from agents.cli.objects import import_object
from agents.policies.folders import find_policy
from agents.policies.text_agent import TextAgent
from zs_env.lm.openai import OpenAIGenerator
from zs_env.search.names import Place, read_place, without_userinfo
from zs_env.task.actions import STOPS

GROUP: Final = "zs_env.agents"
"""Entry points of this group are agents by their names."""

PLAYERS: Final[Mapping[str, Callable[[PlayRules], Agent]]] = {
    "random": RandomAgent,
    "scripted": ScriptedAgent,
    "oracle": OracleAgent,
}
"""Agents without a model."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline in its two forms.

    Attributes:
        program: Plays it over a policy in this process.
        method: Plays it by prompts over an OpenAI-compatible model.
        agent: What plays the program.
    """

    program: type[Program]
    method: type[Method]
    agent: type[ProgramAgent] = ProgramAgent


BASELINES: Final[Mapping[str, Baseline]] = {
    "direct": Baseline(Direct, DirectPrompt),
    "cot": Baseline(ChainOfThought, ChainOfThoughtPrompt),
    "rag": Baseline(RAG, RAGPrompt),
    "ra-agent": Baseline(ReAct, ReActPrompt),
    "search-o1": Baseline(SearchO1, SearchO1Prompt, SearchO1Agent),
    "r1": Baseline(R1, R1Prompt),
}
"""The paper's baselines; `NAME` plays the policy base, `NAME:POLICY` or `NAME:URL#MODEL` others."""

DEFAULT_POLICY: Final = "base"
_SCHEMES: Final = ("openai", "sb3", *BASELINES)
_BOOLS: Final = {"true": True, "false": False}
_MODEL_OPTIONS: Final = ("chat", "tokens")
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {"openai": _MODEL_OPTIONS, "sb3": ("algorithm",)}


def check_agent(name: str) -> None:
    """Check that `make_agent` can know an agent of this name; no model is loaded.

    Raises:
        ValueError: If it cannot; names what it knows.
        FileNotFoundError: If a model or file is missing.
        TypeError: If an object of one's own cannot play.
    """
    scheme, place = _split(name)
    if name in PLAYERS or name in _entry_points():
        return
    if scheme == "sb3":
        _check_options("sb3", place)
        if not Path(place.name).is_file():
            raise FileNotFoundError(f"`agent` must name a file after sb3:, got {place.name!r}")
    elif scheme in _SCHEMES:
        _model_settings(scheme, place, PlayRules())
        if not place.urls:
            find_policy(place.name)
    elif is_import_path(name):
        _import(name)
    else:
        _find_policy(name)


def make_agent(name: str, rules: PlayRules) -> Agent:
    """Return the agent of a name.

    Args:
        name: One of `PLAYERS` or `BASELINES`; a policy (base, skill, a folder, a run, a hub id);
            "openai:<URL>#<model>"; "sb3:<file>"; "module:attribute"; or an entry point of the
            group `zs_env.agents`. docs/benchmarks.md tells of all.
        rules: Of the episodes that it will play.

    Raises:
        ValueError: If there is none of that name, or an option is wrong.
        TypeError: If an object of one's own cannot play.
        FileNotFoundError: If a model or file is missing.
        ImportError: If it needs an extra that is not installed.
    """
    scheme, place = _split(name)
    if name in PLAYERS:
        return PLAYERS[name](rules)
    if scheme in BASELINES:
        return _make_baseline(scheme, place, rules)
    if scheme == "openai":
        return _make_openai(place, rules)
    if scheme == "sb3":
        from agents.baselines.sb3 import SB3Agent

        _check_options("sb3", place)
        return SB3Agent.load(place.name, place.options.get("algorithm", "PPO"), rules)
    if name in _entry_points() or is_import_path(name):
        return _make_own(name, replace(rules, questions=()))  # only the oracle knows answers
    return _make_policy(name, rules)


def policy_of(name: str) -> Path | None:
    """Return the folder or file of the model that an agent of this name plays; None without one.

    Raises:
        FileNotFoundError: If it should be there and is not.
        ValueError: If the name cannot be read.
    """
    scheme, place = _split(name)
    if scheme in BASELINES:
        return None if place.urls else find_policy(place.name)
    if scheme == "sb3":
        return Path(place.name)
    known = name in PLAYERS or scheme in _SCHEMES or name in _entry_points()
    return None if known or is_import_path(name) else _find_policy(name)


def _split(name: str) -> tuple[str, Place]:
    """Return the scheme of a name and what follows it; without a scheme an empty one.

    Raises:
        ValueError: If what follows cannot be read, or nothing does that must.
    """
    scheme, colon, rest = name.partition(":")
    if scheme not in _SCHEMES:
        return "", Place(name)
    if not rest and scheme not in BASELINES:
        raise ValueError(
            f"`agent` must be followed by a place, like {scheme}:<place>, got {name!r}"
        )
    if colon and not rest:
        raise ValueError(f"`agent` must be {scheme}, or {scheme}:<policy or URL>, got {name!r}")
    place = read_place(rest) if rest else Place(DEFAULT_POLICY)
    if scheme == "openai" and not place.urls:
        raise ValueError(f"`agent` must have a URL after openai:, got {without_userinfo(name)!r}")
    return scheme, place


def is_import_path(name: str) -> bool:
    """Return whether a name can be that of an object of one's own, `module:attribute`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), attribute])


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _find_policy(name: str) -> Path:
    try:
        return find_policy(name)
    except FileNotFoundError as error:
        known = ", ".join([*PLAYERS, *BASELINES, *_entry_points()])
        raise FileNotFoundError(
            f"`agent` must be {known}, base, skill, a folder with a model or a run (`zerosearch "
            f"demo` leaves one in runs/demo), openai:<URL>, sb3:<file> or module:attribute, got "
            f"{without_userinfo(name)!r}"
        ) from error


# --- language models ----------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _load_policy(folder: Path) -> Any:
    from agents.policies.causal_lm import CausalLMPolicy

    return CausalLMPolicy.load(folder)


def _make_policy(name: str, rules: PlayRules) -> Agent:
    from agents.policies.keyed import KeyedPolicyAgent

    policy = _load_policy(_find_policy(name))
    return KeyedPolicyAgent(policy, STOPS, **_sampling(rules))


def _make_baseline(scheme: str, place: Place, rules: PlayRules) -> Agent:
    baseline = BASELINES[scheme]
    _, rules = _model_settings(scheme, place, rules)
    if place.urls:
        generator = _connect(place.urls, place.model, chat=False)
        return PromptedAgent(generator, baseline.method(), rules)
    return baseline.agent(_load_policy(find_policy(place.name)), baseline.program(), rules)


def _make_openai(place: Place, rules: PlayRules) -> Agent:
    chat, rules = _model_settings("openai", place, rules)
    generator = _connect(place.urls, place.model, chat=chat)
    return TextAgent(generator, STOPS, **_sampling(rules))


@lru_cache(maxsize=8)
def _connect(urls: tuple[str, ...], model: str | None, *, chat: bool) -> OpenAIGenerator:
    return OpenAIGenerator(urls, model, chat=chat)


def _sampling(rules: PlayRules) -> dict[str, Any]:
    return {
        "max_new_tokens": rules.max_new_tokens,
        "temperature": rules.temperature or 1.0,
        "seed": rules.seed,
    }


def _model_settings(scheme: str, place: Place, rules: PlayRules) -> tuple[bool, PlayRules]:
    """Return whether a model is asked in its chat template, and the rules with its options.

    Raises:
        ValueError: If an option is unknown or its value wrong.
    """
    _check_options(scheme, place)
    chat, tokens = place.options.get("chat", "true"), place.options.get("tokens")
    if chat not in _BOOLS:
        raise ValueError(f"`chat` must be true or false, got {chat!r}")
    if tokens is None:
        return _BOOLS[chat], rules
    if not tokens.isdecimal() or not int(tokens):
        raise ValueError(f"`tokens` must be an integer of at least 1, got {tokens!r}")
    return _BOOLS[chat], replace(rules, max_new_tokens=int(tokens))


def _check_options(scheme: str, place: Place) -> None:
    known = _OPTIONS.get(scheme, ("tokens",))
    for option in place.options:
        if option not in known:
            raise ValueError(f"options of `{scheme}:` are {', '.join(known)}, got {option!r}")
    if place.model and not place.urls:
        raise ValueError(f"`{scheme}:` must have a #model after a URL only, got {place.model!r}")


# --- objects of one's own -----------------------------------------------------------------------


@lru_cache(maxsize=8)
def _import(path: str) -> Any:
    return import_object("agent", path)


@lru_cache(maxsize=8)
def _make_own(name: str, rules: PlayRules) -> Agent:
    """Return an agent of the caller's, which may take long to make, made once a process."""
    point = _entry_points().get(name)
    return as_agent(_import(name) if point is None else point.load(), name, rules)


def as_agent(found: Any, name: str, rules: PlayRules) -> Agent:
    """Return an object of one's own as an agent.

    Args:
        found: An agent; a language model with a method `complete`; a function of one text, the
            transcript so far, that returns an action; or a class or function that makes one of
            these, given nothing or the `PlayRules` as `rules`.
        name: What it is called, for messages.
        rules: Of the episodes.

    Raises:
        TypeError: If it is none of these.
    """
    made = _called(found, rules)
    if callable(getattr(made, "predict", None)):
        agent: Agent = made
        return agent
    if callable(getattr(made, "complete", None)):
        return TextAgent(made, STOPS, **_sampling(rules))
    if callable(made) and not isinstance(made, type) and _takes(made, ""):
        return FunctionAgent(made, name)
    raise TypeError(
        f"`agent` must be an agent, a language model, a function of one text, or a class or "
        f"function that makes one, given nothing or `rules`; got {found!r} for {name!r}"
    )


def _called(found: Any, rules: PlayRules) -> Any:
    plays = any(callable(getattr(found, name, None)) for name in ("predict", "complete"))
    if not callable(found) or (plays and not isinstance(found, type)):
        return found
    if _takes(found, rules=rules):
        return found(rules=rules)
    return found() if _takes(found) else found


def _takes(function: Any, *args: Any, **kwargs: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True

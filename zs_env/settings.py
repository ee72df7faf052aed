"""What an environment is built from, what a reset may change, and how an episode then starts.

The single and the vector environment share all of it: `Settings` holds the constructor's
keywords, `ResetOptions` one slot's reset options, and `EpisodeFactory` turns both and a random
key into an episode. Every mistake of a caller is reported here, and whatever passes is kept as
Python's own value: a numpy number among the arguments would surface in infos, files and states.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar

from gymnasium.utils import seeding

from zs_env.checks import check_count, check_probability
from zs_env.episode import Episode, Judged, Rules, name_texts
from zs_env.random import derive
from zs_env.search.curriculum import Curriculum, CurriculumSource, make_curriculum
from zs_env.search.engine import NoiseKind, SearchEngine
from zs_env.search.registry import check_engine, makes_noise
from zs_env.task.actions import GRAMMAR, STOPS
from zs_env.task.prompts import make_prompt
from zs_env.task.question_sets import (
    SPLITS,
    QuestionRecord,
    QuestionSet,
    QuestionSource,
    make_question,
)
from zs_env.task.questions import Question
from zs_env.task.reward_terms import RewardSource, make_reward

_T = TypeVar("_T")

_RULES: Final = Rules()  # their defaults are the constructor's

KEY_LIMIT: Final = 2**63  # streams and keys of episodes are in [0, KEY_LIMIT)

# What an episode's key is used for.
_QUESTION_DRAW: Final = 0
_NOISE_SEED: Final = 1


class SettingsArguments(TypedDict, total=False):
    """The keywords of `Settings`, for the signatures that pass them on."""

    questions: QuestionSource
    engine: str | SearchEngine
    split: str
    top_k: int
    max_turns: int
    prompt: str
    reward: RewardSource
    curriculum: CurriculumSource
    noise: float | None
    noise_kinds: Sequence[str]
    max_action_length: int
    max_document_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The constructor's keywords; `ZeroSearchEnv` describes each.

    Raises:
        ValueError: If one is out of its range, or a name is unknown.
        TypeError: If one is of a type that it cannot have.
        FileNotFoundError: If the engine's name has a file or folder that is not there.
    """

    questions: QuestionSource = "miniwiki"
    engine: str | SearchEngine = "simulator"
    split: str = "train"
    top_k: int = _RULES.top_k
    max_turns: int = _RULES.max_turns
    prompt: str = "miniwiki"
    reward: RewardSource = "f1"
    curriculum: CurriculumSource = "exponential"
    noise: float | None = None
    noise_kinds: Sequence[str] = ()
    max_action_length: int = _RULES.max_action_length
    max_document_length: int = _RULES.max_document_length

    def __post_init__(self) -> None:
        """Check what `rules` and the question set do not check, and keep Python's own values."""
        check_engine(self.engine)
        _check_questions(self.questions)
        make_curriculum(self.curriculum)
        checked = {
            "split": _check_split(self.split),
            "noise": _optional(_check_noise, self.noise),
            "noise_kinds": _check_noise_kinds(self.noise_kinds),
        }
        for name in ("top_k", "max_turns", "max_action_length", "max_document_length"):
            checked[name] = check_count(name, getattr(self, name), minimum=1)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def rules(self) -> Rules:
        """Return the rules that all episodes share."""
        return Rules(
            prompt=make_prompt(self.prompt),
            top_k=self.top_k,
            max_turns=self.max_turns,
            reward=make_reward(self.reward),
            max_action_length=self.max_action_length,
            max_document_length=self.max_document_length,
            noise_kinds=_check_noise_kinds(self.noise_kinds),
            makes_noise=makes_noise(self.engine),
        )


def read_settings(cls: type, arguments: Mapping[str, Any]) -> Settings:
    """Return the settings that the keywords of a constructor ask for.

    Args:
        cls: Whose constructor; the keywords that it keeps to itself are named in the message.
        arguments: The keywords that are left.

    Raises:
        ValueError: If one is out of its range, or a name is unknown.
        TypeError: If there is no such keyword, or one is of a type that it cannot have.
    """
    unknown = arguments.keys() - SettingsArguments.__annotations__.keys()
    if unknown:
        keywords = inspect.signature(cls).parameters.values()
        own = {keyword.name for keyword in keywords if keyword.kind is not keyword.VAR_KEYWORD}
        known = ", ".join(sorted(own | SettingsArguments.__annotations__.keys()))
        raise TypeError(
            f"{cls.__name__} got an unexpected keyword argument {min(unknown)!r}, "
            f"must be among {known}"
        )
    return Settings(**arguments)


@dataclass(frozen=True, slots=True)
class ResetOptions:
    """Reset options of one episode, checked; None leaves a thing as the constructor set it.

    Attributes:
        noise: Probability of noisy documents.
        progress: How far training is, in [0, 1], for the curriculum to choose the probability.
        question: The question to ask, instead of a random one.
        max_turns: Actions the episode lasts at most.
        noise_seed: Key of the noise draws, instead of a random one.
        split: Where a random question comes from.
    """

    noise: float | None = None
    progress: float | None = None
    question: Question | None = None
    max_turns: int | None = None
    noise_seed: int | None = None
    split: str | None = None


def new_stream(seed: int | None = None) -> int:
    """Return the stream of episodes that a seed stands for; without one, a random stream.

    Raises:
        gymnasium.error.Error: If the seed is negative or no integer.
    """
    generator, _ = seeding.np_random(seed)
    return int(generator.integers(KEY_LIMIT))


def episode_key(stream: int, index: int) -> int:
    """Return the key of the episode at `index`, from 0, of a stream, in [0, `KEY_LIMIT`).

    Args:
        stream: Decides a whole sequence of episodes, in [0, `KEY_LIMIT`).
        index: Place in the sequence.
    """
    return derive(stream, index)


OPTION_NAMES: Final = tuple(field.name for field in fields(ResetOptions))


class EpisodeFactory:
    """Starts episodes; nothing it does changes it, but for questions that it loads.

    Args:
        settings: What the environment was built from.

    Attributes:
        settings: The same.
        rules: What all episodes have in common.
        curriculum: The curriculum to begin with.

    Raises:
        ValueError: If questions, prompt or reward are unknown.
    """

    def __init__(self, settings: Settings) -> None:
        """Resolve all names but the engine's; load nothing."""
        self.settings = settings
        self.rules = settings.rules()
        self.curriculum = make_curriculum(settings.curriculum)
        self._questions = QuestionSet(settings.questions)

    def metadata(self, group_size: int = 1) -> dict[str, Any]:
        """Return what a training loop needs to know of an environment, whatever its class."""
        return {
            "prompt": self.rules.prompt,
            "action_stops": STOPS,
            "grammar": GRAMMAR,
            "group_size": group_size,
            "makes_noise": self.rules.makes_noise,
        }

    def read_options(self, options: Mapping[str, Any] | None) -> ResetOptions:
        """Return the options of one episode, checked.

        Raises:
            ValueError: If an option is unknown or out of range; the message names it.
            TypeError: If `options` is no mapping.
        """
        options = check_options(options)
        if options.get("noise") is not None and options.get("progress") is not None:
            raise ValueError(
                f"`progress` must not be given together with `noise`, got {options['progress']!r}"
            )
        return ResetOptions(
            noise=_optional(_check_noise, options.get("noise")),
            progress=_optional(_check_progress, options.get("progress")),
            question=_optional(self._find_question, options.get("question")),
            max_turns=_optional(_check_max_turns, options.get("max_turns")),
            noise_seed=_optional(_check_noise_seed, options.get("noise_seed")),
            split=_optional(_check_split, options.get("split")),
        )

    def _find_question(self, question: str | QuestionRecord) -> Question:
        if isinstance(question, str):
            return self._questions.find(question)
        found = make_question(question, default_id="")
        return found if found.id else replace(found, id=_content_id(found))

    def start(self, key: int, options: ResetOptions, curriculum: Curriculum) -> Episode:
        """Return a new episode.

        Args:
            key: Decides everything random that `options` does not, in [0, `KEY_LIMIT`).
            options: What this episode has of its own.
            curriculum: Where the curriculum stands.

        Raises:
            ValueError: If the curriculum returns no probability.
        """
        settings, rules = self.settings, self.rules
        if options.max_turns is not None:
            rules = replace(rules, max_turns=options.max_turns)
        question = options.question or self._draw_question(key, options.split or settings.split)
        noise_seed = options.noise_seed
        if noise_seed is None:
            noise_seed = derive(key, _NOISE_SEED)
        return Episode(question, rules, self._noise(options, curriculum), noise_seed)

    def _noise(self, options: ResetOptions, curriculum: Curriculum) -> float:
        """Return the probability of noise: the option's, the constructor's or the curriculum's."""
        if options.noise is not None:
            return options.noise
        if options.progress is None and self.settings.noise is not None:
            return self.settings.noise
        return check_probability("curriculum(progress)", curriculum(options.progress or 0.0))

    def _draw_question(self, key: int, split: str) -> Question:
        questions = self._questions.split(split)
        return questions[derive(key, _QUESTION_DRAW) % len(questions)]


def taught(curriculum: Curriculum, last_turn: Judged) -> Curriculum:
    """Return the curriculum to go on with after the last turn of an episode.

    Raises:
        TypeError: If its `after` returns no curriculum.
    """
    following = curriculum.after(last_turn.outcome.info["exact_match"])
    if not isinstance(following, Curriculum):
        raise TypeError(f"`curriculum.after(success)` must be a Curriculum, got {following!r}")
    return following


def check_options(
    options: Mapping[str, Any] | None, known: Sequence[str] = OPTION_NAMES
) -> Mapping[str, Any]:
    """Return `options`, an empty mapping where there are none.

    Raises:
        ValueError: If one is not among `known`; the message names it and lists the known ones.
        TypeError: If it is no mapping.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"`options` must be a mapping or None, got {options!r}")
    for name in options:
        if name not in known:
            raise ValueError(f"`options` must be among {', '.join(sorted(known))}, got {name!r}")
    return options


def _content_id(question: Question) -> str:
    """Return an id for a question that came without one: equal questions share it."""
    return f"{name_texts(question.text, *question.golden_answers):016x}"


def _optional(check: Callable[[Any], _T], value: Any) -> _T | None:
    """Return the checked value, or None where there is none."""
    return None if value is None else check(value)


def _check_questions(value: Any) -> None:
    if not isinstance(value, str | Path | Iterable):
        raise TypeError(
            f"`questions` must be a name, a file or a sequence of records, got {value!r}"
        )


def _check_noise(value: Any) -> float:
    return check_probability("noise", value)


def _check_progress(value: Any) -> float:
    return check_probability("progress", value)


def _check_noise_kinds(value: Any) -> tuple[NoiseKind, ...]:
    kinds = tuple(value) if isinstance(value, Sequence) else (value,)
    if isinstance(value, str) or not all(kind in list(NoiseKind) for kind in kinds):
        known = ", ".join(NoiseKind)
        raise ValueError(f"`noise_kinds` must be a sequence of {known}, got {value!r}")
    return tuple(NoiseKind(kind) for kind in kinds)


def _check_split(value: Any) -> str:
    if not isinstance(value, str) or value not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {value!r}")
    return str(value)


def _check_max_turns(value: Any) -> int:
    return check_count("max_turns", value, minimum=1)


def _check_noise_seed(value: Any) -> int:
    return check_count("noise_seed", value, minimum=0)

"""What an environment is built from, what a reset may change, and how an episode then starts.

The single and the vector environment share all of it: `Settings` holds the constructor's
keywords, `ResetOptions` one slot's reset options, and `EpisodeFactory` turns both and a random
key into an episode. Every mistake of a caller is reported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Final, TypedDict, TypeVar

from zs_env.episode import Episode, Rules
from zs_env.random import derive
from zs_env.search.curriculum import CurriculumSource, make_curriculum
from zs_env.search.engine import NoiseKind, SearchEngine
from zs_env.search.registry import check_engine
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
        TypeError: If `engine`, `reward` or `curriculum` is an object that cannot be one.
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
        """Check what `rules` and the question set do not check."""
        check_engine(self.engine)
        _check_split(self.split)
        _optional(_check_noise, self.noise)
        make_curriculum(self.curriculum)
        _check_noise_kinds(self.noise_kinds)
        for name in ("top_k", "max_turns", "max_action_length", "max_document_length"):
            _check_count(name, getattr(self, name), minimum=1)

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
        )


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


def episode_key(stream: int, index: int) -> int:
    """Return the key of the episode at `index`, from 0, of a stream, in [0, `KEY_LIMIT`).

    Args:
        stream: Decides a whole sequence of episodes, in [0, `KEY_LIMIT`).
        index: Place in the sequence.
    """
    return derive(stream, index)


OPTION_NAMES: Final = tuple(field.name for field in fields(ResetOptions))


class EpisodeFactory:
    """Starts episodes.

    Args:
        settings: What the environment was built from.

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
        }

    def read_options(self, options: Mapping[str, Any] | None) -> ResetOptions:
        """Return the options of one episode, checked.

        Raises:
            ValueError: If an option is unknown or out of range; the message names it.
        """
        options = options or {}
        check_option_names(options)
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
        return make_question(question, default_id="custom")

    def start(self, key: int, options: ResetOptions) -> Episode:
        """Return a new episode.

        Args:
            key: Decides everything random that `options` does not, in [0, `KEY_LIMIT`).
            options: What this episode has of its own.
        """
        settings, rules = self.settings, self.rules
        if options.max_turns is not None:
            rules = replace(rules, max_turns=options.max_turns)
        question = options.question or self._draw_question(key, options.split or settings.split)
        noise_seed = options.noise_seed
        if noise_seed is None:
            noise_seed = derive(key, _NOISE_SEED)
        return Episode(question, rules, self._noise(options), noise_seed)

    def _noise(self, options: ResetOptions) -> float:
        """Return the probability of noise: the option's, the constructor's or the curriculum's."""
        if options.noise is not None:
            return options.noise
        if options.progress is None and self.settings.noise is not None:
            return self.settings.noise
        return self.curriculum(options.progress or 0.0)

    def count(self, info: Mapping[str, Any]) -> None:
        """Let the curriculum learn from the info of a turn, if that turn ended an episode."""
        if "exact_match" in info:
            self.curriculum = self.curriculum.after(info["exact_match"])

    def _draw_question(self, key: int, split: str) -> Question:
        questions = self._questions.split(split)
        return questions[derive(key, _QUESTION_DRAW) % len(questions)]


def check_option_names(options: Mapping[str, Any]) -> None:
    """Check that every option is known.

    Raises:
        ValueError: If one is not; the message names it and lists the known ones.
    """
    for name in options:
        if name not in OPTION_NAMES:
            known = ", ".join(sorted(OPTION_NAMES))
            raise ValueError(f"`options` must be among {known}, got {name!r}")


def check_group_size(value: Any) -> int:
    """Return `value`.

    Raises:
        ValueError: If it is not a count of at least 1.
    """
    return _check_count("group_size", value, minimum=1)


def _optional(check: Callable[[Any], _T], value: Any) -> _T | None:
    """Return the checked value, or None where there is none."""
    return None if value is None else check(value)


def _check_noise(value: Any) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"`noise` must be a probability in [0, 1], got {value!r}")
    return float(value)


def _check_noise_kinds(value: Any) -> tuple[NoiseKind, ...]:
    kinds = () if isinstance(value, str) else tuple(value)
    if isinstance(value, str) or not all(kind in list(NoiseKind) for kind in kinds):
        known = ", ".join(NoiseKind)
        raise ValueError(f"`noise_kinds` must be a sequence of {known}, got {value!r}")
    return tuple(NoiseKind(kind) for kind in kinds)


def _check_progress(value: Any) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"`progress` must be a number in [0, 1], got {value!r}")
    return float(value)


def _check_split(value: Any) -> str:
    if value not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {value!r}")
    return str(value)


def _check_max_turns(value: Any) -> int:
    return _check_count("max_turns", value, minimum=1)


def _check_noise_seed(value: Any) -> int:
    return _check_count("noise_seed", value, minimum=0)


def _check_count(name: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}, got {value!r}")
    return int(value)

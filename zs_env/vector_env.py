"""The vector environment: many episodes, and at most one call of the search engine a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar, Final, NamedTuple, Unpack, cast

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from zs_env.checks import check_count
from zs_env.episode import Episode, Judged, Outcome, StopReason
from zs_env.rendering import RENDERERS, RenderFrame, check_render_mode
from zs_env.search.curriculum import Curriculum
from zs_env.search.registry import make_engine, search_all
from zs_env.settings import (
    OPTION_NAMES,
    EpisodeFactory,
    ResetOptions,
    SettingsArguments,
    check_options,
    episode_key,
    new_stream,
    read_settings,
    taught,
)
from zs_env.spaces import UnicodeText

Flags = NDArray[np.bool_]
_RESET_MASK: Final = "reset_mask"
_DTYPES: Final[dict[type, type]] = {int: np.int64, float: np.float64, bool: np.bool_}

StepResult = tuple[tuple[str, ...], NDArray[np.float64], Flags, Flags, dict[str, Any]]


class ZeroSearchVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], NDArray[Any]]):
    """`num_envs` episodes of `ZeroSearchEnv`, played side by side by the same rules.

    Slot i, reset with seed s + i, plays exactly what a single environment with that seed plays.
    Each step asks the engine once, for all slots that search, and not at all if none does.

    Every reset option may be one value for all slots or a sequence of `num_envs` values (None
    for "as constructed"); strings, mappings and `Question`s are single values. `reset_mask`, a
    boolean array of shape (num_envs,), restricts a reset to some slots. Options hold for the
    episodes that this reset begins and no later ones; episodes begun by autoreset are as
    constructed.

    With `group_size` G, slots 0 … G-1, G … 2G-1 and so on are groups: the k-th episodes of a
    group's slots ask the same question with the same noise stream, whenever they begin, and
    `info["group"]` tells who belongs together. A group takes the seed of its first slot.

    Autoreset, as Gymnasium defines it: NEXT_STEP (the default) begins the next episode in the
    step after the end and ignores that step's action; SAME_STEP begins it at once and reports
    the end in `final_obs` and `final_info`; DISABLED leaves ended slots idle until they are
    reset: their actions are ignored, their rewards are 0, their flags stay, and `infos` skips
    them.

    An adaptive curriculum learns from the episodes of all slots. A reset that seeds all of them
    takes it back to its beginning, as the same seeds and options are the same episodes; one that
    seeds only some leaves it, as the others go on.

    Args:
        num_envs: Number of slots, at least 1.
        group_size: Slots a group; divides `num_envs`.
        autoreset_mode: A mode or its name.
        render_mode: None, "ansi", "html" or "rgb_array".
        **settings: As for `ZeroSearchEnv`.

    Raises:
        ValueError: If an argument is out of its range, or a name is unknown.
        TypeError: If there is no such argument, or one is of a type that it cannot have.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDERERS),
        "render_fps": 1,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        group_size: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        """Check the arguments; questions and engine are loaded when first needed."""
        num_envs = check_count("num_envs", num_envs, minimum=1)
        group_size = check_count("group_size", group_size, minimum=1)
        if num_envs % group_size:
            raise ValueError(f"`group_size` must divide num_envs={num_envs}, got {group_size!r}")
        self.num_envs = num_envs
        self.group_size = group_size
        self.autoreset_mode = _read_autoreset_mode(autoreset_mode)
        self.render_mode = check_render_mode(render_mode, list(RENDERERS))
        self._factory = EpisodeFactory(read_settings(type(self), settings))
        self.metadata = type(self).metadata | self._factory.metadata(group_size)  # type: ignore[misc]
        self.metadata["autoreset_mode"] = self.autoreset_mode
        rules = self._factory.rules
        self.single_action_space = UnicodeText(rules.max_action_length)
        self.single_observation_space = UnicodeText(rules.max_observation_length)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._groups = [
            GroupKeys(new_stream(), (0,) * group_size) for _ in range(num_envs // group_size)
        ]
        self._episodes: list[Episode | None] = [None] * num_envs
        self._observations = [""] * num_envs
        self._curriculum = self._factory.curriculum  # where it stands

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | NDArray[np.integer[Any]] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begin an episode in every slot, or in those that `options["reset_mask"]` names.

        Whatever it raises, nothing has changed then.

        Args:
            seed: None to go on from the last reset, s to seed slot i with s + i, or a seed a
                slot.
            options: See the class.

        Returns:
            The observations, where a slot that is not reset keeps its last one, and the infos of
            the slots that are.

        Raises:
            ValueError: If an option or the number of seeds is wrong, or the curriculum returns no
                probability.
            TypeError: If `options`, `seed` or `reset_mask` is of the wrong type.
            gymnasium.error.Error: If a seed is negative or no integer.
        """
        slot_options = self._read_options(options)
        mask = self._read_mask(options)
        seeds = self._read_seeds(seed)[:: self.group_size]
        groups = list(self._groups)
        for index in np.flatnonzero(mask[:: self.group_size]).tolist():
            groups[index] = groups[index].restarted(seeds[index])
        all_anew = mask.all() and None not in seeds
        curriculum = self._factory.curriculum if all_anew else self._curriculum
        slots = np.flatnonzero(mask).tolist()
        begun = self._begin({slot: slot_options[slot] for slot in slots}, groups, curriculum)
        infos: list[dict[str, Any]] = [{}] * self.num_envs
        observations = list(self._observations)
        for slot, episode in begun.items():
            observations[slot], infos[slot] = episode.prompt, episode.reset_info()
        result = tuple(observations), stack_infos(infos)
        self._seat(begun, groups, curriculum, observations)
        return result

    def _begin(
        self,
        slot_options: Mapping[int, ResetOptions],
        groups: list[GroupKeys],
        curriculum: Curriculum,
    ) -> dict[int, Episode]:
        """Return the next episode of every slot that has options, counting them in `groups`."""
        begun = {}
        for slot, options in slot_options.items():
            group, member = divmod(slot, self.group_size)
            begun[slot] = self._factory.start(groups[group].key(member), options, curriculum)
            groups[group] = groups[group].begun_by(member)
        return begun

    def _seat(
        self,
        begun: Mapping[int, Episode],
        groups: list[GroupKeys],
        curriculum: Curriculum,
        observations: list[str],
    ) -> None:
        """Let slots play the episodes that have begun; all that reset and step change is here."""
        for slot, episode in begun.items():
            self._episodes[slot] = episode
        self._groups = groups
        self._curriculum = curriculum
        self._observations = observations

    def step(self, actions: Sequence[str]) -> StepResult:
        """Take one turn in every slot; see the class for slots whose episode is over.

        Whatever it raises, also from a reward, all episodes are as before and the step can be
        tried again.

        Args:
            actions: One text a slot.

        Raises:
            TypeError: If `actions` is no sequence of texts, or an entry is not a string.
            ValueError: If there is not one entry a slot.
            ResetNeeded: If a slot was never reset.
            SearchEngineError: If the engine failed, or returned anything but documents.
        """
        episodes = self._begun_episodes()
        turns = self._judge(episodes, self._read_actions(actions))
        outcomes = [
            self._idle(episode) if turn is None else turn.outcome
            for episode, turn in zip(episodes, turns, strict=True)
        ]
        curriculum, groups = self._curriculum_after(turns), list(self._groups)
        over = dict.fromkeys(self._slots_to_reset(turns), ResetOptions())
        begun = self._begin(over, groups, curriculum)
        result = self._report(outcomes, begun)
        for episode, turn in zip(episodes, turns, strict=True):
            if turn is not None:
                episode.commit(turn)
        self._seat(begun, groups, curriculum, list(result[0]))
        return result

    def _judge(self, episodes: Sequence[Episode], actions: Sequence[str]) -> list[Judged | None]:
        """Return what a turn leads to in every episode that goes on, None in the others."""
        playing = [None if episode.stop_reason is not None else episode for episode in episodes]
        requests = [
            None if episode is None else episode.begin_turn(action)
            for episode, action in zip(playing, actions, strict=True)
        ]
        found = search_all(make_engine(self._factory.settings.engine), requests)
        return [
            None if episode is None else episode.judge(documents)
            for episode, documents in zip(playing, found, strict=True)
        ]

    def _curriculum_after(self, turns: Sequence[Judged | None]) -> Curriculum:
        curriculum = self._curriculum
        for turn in turns:
            if turn is not None and turn.stop_reason is not None:
                curriculum = taught(curriculum, turn)
        return curriculum

    def _begun_episodes(self) -> list[Episode]:
        episodes = [episode for episode in self._episodes if episode is not None]
        if len(episodes) < self.num_envs:
            raise ResetNeeded("`step` must follow a `reset` of every slot")
        return episodes

    def _idle(self, episode: Episode) -> Outcome:
        """Return what a slot whose episode was already over reports for this step."""
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            return Outcome("", 0.0, False, False, {})
        answered = episode.stop_reason is StopReason.ANSWERED
        return Outcome("", 0.0, answered, not answered, {})

    def _slots_to_reset(self, turns: Sequence[Judged | None]) -> list[int]:
        """Return the slots whose next episode begins in this step."""
        if self.autoreset_mode is AutoresetMode.DISABLED:
            return []
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            return [slot for slot, turn in enumerate(turns) if turn is None]
        return [slot for slot, turn in enumerate(turns) if turn is None or turn.stop_reason]

    def _report(self, outcomes: Sequence[Outcome], begun: Mapping[int, Episode]) -> StepResult:
        """Return what a step returns that ends in `outcomes`, or there in a next episode."""
        final = _stack_final(outcomes) if self.autoreset_mode is AutoresetMode.SAME_STEP else {}
        shown = list(outcomes)
        for slot, episode in begun.items():
            info = episode.reset_info()
            shown[slot] = shown[slot]._replace(observation=episode.prompt, info=info)
        observations, rewards, terminated, truncated, infos = zip(*shown, strict=True)
        return (
            observations,
            np.array(rewards, dtype=np.float64),
            np.array(terminated, dtype=np.bool_),
            np.array(truncated, dtype=np.bool_),
            stack_infos(infos) | final,
        )

    def get_state(self) -> dict[str, Any]:
        """Return where all slots stand: dicts, lists, texts, numbers and None.

        All that decides what comes next is in it.
        """
        return {
            "episodes": [episode and episode.get_state() for episode in self._episodes],
            "observations": list(self._observations),
            "groups": [{"stream": g.stream, "num_begun": list(g.num_begun)} for g in self._groups],
            "curriculum": self._curriculum.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to where an environment with the same arguments stood when it gave `state`."""
        factory = self._factory
        episodes = [
            episode and Episode.from_state(episode, factory.rules) for episode in state["episodes"]
        ]
        groups = [GroupKeys(g["stream"], tuple(g["num_begun"])) for g in state["groups"]]
        curriculum = factory.curriculum.with_state(state["curriculum"])
        self._seat(dict(enumerate(episodes)), groups, curriculum, list(state["observations"]))

    def render(self) -> tuple[RenderFrame, ...] | None:
        """Return one transcript a slot, as the single environment does; None without a mode."""
        if self.render_mode is None:
            return None
        render = RENDERERS[self.render_mode]
        return tuple(render(episode.transcript if episode else []) for episode in self._episodes)

    def _read_actions(self, actions: Any) -> Sequence[str]:
        if isinstance(actions, str) or not isinstance(actions, Sequence | np.ndarray):
            raise TypeError(f"`actions` must be one text a slot, got {actions!r}")
        if len(actions) != self.num_envs:
            raise ValueError(
                f"`actions` must have num_envs={self.num_envs} entries, got {len(actions)}"
            )
        return cast(Sequence[str], actions)

    def _read_seeds(self, seed: Any) -> list[int | None]:
        if isinstance(seed, np.generic | np.ndarray):
            seed = seed.tolist()
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int):
            return [seed + slot for slot in range(self.num_envs)]
        if isinstance(seed, str) or not isinstance(seed, Sequence):
            raise TypeError(f"`seed` must be None, an integer or one a slot, got {seed!r}")
        if len(seed) != self.num_envs:
            raise ValueError(f"`seed` must have num_envs={self.num_envs} entries, got {len(seed)}")
        return [int(each) if isinstance(each, np.integer) else each for each in seed]

    def _read_mask(self, options: Mapping[str, Any] | None) -> Flags:
        """Return which slots to reset, shape (num_envs,)."""
        mask = (options or {}).get(_RESET_MASK)
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"`reset_mask` must be a boolean array, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"`reset_mask` must have shape ({self.num_envs},) and a True entry, got {mask!r}"
            )
        if (mask != np.repeat(mask[:: self.group_size], self.group_size)).any():
            raise ValueError(
                f"`reset_mask` must reset whole groups of {self.group_size} slots, got {mask!r}"
            )
        return mask

    def _read_options(self, options: Mapping[str, Any] | None) -> list[ResetOptions]:
        """Return the checked options of every slot."""
        given = check_options(options, (*OPTION_NAMES, _RESET_MASK))
        shared = {name: value for name, value in given.items() if name != _RESET_MASK}
        if not any(map(_is_column, shared.values())):
            return [self._factory.read_options(shared)] * self.num_envs
        columns = {name: self._spread(name, value) for name, value in shared.items()}
        return [
            self._factory.read_options({name: column[slot] for name, column in columns.items()})
            for slot in range(self.num_envs)
        ]

    def _spread(self, name: str, value: Any) -> list[Any]:
        """Return one value a slot."""
        if not _is_column(value):
            return [value] * self.num_envs
        values = list(value)
        if len(values) != self.num_envs:
            raise ValueError(
                f"`{name}` must be one value or num_envs={self.num_envs} values, got {value!r}"
            )
        return values


def _is_column(value: Any) -> bool:
    """Return whether the value of an option holds one value a slot."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _read_autoreset_mode(value: str | AutoresetMode) -> AutoresetMode:
    try:
        return AutoresetMode(value)
    except ValueError as error:
        known = ", ".join(mode.value for mode in AutoresetMode)
        message = f"`autoreset_mode` must be an AutoresetMode or one of {known}, got {value!r}"
        raise ValueError(message) from error


class GroupKeys(NamedTuple):
    """Where a group stands in its stream of episodes.

    Members end their episodes at different times, so each goes along the stream at its own pace;
    their k-th episodes have the same key.

    Attributes:
        stream: Decides all episodes of the group until its next seed.
        num_begun: Episodes that each member has begun, or skipped to be level with the others.
    """

    stream: int
    num_begun: tuple[int, ...]

    def restarted(self, seed: int | None) -> GroupKeys:
        """Return all members level again: on a new stream, or going on from the last episode."""
        if seed is None:
            return GroupKeys(self.stream, (max(self.num_begun),) * len(self.num_begun))
        return GroupKeys(new_stream(seed), (0,) * len(self.num_begun))

    def key(self, member: int) -> int:
        """Return the key of the member's next episode, in [0, `KEY_LIMIT`)."""
        return episode_key(self.stream, self.num_begun[member])

    def begun_by(self, member: int) -> GroupKeys:
        """Return where the group stands once the member has begun that episode."""
        counts = list(self.num_begun)
        counts[member] += 1
        return GroupKeys(self.stream, tuple(counts))


def stack_infos(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the infos of all slots in Gymnasium's vector format.

    Args:
        infos: One info a slot, empty for a slot that has nothing to say; a key's values have one
            type in all slots.

    Returns:
        For each key an array of shape (num_envs,) with zeros or None where a slot lacks it, and
        under "_" + key a boolean array that tells which slots have it.
    """
    num_envs = len(infos)
    if columns := _columns(infos):
        return _stack_columns(columns, num_envs)
    stacked: dict[str, Any] = {}
    for key in dict.fromkeys(chain.from_iterable(infos)):
        mask = [key in info for info in infos]
        dtype = _DTYPES.get(type(infos[mask.index(True)][key]), object)
        default = None if dtype is object else 0
        values = [info.get(key, default) for info in infos]
        stacked[key] = np.fromiter(values, dtype, num_envs)
        stacked[f"_{key}"] = np.array(mask, np.bool_)
    return stacked


def _columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the values by key, where all infos have the same two keys or more; else nothing.

    That is so in nearly every step, and reads them three times as fast.
    """
    keys = tuple(infos[0])
    if len(keys) < 2 or {len(info) for info in infos} != {len(keys)}:
        return {}
    try:
        rows = map(itemgetter(*keys), infos)
        return dict(zip(keys, zip(*rows, strict=True), strict=True))
    except KeyError:
        return {}


def _stack_columns(columns: Mapping[str, tuple[Any, ...]], num_envs: int) -> dict[str, Any]:
    """Return columns in Gymnasium's vector format; every slot has every key."""
    stacked: dict[str, Any] = {}
    everywhere = np.ones(num_envs, np.bool_)
    for key, column in columns.items():
        stacked[key] = np.fromiter(column, _DTYPES.get(type(column[0]), object), num_envs)
        stacked[f"_{key}"] = everywhere.copy()
    return stacked


def _stack_final(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what SAME_STEP reports of the episodes that end, or nothing if none does."""
    ended = [outcome.terminated or outcome.truncated for outcome in outcomes]
    if not any(ended):
        return {}
    pairs = list(zip(outcomes, ended, strict=True))
    observations = [outcome.observation if over else None for outcome, over in pairs]
    return {
        "final_obs": np.fromiter(observations, dtype=object, count=len(observations)),
        "_final_obs": np.array(ended, dtype=np.bool_),
        "final_info": stack_infos([outcome.info if over else {} for outcome, over in pairs]),
        "_final_info": np.array(ended, dtype=np.bool_),
    }

"""The vector environment: many episodes, and at most one call of the search engine a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Final, NamedTuple, Unpack

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from zs_env.episode import Episode, Outcome, StopReason
from zs_env.rendering import RENDERERS, RenderFrame, check_render_mode
from zs_env.search.registry import make_engine, search_all
from zs_env.settings import (
    KEY_LIMIT,
    EpisodeFactory,
    ResetOptions,
    Settings,
    SettingsArguments,
    check_option_names,
    episode_key,
)
from zs_env.spaces import UnicodeText

Flags = NDArray[np.bool_]
_SEQUENCES: Final = (list, tuple, np.ndarray)  # option values of these types hold one value a slot
_DTYPES: Final[dict[type, type]] = {int: np.int64, float: np.float64, bool: np.bool_}

StepResult = tuple[tuple[str, ...], NDArray[np.float64], Flags, Flags, dict[str, Any]]


class ZeroSearchVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], NDArray[Any]]):
    """`num_envs` episodes of `ZeroSearchEnv`, played side by side by the same rules.

    Slot i, reset with seed s + i, plays exactly what a single environment with that seed plays.
    Each step asks the engine once, for all slots that search, and not at all if none does.

    Every reset option may be one value for all slots or a sequence of `num_envs` values (None
    for "as constructed"); strings, mappings and `Question`s are single values. `reset_mask`, a
    boolean array of shape (num_envs,), restricts a reset to some slots. Options hold for the
    episodes that this reset begins; episodes begun by autoreset are as constructed.

    With `group_size` G, slots 0 … G-1, G … 2G-1 and so on are groups: the k-th episodes of a
    group's slots ask the same question with the same noise stream, whenever they begin, and
    `info["group"]` tells who belongs together. A group takes the seed of its first slot.

    Autoreset, as Gymnasium defines it: NEXT_STEP (the default) begins the next episode in the
    step after the end and ignores that step's action; SAME_STEP begins it at once and reports
    the end in `final_obs` and `final_info`; DISABLED leaves ended slots idle until they are
    reset: their actions are ignored, their rewards are 0, their flags stay, and `infos` skips
    them.

    An adaptive curriculum learns from the episodes of all slots.

    Args:
        num_envs: Number of slots, at least 1.
        group_size: Slots a group; divides `num_envs`.
        autoreset_mode: A mode or its name.
        render_mode: None, "ansi", "html" or "rgb_array".
        **settings: As for `ZeroSearchEnv`.

    Raises:
        ValueError: If an argument is out of its range, or a name is unknown.
        TypeError: If `engine` is an object without a `search` method.
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
        if num_envs < 1:
            raise ValueError(f"`num_envs` must be at least 1, got {num_envs!r}")
        if group_size < 1 or num_envs % group_size:
            raise ValueError(f"`group_size` must divide num_envs={num_envs}, got {group_size!r}")
        self.num_envs = num_envs
        self.group_size = group_size
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.render_mode = check_render_mode(render_mode, list(RENDERERS))
        self._factory = EpisodeFactory(Settings(**settings))
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

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begin an episode in every slot, or in those that `options["reset_mask"]` names.

        Args:
            seed: None to go on from the last reset, s to seed slot i with s + i, or a seed a
                slot.
            options: See the class.

        Returns:
            The observations, where a slot that is not reset keeps its last one, and the infos of
            the slots that are.

        Raises:
            ValueError: If an option or the number of seeds is wrong.
            TypeError: If `reset_mask` is not a boolean array.
            gymnasium.error.Error: If a seed is negative or no integer.

        Whatever it raises, nothing has changed then.
        """
        slot_options = self._read_options(options)
        mask = self._read_mask(options)
        seeds = self._read_seeds(seed)
        groups = list(self._groups)
        for index in np.flatnonzero(mask[:: self.group_size]).tolist():
            groups[index] = groups[index].restarted(seeds[index * self.group_size])
        begun = {
            slot: self._next_episode(slot, slot_options[slot], groups)
            for slot in np.flatnonzero(mask).tolist()
        }
        self._groups = groups
        infos: list[dict[str, Any]] = [{}] * self.num_envs
        for slot, episode in begun.items():
            infos[slot] = self._seat(slot, episode)
        return tuple(self._observations), stack_infos(infos)

    def _next_episode(self, slot: int, options: ResetOptions, groups: list[GroupKeys]) -> Episode:
        """Return the slot's next episode, and count it as begun in `groups`."""
        group, member = divmod(slot, self.group_size)
        episode = self._factory.start(groups[group].key(member), options)
        groups[group] = groups[group].begun_by(member)
        return episode

    def _seat(self, slot: int, episode: Episode) -> dict[str, Any]:
        """Let the slot play an episode, set its observation, and return the info."""
        self._episodes[slot] = episode
        self._observations[slot] = episode.prompt
        return episode.reset_info()

    def step(self, actions: Sequence[str]) -> StepResult:
        """Take one turn in every slot; see the class for slots whose episode is over.

        Args:
            actions: One text a slot.

        Raises:
            TypeError: If `actions` is a single string, or an entry is not a string.
            ValueError: If there is not one entry a slot.
            ResetNeeded: If a slot was never reset.
            SearchEngineError: If the engine failed; all episodes are as before.
        """
        turns = self._play(self._read_actions(actions))
        outcomes = [
            self._stand_in(slot) if turn is None else turn for slot, turn in enumerate(turns)
        ]
        final: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = _stack_final(outcomes)
            outcomes = [self._succeed(slot, outcome) for slot, outcome in enumerate(outcomes)]
        self._observations = [outcome.observation for outcome in outcomes]
        return (
            tuple(self._observations),
            np.array([outcome.reward for outcome in outcomes], dtype=np.float64),
            np.array([outcome.terminated for outcome in outcomes], dtype=np.bool_),
            np.array([outcome.truncated for outcome in outcomes], dtype=np.bool_),
            stack_infos([outcome.info for outcome in outcomes]) | final,
        )

    def _play(self, actions: Sequence[str]) -> list[Outcome | None]:
        """Play one turn in every slot whose episode goes on; the others get None."""
        playing = [
            None if episode.stop_reason is not None else episode
            for episode in self._begun_episodes()
        ]
        requests = [
            None if episode is None else episode.begin_turn(action)
            for episode, action in zip(playing, actions, strict=True)
        ]
        found = search_all(make_engine(self._factory.settings.engine), requests)
        outcomes = [
            None if episode is None else episode.end_turn(documents)
            for episode, documents in zip(playing, found, strict=True)
        ]
        for outcome in outcomes:
            if outcome is not None and (outcome.terminated or outcome.truncated):
                self._factory.count(outcome.info)
        return outcomes

    def _begun_episodes(self) -> list[Episode]:
        episodes = [episode for episode in self._episodes if episode is not None]
        if len(episodes) < self.num_envs:
            raise ResetNeeded("`step` must follow a `reset` of every slot")
        return episodes

    def _stand_in(self, slot: int) -> Outcome:
        """Return what a slot whose episode was already over reports for this step."""
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            info = self._seat(slot, self._next_episode(slot, ResetOptions(), self._groups))
            return Outcome(self._observations[slot], 0.0, False, False, info)
        answered = self._begun_episodes()[slot].stop_reason is StopReason.ANSWERED
        return Outcome("", 0.0, answered, not answered, {})

    def _succeed(self, slot: int, outcome: Outcome) -> Outcome:
        """Return an outcome that, where it ends the episode, opens the next one."""
        if not (outcome.terminated or outcome.truncated):
            return outcome
        info = self._seat(slot, self._next_episode(slot, ResetOptions(), self._groups))
        return outcome._replace(observation=self._observations[slot], info=info)

    def get_state(self) -> dict[str, Any]:
        """Return where all slots stand: dicts, lists, texts, numbers and None.

        All that decides what comes next is in it.
        """
        return {
            "episodes": [episode and episode.get_state() for episode in self._episodes],
            "observations": list(self._observations),
            "groups": [{"stream": g.stream, "num_begun": list(g.num_begun)} for g in self._groups],
            "curriculum": self._factory.curriculum.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to where an environment with the same arguments stood when it gave `state`."""
        factory = self._factory
        self._episodes = [
            episode and Episode.from_state(episode, factory.rules) for episode in state["episodes"]
        ]
        self._observations = list(state["observations"])
        self._groups = [GroupKeys(g["stream"], tuple(g["num_begun"])) for g in state["groups"]]
        factory.curriculum = factory.curriculum.with_state(state["curriculum"])

    def render(self) -> tuple[RenderFrame, ...] | None:
        """Return one transcript a slot, as the single environment does; None without a mode."""
        if self.render_mode is None:
            return None
        render = RENDERERS[self.render_mode]
        return tuple(render(episode.transcript if episode else []) for episode in self._episodes)

    def _read_actions(self, actions: Sequence[str]) -> Sequence[str]:
        if isinstance(actions, str):
            raise TypeError(f"`actions` must be one text a slot, got a single one: {actions!r}")
        if len(actions) != self.num_envs:
            raise ValueError(
                f"`actions` must have num_envs={self.num_envs} entries, got {len(actions)}"
            )
        return actions

    def _read_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + slot for slot in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"`seed` must have num_envs={self.num_envs} entries, got {len(seed)}")
        return list(seed)

    def _read_mask(self, options: Mapping[str, Any] | None) -> Flags:
        """Return which slots to reset, shape (num_envs,)."""
        mask = (options or {}).get("reset_mask")
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
        shared = {name: value for name, value in (options or {}).items() if name != "reset_mask"}
        check_option_names(shared)
        columns = {name: self._spread(name, value) for name, value in shared.items()}
        if not any(isinstance(value, _SEQUENCES) for value in shared.values()):
            return [self._factory.read_options(shared)] * self.num_envs
        return [
            self._factory.read_options({name: column[slot] for name, column in columns.items()})
            for slot in range(self.num_envs)
        ]

    def _spread(self, name: str, value: Any) -> list[Any]:
        """Return one value a slot."""
        if not isinstance(value, _SEQUENCES):
            return [value] * self.num_envs
        values = list(value)
        if len(values) != self.num_envs:
            raise ValueError(
                f"`{name}` must be one value or num_envs={self.num_envs} values, got {value!r}"
            )
        return values


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


def new_stream(seed: int | None = None) -> int:
    """Return the stream of a seed, as a single environment draws it; without one, a random one.

    Raises:
        gymnasium.error.Error: If the seed is negative or no integer.
    """
    generator, _ = seeding.np_random(seed)
    return int(generator.integers(KEY_LIMIT))


def stack_infos(infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the infos of all slots in Gymnasium's vector format.

    Args:
        infos: One info a slot, empty for a slot that has nothing to say; a key's values have one
            type in all slots.

    Returns:
        For each key an array of shape (num_envs,) with zeros or None where a slot lacks it, and
        under "_" + key a boolean array that tells which slots have it.
    """
    num_envs, keys = len(infos), infos[0].keys()
    stacked: dict[str, Any] = {}
    if not [info for info in infos if info.keys() != keys]:  # nearly always, and twice as fast
        for key in keys:
            dtype = _DTYPES.get(type(infos[0][key]), object)
            stacked[key] = np.fromiter([info[key] for info in infos], dtype, num_envs)
            stacked[f"_{key}"] = np.ones(num_envs, np.bool_)
        return stacked
    for key in dict.fromkeys(chain.from_iterable(infos)):
        mask = [key in info for info in infos]
        dtype = _DTYPES.get(type(infos[mask.index(True)][key]), object)
        default = None if dtype is object else 0
        values = [info.get(key, default) for info in infos]
        stacked[key] = np.fromiter(values, dtype, num_envs)
        stacked[f"_{key}"] = np.array(mask, np.bool_)
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

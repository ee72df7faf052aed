"""Wrappers: what else an agent may see, where noise may come from, and a record of what happened.

Each is built like Gymnasium's own, so that `env.spec` stays whole and `gym.make(env.spec)` builds
the same stack again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import gymnasium as gym
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from zs_env.checks import check_count
from zs_env.episode import Message, Role
from zs_env.search.curriculum import CurriculumSource, make_curriculum
from zs_env.spaces import UnicodeText

ChatMessage: TypeAlias = dict[str, str]
TranscriptView: TypeAlias = str | tuple[ChatMessage, ...]

_FORMS: Final = ("text", "messages")
_CHAT_ROLES: Final = {Role.ENVIRONMENT: "user", Role.AGENT: "assistant"}


class TranscriptObservation(gym.Wrapper[Any, str, str, str], RecordConstructorArgs):
    """Show the whole transcript instead of what is new: the policy need not keep it.

    Actions stand in it as they were read, cut after their closing tag.

    Args:
        env: A text environment of this package.
        form: "text" for one string, "messages" for a tuple of chat messages, dicts with "role"
            ("user" for the environment, "assistant" for the agent) and "content".

    Raises:
        ValueError: If `form` is unknown. From `reset`, if the option `max_turns` is larger than
            the environment's: its transcripts would not fit into the observation space.
    """

    def __init__(self, env: gym.Env[str, str], form: str = "text") -> None:
        """Check `form` and bound the transcript."""
        if form not in _FORMS:
            raise ValueError(f"`form` must be one of {', '.join(_FORMS)}, got {form!r}")
        RecordConstructorArgs.__init__(self, form=form)
        gym.Wrapper.__init__(self, env)
        self._form = form
        self._max_turns: int = self.get_wrapper_attr("rules").max_turns
        self.observation_space = _transcript_space(env, form, self._max_turns)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[TranscriptView, dict[str, Any]]:
        """Begin an episode and return its prompt."""
        max_turns = _max_turns(options)
        if isinstance(max_turns, Integral) and int(max_turns) > self._max_turns:
            raise ValueError(
                f"`max_turns` must be at most {self._max_turns} under TranscriptObservation, "
                f"got {max_turns!r}"
            )
        _, info = self.env.reset(seed=seed, options=options)
        return self._view(), info

    def step(self, action: str) -> tuple[TranscriptView, float, bool, bool, dict[str, Any]]:
        """Take one turn and return the transcript up to and with its outcome."""
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._view(), float(reward), terminated, truncated, info

    def _view(self) -> TranscriptView:
        transcript: list[Message] = self.get_wrapper_attr("transcript")
        if self._form == "text":
            return "".join(message.text for message in transcript)
        return tuple({"role": _CHAT_ROLES[role], "content": text} for role, text in transcript)


def _max_turns(options: Any) -> Any:
    """Return the option if there is one; what is no mapping is for the environment to refuse."""
    return options.get("max_turns") if isinstance(options, Mapping) else None


def _transcript_space(env: gym.Env[str, str], form: str, max_turns: int) -> spaces.Space[Any]:
    """Return the space of all transcripts of up to `max_turns` turns."""
    action, observation = env.action_space, env.observation_space
    if not isinstance(action, UnicodeText) or not isinstance(observation, UnicodeText):
        raise TypeError(f"`env` must have text actions and observations, got {env!r}")
    longest = max(action.max_length, observation.max_length)
    if form == "text":
        turns = max_turns * (action.max_length + observation.max_length)
        return UnicodeText(observation.max_length + turns)
    message = spaces.Dict({"role": UnicodeText(len("assistant")), "content": UnicodeText(longest)})
    return spaces.Sequence(message)


def _leaves_noise_open(options: Any) -> bool:
    return options is None or (
        isinstance(options, Mapping)
        and options.get("noise") is None
        and options.get("progress") is None
    )


class CurriculumNoise(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Let a curriculum set the noise of every episode, by the number of episodes played.

    A reset with a seed starts everything anew, the curriculum too: seed the first reset, and go on
    without. A reset whose options name `noise` or `progress` keeps its own.

    Args:
        env: An environment whose resets take the option `noise`.
        num_episodes: Episodes after which progress is 1, at least 1.
        curriculum: From progress to a probability: a name, a `Curriculum` or a function.

    Raises:
        ValueError: If an argument is out of its range or unknown.
        TypeError: If `curriculum` cannot be one.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        num_episodes: int,
        curriculum: CurriculumSource = "exponential",
    ) -> None:
        """Begin at progress 0."""
        num_episodes = check_count("num_episodes", num_episodes, minimum=1)
        RecordConstructorArgs.__init__(self, num_episodes=num_episodes, curriculum=curriculum)
        gym.Wrapper.__init__(self, env)
        self._first_curriculum = self.curriculum = make_curriculum(curriculum)
        self._num_episodes = num_episodes
        self._num_begun = 0

    @property
    def progress(self) -> float:
        """Share of the episodes that have begun since the last seed, in [0, 1]."""
        return min(1.0, self._num_begun / self._num_episodes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, with the curriculum's noise unless `options` decide."""
        curriculum, num_begun = self.curriculum, self._num_begun
        if seed is not None:
            curriculum, num_begun = self._first_curriculum, 0
        if _leaves_noise_open(options):
            noise = curriculum(min(1.0, num_begun / self._num_episodes))
            options = {**(options or {}), "noise": noise}
        observation, info = self.env.reset(seed=seed, options=options)
        self.curriculum, self._num_begun = curriculum, num_begun + 1
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one turn; the curriculum learns from the end of an episode.

        An episode that another wrapper cuts short, as `TimeLimit` does, has no answer and so no
        success.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self.curriculum = self.curriculum.after(info.get("exact_match", 0.0))
        return observation, float(reward), terminated, truncated, info


_RECORDED: Final = (
    "question_id",
    "data_source",
    "group",
    "noise",
    "turn",
    "num_searches",
    "answer",
    "exact_match",
    "f1",
    "golden_answers",
    "stop_reason",
)


class RecordTranscript(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Append every episode to a file, one JSON object a line.

    A line holds the last info's `question_id`, `data_source`, `group`, `noise`, `turn`,
    `num_searches`, `answer`, `exact_match`, `f1`, `golden_answers` and `stop_reason`, the
    episode's `return`, and its `transcript`, a list of objects with `role` and `text`. An episode
    that a reset or `close` cut short lacks its end: those keys are null.

    Where `set_state` takes the environment back, as a tree search does, every ending that is
    played has its own line, with the return along its own path. The return is null where that
    path leads through turns that this wrapper did not see, and an episode that was moved and not
    played on is not recorded.

    The file is only ever appended to, a whole line that has reached the disk when the episode's
    last `step` returns; several environments, also in several processes, may share it (on Windows
    one process only, as it has no `flock`). What a crash tears is at most the line it was writing,
    and the next line begins on a line of its own.

    Args:
        env: An environment of this package.
        path: The file; made, with its folder, when the first episode ends.
    """

    def __init__(self, env: gym.Env[Any, Any], path: str | Path) -> None:
        """Keep the path; nothing is written yet."""
        RecordConstructorArgs.__init__(self, path=str(path))
        gym.Wrapper.__init__(self, env)
        self._path = Path(path)
        self._info: dict[str, Any] | None = None  # of an episode that was not recorded yet
        self._place = 0  # where the environment stood when it gave that info
        self._returns: dict[int, float | None] = {}  # up to each place of this episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that is still going on is recorded as it stands."""
        unfinished = self._line()
        observation, info = self.env.reset(seed=seed, options=options)
        self._info, self._place = info, self._find_place()
        self._returns = {self._place: 0.0}
        self._append(unfinished)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one turn; record the episode if it ends."""
        before = self._returns.get(self._find_place())
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._info, self._place = info, self._find_place()
        self._returns[self._place] = None if before is None else before + float(reward)
        if terminated or truncated:
            self._append(self._line())
            self._info = None
        return observation, float(reward), terminated, truncated, info

    def close(self) -> None:
        """Record an episode that is still going on, and close the environment."""
        self._append(self._line())
        self._info = None
        super().close()

    def _find_place(self) -> int:
        """Return what tells one point of an episode from another, wherever `set_state` led."""
        return hash(tuple(self.get_wrapper_attr("transcript")))

    def _line(self) -> str | None:
        """Return the line about the episode; None if there is none that was not written yet."""
        if self._info is None or self._place != self._find_place():
            return None
        line = {key: self._info.get(key) for key in _RECORDED}
        line["return"] = self._returns[self._place]
        line["transcript"] = [
            {"role": role, "text": text} for role, text in self.get_wrapper_attr("transcript")
        ]
        return json.dumps(line)

    def _append(self, line: str | None) -> None:
        if line is not None:
            append_line(self._path, line)


if sys.platform == "win32":

    def _lock(file: IO[bytes]) -> None:
        """Do nothing: here a file belongs to one process."""

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        """Keep other processes and threads from appending until the file is closed."""
        fcntl.flock(file, fcntl.LOCK_EX)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and wait until it is on the disk.

    If the file ends in a torn line, as after a crash, the new one starts on a line of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _lock(file)  # what another process has written in part is no torn line
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

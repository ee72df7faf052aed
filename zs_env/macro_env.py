"""The environment as a choice among a few meaningful moves, seen through a vector of numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final, Unpack
from zlib import crc32

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from zs_env.numeric_env import NumericEnv, NumericStep
from zs_env.search.engine import Document
from zs_env.settings import SettingsArguments
from zs_env.task.entities import find_entities, remove_entities

_WORD: Final = re.compile(r"\w+")
_NUM_BUCKETS: Final = 64  # of hashed question words
_NUM_GLOBALS: Final = 6
_NUM_SLOT_FEATURES: Final = 6


class ZeroSearchMacroEnv(NumericEnv):
    """Search and answer by choosing among entities: for algorithms that cannot take text.

    ## Description

    `ZeroSearch-v0` in a form that Stable-Baselines3 can play. An agent does not write: it
    chooses what to search and what to answer among the entities (names and numbers) that stand in
    the question and in the documents. The environment writes the text.

    ## Action Space

    `Discrete(1 + 2 * num_entities)`:

    | action | what is written |
    |---|---|
    | 0 | a search for the question as it stands |
    | 1 … K | a search for entity k, with the question's words but for its own entities |
    | K + 1 … 2 K | entity k as the answer |

    Entities are ordered: those of the latest documents first, in order of appearance, then the
    earlier ones, then the question's. Beyond the K-th they cannot be chosen. Fewer than K repeat
    from the first until there are K, so that every action does something: were the rest idle, a
    learner would rather idle than answer wrongly, and never find what a second search brings.
    Where there is no entity at all, every action searches for the question. `action_masks()`
    tells, as sb3-contrib's `MaskablePPO` asks, which actions repeat none, and that the last turn
    is too late to search.

    ## Observation Space

    `Box(0, 1, float32)`, shape (6 + 64 + 6 K,). Six numbers of the episode: turns taken (share of
    `max_turns`), whether this is the last one, searches (share of `max_turns`), share of the
    latest documents that hold the entity searched for, words of the question (share of 32) and
    entities (share of K). The question's words but for its entities, hashed into 64 buckets. Then
    six for each of the K: whether it repeats no other, whether the latest documents hold it, share
    of them that do, whether it was searched for, whether it is a number, and the share of the
    question's words that stand in its first document; zeros where there is no entity at all.
    Golden answers play no part.

    ## Starting State

    As of `ZeroSearch-v0`, with the same reset options.

    ## Reward

    As of `ZeroSearch-v0`.

    ## Episode End

    As of `ZeroSearch-v0`.

    ## Information

    As of `ZeroSearch-v0`, and in a step `text`, the action as it was written.

    ## Arguments

    `num_entities` (K, 6 by default) and all arguments of `ZeroSearch-v0`; `engine` is "world" by
    default.

    ```python
    import gymnasium as gym

    env = gym.make("envs_registry:ZeroSearchMacro-v0", split="test")
    ```

    `get_state()` and `set_state(state)` work as those of `ZeroSearch-v0`.

    ## Version History

    - v0: first version.
    """

    def __init__(
        self,
        *,
        num_entities: int = 6,
        render_mode: str | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        """Check the arguments; questions and engine are loaded when first needed.

        Raises:
            ValueError: If an argument is out of its range, or a name is unknown.
            TypeError: If there is no such argument, or one is of a type that it cannot have.
        """
        if num_entities < 1:
            raise ValueError(f"`num_entities` must be at least 1, got {num_entities!r}")
        super().__init__(render_mode, settings)
        self._num_entities = num_entities
        self._view: MacroView | None = None
        self._actions: list[int] = []  # that led to the view
        size = _NUM_GLOBALS + _NUM_BUCKETS + _NUM_SLOT_FEATURES * num_entities
        self.observation_space = spaces.Box(0.0, 1.0, (size,), np.float32)
        self.action_space = spaces.Discrete(1 + 2 * num_entities)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; see `ZeroSearch-v0`."""
        info = self._begin(seed, options)
        self._view, self._actions = self._first_view(), []
        return self._view.observe(self._num_entities), info

    def _first_view(self) -> MacroView:
        episode = self.text_env.episode
        return MacroView.begin(episode.question.text, episode.rules.max_turns)

    def step(self, action: np.int64 | int) -> NumericStep:
        """Take one turn; see `ZeroSearch-v0`.

        Raises:
            ValueError: If `action` is not in the action space.
            ResetNeeded: If no episode is going on.
        """
        view = self._begun_view()
        if not self.action_space.contains(action):
            raise ValueError(f"`action` must be in {self.action_space}, got {action!r}")
        text = view.write(int(action), self._num_entities)
        _, reward, terminated, truncated, info = self.text_env.step(text)
        self._view = view.after(int(action), self._num_entities, info["documents"])
        self._actions.append(int(action))
        return (
            self._view.observe(self._num_entities),
            reward,
            terminated,
            truncated,
            info | {"text": text},
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions make sense now, shape (1 + 2 K,); at least one always does."""
        return self._begun_view().mask(self._num_entities)

    def get_state(self) -> dict[str, Any]:
        """Return where the environment stands: dicts, lists, texts, numbers and None."""
        return {"text_env": self.text_env.get_state(), "actions": list(self._actions)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to where an environment with the same arguments stood when it gave `state`."""
        self.text_env.set_state(state["text_env"])
        episode, self._actions = state["text_env"]["episode"], list(state["actions"])
        self._view = None if episode is None else self._replay(episode["played"])

    def _replay(self, turns: Sequence[Mapping[str, Any]]) -> MacroView:
        """Return what is known after the turns of an episode's state, taken by these actions."""
        view = self._first_view()
        for action, turn in zip(self._actions, turns, strict=True):
            documents = [Document(*parts) for parts in turn["documents"]]
            view = view.after(action, self._num_entities, documents)
        return view

    def _begun_view(self) -> MacroView:
        if self._view is None:
            raise ResetNeeded("`step` and `action_masks` must follow `reset`")
        return self._view


@dataclass(frozen=True, slots=True)
class MacroView:
    """What a macro agent knows: the question, the entities seen, and the latest documents.

    Attributes:
        question: The question's text.
        max_turns: Actions the episode lasts at most.
        entities: Names and numbers seen, in the order of the actions.
        turn: Actions taken.
        searched: What was searched for, one entry a search; an empty text for the question.
        documents: The latest documents, as texts.
        context: For each entity the document it was first seen in.
    """

    question: str
    max_turns: int
    entities: tuple[str, ...]
    turn: int = 0
    searched: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    context: tuple[tuple[str, str], ...] = ()

    @classmethod
    def begin(cls, question: str, max_turns: int) -> MacroView:
        """Return what is known at the start: the question's own entities."""
        return cls(question, max_turns, tuple(find_entities(question)))

    def write(self, action: int, num_entities: int) -> str:
        """Return the text of an action."""
        entity = self._entity(action, num_entities)
        if not entity:
            return f"<search>{_one_line(self.question)}</search>"
        if action > num_entities:
            return f"<answer>{entity}</answer>"
        return f"<search>{entity} {_one_line(remove_entities(self.question))}</search>"

    def _entity(self, action: int, num_entities: int) -> str:
        """Return the entity of an action; an empty text where it searches for the question."""
        if action == 0 or not self.entities:
            return ""
        return self._slots(num_entities)[(action - 1) % num_entities]

    def _slots(self, num_entities: int) -> list[str]:
        """Return the K entities to choose from, with repeats; none where there is none."""
        return list(islice(cycle(self.entities), num_entities))

    def after(self, action: int, num_entities: int, documents: Sequence[Document]) -> MacroView:
        """Return what is known after an action that brought `documents`."""
        searched = self.searched
        texts = tuple(f"{document.title} {document.text}".strip() for document in documents)
        if texts:
            searched = (*searched, self._entity(action, num_entities))
        seen = [(name, text) for text in texts for name in find_entities(text)]
        fresh = [name for name, _ in seen if name not in (*self._asked(), *searched)]
        return MacroView(
            self.question,
            self.max_turns,
            tuple(dict.fromkeys((*fresh, *self.entities)))[: 4 * num_entities],
            self.turn + 1,
            searched,
            texts or self.documents,
            tuple(dict((*reversed(seen), *self.context)).items()),
        )

    def _asked(self) -> list[str]:
        return find_entities(self.question)

    def mask(self, num_entities: int) -> NDArray[np.bool_]:
        """Return which actions can help and repeat no other, shape (1 + 2 K,)."""
        there = np.arange(num_entities) < len(self.entities)
        may_search = self.turn + 1 < self.max_turns
        mask = np.concatenate(([may_search], there & may_search, there))
        return mask if mask.any() else np.arange(len(mask)) == 0

    def observe(self, num_entities: int) -> NDArray[np.float32]:
        """Return everything as numbers in [0, 1]; see `ZeroSearchMacroEnv`."""
        words = _WORD.findall(remove_entities(self.question).lower())
        buckets = np.zeros(_NUM_BUCKETS)
        buckets[[crc32(word.encode()) % _NUM_BUCKETS for word in words]] = 1.0
        slots = np.zeros((num_entities, _NUM_SLOT_FEATURES))
        for slot, name in enumerate(self._slots(num_entities)):
            slots[slot] = self._slot(name, words, is_first=slot < len(self.entities))
        numbers = (self._globals(num_entities, words), buckets, slots.ravel())
        return np.clip(np.concatenate(numbers), 0.0, 1.0).astype(np.float32)

    def _globals(self, num_entities: int, words: Sequence[str]) -> list[float]:
        topic = (self.searched and self.searched[-1]) or next(iter(self._asked()), "")
        return [
            self.turn / self.max_turns,
            float(self.turn + 1 >= self.max_turns),
            len(self.searched) / self.max_turns,
            self._share(topic),
            len(words) / 32,
            len(self.entities) / num_entities,
        ]

    def _slot(self, name: str, words: Sequence[str], *, is_first: bool) -> list[float]:
        share = self._share(name)
        context = set(_WORD.findall(dict(self.context).get(name, "").lower()))
        return [
            float(is_first),
            float(share > 0),
            share,
            float(name in self.searched),
            float(name.isdigit()),
            len(context & set(words)) / max(1, len(set(words))),
        ]

    def _share(self, name: str) -> float:
        """Return the share of the latest documents that hold `name`."""
        if not self.documents:
            return 0.0
        return sum(name in text for text in self.documents) / len(self.documents)


def _one_line(text: str) -> str:
    return " ".join(text.replace("<", " ").split())

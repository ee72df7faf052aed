"""Prompted baselines: what is asked of a language model in each turn, and how its reply is read.

Each turn is a chat of a system message and one user message, so that the model's own chat
template is all that is applied, once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from agents.baselines.rules import PlayRules
from agents.policies.keyed import Keyed
from agents.policies.text_agent import complete_counted
from zs_env.lm.generator import Chat, CountedText, SamplingParams, TextGenerator
from zs_env.random import derive
from zs_env.task.actions import STOPS, ActionKind, parse

_TAG: Final = re.compile(r"</?\s*\w+\s*>")
_THOUGHT: Final = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_LABEL: Final = re.compile(r"^\W*(?:so )?(?:the )?(?:final )?answer(?: is)?[\s:*]*", re.IGNORECASE)


@dataclass(slots=True)
class Story:
    """What happened in a slot's episode.

    Attributes:
        question: What is asked.
        turns: Each action that was taken, with what was read after it.
        num_episodes: Episodes begun in this slot, this one included.
        action: The latest action.
        num_tokens: What the model wrote for it; None if that is not known.
    """

    question: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)
    num_episodes: int = 0
    action: str = ""
    num_tokens: int | None = 0


class Method(ABC):
    """How a baseline asks and reads.

    Attributes:
        stops: Strings that end a reply.
    """

    stops: ClassVar[tuple[str, ...]] = STOPS

    @abstractmethod
    def ask(self, story: Story, is_last: bool) -> Chat | str:
        """Return what to ask the model, or an action to take without asking.

        Args:
            story: The episode so far.
            is_last: Whether it ends with this action.
        """

    @abstractmethod
    def read(self, reply: str, is_last: bool) -> str:
        """Return the action that a reply of the model stands for; never raises."""

    def condense(self, story: Story, observation: str) -> Chat | None:
        """Return what to ask about an observation before it is read; None to read it as it is."""
        return None

    def take_in(self, reply: str) -> str:
        """Return what is read in the place of an observation, given the reply to `condense`."""
        return reply


class PromptedAgent(Keyed):
    """Plays a method over a language model, with one call a turn for all slots."""

    def __init__(self, generator: TextGenerator, method: Method, rules: PlayRules) -> None:
        """Set up the agent.

        Args:
            generator: Replies.
            method: Asks and reads.
            rules: Of the episodes.
        """
        self._generator, self._method, self._rules = generator, method, rules

    def predict(
        self,
        observations: Sequence[str],
        state: list[Story] | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], list[Story]]:
        """Take an action in every slot; see `agents.agent.Agent`."""
        stories = [Story() for _ in observations] if state is None else state
        active = [index for index, text in enumerate(observations) if text]
        temperature = 0.0 if deterministic else self._rules.temperature or 1.0
        for story in stories:
            story.num_tokens = 0
        self._take_in(observations, stories, episode_start, active, temperature)
        asked = {index: self._ask(stories[index]) for index in active}
        chats = {index: chat for index, chat in asked.items() if isinstance(chat, Chat)}
        replies = self._complete(stories, chats, self._method.stops, temperature, 0)
        for index, chat in asked.items():
            story = stories[index]
            reply = replies.get(index)
            is_last = self._rules.is_last(len(story.turns))
            story.action = str(chat) if reply is None else self._method.read(reply, is_last)
        return [stories[i].action if i in asked else "" for i in range(len(stories))], stories

    def tokens_written(self, state: list[Story]) -> list[int | None]:
        """Return the tokens of each slot's latest action; see `agents.agent.TokenCounter`."""
        return [story.num_tokens for story in state]

    def _ask(self, story: Story) -> Chat | str:
        return self._method.ask(story, self._rules.is_last(len(story.turns)))

    def _take_in(
        self,
        observations: Sequence[str],
        stories: list[Story],
        episode_start: NDArray[np.bool_],
        active: Sequence[int],
        temperature: float,
    ) -> None:
        """Begin stories, and go on with those that have begun."""
        for index in np.flatnonzero(episode_start).tolist():
            question = self._rules.question_in(observations[index])
            stories[index] = Story(question, num_episodes=stories[index].num_episodes + 1)
        shown = [index for index in active if not episode_start[index]]
        asked = {i: self._method.condense(stories[i], observations[i]) for i in shown}
        chats = {index: chat for index, chat in asked.items() if chat is not None}
        condensed = self._complete(stories, chats, (), temperature, 1)
        for index in shown:
            reply = condensed.get(index)
            read = observations[index] if reply is None else self._method.take_in(reply)
            stories[index].turns.append((stories[index].action, read))

    def _complete(
        self,
        stories: Sequence[Story],
        chats: dict[int, Chat],
        stops: tuple[str, ...],
        temperature: float,
        purpose: int,
    ) -> dict[int, str]:
        """Return the replies to chats by slot, and count what they took."""
        if not chats:
            return {}
        replies = complete_counted(
            self._generator,
            list(chats.values()),
            [self._key(stories, index, purpose) for index in chats],
            SamplingParams(self._rules.max_new_tokens, temperature, stops),
        )
        for index, reply in zip(chats, replies, strict=True):
            stories[index].num_tokens = _sum(stories[index].num_tokens, reply)
        return {index: reply.text for index, reply in zip(chats, replies, strict=True)}

    def _key(self, stories: Sequence[Story], index: int, purpose: int) -> int:
        story = stories[index]
        name = self._name(index, story.num_episodes)
        return derive(self._rules.seed, *name, len(story.turns), purpose)


def _sum(before: int | None, reply: CountedText) -> int | None:
    return None if before is None or reply.num_tokens is None else before + reply.num_tokens


def forced_answer(reply: str) -> str:
    r"""Return the answer that a reply gives: what it tags as one, or else its last line.

    Nothing else in the reply acts: a search among it is not sent.

    Example:
        >>> forced_answer("Paris is the capital.\nAnswer: Paris")
        '<answer>Paris</answer>'
        >>> forced_answer("<think>hm</think><answer> Rome </answer>")
        '<answer>Rome</answer>'
    """
    action = parse(reply)
    if action.kind is ActionKind.ANSWER:
        return f"<answer>{one_line(action.content)}</answer>"
    said = _THOUGHT.sub(" ", reply)
    opened = said.rpartition("<answer>")[2]  # one that was cut off before it was closed
    lines = [line for line in map(one_line, opened.splitlines()) if line]
    return f"<answer>{_LABEL.sub('', lines[-1]) if lines else ''}</answer>"


def one_line(text: str) -> str:
    """Return `text` in one line, without tags."""
    return " ".join(_TAG.sub(" ", text).replace("<", " ").split())

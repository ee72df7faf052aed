"""`zerosearch play`: a person takes the agent's place."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from agents.cli.checks import check_at_least, usage_errors
from agents.cli.options import (
    EngineName,
    Noise,
    Questions,
    Split,
    Threads,
    load_engine,
    load_questions,
    noise_warnings,
)
from agents.cli.threads import needs_torch, use_threads
from zs_env.search.engine import SearchEngine
from zs_env.settings import Settings
from zs_env.task.questions import Question

ANSWER_PREFIX = "answer:"
RULES = (
    "Type a query to search, or `answer: …` to answer. Ctrl-D ends the game. "
    "Some results may be noisy: right-looking, and useless."
)


@dataclass(frozen=True)
class Play:
    """Answer questions yourself, with the search engine that agents are trained with.

    Attributes:
        num_questions: Questions to ask; 0 means until you stop.
        seed: Key of the choice of questions and of the noise.
        max_turns: Queries and answers a question at most.
    """

    engine: EngineName = "simulator"
    noise: Noise = 0.0
    split: Split = "test"
    questions: Questions = "miniwiki"
    num_questions: int = 0
    seed: int = 0
    max_turns: int = 6
    threads: Threads = 0

    def run(self) -> None:
        """Play until the questions or the player's input end."""
        console = Console(highlight=False)
        with usage_errors():
            if needs_torch(self.engine):
                use_threads(self.threads)
            engine = load_engine(self.engine)
            env, questions = prepare(self, engine)
        for warning in noise_warnings(self.engine, engine, self.noise):
            console.print(warning, markup=False)
        console.print(RULES, markup=False)
        scores = play(env, questions, self.seed, console)
        env.close()
        console.print(farewell(scores), markup=False)


def prepare(config: Play, engine: SearchEngine) -> tuple[gym.Env[str, str], tuple[Question, ...]]:
    """Check every option; return the environment and the questions in the order to ask them.

    Raises:
        ValueError: If an option is out of its range or names nothing.
    """
    import zs_env  # noqa: F401 - registers the ids
    from zs_env.random import derive

    check_at_least(0, num_questions=config.num_questions, seed=config.seed)
    Settings(noise=config.noise, max_turns=config.max_turns)
    questions = load_questions(config.questions, config.split, 0, 0)
    order = sorted(range(len(questions)), key=lambda index: derive(config.seed, index))
    env = gym.make(
        "ZeroSearch-v0",
        engine=engine,
        noise=config.noise,
        max_turns=config.max_turns,
    )
    return env, tuple(questions[index] for index in order[: config.num_questions or None])


class Search(NamedTuple):
    """One search that a player made, and what was asked for: "useful" or "noisy" documents.

    The search of the last turn is "too late": nobody could read what it finds, so it is not sent.
    """

    query: str
    wanted: str


def play(
    env: gym.Env[str, str], questions: Sequence[Question], seed: int, console: Console
) -> list[float]:
    """Ask the questions one after the other; return the scores of those that were finished."""
    scores: list[float] = []
    for number, question in enumerate(questions, start=1):
        env.reset(seed=seed + number, options={"question": question})
        console.print(_panel(question.text, f"question {number}"))
        try:
            reward, info, searches = _play_one(env, console)
        except EOFError:
            console.print()
            break
        console.print(_panel(verdict(reward, info, searches), "result"))
        scores.append(reward)
    return scores


def _play_one(
    env: gym.Env[str, str], console: Console
) -> tuple[float, Mapping[str, Any], list[Search]]:
    """Play one episode; EOFError when the input ends."""
    searches: list[Search] = []
    while True:
        observation, reward, terminated, truncated, info = env.step(_read_action(console))
        is_over = terminated or truncated
        if info["action"] == "search":
            wanted = "too late" if is_over else "noisy" if info["noisy"] else "useful"
            searches.append(Search(info["query"], wanted))
        if is_over:
            return float(reward), info, searches
        _show(info, observation, console)


def _read_action(console: Console) -> str:
    line = ""
    while not line:
        line = console.input("> ").strip()
        if not sys.stdin.isatty():
            console.print(line, markup=False)  # nobody typed it, so nobody has seen it
    return to_action(line)


def to_action(line: str) -> str:
    """Return the action that a line of input means.

    Example:
        >>> to_action("who founded Zenco"), to_action("Answer: Ida Brook")
        ('<search>who founded Zenco</search>', '<answer>Ida Brook</answer>')
    """
    if line.lower().startswith(ANSWER_PREFIX):
        return f"<answer>{line[len(ANSWER_PREFIX) :].strip()}</answer>"
    return f"<search>{line}</search>"


def _show(info: Mapping[str, Any], observation: str, console: Console) -> None:
    if info["action"] == "malformed":
        console.print(observation.strip(), markup=False)
        return
    documents = [
        f"{number}. {document.title}: {document.text}"
        if document.title
        else f"{number}. {document.text}"
        for number, document in enumerate(info["documents"], start=1)
    ]
    console.print(_panel("\n".join(documents) or "nothing found", "documents"))


def verdict(reward: float, info: Mapping[str, Any], searches: Sequence[Search]) -> str:
    """Return how an episode went, and which of its searches brought noisy documents."""
    given = f"your answer: {info['answer']}" if info["answer"] else "no answer: out of turns"
    lines = [given, f"accepted:    {' | '.join(info['golden_answers'])}"]
    lines += [
        f"search {number}:    {search.wanted}  ({search.query})"
        for number, search in enumerate(searches, start=1)
    ]
    match = "yes" if info["exact_match"] else "no"
    return "\n".join([*lines, f"exact match: {match}", f"score (F1):  {reward:.2f}"])


def farewell(scores: Sequence[float]) -> str:
    """Return the closing line."""
    if not scores:
        return "No question was finished."
    plural = "" if len(scores) == 1 else "s"
    return f"{len(scores)} question{plural}, mean score {sum(scores) / len(scores):.2f}. Bye!"


def _panel(text: str, title: str) -> Panel:
    return Panel(Text(text), title=title, title_align="left", expand=True, padding=(0, 1))

"""The single environment: a thin Gymnasium shell around one `Episode`."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Unpack

import gymnasium as gym
from gymnasium.error import ResetNeeded

from zs_env.episode import Episode, Message
from zs_env.search.registry import make_engine, search_all
from zs_env.settings import KEY_LIMIT, EpisodeFactory, Settings, SettingsArguments
from zs_env.spaces import UnicodeText
from zs_env.task.actions import GRAMMAR, STOPS
from zs_env.task.prompts import PROMPTS

RENDER_MODES: Final = ("ansi",)


class ZeroSearchEnv(gym.Env[str, str]):
    r"""Answer a question by asking a search engine, one text at a time.

    ## Description

    An agent gets a question, asks a search engine as often as it likes, reads the documents,
    and answers. The search engine may be a language model that simulates one, which can be told
    to return useful or noisy documents: the training method of ZeroSearch (arXiv 2505.04588).
    By default questions come from MiniWiki, a small generated encyclopaedia, and documents from
    a tiny simulator that ships with the package, so nothing is downloaded.

    ## Action Space

    `UnicodeText(max_action_length)`: any text. What counts in it:

    | the agent writes | what happens |
    |---|---|
    | `<think>…</think>` | nothing: tags inside never act |
    | `<search>query</search>` | the engine is asked; documents are the next observation |
    | `<answer>text</answer>` | the episode ends and the answer is graded |
    | anything else | malformed: costs a turn, and the next observation says what was wrong |

    An empty or over-long action and one that holds an `<information>` tag are malformed too.
    The earliest complete action wins and the text after it is cut. A `<think>` that is never
    closed ends at the first action tag. `metadata["action_stops"]` holds the strings at which
    sampling an action may stop.

    ## Observation Space

    `UnicodeText`: after a reset the prompt with the question; after a search
    `"<information>Doc 1: …\nDoc 2: …</information>\n"`, with `Doc 1(Title: …) …` where a document
    has a title; after a malformed action one line that says what was wrong; after the end an
    empty text. An observation is what is new: the transcript is the agent's to keep. Documents
    are clipped and neutralised: nothing in them can pass for the protocol.

    ## Starting State

    A question of `split`, drawn uniformly, and a fresh noise stream. Both follow from
    `reset(seed=…)`, and a reset without a seed goes on from the last one.
    `reset(options=…)` takes, for this one episode:

    | option | meaning |
    |---|---|
    | `noise` | probability in [0, 1] that a search asks for noisy documents |
    | `question` | a question's id, a `Question`, or a mapping with `question` and `answers` |
    | `max_turns` | actions the episode lasts at most |
    | `noise_seed` | key of the noise draws: episodes that share it share the draws, turn by turn |
    | `split` | "train", "validation" or "test" |

    ## Reward

    `reward(answer, golden_answers)` when the agent answers (token F1 by default, in [0, 1]);
    0 for every other turn. Only what the agent wrote inside its own answer is graded.

    ## Episode End

    - Terminated: the agent answered.
    - Truncated: turn `max_turns` brought no answer. A search in that turn does not reach the
      engine.

    ## Information

    | key | when | meaning |
    |---|---|---|
    | `question_id`, `data_source` | always | which question; the pair is globally unique |
    | `group` | always | integer that episodes share if they share question and noise stream |
    | `turn` | always | actions taken so far |
    | `noise` | always | probability of noisy documents |
    | `num_searches` | always | searches that reached the engine so far |
    | `action` | step | "search", "answer" or "malformed" |
    | `query` | step | the query, or an empty text |
    | `documents` | step | tuple of the `Document`s that the agent reads next |
    | `noisy` | step | whether noisy documents were asked for |
    | `answer` | end | the answer, or an empty text if there is none |
    | `exact_match`, `f1` | end | its grades; 0 without an answer |
    | `golden_answers` | end | the accepted answers; never shown earlier |
    | `stop_reason` | end | a `StopReason` |

    ## Arguments

    ```python
    import gymnasium as gym

    env = gym.make("envs_registry:ZeroSearch-v0", engine="world", max_turns=4)
    ```

    | argument | default | meaning |
    |---|---|---|
    | `questions` | "miniwiki" | "miniwiki", "miniwiki-hard", a JSONL file, or records |
    | `engine` | "simulator" | "simulator", "world", "bm25", or an object with `search(requests)` |
    | `split` | "train" | where questions come from: "train", "validation", "test" |
    | `top_k` | 3 | documents a search brings |
    | `max_turns` | 6 | actions an episode lasts at most |
    | `prompt` | "miniwiki" | "miniwiki", "zerosearch", or a template that holds `{question}` |
    | `reward` | "f1" | "f1", "em", "sub_em", `module:function`, or a callable |
    | `noise` | 0.0 | probability of noisy documents where the reset names none |
    | `max_action_length` | 8192 | characters beyond which an action is malformed |
    | `max_document_length` | 2048 | characters at which a document is clipped |
    | `render_mode` | None | "ansi": `render()` returns the transcript |

    Records, and the lines of a JSONL file, are mappings with `question` and `answers` (or
    `golden_answers`), and perhaps `id`, `data_source` and `num_hops`. They make up one set that
    every split stands for; MiniWiki's three splits share no entity.

    A failing engine raises `SearchEngineError` from `step`; the turn can then be tried again.

    ## Version History

    - v0: first version.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": list(RENDER_MODES),
        "render_fps": 1,
        "prompt": PROMPTS["miniwiki"],
        "action_stops": STOPS,
        "grammar": GRAMMAR,
        "group_size": 1,
    }

    def __init__(
        self, *, render_mode: str | None = None, **settings: Unpack[SettingsArguments]
    ) -> None:
        """Check the arguments; questions and engine are loaded when first needed."""
        self.render_mode = check_render_mode(render_mode)
        self._factory = EpisodeFactory(Settings(**settings))
        self._episode: Episode | None = None
        rules = self._factory.rules
        self.metadata = type(self).metadata | self._factory.metadata()  # type: ignore[misc]
        self.action_space = UnicodeText(rules.max_action_length)
        self.observation_space = UnicodeText(rules.max_observation_length)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode and return its prompt; see "Starting State".

        Raises:
            ValueError: If an option is unknown or out of range.
        """
        start = self._factory.read_options(options)
        super().reset(seed=seed)
        self._episode = self._factory.start(int(self.np_random.integers(KEY_LIMIT)), start)
        return self._episode.prompt, self._episode.reset_info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn.

        Raises:
            TypeError: If `action` is not a string.
            ResetNeeded: If no episode is going on.
            SearchEngineError: If the engine failed; the episode is as before.
        """
        episode = self._episode
        if episode is None or episode.stop_reason is not None:
            raise ResetNeeded("`step` must follow `reset`, and not the end of an episode")
        request = episode.begin_turn(action)
        if request is None:
            return episode.end_turn()
        [documents] = search_all(make_engine(self._factory.settings.engine), [request])
        return episode.end_turn(documents)

    def render(self) -> str | None:
        """Return the transcript in mode "ansi", and None without a mode."""
        if self.render_mode is None or self._episode is None:
            return None
        return render_transcript(self._episode.transcript)


def render_transcript(transcript: list[Message]) -> str:
    """Return a transcript as plain text: who wrote what, one block a message."""
    return "\n".join(f"[{role}]\n{text.rstrip()}\n" for role, text in transcript)


def check_render_mode(render_mode: str | None) -> str | None:
    """Return `render_mode`.

    Raises:
        ValueError: If it is unknown.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        known = ", ".join(RENDER_MODES)
        raise ValueError(f"`render_mode` must be None or one of {known}, got {render_mode!r}")
    return render_mode

"""The single environment: a thin Gymnasium shell around one `Episode`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Unpack

import gymnasium as gym
from gymnasium.error import ResetNeeded

from zs_env.checks import check_count
from zs_env.episode import Episode, Judged, Message, Rules
from zs_env.rendering import RENDERERS, RenderFrame, check_render_mode, print_panels
from zs_env.search.registry import make_engine, search_all
from zs_env.settings import (
    EpisodeFactory,
    SettingsArguments,
    episode_key,
    new_stream,
    read_settings,
    taught,
)
from zs_env.spaces import UnicodeText
from zs_env.task.actions import GRAMMAR, STOPS
from zs_env.task.prompts import PROMPTS

RENDER_MODES: Final = ("ansi", "human", "html", "rgb_array")


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
    `reset(seed=…)`, and a reset without a seed goes on from the last one. A seed also takes the
    curriculum back to its beginning: the same seed and options are the same episode.
    `reset(options=…)` takes, for this one episode and no later one:

    | option | meaning |
    |---|---|
    | `noise` | probability in [0, 1] that a search asks for noisy documents |
    | `progress` | how far training is, in [0, 1]: `curriculum` makes it a probability of noise |
    | `question` | a question's id, a `Question`, or a record, as below |
    | `max_turns` | actions the episode lasts at most |
    | `noise_seed` | key of the noise draws: episodes that share it share the draws, turn by turn |
    | `split` | "train", "validation" or "test" |

    `noise` and `progress` exclude each other. Without both the probability is the argument
    `noise`, and without that what the curriculum says at progress 0.

    ## Reward

    The grade of the answer when the agent gives one (token F1 by default, in [0, 1]), 0 for every
    other turn. Only what the agent wrote inside its own answer is graded. `reward` takes:

    | value | reward |
    |---|---|
    | "f1", "em", "sub_em" | token F1, exact match, substring match (easily gamed by long answers) |
    | a function | of (answer, golden answers), called when the agent answers |
    | a `RewardTerm` | a sum of terms, each a function of every turn: see below |
    | "package.module:name" | what stands there: a function or a `RewardTerm` |

    ```python
    from zs_env.task.reward_terms import AnswerGrade, ExtraWords, FormatError, SearchCost

    reward = AnswerGrade() - 0.1 * FormatError() - 0.05 * SearchCost(free=2) - 0.1 * ExtraWords(5)
    ```

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
    | `noise` | always | probability of noisy documents; 0 where the engine makes none |
    | `num_searches` | always | searches that reached the engine so far |
    | `action` | step | "search", "answer" or "malformed" |
    | `query` | step | the query, or an empty text |
    | `documents` | step | tuple of the `Document`s that the agent reads next |
    | `noisy` | step | whether noisy documents were asked for |
    | `noise_kind` | step | which of `noise_kinds` was asked for, or an empty text |
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
    | `questions` | "miniwiki" | a name (below), a JSONL or parquet file, or records |
    | `engine` | "simulator" | a name, "simulator:" or "vllm:" and a model, or an object (below) |
    | `split` | "train" | where questions come from: "train", "validation", "test" |
    | `top_k` | 3 | documents a search brings |
    | `max_turns` | 6 | actions an episode lasts at most |
    | `prompt` | "miniwiki" | "miniwiki", "zerosearch", or a template that holds `{question}` |
    | `reward` | "f1" | see "Reward" |
    | `curriculum` | "exponential" | from progress to noise: a name, a `Curriculum` or a function |
    | `noise` | None | probability of noisy documents where a reset names neither it nor progress |
    | `noise_kinds` | () | kinds that a noisy search draws from; without any the engine chooses |
    | `group_size` | 1 | so many episodes in a row share question and noise stream |
    | `max_action_length` | 8192 | characters beyond which an action is malformed |
    | `max_document_length` | 2048 | characters at which a document is clipped |
    | `render_mode` | None | "human" (panels in the terminal), "ansi", "html" or "rgb_array" |

    Questions by name are "miniwiki" and "miniwiki-hard", whose three splits share no entity, and
    the public sets "nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique" and "bamboogle",
    which the library `datasets` fetches at the first reset (`QuestionSetError` if it cannot).
    Records, the lines of a JSONL file and the rows of a parquet file are mappings with `question`
    and `answers` (or `golden_answers`), and perhaps `id`, `data_source` and `num_hops`. They make
    up one set that every split stands for. Without an id they are numbered; a record in a reset's
    options gets one made of its question and answers.

    Kinds of noise are "irrelevant", "near-miss" (somebody whose name looks alike), "outdated",
    "contradictory", "partial" (about the right entity, without the fact) and "empty".

    Curricula by name are "exponential" (the paper's, from 0 to 0.5), "linear", "step",
    "constant", "reversed" and "adaptive", which follows the recent share of exact matches since
    the last seed; they stand, with arguments, in `zs_env.search.curriculum`.

    With `group_size` G a reset with a seed begins a group, and G - 1 resets without one go on with
    the question and noise stream that follow from it. The options `question`, `split` and
    `noise_seed` hold for one episode here too: to set a whole group, give them to each of its
    resets. `info["group"]` tells who belongs together.

    An engine is a language model that writes documents ("simulator"), the exact facts of MiniWiki
    ("world"), an index of its articles ("bm25"), nothing at all ("empty"), or any object with
    `search(requests)`, which returns a list of `Document`s for each `SearchRequest`. Real engines
    and "empty" make no noisy documents: noise is drawn as ever, and the infos report none. An
    object of which that is true says so with an attribute `makes_noise = False`. An engine that
    fails, or returns anything else, raises `SearchEngineError` from `step`. Whatever raises in a
    step, the turn can then be tried again.

    Other language models are named by their place: "simulator:<folder or hub id>" runs one in
    this process and "vllm:<folder or hub id>" does so with vLLM (extra `vllm`);
    "simulator:http://host:8000/v1#model" asks any OpenAI-compatible server (extra `remote`), with
    the API key in the environment variable `ZS_API_KEY` if it wants one. Several servers are
    written with commas between their URLs and take turns; the model may be left out where a
    server has only one.

    `get_state()` returns where the environment stands as plain data, and `set_state(state)` goes
    back there, in this environment or in another one built alike: for tree search, and for tests.

    The presets `ZeroSearch-NQ-v0`, `-TriviaQA-`, `-PopQA-`, `-HotpotQA-`, `-2Wiki-`, `-MuSiQue-`
    and `-Bamboogle-v0` differ in `questions`, and all have `top_k` 5, the prompt "zerosearch" and
    `max_turns` 6: five searches and an answer, which is what the paper's code plays when it is
    told five turns. PopQA and Bamboogle are test sets only, so `split` is "test" there. The tiny
    simulator that ships with the package knows MiniWiki and nothing else: with a preset give an
    `engine` that knows the world.

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
        self,
        *,
        group_size: int = 1,
        render_mode: str | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        """Check the arguments; questions and engine are loaded when first needed."""
        self.group_size = check_count("group_size", group_size, minimum=1)
        self.render_mode = check_render_mode(render_mode, RENDER_MODES)
        self._factory = factory = EpisodeFactory(read_settings(type(self), settings))
        self._episode: Episode | None = None
        self._stream = new_stream()  # decides all episodes until the next seed
        self._num_begun = 0  # episodes of that stream
        self._curriculum = factory.curriculum  # where it stands
        rules = factory.rules
        self.metadata = type(self).metadata | factory.metadata(self.group_size)  # type: ignore[misc]
        self.action_space = UnicodeText(rules.max_action_length)
        self.observation_space = UnicodeText(rules.max_observation_length)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode and return its prompt; see "Starting State".

        Whatever it raises, nothing has changed then.

        Raises:
            ValueError: If an option is unknown or out of range, or the curriculum returns no
                probability.
            TypeError: If `options` is no mapping.
            gymnasium.error.Error: If the seed is negative or no integer.
        """
        start = self._factory.read_options(options)
        stream, num_begun, curriculum = self._stream, self._num_begun, self._curriculum
        if seed is not None:
            stream, num_begun, curriculum = new_stream(seed), 0, self._factory.curriculum
        key = episode_key(stream, num_begun // self.group_size)
        episode = self._factory.start(key, start, curriculum)
        if self.render_mode == "human":
            print_panels(episode.transcript)
        super().reset(seed=seed)
        self._episode, self._curriculum = episode, curriculum
        self._stream, self._num_begun = stream, num_begun + 1
        return episode.prompt, episode.reset_info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn.

        Whatever it raises, also from a reward, the episode is as before and the turn can be tried
        again.

        Raises:
            TypeError: If `action` is not a string.
            ResetNeeded: If no episode is going on.
            SearchEngineError: If the engine failed, or returned anything but documents.
        """
        episode = self._episode
        if episode is None or episode.stop_reason is not None:
            raise ResetNeeded("`step` must follow `reset`, and not the end of an episode")
        judged = self._judge(episode, action)
        curriculum = self._curriculum
        if judged.stop_reason is not None:
            curriculum = taught(curriculum, judged)
        if self.render_mode == "human":
            print_panels(judged.messages)
        episode.commit(judged)
        self._curriculum = curriculum
        return judged.outcome

    def _judge(self, episode: Episode, action: str) -> Judged:
        request = episode.begin_turn(action)
        [documents] = search_all(make_engine(self._factory.settings.engine), [request])
        return episode.judge(documents)

    @property
    def rules(self) -> Rules:
        """What all episodes have in common."""
        return self._factory.rules

    @property
    def episode(self) -> Episode:
        """The episode that is going on, or was last.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self._episode is None:
            raise ResetNeeded("there is no episode before the first `reset`")
        return self._episode

    @property
    def transcript(self) -> list[Message]:
        """Who wrote what in this episode so far; empty before the first reset."""
        return self._episode.transcript if self._episode else []

    def render(self) -> RenderFrame | None:
        """Return the transcript as a text ("ansi"), a page ("html") or a picture ("rgb_array").

        None without a mode, and with "human", which prints each turn when it happens.
        """
        if self.render_mode is None or self.render_mode == "human":
            return None
        return RENDERERS[self.render_mode](self.transcript)

    def get_state(self) -> dict[str, Any]:
        """Return where the environment stands: dicts, lists, texts, numbers and None.

        All that decides what comes next is in it.
        """
        return {
            "episode": None if self._episode is None else self._episode.get_state(),
            "stream": self._stream,
            "num_begun": self._num_begun,
            "curriculum": self._curriculum.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to where an environment with the same arguments stood when it gave `state`."""
        episode, factory = state["episode"], self._factory
        stream, num_begun = state["stream"], state["num_begun"]
        curriculum = factory.curriculum.with_state(state["curriculum"])
        self._episode = None if episode is None else Episode.from_state(episode, factory.rules)
        self._stream, self._num_begun, self._curriculum = stream, num_begun, curriculum

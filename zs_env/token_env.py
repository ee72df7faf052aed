"""The environment a token at a time: for algorithms that choose among the words of a vocabulary."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from zs_env.checks import check_count
from zs_env.models import model_folder
from zs_env.numeric_env import NumericEnv, NumericStep
from zs_env.settings import SettingsArguments
from zs_env.task.actions import is_complete

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TokenizerSource: TypeAlias = "str | Path | Tokenizer | None"

_END: Final = "<|endoftext|>"


class ZeroSearchTokenEnv(NumericEnv):
    """Search and answer token by token: the language model's view, for algorithms that want it.

    ## Description

    `ZeroSearch-v0` with a step for every token. An agent chooses token after token; once they
    spell a whole action, the environment plays the turn and appends what the agent reads to the
    window. The chosen ids stay in the window as they were chosen: nothing is decoded and encoded
    again.

    ## Action Space

    `Discrete(vocabulary)`: the next token. An action of `ZeroSearch-v0` is complete when nothing
    that could follow would change what it does (`metadata["grammar"].is_complete(text)`: a tag
    inside a `<think>` completes nothing as long as the thought may still be closed), when the
    end-of-text token is chosen, or after `max_action_tokens` tokens.

    ## Observation Space

    `Box(0, vocabulary, int64)`, shape (window,): the latest token ids of the transcript, the last
    one at the end. Where there are none yet stands the number `vocabulary`, which is no token.

    ## Starting State

    The tokens of the prompt; reset options are those of `ZeroSearch-v0`.

    ## Reward

    The turn's reward with the token that completes an action, 0 with every other token.

    ## Episode End

    As of `ZeroSearch-v0`, with the token that completes the last action.

    ## Information

    With a token that completes an action as of `ZeroSearch-v0`; with every other token what is
    there always, and `num_tokens`, how many tokens the action has so far.

    ## Arguments

    | argument | default | meaning |
    |---|---|---|
    | `tokenizer` | None | a `tokenizers.Tokenizer`, a file or folder; None: the shipped one |
    | `window` | 256 | token ids in an observation |
    | `max_action_tokens` | 64 | tokens after which an action is complete, whatever it says |

    and all arguments of `ZeroSearch-v0`; `engine` is "world" by default.

    ```python
    import gymnasium as gym

    env = gym.make("envs_registry:ZeroSearchToken-v0", window=128)
    ```

    `metadata` holds what that of `ZeroSearch-v0` does. A `step` that raises takes no token, so it
    can be tried again. `get_state()` and `set_state(state)` work as those of `ZeroSearch-v0`, with
    the window and a half-written action.

    ## Version History

    - v0: first version.
    """

    def __init__(
        self,
        *,
        tokenizer: TokenizerSource = None,
        window: int = 256,
        max_action_tokens: int = 64,
        render_mode: str | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        """Check the arguments and load the tokenizer; the rest is loaded when first needed."""
        window = check_count("window", window, minimum=1)
        self._max_action_tokens = check_count("max_action_tokens", max_action_tokens, minimum=1)
        super().__init__(render_mode, settings)
        self.metadata = type(self).metadata | self.text_env.metadata  # type: ignore[misc]
        self._tokenizer = load_tokenizer(tokenizer)
        self._num_tokens = self._tokenizer.get_vocab_size()
        self._end_id = self._tokenizer.token_to_id(_END)
        self._window: deque[int] = deque(maxlen=window)
        self._action: list[int] = []
        self.action_space = spaces.Discrete(self._num_tokens)
        self.observation_space = spaces.Box(0, self._num_tokens, (window,), np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """Begin an episode; see `ZeroSearch-v0`."""
        info = self._begin(seed, options)
        self._window.clear()
        self._action = []
        self._read(self.text_env.episode.prompt)
        return self._observe(), info | {"num_tokens": 0}

    def step(self, action: np.int64 | int) -> NumericStep:
        """Take one token. Whatever it raises, the token was not taken.

        Raises:
            ValueError: If `action` is not in the action space.
            ResetNeeded: If no episode is going on.
            SearchEngineError: If the engine failed.
        """
        episode = self.text_env.episode
        if episode.stop_reason is not None:
            raise ResetNeeded("`step` must follow `reset`, and not the end of an episode")
        if not self.action_space.contains(action):
            raise ValueError(f"`action` must be in {self.action_space}, got {action!r}")
        written = [*self._action, int(action)]
        text = self._decode(written)
        if self._is_complete(written, text):
            return self._play(written, text)
        self._window.append(written[-1])
        self._action = written
        info = episode.reset_info() | {"num_tokens": len(written)}
        return self._observe(), 0.0, False, False, info

    def _play(self, written: Sequence[int], text: str) -> NumericStep:
        """Take the turn of a complete action."""
        observation, reward, terminated, truncated, info = self.text_env.step(text)
        self._window.append(written[-1])
        self._action = []
        self._read(observation)
        info |= {"num_tokens": len(written)}
        return self._observe(), reward, terminated, truncated, info

    def _is_complete(self, written: Sequence[int], text: str) -> bool:
        return (
            written[-1] == self._end_id
            or len(written) >= self._max_action_tokens
            or is_complete(text)
        )

    def get_state(self) -> dict[str, Any]:
        """Return where the environment stands: dicts, lists, texts, numbers and None."""
        return {
            "text_env": self.text_env.get_state(),
            "window": list(self._window),
            "action": list(self._action),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go to where an environment with the same arguments stood when it gave `state`."""
        self.text_env.set_state(state["text_env"])
        self._window = deque(state["window"], maxlen=self._window.maxlen)
        self._action = list(state["action"])

    def _decode(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token != self._end_id]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def _read(self, text: str) -> None:
        """Append a text of the environment to the window."""
        self._window.extend(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _observe(self) -> NDArray[np.int64]:
        observation = np.full(self.observation_space.shape or (), self._num_tokens, np.int64)
        if self._window:
            observation[-len(self._window) :] = self._window
        return observation


def load_tokenizer(source: TokenizerSource) -> Tokenizer:
    """Return a tokenizer.

    Args:
        source: A `tokenizers.Tokenizer`, the path of a `tokenizer.json` or of the folder that
            holds it, or None for that of the shipped policy.

    Raises:
        FileNotFoundError: If there is no such file, or the shipped policy is missing.
        TypeError: If it is nothing of the kind.
    """
    from tokenizers import Tokenizer

    if isinstance(source, Tokenizer):
        return source
    if source is not None and not isinstance(source, str | Path):
        raise TypeError(f"`tokenizer` must be a tokenizers.Tokenizer or a path, got {source!r}")
    path = model_folder("base") if source is None else Path(source)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"`tokenizer` must be an existing file or folder, got {source!r}")
    return Tokenizer.from_file(str(file))

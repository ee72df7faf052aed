"""Agentic search as a Gymnasium environment: `gym.make("ZeroSearch-v0")` after importing this.

Importing registers the environment ids and loads no model, index or data set.
"""

import envs_registry as _envs_registry  # noqa: F401 - registers the ids
from zs_env.env import ZeroSearchEnv
from zs_env.episode import Episode, Outcome, Rules, StopReason
from zs_env.search.engine import Document, SearchEngine, SearchEngineError, SearchRequest
from zs_env.spaces import UnicodeText
from zs_env.task.actions import Action, ActionGrammar, ActionKind
from zs_env.task.questions import Question
from zs_env.vector_env import ZeroSearchVectorEnv

__all__ = [
    "Action",
    "ActionGrammar",
    "ActionKind",
    "Document",
    "Episode",
    "Outcome",
    "Question",
    "Rules",
    "SearchEngine",
    "SearchEngineError",
    "SearchRequest",
    "StopReason",
    "UnicodeText",
    "ZeroSearchEnv",
    "ZeroSearchVectorEnv",
]

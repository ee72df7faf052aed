"""Agentic search as a Gymnasium environment: `gym.make("ZeroSearch-v0")` after importing this.

Importing registers the environment ids and loads no model, index or data set.
"""

import envs_registry as _envs_registry  # noqa: F401 - registers the ids
from zs_env.env import ZeroSearchEnv
from zs_env.episode import Episode, Outcome, Rules, StopReason
from zs_env.search.curriculum import Curriculum
from zs_env.search.engine import Document, SearchEngine, SearchEngineError, SearchRequest
from zs_env.spaces import UnicodeText
from zs_env.task.actions import Action, ActionGrammar, ActionKind
from zs_env.task.question_sets import QuestionSetError
from zs_env.task.questions import Question
from zs_env.task.reward_terms import RewardTerm, Turn
from zs_env.vector_env import ZeroSearchVectorEnv
from zs_env.wrappers import CurriculumNoise, RecordTranscript, TranscriptObservation

__all__ = [
    "Action",
    "ActionGrammar",
    "ActionKind",
    "Curriculum",
    "CurriculumNoise",
    "Document",
    "Episode",
    "Outcome",
    "Question",
    "QuestionSetError",
    "RecordTranscript",
    "RewardTerm",
    "Rules",
    "SearchEngine",
    "SearchEngineError",
    "SearchRequest",
    "StopReason",
    "TranscriptObservation",
    "Turn",
    "UnicodeText",
    "ZeroSearchEnv",
    "ZeroSearchVectorEnv",
]

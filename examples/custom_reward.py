"""Shape the reward: exact match, less for every search beyond the first and for bad form."""

import gymnasium as gym

from zs_env.task.reward_terms import AnswerGrade, FormatError, RewardTerm, SearchCost, Turn
from zs_env.task.rewards import exact_match

QUESTIONS = [{"id": "moon", "question": "Who walked on the Moon first?", "answers": ["Armstrong"]}]


class NovelQuery(RewardTerm):
    """1 for a query of more than one word: a term of one's own is a function of the turn."""

    def __call__(self, turn: Turn) -> float:
        """Return what this turn is worth."""
        return float(turn.searched and len(turn.action.content.split()) > 1)


reward = (
    AnswerGrade(exact_match) - 0.1 * SearchCost(free=1) - 0.2 * FormatError() + 0.05 * NovelQuery()
)
env = gym.make(
    "envs_registry:ZeroSearch-v0", questions=QUESTIONS, engine="empty", reward=reward, max_turns=9
)
env.reset(seed=0)
for action in (
    "<search>first man on the Moon</search>",
    "<search>Moon</search>",
    "I think it was Armstrong.",
    "<answer>Armstrong</answer>",
):
    print(f"{env.step(action)[1]:+.2f}  {action}")

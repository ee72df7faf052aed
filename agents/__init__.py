"""Everything that learns, plays or measures: policies, rollouts, algorithms, evaluation.

Note that `agents` is also the import name of PyPI's `openai-agents`; one environment can hold
only one of the two.
"""

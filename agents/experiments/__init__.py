"""Experiments: many runs by one plan, and what their numbers say."""

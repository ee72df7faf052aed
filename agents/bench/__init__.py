"""Agents, environments, engines and noise in one table: benchmarks and their reports."""

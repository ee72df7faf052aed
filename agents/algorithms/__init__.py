"""Policy-gradient algorithms: pure functions, and one short file an algorithm."""

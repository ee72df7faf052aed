"""A small tokenizer of the shipped kind."""

import pytest

from agents.tuning.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """Return a tokenizer trained on two small worlds."""
    return train_tokenizer(seed=0, num_worlds=2)

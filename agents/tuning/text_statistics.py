"""What can be said of documents without knowing what is true: relevance, diversity, style."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

_WORD: Final = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case.

    >>> words("The river Dane, 1954.")
    ['the', 'river', 'dane', '1954']
    """
    return _WORD.findall(text.lower())


class Relevance:
    """Cosine similarity of query and document, words weighted by how rare they are (tf-idf).

    Args:
        corpus: The documents that tell which words are rare; at least one.
    """

    def __init__(self, corpus: Iterable[str]) -> None:
        """Count in how many documents each word occurs."""
        found = [set(words(text)) for text in corpus]
        self._num = len(found)
        self._counts = Counter(word for each in found for word in each)

    def weight(self, word: str) -> float:
        """Return the inverse document frequency, smoothed: a new word is as rare as can be."""
        return math.log(1 + (1 + self._num) / (1 + self._counts[word]))

    def cosine(self, query: str, text: str) -> float:
        """Return the similarity in [0, 1]; 0 where nothing is shared, or one side is empty."""
        left, right = self._vector(query), self._vector(text)
        shared = sum(value * right.get(word, 0.0) for word, value in left.items())
        return min(1.0, shared / (_norm(left) * _norm(right))) if shared else 0.0

    def _vector(self, text: str) -> Mapping[str, float]:
        return {word: num * self.weight(word) for word, num in Counter(words(text)).items()}


def _norm(vector: Mapping[str, float]) -> float:
    return math.sqrt(sum(value * value for value in vector.values()))


def ngrams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """Yield every `size` words in a row."""
    found = words(text)
    yield from zip(*(found[start:] for start in range(size)), strict=False)


def distinct_ngrams(texts: Iterable[str], size: int = 2) -> float:
    """Return the share of n-grams that are different (distinct-n, arXiv 1510.03055), in [0, 1].

    It falls as texts are added: compare equal numbers of them only. Without any n-gram it is 0.

    >>> distinct_ngrams(["a b", "a b", "a c"])
    0.6666666666666666
    """
    found = [gram for text in texts for gram in ngrams(text, size)]
    return len(set(found)) / len(found) if found else 0.0


def distinct_share(texts: Sequence[str]) -> float:
    """Return the share of texts that are different, in (0, 1]; 0 if there are none."""
    return len(set(texts)) / len(texts) if texts else 0.0


def overlap(left: Collection[str], right: Collection[str]) -> float:
    """Return the share of documents that two replies have in common (Jaccard), in [0, 1].

    Two empty replies are the same: 1.
    """
    union = set(left) | set(right)
    return len(set(left) & set(right)) / len(union) if union else 1.0


def mean_overlap(replies: Sequence[Collection[str]]) -> float:
    """Return the mean overlap of every two replies, at least two of them.

    What Self-BLEU (arXiv 1802.01886) asks of sentences, asked of documents: 1 where a request
    always brings the same ones.
    """
    pairs = list(combinations(replies, 2))
    return sum(overlap(*pair) for pair in pairs) / len(pairs)


def style(texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Return how often each word and each two words in a row occur."""
    return Counter(gram for text in texts for size in (1, 2) for gram in ngrams(text, size))


def style_distance(left: Iterable[str], right: Iterable[str]) -> float:
    """Return the Jensen-Shannon divergence of the style of two sets of texts, in [0, 1].

    JSD(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2 in bits (Lin 1991, "Divergence measures based
    on the Shannon entropy"): 0 where both use the same words and pairs of words equally often, 1
    where they share none; 1 too if one side is empty and the other not. Samples of one source are
    apart as well, the more so the smaller they are.

    >>> style_distance(["a b"], ["a b"]), round(style_distance(["a b"], ["c d"]), 6)
    (0.0, 1.0)
    """
    p, q = style(left), style(right)
    if not p or not q:
        return float(bool(p) != bool(q))
    total = math.fsum(_divergence(p[gram] / p.total(), q[gram] / q.total()) for gram in p | q)
    return min(1.0, max(0.0, total / 2))


def _divergence(p: float, q: float) -> float:
    """Return what one n-gram of these probabilities adds to KL(P | M) + KL(Q | M)."""
    middle = (p + q) / 2
    return sum(value * math.log2(value / middle) for value in (p, q) if value)

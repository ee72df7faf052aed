"""Plug your own search engine and questions into the environment: any object with `search`."""

from collections.abc import Sequence

import gymnasium as gym

from zs_env import Document, SearchRequest

QUESTIONS = [
    {"id": "moon", "question": "Who walked on the Moon first?", "answers": ["Neil Armstrong"]},
    {"id": "pole", "question": "Who reached the South Pole first?", "answers": ["Amundsen"]},
]
LIBRARY = [
    Document("Neil Armstrong was the first person to walk on the Moon.", title="Moon"),
    Document("Roald Amundsen led the first expedition to the South Pole.", title="South Pole"),
    Document("Zürich lies at the lower end of Lake Zürich.", title="Zürich"),
]


class WordOverlapEngine:
    """Returns the documents that share most words with the query."""

    makes_noise = False  # whatever the environment asks for: no search counts as noisy

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Answer each request, in order."""
        return [
            self._best(set(request.query.lower().split()), request.top_k) for request in requests
        ]

    def _best(self, words: set[str], top_k: int) -> list[Document]:
        ranked = sorted(LIBRARY, key=lambda document: -len(words & words_of(document)))
        return ranked[:top_k]


def words_of(document: Document) -> set[str]:
    """Return the words of title and text, in lower case."""
    return set(f"{document.title} {document.text}".lower().split())


def main() -> None:
    """Play one episode with the engine above."""
    env = gym.make(
        "envs_registry:ZeroSearch-v0", questions=QUESTIONS, engine=WordOverlapEngine(), top_k=2
    )
    print(env.reset(seed=0, options={"question": "moon"})[0])
    print(env.step("<think>I should look it up.</think><search>first on the Moon</search>")[0])
    _, reward, *_ = env.step("<answer>Neil Armstrong</answer>")
    print(f"reward {reward}")


if __name__ == "__main__":
    main()

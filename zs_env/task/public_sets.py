"""Public question sets by name: where each lies on the Hugging Face hub. Data, not code.

All come from one collection in one format, FlashRAG (arXiv 2405.13576), a JSONL file a split
with the columns `id`, `question` and `golden_answers`; its card lists the files:
https://huggingface.co/datasets/RUC-NLPIR/FlashRAG_datasets. The split that the paper evaluates
on is called "test" here, also where only its development set has public answers. No revision is
pinned: the paper names none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HUB_ID: Final = "RUC-NLPIR/FlashRAG_datasets"


@dataclass(frozen=True, slots=True)
class PublicSet:
    """One question set on the hub.

    Attributes:
        name: What `questions` calls it, and the data source of its questions.
        files: Path inside the repository by our name of the split.
    """

    name: str
    files: Mapping[str, str]


def _public_set(name: str, folder: str, **stems: str) -> PublicSet:
    return PublicSet(name, {split: f"{folder}/{stem}.jsonl" for split, stem in stems.items()})


PUBLIC_SETS: Final[dict[str, PublicSet]] = {
    public.name: public
    for public in (
        _public_set("nq", "nq", train="train", validation="dev", test="test"),
        _public_set("triviaqa", "triviaqa", train="train", validation="dev", test="test"),
        _public_set("popqa", "popqa", test="test"),
        _public_set("hotpotqa", "hotpotqa", train="train", test="dev"),
        _public_set("2wiki", "2wikimultihopqa", train="train", test="dev"),
        _public_set("musique", "musique", train="train", test="dev"),
        _public_set("bamboogle", "bamboogle", test="test"),
    )
}

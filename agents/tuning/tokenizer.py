"""The tokenizer of the shipped models: byte-level BPE, at home with names it has never seen.

It is trained on the sentences of many fresh worlds, never on the default one, so that a name of
the test split falls into as many pieces as any other name.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from agents.tuning.policy_data import THOUGHTS
from zs_env.search.engine import NoiseKind
from zs_env.task.actions import TAGS
from zs_env.task.miniwiki import RELATIONS, SubWorld, WorldSize, odd_name

VOCAB_SIZE = 2048
END = "<|endoftext|>"
_TAG_TOKENS = [f"<{slash}{name}>" for name in TAGS for slash in ("", "/")]
_SIZE = WorldSize(40, 20, 6, 10, 20, 20)


def training_text(seed: int, num_worlds: int) -> Iterator[str]:
    """Yield the text of `num_worlds` fresh worlds, odd names and the protocol's fixed words."""
    rng = Random(seed)
    for _ in range(num_worlds):
        world = SubWorld.generate(rng, _SIZE, "train")
        for plan in world.plans:
            fact = plan.facts[-1]
            answers = " | ".join(plan.question.golden_answers)
            yield f"Question: {plan.question.text}\nAnswer: {answers}\n"
            yield f"\nDoc 1: {fact.passages[0]}\nDoc 2: {fact.passages[1]}\nDoc 3: {fact.object}"
            query = RELATIONS[fact.relation].queries[0].format(s=fact.subject)
            yield f"\nQuery: {query}\nUseful documents:\nNoisy documents:\n"
            yield RELATIONS[fact.relation].outdated.format(s=fact.subject, o=fact.object)
        yield from (f"Noisy documents ({kind}):\n" for kind in NoiseKind)
        yield " ".join(odd_name(rng) for _ in range(10))
        yield from THOUGHTS * 20


def train_tokenizer(seed: int = 0, num_worlds: int = 200) -> PreTrainedTokenizerFast:
    """Train the tokenizer; every tag of the protocol is one token that decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    # Qwen2's own rules for cutting text up: whoever loads a Qwen2 model with AutoTokenizer gets
    # these whatever was saved, and a model must meet the ids that it was trained on.
    rules = Qwen2Tokenizer().backend_tokenizer
    tokenizer.normalizer, tokenizer.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(_TAG_TOKENS),
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(seed, num_worlds), trainer)
    # special=False: a special token would vanish from the decoded text, and the tag with it.
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in _TAG_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )

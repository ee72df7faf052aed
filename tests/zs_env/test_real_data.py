"""Real question-answering data as environments; skipped where the data is not."""

import json
import os
import unicodedata
from pathlib import Path

import gymnasium as gym
import pytest

from zs_env import Document
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.task.rewards import normalise

FOLDER = Path(os.environ.get("ZS_DATA", "no-such-folder"))
FILES = ("nq_open_dev", "bamboogle", "hotpot_distractor", "search_trajectories")

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="ZS_DATA does not name a folder of real data"
)


def records(name):
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answer(env, question_id, text):
    env.reset(options={"question": question_id})
    return env.step(f"<think>I know.</think><answer>{text}</answer>")


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_every_file_is_an_episode(name):
    env = gym.make("ZeroSearch-v0", questions=FOLDER / f"{name}.jsonl", engine="empty")
    for record in records(name):
        observation, info = env.reset(options={"question": str(record["id"])})
        assert record["question"] in observation
        assert info["data_source"] == name
        assert observation in env.observation_space
        env.step("<search>anything</search>")
        reward, *_, info = env.step(f"<answer>{record['answers'][0]}</answer>")[1:]
        assert reward == info["f1"] == info["exact_match"] == 1.0
        assert info["golden_answers"] == tuple(record["answers"])


@pytest.mark.parametrize("name", FILES)
def test_every_alias_is_accepted_and_nothing_else(name):
    env = gym.make("ZeroSearch-v0", questions=FOLDER / f"{name}.jsonl", engine="empty", reward="em")
    for record in records(name)[:100]:
        for alias in record["answers"]:
            assert answer(env, str(record["id"]), f"The {alias}.")[1] == 1.0
        assert answer(env, str(record["id"]), "zebra crossing")[1] == 0.0


def test_diacritics_count_but_their_encoding_does_not():
    found = 0
    env = gym.make("ZeroSearch-v0", questions=FOLDER / "hotpot_distractor.jsonl", engine="empty")
    for record in records("hotpot_distractor"):
        golden = record["answers"][0]
        bare = "".join(
            c for c in unicodedata.normalize("NFD", golden) if not unicodedata.combining(c)
        )
        if bare == golden:
            continue
        found += 1
        decomposed = unicodedata.normalize("NFD", golden)
        assert answer(env, record["id"], decomposed)[4]["exact_match"] == 1.0
        assert answer(env, record["id"], bare)[4]["exact_match"] == 0.0
    assert found


def test_yes_and_no_are_told_apart():
    env = gym.make("ZeroSearch-v0", questions=FOLDER / "hotpot_distractor.jsonl", engine="empty")
    asked = [r for r in records("hotpot_distractor") if r["answers"][0] in ("yes", "no")]
    assert asked
    for record in asked:
        golden = record["answers"][0]
        assert answer(env, record["id"], golden.upper() + "!")[1] == 1.0
        assert answer(env, record["id"], {"yes": "no", "no": "yes"}[golden])[1] == 0.0


def test_hotpotqa_with_bm25_over_its_own_paragraphs():
    """The question as the query brings a gold paragraph, and that holds the answer."""
    pytest.importorskip("bm25s")
    rows = records("hotpot_distractor")
    passages = {
        (p["title"], p["text"]): Document(p["text"], title=p["title"])
        for row in rows
        for p in row["passages"]
    }
    engine = BM25SearchEngine(list(passages.values()))
    env = gym.make(
        "ZeroSearch-HotpotQA-v0", questions=FOLDER / "hotpot_distractor.jsonl", engine=engine
    )
    gold, answered = 0, 0
    for row in rows:
        env.reset(options={"question": row["id"]})
        observation, *_, info = env.step(f"<search>{row['question']}</search>")
        assert observation in env.observation_space
        assert 1 <= len(info["documents"]) <= 5
        titles = {p["title"] for p in row["passages"] if p["supporting"]}
        gold += any(document.title in titles for document in info["documents"])
        answered += normalise(row["answers"][0]) in normalise(observation)
    assert gold / len(rows) >= 0.9
    assert answered / len(rows) >= 0.4

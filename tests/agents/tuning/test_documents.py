"""Labelled searches as training examples."""

import json
from random import Random

import pytest
from transformers import PreTrainedTokenizerFast

from agents.tuning.documents import (
    augment,
    document_text,
    make_examples,
    make_row,
    of_split,
    prompt_text,
    read_rows,
    sample_rows,
)
from agents.tuning.records import DataError, LabelledSearch
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.search.prompts import parse_documents, tuned_prompt
from zs_env.task.questions import Question


def record(number=0, **changes):
    return {
        "id": f"q{number}",
        "data_source": "made",
        "question": f"Who founded company {number}?",
        "golden_answers": [f"Founder{number} Smith"],
        "query": f"founder of company {number}",
        "documents": [
            {"title": "", "text": f"Company {number} was founded by Founder{number} Smith."},
            {"title": "Rivers", "text": f"River {number} is long."},
            f"Film {number} was directed by somebody.",
        ],
        "label": "useful",
        "split": "train",
    } | changes


def make_example(row, *arguments):
    (example,) = make_examples([row], *arguments)
    return example


def rows(num):
    return [make_row(record(number)) for number in range(num)]


@pytest.fixture
def write(tmp_path):
    def write(*records):
        file = tmp_path / "labelled.jsonl"
        lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    return write


def test_row_is_what_the_simulator_is_asked_and_should_reply(write):
    (row,) = read_rows(write(record(7)))
    assert row.request == SearchRequest(
        "founder of company 7", "Who founded company 7?", ("Founder7 Smith",), top_k=3
    )
    assert row.documents[1] == Document("River 7 is long.", "Rivers")
    assert row.documents[2].text == "Film 7 was directed by somebody."
    assert (row.split, row.name) == ("train", "q7 (line 1)")


def test_what_the_label_stage_writes_can_be_read(write):
    question = Question("1", "Who?", ("Me",), "made")
    search = LabelledSearch(
        question, "who", (Document("I."),), "noisy", None, "noisy", None, "test"
    )
    (row,) = read_rows(write(search.as_json()))
    assert row.request == SearchRequest("who", "Who?", ("Me",), noisy=True, top_k=1)
    assert (row.documents, row.split) == (search.documents, "test")


def test_noisy_search_may_have_found_nothing():
    row = make_row(record(label="noisy", documents=[], noise_kind="empty"))
    assert (row.documents, row.request.noise_kind) == ((), NoiseKind.EMPTY)


def test_blank_documents_are_left_out():
    row = make_row(record(documents=["", {"title": "x", "text": " \n"}, "kept"]))
    assert row.documents == (Document("kept"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "good"}, r"`label` must be one of useful, noisy, got 'good'"),
        ({"label": None}, r"`label` must be a text, got None"),
        ({"split": "dev"}, r"`split` must be one of train, validation, test, got 'dev'"),
        ({"documents": []}, r"`documents` of a useful search must hold a text, got none"),
        ({"documents": ["  "]}, r"`documents` of a useful search must hold a text, got none"),
        ({"documents": "one"}, r"`documents` must be a list, got 'one'"),
        ({"documents": [3]}, r"an object was expected, got 3"),
        ({"documents": [{"title": "no text"}]}, r"`text` is missing"),
        ({"golden_answers": []}, r"`answers` of a question must be one or more texts"),
        ({"query": " "}, r"`query` must not be blank, got ' '"),
        ({"question": ""}, r"`question` of a question must be a text"),
        ({"id": None}, r"`id` must be a text or an integer, got None"),
        (
            {"noise_kind": "odd", "label": "noisy"},
            r"`noise_kind` must be one of irrelevant, .*'odd'",
        ),
        ({"noise_kind": "empty"}, r"`noise_kind` must come with the label 'noisy', got 'empty'"),
        ({"query": "half \ud800"}, r"surrogates not allowed"),
    ],
)
def test_wrong_row_is_named_by_file_and_line(write, changes, message):
    file = write(record(1), "", record(2, **changes))
    with pytest.raises(DataError, match=f"labelled.jsonl:3: .*{message}"):
        read_rows(file)


@pytest.mark.parametrize("line", ["{", "[1]", "null", '"text"'])
def test_line_that_is_no_object_is_named(write, line):
    with pytest.raises(DataError, match=r"labelled.jsonl:2: "):
        read_rows(write(record(1), line))


def test_empty_file_is_refused(write):
    with pytest.raises(ValueError, match="must hold at least one labelled row, got none"):
        read_rows(write(""))


def test_question_in_two_splits_is_refused(write):
    leak = record(2, question="who founded Company 1", split="test")
    with pytest.raises(DataError, match=r":2: `split` .* got 'test' after 'train'"):
        read_rows(write(record(1), leak))


def test_prompt_is_read_and_documents_are_learned(tiny_tokenizer):
    row = make_row(record(3, label="noisy"))
    example = make_example(row, tiny_tokenizer)
    learned = example.weights.index(1.0)
    assert set(example.weights[:learned]) == {0.0}
    assert set(example.weights[learned:]) == {1.0}
    assert tiny_tokenizer.decode(example.token_ids[:learned]) == tuned_prompt(row.request)
    assert example.token_ids[-1] == tiny_tokenizer.eos_token_id
    reply = tiny_tokenizer.decode(example.token_ids[learned:-1])
    assert reply == (
        "Doc 1: Company 3 was founded by Founder3 Smith.\n"
        "Doc 2: (Title: Rivers) River 3 is long.\n"
        "Doc 3: Film 3 was directed by somebody."
    )
    assert [d.text for d in parse_documents(reply, 3)] == [document_text(d) for d in row.documents]


def test_kind_of_noise_is_in_the_prompt(tiny_tokenizer):
    row = make_row(record(label="noisy", noise_kind="outdated"))
    assert "outdated" in tiny_tokenizer.decode(make_example(row, tiny_tokenizer).token_ids)


def test_reply_without_documents_is_the_end_token(tiny_tokenizer):
    example = make_example(make_row(record(label="noisy", documents=[])), tiny_tokenizer)
    assert sum(example.weights) == 1
    assert example.weights[-1] == 1


def test_document_stays_on_its_line():
    assert document_text(Document("two\n lines", " a\ttitle ")) == "(Title: a title) two lines"


def test_tokenizer_without_an_end_is_refused(tiny_tokenizer):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="`tokenizer` must have an end-of-text token, got None"):
        make_example(make_row(record()), tokenizer)


def chat_tokenizer(tiny_tokenizer):
    """Return a tokenizer whose template begins a text with a token that encode would add too."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return tokenizer


def test_chat_template_is_applied_exactly_once(tiny_tokenizer):
    tokenizer, row = chat_tokenizer(tiny_tokenizer), make_row(record())
    example = make_example(row, tokenizer, True)
    learned = example.weights.index(1.0)
    expected = f"<|endoftext|>[user]{tuned_prompt(row.request)}[end][assistant]"
    assert tokenizer.decode(example.token_ids[:learned]) == expected
    assert example.token_ids[:learned].count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(example.token_ids[learned:]).startswith("Doc 1: Company 0 ")


def test_chat_template_that_is_missing_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="`chat_template` must come with a tokenizer that has one"):
        prompt_text(make_row(record()).request, tiny_tokenizer, chat_template=True)


def test_examples_do_not_depend_on_each_other(tiny_tokenizer):
    together = make_examples(rows(3), tiny_tokenizer)
    assert together == [make_example(row, tiny_tokenizer) for row in rows(3)]
    assert make_examples([], tiny_tokenizer) == []


def test_nothing_is_augmented_by_default():
    assert augment(rows(20), seed=3) == rows(20)


def test_off_topic_row_is_another_rows_search_in_the_name_of_its_question():
    original = rows(20)
    augmented = augment(original, off_topic=1.0, seed=0)
    assert augmented[:20] == original
    assert len(augmented) == 40
    by_query = {row.request.query: row for row in original}
    for own, added in zip(original, augmented[20:], strict=True):
        other = by_query[added.request.query]
        assert other is not own
        assert added.request.question == own.request.question
        assert added.request.golden_answers == own.request.golden_answers
        assert added.documents == other.documents
        assert not any(own.request.golden_answers[0] in d.text for d in added.documents)
        assert own.name in added.name


def test_off_topic_row_never_gives_its_questions_answer():
    same = [make_row(record(n, golden_answers=["the River"])) for n in range(9)]
    assert augment(same, off_topic=1.0) == same


def test_off_topic_row_keeps_the_label_of_its_search():
    mixed = [make_row(record(n, label=["useful", "noisy"][n % 2])) for n in range(20)]
    labels = {row.request.query: row.request.noisy for row in mixed}
    added = augment(mixed, off_topic=1.0)[20:]
    assert all(row.request.noisy == labels[row.request.query] for row in added)


def test_shuffled_rows_keep_their_documents():
    original = rows(60)
    shuffled = augment(original, shuffled=1.0, seed=0)
    assert all(
        sorted(d.text for d in a.documents) == sorted(d.text for d in b.documents)
        for a, b in zip(original, shuffled, strict=True)
    )
    assert 40 < sum(a != b for a, b in zip(original, shuffled, strict=True)) <= 60


def test_shares_are_shares():
    original = rows(2000)
    augmented = augment(original, off_topic=0.2, shuffled=0.3, seed=1)
    assert len(augmented) - 2000 == pytest.approx(400, abs=60)
    # One order in six of three documents is the old one.
    changed = sum(a != b for a, b in zip(original, augmented, strict=False))
    assert changed == pytest.approx(0.3 * 5 / 6 * 2000, abs=60)


def test_choices_depend_on_the_seed_and_the_row_only():
    original = rows(50)
    mixed = list(original)
    Random(0).shuffle(mixed)
    first, again, other = (
        {
            (row.name, row.request, row.documents)
            for row in augment(each, off_topic=0.5, shuffled=0.5, seed=seed)
        }
        for each, seed in ((original, 0), (mixed, 0), (original, 1))
    )
    assert first == again != other


def test_sample_keeps_the_order_and_depends_on_the_seed():
    original = rows(50)
    chosen = sample_rows(original, 10, seed=0)
    assert len(chosen) == 10
    assert chosen == [row for row in original if row in chosen]
    assert sample_rows(original[::-1], 10, seed=0)[::-1] == chosen != sample_rows(original, 10, 1)
    assert sample_rows(original, 0, seed=0) == sample_rows(original, 99, seed=0) == original


def test_splits_are_taken_apart():
    mixed = [make_row(record(n, split=["train", "test"][n % 2])) for n in range(4)]
    assert of_split(mixed, "test") == mixed[1::2]

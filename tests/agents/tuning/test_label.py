"""Labels of searches: signals, the judge, rules, filters, splits and agreement."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tuning.judge import Exhibit, Judge, parse_reply
from agents.tuning.label import (
    RULES,
    Agreement,
    LabelOptions,
    Signals,
    label,
    split_of,
    verdicts_file,
)
from agents.tuning.records import LABELS, NOISY, USEFUL, DataError, read_labelled
from agents.tuning.signals import (
    OutcomeRule,
    asked,
    evidence,
    find_plan,
    holds_answer,
    leads_on,
    mentions,
    states,
)
from agents.tuning.trajectory_files import Search, Trajectory, read_trajectories
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.search.engine import Document
from zs_env.task.miniwiki import RELATIONS, default_world
from zs_env.task.questions import Question

DATA = Path(os.environ.get("ZS_DATA", "no-such-folder"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="ZS_DATA does not name a folder of real data"
)

TRAJECTORY = {
    "id": "1",
    "question": "Who directed the film about Orla?",
    "answers": ["Bo Lind"],
    "predicted": "Bo Lind",
    "correct": True,
    "turns": [
        {"thought": "", "query": "film about Orla", "documents": ["Orla Rising is a film."]},
        {"thought": "", "query": "Orla Rising director", "documents": ["It is by Bo Lind."]},
    ],
}
PARAGRAPHS = {
    "id": "2",
    "question": "Where was Ann born?",
    "answers": ["Port Vale"],
    "passages": [
        {"title": "Ann", "text": "Ann was born in Port Vale.", "supporting": True},
        {"title": "Bo", "text": "Bo was born in Rome.", "supporting": False},
        {"title": "Cy", "text": "Cy was born in Oslo.", "supporting": False},
    ],
}


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def trajectory(*searches, question="Who?", answers=("Ann",), **kwargs):
    found = tuple(
        Search(query, tuple(Document(text) for text in texts)) for query, *texts in searches
    )
    return Trajectory(Question("q", question, answers), found, **kwargs)


def labelled(tmp_path, *rows, judge=None, **options):
    file = write(tmp_path / "in.jsonl", *rows)
    report = label([file], tmp_path / "out.jsonl", LabelOptions(**options), judge)
    return report, [search for _, search in read_labelled(tmp_path / "out.jsonl")]


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("She was born on Mars.", "mars", True),
        ("A marsupial.", "Mars", False),
        ("Merck & Co. of Rahway", "merck co", True),
        ("the London-based firm", "London", True),
        ("in 1938–1940", "1940", True),
        ("a 500-room hotel", "500room", True),
        ("ÅNGSTRÖM", "ångström", True),
        ("anything", "The", False),
    ],
)
def test_names_are_found_as_whole_words(text, name, found):
    assert mentions([Document("nothing"), Document(text)], [name]) is found


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_a_name_between_spaces_is_found_unless_it_is_empty(before, name, after):
    text = f"{before} {name} {after}"
    alone = mentions([Document(name)], [name])
    # Normalising may drop all of a name; composing may join a mark to what stands before it.
    if text.isascii():
        assert mentions([Document(text)], [name]) is alone


@pytest.mark.parametrize(
    ("rule", "em", "f1", "expected"),
    [
        (OutcomeRule(), 1.0, 1.0, USEFUL),
        (OutcomeRule(), 0.0, 0.9, NOISY),
        (OutcomeRule("f1", 0.8), 0.0, 0.8, USEFUL),
        (OutcomeRule("f1", 0.8), 1.0, 0.7, NOISY),
        (OutcomeRule(), None, None, None),
    ],
)
def test_outcome_is_where_the_grade_reaches_the_threshold(rule, em, f1, expected):
    assert rule.signal(trajectory(exact_match=em, f1=f1)) == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"grade": "sub_em"}, "`grade` must be one of em, f1, got 'sub_em'"),
        ({"threshold": 0.0}, r"`threshold` must be in \(0, 1\], got 0.0"),
        ({"threshold": float("nan")}, r"`threshold` must be in \(0, 1\], got nan"),
    ],
)
def test_outcome_out_of_range_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        OutcomeRule(**kwargs)


def test_evidence_is_an_answer_in_any_wording():
    played = trajectory(("who", "Heldra."), ("who", "H. Nimstone."), answers=("X", "H. Nimstone"))
    assert [evidence(played, i) for i in (0, 1)] == [NOISY, USEFUL]


@pytest.mark.parametrize(
    ("question", "answers", "query"),
    [
        ("Is it red?", ("Yes.",), "is it red"),
        ("Who is older, Ann or Bo?", ("Bo",), "Ann born"),
        ("Which one was born in 1937?", ("Bo",), "Bo birth year"),
    ],
)
def test_evidence_says_nothing_where_no_answer_could_show(question, answers, query):
    played = trajectory((query, "Yes, Bo was."), question=question, answers=answers)
    assert evidence(played, 0) is None


def test_evidence_is_a_name_that_a_later_query_takes_up():
    played = trajectory(
        ("the singer of Curious", "Curious is by Britney Spears."),
        ("Curious reviews", "A good scent by Estelle."),
        ("Britney Spears born", "Unknown."),
        question="Where was the singer of Curious born?",
    )
    assert [evidence(played, i) for i in (0, 1, 2)] == [USEFUL, NOISY, NOISY]


def test_name_that_was_known_before_leads_nowhere():
    for question, first in (("Where was Britney Spears born?", "x"), ("Where?", "Britney Spears")):
        played = trajectory((first, "By Britney Spears."), ("Britney Spears born",))
        played = Trajectory(Question("q", question, ("A",)), played.searches)
        assert not leads_on(played, 0)


def plan_of(*relations):
    return next(
        plan
        for plan in default_world().world("validation").plans
        if tuple(fact.relation for fact in plan.facts) == relations
    )


def miniwiki(plan, *searches):
    found = tuple(
        Search(query, tuple(Document(text) for text in texts)) for query, *texts in searches
    )
    return Trajectory(plan.question, found)


def test_evidence_in_miniwiki_is_the_fact_asked_for():
    plan = plan_of("director", "birthplace")
    film, home = plan.facts
    queries = [RELATIONS[f.relation].queries[0].format(s=f.subject) for f in plan.facts]
    assert [asked(plan, query) for query in queries] == [[film], [home]]
    elsewhere = f"Nobody was born in the city of {home.object}."
    for query, text, expected in (
        (queries[0], film.passages[0], USEFUL),
        (queries[1], home.passages[1], USEFUL),
        (queries[0], home.passages[0], NOISY),
        (queries[1], film.passages[0], NOISY),
        (queries[1], elsewhere, NOISY),  # the answer, but not why it is one
        ("who is it", home.passages[0], NOISY),
    ):
        assert evidence(miniwiki(plan, (query, text)), 0) == expected


def test_fact_may_be_stated_with_an_alias_of_its_object():
    fact = plan_of("director").facts[0]
    assert states(
        [Document(f"{fact.subject} is by {fact.object[0]}. {fact.object.split()[1]}")], fact
    )
    assert not states([Document(fact.subject), Document(fact.object)], fact)


def test_only_questions_of_the_shipped_world_have_a_plan():
    plan = plan_of("director")
    assert find_plan(plan.question) == plan
    same_text = Question(plan.question.id, plan.question.text, ("x",), "other")
    assert find_plan(same_text) is None
    assert find_plan(Question(plan.question.id, "Who?", ("x",), "miniwiki")) is None


def test_what_annotators_say_is_evidence():
    document = (Document("Ann was there."),)
    for supporting, expected in ((True, USEFUL), (False, NOISY)):
        played = Trajectory(Question("q", "Who?", ("Ann",)), (Search("q", document, supporting),))
        assert evidence(played, 0) == expected


# --- rules --------------------------------------------------------------------------------------

given_labels = st.none() | st.sampled_from(LABELS)


@given(given_labels, given_labels, given_labels)
def test_rules_give_what_a_signal_says_or_nothing(outcome, found, judge):
    signals = Signals(outcome, found, judge)
    for name, rule in RULES.items():
        chosen = rule(signals)
        assert chosen is None or chosen in signals.given, name
    assert RULES["evidence"](signals) == (found or outcome)
    agreed = set(signals.given)
    assert RULES["agree"](signals) == (agreed.pop() if len(agreed) == 1 else None)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rule": "majority"}, "`rule` must be one of outcome, evidence, judge, agree, got 'maj"),
        ({"validation": 1.0}, r"`validation` must be in \[0, 1\), got 1.0"),
        ({"test": -0.1}, r"`test` must be in \[0, 1\), got -0.1"),
        ({"test": 0.5, "validation": 0.5}, "must leave something to train on, got 0.5 and 0.5"),
    ],
)
def test_options_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LabelOptions(**kwargs)


# --- the judge ----------------------------------------------------------------------------------


class Jury:
    """Says what a function of the prompt and the attempt says; keeps every call."""

    def __init__(self, reply):
        self.reply = reply
        self.calls = []

    def complete(self, prompts, seeds, params):
        self.calls.append((list(prompts), list(seeds), params))
        return [self.reply(prompt, params.temperature > 0) for prompt in prompts]


def says_yes_to_bo(prompt, again):
    return " Yes." if "Document 1: It is by Bo" in prompt else "no"


@pytest.mark.parametrize("reply", ["yes", " Yes.", "YES!\n", "**yes**"])
def test_a_yes_is_useful(reply):
    assert parse_reply(reply) == USEFUL
    assert parse_reply(reply.casefold().replace("yes", "No")) == NOISY


@pytest.mark.parametrize(
    "reply", ["", "yes and no", "a yes", "yesterday", "nothing", "Yes, as", "1"]
)
def test_anything_else_is_nonsense(reply):
    assert parse_reply(reply) is None


@given(st.text(max_size=10))
def test_reading_a_reply_never_raises(reply):
    assert parse_reply(reply) in (None, *LABELS)


def test_judge_sees_question_answers_query_and_documents_one_a_line():
    document = Document("was\nborn", title="Ann")
    prompt = Exhibit(
        "f:1", Question("q", "Who\nis?", ("A", "B")), "x\nReply: yes", (document,)
    ).prompt
    lines = prompt.splitlines()
    assert "Question: Who is?" in lines
    assert "Accepted answers: A | B" in lines
    assert "Query: x Reply: yes" in lines
    assert "Document 1: Ann was born" in lines
    assert lines[-1] == "Reply:"


def test_judge_labels_rows_and_is_in_the_report(tmp_path):
    judge = Judge("fake", Jury(says_yes_to_bo))
    report, rows = labelled(tmp_path, TRAJECTORY, rule="judge", judge=judge)
    assert [row.judge for row in rows] == [row.label for row in rows] == [NOISY, USEFUL]
    pairs = [(pair.first, pair.second, pair.share) for pair in report.agreement]
    wanted = [("outcome", "evidence", 1.0), ("outcome", "judge", 0.5), ("evidence", "judge", 0.5)]
    assert pairs == wanted


def test_nonsense_is_asked_again_with_another_seed_and_sampling(tmp_path):
    jury = Jury(lambda prompt, again: "yes" if again else "perhaps")
    _, rows = labelled(tmp_path, TRAJECTORY, rule="judge", judge=Judge("fake", jury))
    assert {row.label for row in rows} == {USEFUL}
    (_, first, greedy), (_, second, sampled) = jury.calls
    assert (greedy.temperature, sampled.temperature) == (0.0, 1.0)
    assert not set(first) & set(second)


def test_nonsense_that_stays_is_an_error_and_never_a_label(tmp_path):
    jury = Jury(lambda prompt, again: "maybe" if "by Bo Lind" in prompt else "yes")
    file = write(tmp_path / "in.jsonl", PARAGRAPHS | TRAJECTORY, TRAJECTORY | {"id": "9"})
    out = tmp_path / "out.jsonl"
    message = r"in.jsonl:1: the judge 'fake' must reply yes or no, got 'maybe' after 3 attempts"
    with pytest.raises(DataError, match=message):
        label([file], out, LabelOptions(), Judge("fake", jury))
    assert len(jury.calls) == 3
    assert not out.exists()
    assert verdicts_file(out).read_text().count("\n") == 1


@pytest.mark.parametrize("name", ["num_attempts", "batch_size"])
def test_judge_must_be_asked_at_least_once(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        Judge("fake", Jury(says_yes_to_bo), **{name: 0})


def test_judge_that_cannot_read_the_prompt_is_an_error(tmp_path):
    def refuse(prompt, again):
        raise ValueError("too long")

    with pytest.raises(DataError, match=r"in.jsonl:1: the judge cannot be asked: too long"):
        labelled(tmp_path, TRAJECTORY, judge=Judge("fake", Jury(refuse)))


def many(num):
    return [TRAJECTORY | {"id": str(i), "question": f"Who made Orla {i}?"} for i in range(num)]


def test_killed_labelling_asks_only_for_what_is_missing(tmp_path):
    class Dying(Jury):
        def complete(self, prompts, seeds, params):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().complete(prompts, seeds, params)

    rows = many(20)
    with pytest.raises(KeyboardInterrupt):
        labelled(tmp_path, *rows, judge=Judge("fake", Dying(says_yes_to_bo), batch_size=4))
    assert not (tmp_path / "out.jsonl").exists()
    with verdicts_file(tmp_path / "out.jsonl").open("a") as file:
        file.write('{"judge": "fake", "pro')
    jury, progress = Jury(says_yes_to_bo), []
    judge = Judge("fake", jury, batch_size=4)
    with pytest.warns(UserWarning, match="the last line was torn"):
        label([tmp_path / "in.jsonl"], tmp_path / "out.jsonl", None, judge, progress.append)
    assert sum(len(prompts) for prompts, _, _ in jury.calls) == 40 - 12
    assert progress == [12, 4, 4, 4, 4, 4, 4, 4]
    (tmp_path / "fresh").mkdir()
    labelled(tmp_path / "fresh", *rows, judge=Judge("fake", Jury(says_yes_to_bo)))
    fresh = (tmp_path / "fresh" / "out.jsonl").read_bytes()
    assert (tmp_path / "out.jsonl").read_bytes() == fresh


def test_verdicts_of_another_judge_do_not_count(tmp_path):
    labelled(tmp_path, TRAJECTORY, judge=Judge("one", Jury(says_yes_to_bo)))
    jury = Jury(lambda prompt, again: "yes")
    _, rows = labelled(tmp_path, TRAJECTORY, judge=Judge("two", jury))
    assert [row.judge for row in rows] == [USEFUL, USEFUL]


def test_same_search_is_judged_once_and_an_empty_one_never(tmp_path):
    empty = TRAJECTORY["turns"][0] | {"documents": []}
    row = TRAJECTORY | {"turns": [*TRAJECTORY["turns"], TRAJECTORY["turns"][1], empty]}
    jury = Jury(says_yes_to_bo)
    labelled(tmp_path, row, judge=Judge("fake", jury))
    assert [len(prompts) for prompts, _, _ in jury.calls] == [2]


def test_damaged_verdict_is_named(tmp_path):
    verdicts_file(tmp_path / "out.jsonl").write_text(
        '{"judge": "a", "prompt": "b", "label": "c"}\n'
    )
    with pytest.raises(
        DataError, match=r"judged.jsonl:1: `label` must be useful or noisy, got 'c'"
    ):
        labelled(tmp_path, TRAJECTORY, judge=Judge("fake", Jury(says_yes_to_bo)))


def test_shipped_models_are_no_judges(tmp_path):
    for name in ("base", "simulator"):
        judge = Judge(name, TransformersLM.from_pretrained(model_folder(name)))
        with pytest.raises(
            DataError, match=rf"in.jsonl:1: the judge '{name}' must reply yes or no"
        ):
            labelled(tmp_path, TRAJECTORY, judge=judge)
        assert not (tmp_path / "out.jsonl").exists()


# --- files --------------------------------------------------------------------------------------


def test_trajectory_gives_a_row_a_search(tmp_path):
    report, rows = labelled(tmp_path, TRAJECTORY)
    assert [row.query for row in rows] == ["film about Orla", "Orla Rising director"]
    assert {row.question.data_source for row in rows} == {"in"}
    assert [(row.outcome, row.evidence, row.judge) for row in rows] == [(USEFUL, USEFUL, None)] * 2
    assert report.num_searches == report.num_rows == 2
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0]["documents"] == [{"title": "", "text": "Orla Rising is a film."}]
    assert "judge" not in lines[0]


def test_paragraphs_give_a_useful_and_a_noisy_row_of_one_size(tmp_path):
    _, rows = labelled(tmp_path, PARAGRAPHS)
    assert [(row.label, row.evidence, row.outcome) for row in rows] == [
        (USEFUL, USEFUL, None),
        (NOISY, NOISY, None),
    ]
    assert [[d.title for d in row.documents] for row in rows] == [["Ann"], ["Bo"]]
    assert {row.query for row in rows} == {PARAGRAPHS["question"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (TRAJECTORY | {"turns": []}, "`turns` must not be empty"),
        (TRAJECTORY | {"turns": ["x"]}, "an object was expected, got 'x'"),
        (TRAJECTORY | {"turns": [{"query": "x"}]}, "`documents` is missing"),
        (TRAJECTORY | {"turns": [{"query": " ", "documents": []}]}, "`query` must not be empty"),
        (TRAJECTORY | {"answers": []}, "`answers` of a question must be one or more texts"),
        (TRAJECTORY | {"correct": 1}, "`correct` must be true or false, got 1"),
        (TRAJECTORY | {"predicted": None}, "`predicted` must be a text, got None"),
        (TRAJECTORY | {"question": None}, "`question` of a question must be a text, got None"),
        ({k: v for k, v in TRAJECTORY.items() if k != "correct"}, "`correct` is missing"),
        ({}, "`id` must be a text or an integer, got None"),
    ],
)
def test_bad_row_is_named_and_nothing_is_written(tmp_path, row, message):
    with pytest.raises(DataError, match=f"in.jsonl:2: {message}"):
        labelled(tmp_path, TRAJECTORY, row)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ([], "`passages` must have both supporting ones and others"),
        (PARAGRAPHS["passages"][:1], "`passages` must have both supporting ones and others"),
        ([{"title": "a", "text": "b"}], "`supporting` is missing"),
        (["a"], "an object was expected, got 'a'"),
    ],
)
def test_bad_paragraphs_are_named(tmp_path, passages, message):
    with pytest.raises(DataError, match=f"in.jsonl:1: {message}"):
        labelled(tmp_path, PARAGRAPHS | {"passages": passages})


def test_unknown_kind_is_named_with_the_known_ones(tmp_path):
    row = {"id": "1", "question": "Who?", "answers": ["a"]}
    message = (
        r"in.jsonl:1: unknown kind of file: .* episodes .*; trajectories .*; paragraphs .* "
        r"got \['id', 'question', 'answers'\]"
    )
    with pytest.raises(DataError, match=message):
        labelled(tmp_path, row)


@pytest.mark.parametrize(
    ("content", "message"), [("", "at least one row"), ("\n", "at least"), ("x\n", "Expecting")]
)
def test_file_without_rows_is_refused(tmp_path, content, message):
    file = tmp_path / "in.jsonl"
    file.write_text(content)
    with pytest.raises(DataError, match=f"in.jsonl:1: .*{message}"):
        list(read_trajectories(file))


def test_output_is_never_an_input(tmp_path):
    file = write(tmp_path / "in.jsonl", TRAJECTORY)
    with pytest.raises(ValueError, match="`output` must be a file of its own"):
        label([file], tmp_path / "." / "in.jsonl")
    with pytest.raises(ValueError, match="`inputs` must name at least one file"):
        label([], tmp_path / "out.jsonl")


def test_rule_of_a_judge_needs_one(tmp_path):
    with pytest.raises(ValueError, match="`judge` must be given for the rule 'judge'"):
        labelled(tmp_path, TRAJECTORY, rule="judge")


# --- filters ------------------------------------------------------------------------------------


def test_noisy_documents_that_hold_the_answer_are_left_out(tmp_path):
    wrong = TRAJECTORY | {"predicted": "Cy", "correct": False}
    report, rows = labelled(tmp_path, wrong, rule="outcome")
    assert [row.query for row in rows] == ["film about Orla"]
    assert report.dropped["leak"] == 1


def test_yes_in_a_document_is_no_leak(tmp_path):
    row = TRAJECTORY | {"answers": ["no"], "predicted": "yes", "correct": False}
    row |= {"turns": [{"query": "q", "documents": ["There is no Orla."]}]}
    report, rows = labelled(tmp_path, row)
    assert [row.label for row in rows] == [NOISY]
    assert report.dropped["leak"] == 0


@pytest.mark.parametrize("documents", [[], [" "]])
def test_useful_search_that_found_nothing_is_left_out(tmp_path, documents):
    row = TRAJECTORY | {"turns": [{"query": "q", "documents": documents}]}
    report, rows = labelled(tmp_path, row, rule="outcome")
    assert rows == []
    assert report.dropped["no_documents"] == 1


def test_search_that_found_nothing_can_be_noisy(tmp_path):
    row = TRAJECTORY | {"turns": [{"query": "q", "documents": []}]}
    assert [row.label for row in labelled(tmp_path, row)[1]] == [NOISY]


def test_same_search_is_kept_once(tmp_path):
    report, rows = labelled(tmp_path, TRAJECTORY, TRAJECTORY, TRAJECTORY | {"id": "other"})
    assert len(rows) == 2
    assert report.dropped["duplicate"] == 4


def test_same_search_labelled_both_ways_is_left_out(tmp_path):
    wrong = TRAJECTORY | {"predicted": "Cy", "correct": False}
    wrong |= {"turns": TRAJECTORY["turns"][:1]}
    report, rows = labelled(tmp_path, TRAJECTORY, wrong, rule="outcome")
    assert [row.query for row in rows] == ["Orla Rising director"]
    assert report.dropped["conflict"] == 2


def test_disagreement_has_no_label(tmp_path):
    wrong = TRAJECTORY | {"predicted": "Cy", "correct": False}
    report, rows = labelled(tmp_path, wrong, rule="agree")
    assert rows == []
    assert report.dropped["unlabelled"] == 2


def unbalanced(num_noisy):
    noisy = {"query": "Orla?", "documents": ["Nothing."]}
    rows = many(40)
    return [r | {"turns": r["turns"] + [noisy] * (i < num_noisy)} for i, r in enumerate(rows)]


def test_balance_takes_as_many_of_either_label_in_every_split(tmp_path):
    options = {"balance": True, "validation": 0.2, "test": 0.2}
    report, rows = labelled(tmp_path, *unbalanced(25), **options)
    counts = Counter((row.split, row.label) for row in rows)
    assert all(counts[split, USEFUL] == counts[split, NOISY] for split, _ in counts)
    assert report.num_rows + report.dropped["balance"] == report.num_searches
    assert len(rows) > 20
    again = labelled(tmp_path, *unbalanced(25), **options)[1]
    assert rows == again != labelled(tmp_path, *unbalanced(25), seed=1, **options)[1]


def test_nothing_is_balanced_unasked(tmp_path):
    report, rows = labelled(tmp_path, *unbalanced(25))
    assert report.dropped["balance"] == 0
    assert len(rows) == 80 + 25


# --- splits -------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.floats(0, 0.5), st.floats(0, 0.49))
def test_split_depends_on_the_question_alone(text, validation, test):
    split = split_of(text, validation, test)
    assert split in ("train", "validation", "test")
    assert split == split_of(f" {text}? ", validation, test)
    if split == "test":  # more for validation takes nothing from the test split
        assert split_of(text, 0.5, test) == "test"


def test_shares_of_splits_are_as_asked_for():
    counts = Counter(split_of(f"question {i}", 0.05, 0.1) for i in range(20_000))
    assert counts["validation"] / 20_000 == pytest.approx(0.05, abs=0.01)
    assert counts["test"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_question_is_in_one_split_whatever_its_id(tmp_path):
    rows = many(60)
    _, found = labelled(tmp_path, *rows, *[r | {"id": f"x{r['id']}"} for r in rows], test=0.4)
    splits = {(row.question.text, row.split) for row in found}
    assert len(splits) == len({text for text, _ in splits}) == 60


# --- agreement ----------------------------------------------------------------------------------

pairs = st.lists(st.tuples(given_labels, given_labels), max_size=30)


def agreement(*answers):
    return Agreement.of("outcome", "evidence", [Signals(*pair) for pair in answers])


@given(pairs)
def test_agreement_is_bounded_and_symmetric(answers):
    one, other = agreement(*answers), agreement(*[(b, a) for a, b in answers])
    assert one.num == sum(a is not None and b is not None for a, b in answers)
    assert one.share == other.share
    assert one.kappa == pytest.approx(other.kappa)
    if one.kappa is not None:
        assert -1 <= one.kappa <= one.share <= 1
        assert one.kappa == 1 or one.share < 1


def test_kappa_equals_cohens_example():
    """45 + 15 of 100 pairs agree beside 25 + 15: kappa is 0.13 (rounded)."""
    counts = {(USEFUL, USEFUL): 45, (NOISY, NOISY): 15, (USEFUL, NOISY): 25, (NOISY, USEFUL): 15}
    found = agreement(*[pair for pair, num in counts.items() for _ in range(num)])
    assert found.share == 0.6
    assert found.kappa == pytest.approx(0.1304, abs=1e-4)


@pytest.mark.parametrize("answers", [[], [(USEFUL, USEFUL)] * 3, [(None, USEFUL)]])
def test_kappa_of_one_constant_answer_is_undefined(answers):
    assert agreement(*answers).kappa is None


def test_report_is_json_and_adds_up(tmp_path):
    report, rows = labelled(tmp_path, TRAJECTORY, PARAGRAPHS | TRAJECTORY | {"id": "x"})
    found = json.loads(json.dumps(report.as_json()))
    assert found["num_searches"] == found["num_rows"] + sum(found["dropped"].values())
    assert sum(sum(row.values()) for row in found["rows"].values()) == len(rows)
    assert sum(sum(row.values()) for row in found["data_sources"].values()) == len(rows)
    assert found["signals"]["outcome"] == {"useful": 4, "noisy": 0}


# --- real data ----------------------------------------------------------------------------------


@needs_data
def test_real_files_are_labelled_and_nothing_leaks(tmp_path):
    inputs = [DATA / "search_trajectories.jsonl", DATA / "hotpot_distractor.jsonl"]
    report = label(inputs, tmp_path / "out.jsonl")
    rows = [row for _, row in read_labelled(tmp_path / "out.jsonl")]
    assert report.num_searches == 339 + 120
    assert len(rows) == report.num_rows > 400
    assert min(Counter(row.label for row in rows).values()) > 100
    for row in rows:
        assert row.documents
        assert row.label == USEFUL or not holds_answer(row.question, row.documents)
    splits = {(row.question.text.casefold(), row.split) for row in rows}
    assert len(splits) == len({text for text, _ in splits})
    [pair] = report.agreement
    assert pair.num > 200
    assert pair.share > 0.7
    assert pair.kappa > 0.4


@needs_data
@pytest.mark.parametrize("rule", ["outcome", "evidence", "agree"])
def test_every_rule_labels_real_trajectories(tmp_path, rule):
    file = DATA / "search_trajectories.jsonl"
    report = label([file], tmp_path / "out.jsonl", LabelOptions(rule=rule, balance=True))
    assert report.num_rows + sum(report.dropped.values()) == 339
    for counts in report.rows.values():
        assert counts[USEFUL] == counts[NOISY]
    assert report.num_rows > 150


@needs_data
@pytest.mark.parametrize("name", ["nq_open_dev", "bamboogle"])
def test_real_files_without_searches_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}.jsonl:1: unknown kind of file"):
        label([DATA / f"{name}.jsonl"], tmp_path / "out.jsonl")

"""Reading MiniWiki's sentences back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.task.miniwiki import RELATIONS, default_world
from zs_env.task.statements import Statement, read_statement


@pytest.mark.parametrize("relation", RELATIONS.values(), ids=str)
def test_every_sentence_about_every_fact_is_read_back(relation):
    facts = [fact for fact in default_world().facts if fact.relation == relation.name]
    assert facts
    for fact in facts:
        claim = Statement(fact.subject, fact.relation, fact.object)
        for wording in relation.sentences:
            assert read_statement(wording.format(s=fact.subject, o=fact.object)) == claim
        former = relation.outdated.format(s=fact.subject, o=fact.object)
        assert read_statement(former) == claim._replace(outdated=True)


@given(st.text())
def test_other_texts_claim_nothing(text):
    assert read_statement(text) is None


def test_part_of_a_sentence_claims_nothing():
    sentence = default_world().facts[0].passages[0]
    assert read_statement(sentence[:-1]) is None
    assert read_statement(f"{sentence} {sentence[:5]}") is None

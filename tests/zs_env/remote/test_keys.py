"""Where an API key is read, where it goes, and how it is hidden."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.remote.keys import ApiKey, without_key

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8)


def test_key_goes_where_the_server_wants_it():
    bearer, header = ApiKey("X"), ApiKey("X", header="X-API-KEY", prefix="")
    query = ApiKey("X", header=None, parameter="api_key")
    assert [each.headers("a+b") for each in (bearer, header, query)] == [
        {"Authorization": "Bearer a+b"},
        {"X-API-KEY": "a+b"},
        {},
    ]
    assert [each.query("a+b") for each in (bearer, header, query)] == ["", "", "api_key=a%2Bb"]


def test_no_key_goes_nowhere(monkeypatch):
    monkeypatch.delenv("ZS_TEST_KEY", raising=False)
    key = ApiKey("ZS_TEST_KEY", parameter="key")
    assert (key.read(), key.headers(""), key.query("")) == ("", {}, "")


def test_required_key_has_to_be_there(monkeypatch):
    monkeypatch.setenv("ZS_TEST_KEY", " ")
    with pytest.raises(ValueError, match="`ZS_TEST_KEY` must hold an API key"):
        ApiKey("ZS_TEST_KEY", is_required=True).read()
    monkeypatch.setenv("ZS_TEST_KEY", " planted\n")
    assert ApiKey("ZS_TEST_KEY", is_required=True).read() == "planted"


@given(KEYS, st.text())
def test_key_is_hidden_as_it_is_and_as_a_url_has_it(key, text):
    url = ApiKey("X", parameter="key").query(key)
    shown = without_key(f"{text} {key} /search?{url} end", key)
    assert f"{key} " not in shown
    assert url not in shown
    assert shown.endswith(" end")


def test_nothing_is_hidden_without_a_key():
    assert without_key("as it is", "") == "as it is"

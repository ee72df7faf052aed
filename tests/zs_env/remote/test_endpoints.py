import pytest

from zs_env.remote.endpoints import Pool, check_base_urls, is_loopback


def taken(pool, num, now=0.0):
    return [pool.choose(now).url for _ in range(num)]


def named(pool, url):
    """Return the endpoint of a URL."""
    return next(e for e in (pool.choose(0.0) for _ in range(9)) if e.url == url)


def test_healthy_servers_take_turns():
    assert taken(Pool("abc"), 6) == list("abcabc")


def test_server_that_rests_is_left_out_until_it_has():
    pool = Pool("abc")
    named(pool, "b").rests_until = 5.0
    assert set(taken(pool, 6, now=4.9)) == {"a", "c"}
    assert set(taken(pool, 6, now=5.0)) == {"a", "b", "c"}


def test_least_tired_server_is_asked_where_all_rest():
    pool = Pool("ab")
    one, other = named(pool, "a"), named(pool, "b")
    one.rests_until, other.rests_until = 5.0, 4.0
    assert taken(pool, 2, now=1.0) == ["b", "b"]
    assert not pool.has_healthy(1.0)
    assert pool.opens_in(1.0) == 0.0


def test_closed_server_comes_after_one_that_only_rests():
    pool = Pool("ab")
    one, other = named(pool, "a"), named(pool, "b")
    one.closed_until, other.rests_until = 2.0, 50.0
    assert taken(pool, 2, now=1.0) == ["b", "b"]
    other.closed_until = 3.0
    assert pool.opens_in(1.0) == 1.0
    assert taken(pool, 1, now=1.0) == ["a"]


def test_one_url_or_several_are_taken():
    assert check_base_urls("https://h/v1/") == ("https://h/v1",)
    assert check_base_urls(["http://a:1", "http://b/x/v1"]) == ("http://a:1", "http://b/x/v1")


def test_no_url_is_refused():
    with pytest.raises(ValueError, match="`base_urls` must name at least one server, got none"):
        check_base_urls([])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.3.2.1", True),
        ("http://[::1]:8000", True),
        ("https://localhost", True),
        ("https://LOCALHOST:1/x", True),
        ("http://sim.localhost:8000", True),
        ("http://10.0.0.1:8000", False),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("http://notlocalhost", False),
        ("http://[2001:db8::1]", False),
    ],
)
def test_loopback_is_told_by_its_name(url, expected):
    assert is_loopback(url) is expected

"""Algorithms by name."""

import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.algorithms.grpo import GRPO
from agents.algorithms.registry import PATHS, make_algorithm


@dataclass(frozen=True)
class Mine(GRPO):
    """An algorithm of somebody else's."""

    count: int = 1
    share: float = 0.5
    fast: bool = False
    kind: Literal["one", "two"] = "one"
    label: str = "a"
    limit: float | None = None


class NoDataclass:
    """Has no options."""


@dataclass(frozen=True)
class NoAlgorithm:
    """Has options and nothing else."""


HERE = f"{__name__}:Mine"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Make this very module importable by its name, as one in the user's folder would be."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Mine.__module__])


@pytest.mark.parametrize("name", PATHS)
def test_every_name_makes_an_algorithm_with_its_defaults(name):
    algorithm = make_algorithm(name)
    assert algorithm == type(algorithm)()


def test_options_are_read_by_the_type_of_their_field():
    spec = f"{HERE}?count=3&share=1e-2&fast=true&kind=two&label=1&limit=0.5"
    expected = Mine(count=3, share=0.01, fast=True, kind="two", label="1", limit=0.5)
    assert make_algorithm(spec) == expected
    assert make_algorithm(f"{HERE}?limit=none&fast=false") == Mine()


@given(st.integers(), st.floats(allow_nan=False), st.booleans(), st.sampled_from(["one", "two"]))
def test_what_was_written_is_read_back(count, share, fast, kind):
    spec = f"{HERE}?count={count}&share={share!r}&fast={str(fast).lower()}&kind={kind}"
    assert make_algorithm(spec) == Mine(count=count, share=share, fast=fast, kind=kind)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    with suppress(ValueError):
        make_algorithm(f"grpo?{text}")


def test_overrides_win_and_none_leaves_an_option_as_it_is():
    found = make_algorithm("grpo?kl_coef=0&clip_range=0.3", {"kl_coef": None, "clip_range": 0.1})
    assert found == GRPO(kl_coef=0, clip_range=0.1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gr", "`algorithm` must be one of .*grpo.*, or module:Class, got 'gr'"),
        ("", "`algorithm` must be one of .*, got ''"),
        ("grpo?clip=1", "`clip` is no option of grpo, whose options are: .*clip_range"),
        ("grpo?clip_range=wide", "`clip_range` must be a number, got 'wide'"),
        ("grpo?num_epochs=1.5", "`num_epochs` must be an integer, got '1.5'"),
        ("grpo?scale_rewards=yes", "`scale_rewards` must be one of true, false, got 'yes'"),
        ("grpo?clip_range", "must have options like .option=value&option=value, got 'clip_range'"),
        ("grpo?", "must have options like .option=value&option=value, got ''"),
        ("grpo?kl_coef=1&kl_coef=2", "must have options like"),
        ("grpo?clip_range=-1", "`clip_range` must be 0 or more, got -1.0"),
        (f"{HERE}?kind=three", "`kind` must be one of one, two, got 'three'"),
        ("no.such.module:Thing", "`algorithm` must name a module that exists"),
        (f"{__name__}:Other", "`algorithm` must name an attribute of"),
    ],
)
def test_bad_spec_is_refused_by_name_and_value(spec, message):
    with pytest.raises(ValueError, match=message):
        make_algorithm(spec)


def test_override_that_the_algorithm_lacks_is_refused():
    with pytest.raises(ValueError, match="`gae_lambda` is no option of grpo"):
        make_algorithm("grpo", {"gae_lambda": 0.9})


@pytest.mark.parametrize("name", ["NoDataclass", "NoAlgorithm", "test_any_text_is_read_or_refused"])
def test_path_must_name_a_dataclass(name):
    with pytest.raises(TypeError, match=r"`algorithm` must name a (data)?class.*, got"):
        make_algorithm(f"{__name__}:{name}")


def test_documentation_lists_every_algorithm():
    page = (Path(__file__).parents[3] / "docs/algorithms.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in PATHS)


def test_algorithm_of_the_documentation_can_be_named_and_learns(
    tmp_path, monkeypatch, stack, episode
):
    page = (Path(__file__).parents[3] / "docs/algorithms.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "threshold_of_the_docs.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    algorithm = make_algorithm("threshold_of_the_docs:Threshold?enough=0.5")
    batch = stack(episode((1, 2), rewards=0.75), episode((1, 2), rewards=0.25))
    assert algorithm.targets(batch).advantages.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_names_are_known_without_loading_torch():
    code = "import sys, agents.algorithms.registry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

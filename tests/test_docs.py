"""The pages of the docs that are made from the code."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = [
    "Description",
    "Action Space",
    "Observation Space",
    "Starting State",
    "Reward",
    "Episode End",
    "Information",
    "Arguments",
    "Version History",
]


def load_builder():
    path = ROOT / "docs" / "build_environment_page.py"
    spec = importlib.util.spec_from_file_location("build_environment_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILDER = load_builder()


@pytest.mark.parametrize("name", BUILDER.PAGES)
def test_page_is_what_the_docstring_says(name):
    """If this fails, run `python docs/build_environment_page.py`."""
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == BUILDER.page(*BUILDER.PAGES[name])


@pytest.mark.parametrize("name", BUILDER.PAGES)
def test_page_has_gymnasiums_chapters_in_order(name):
    page = BUILDER.page(*BUILDER.PAGES[name])
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == CHAPTERS


@pytest.mark.parametrize("name", BUILDER.PAGES)
def test_snippets_of_a_page_run(name):
    page = BUILDER.page(*BUILDER.PAGES[name])
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(snippet, {})

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

BLOCKS = PYTHON_BLOCK.findall(README.read_text(encoding="utf-8")) if README.exists() else []


@pytest.mark.skipif(not BLOCKS, reason="README.md shows no Python example")
@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.splitlines()[0])
def test_example_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_numbers_of_the_readme_are_those_of_the_recorded_demo() -> None:
    spec = importlib.util.spec_from_file_location("demo_table", ROOT / "docs" / "demo_table.py")
    assert spec is not None
    assert spec.loader is not None
    demo_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo_table)
    readme = README.read_text(encoding="utf-8")
    assert demo_table.with_table(readme, *demo_table.recorded()) == readme

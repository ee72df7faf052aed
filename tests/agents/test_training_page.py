"""The snippets of docs/training.md, run one after another as a reader would."""

import re
from pathlib import Path
from typing import Any

import pytest

from agents.callbacks import BEST_FOLDER, CHECKPOINT_FOLDER, CHECKPOINTS_FOLDER
from agents.cli.train_folder import FAILED_FOLDER
from agents.cli.train_resume import HARMLESS
from agents.log_formats import FORMATS
from agents.trainer import Callback

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_snippets_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(snippet, names)
    names["trainer"].learn(3, names["StopWhenSolved"]())
    assert (tmp_path / "runs" / "mine" / "metrics.csv").exists()


def test_page_names_every_hook_format_folder_and_harmless_option() -> None:
    hooks = [name for name in vars(Callback) if name.startswith("on_")]
    folders = [BEST_FOLDER, CHECKPOINT_FOLDER, CHECKPOINTS_FOLDER, FAILED_FOLDER]
    options = [f"--{name.replace('_', '-')}" for name in HARMLESS]
    wanted = [*(f"`{name}(" for name in hooks), *(f"| `{name}`" for name in FORMATS)]
    wanted += [*(f"`{name}/" for name in folders), *options]
    assert not [text for text in wanted if text not in PAGE]

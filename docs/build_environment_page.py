"""Write the pages of the environments from their class docstrings.

    python docs/build_environment_page.py

The docstring is the source: change it there and run this again. A test compares.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Final

from zs_env.env import ZeroSearchEnv
from zs_env.macro_env import ZeroSearchMacroEnv
from zs_env.token_env import ZeroSearchTokenEnv

FOLDER: Final = Path(__file__).parent
PAGES: Final = {
    "environment.md": ("ZeroSearch-v0", ZeroSearchEnv),
    "environment_macro.md": ("ZeroSearchMacro-v0", ZeroSearchMacroEnv),
    "environment_token.md": ("ZeroSearchToken-v0", ZeroSearchTokenEnv),
}


def page(env_id: str, cls: type) -> str:
    """Return the page of an environment: its id, where the text comes from, and the docstring."""
    source = f"{cls.__module__.replace('.', '/')}.py"
    return (
        f"# {env_id}\n\n"
        f"<!-- Made from the docstring in {source} by docs/build_environment_page.py -->\n\n"
        f"{inspect.getdoc(cls)}\n"
    )


def main() -> None:
    """Write every page."""
    for name, (env_id, cls) in PAGES.items():
        (FOLDER / name).write_text(page(env_id, cls), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a simulator is asked, and how documents are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from zs_env.lm.generator import Chat
from zs_env.search.engine import SearchRequest

# Read here too by all that asks a simulator.
from zs_env.search.parsing import parse_documents as parse_documents
from zs_env.search.parsing import split_documents as split_documents

MAX_QUERY_LENGTH = 512
"""Characters of a query that a simulator reads, as a search field would."""

Prompt = Callable[[SearchRequest], str | Chat]
"""From a request to what the model continues, or replies to."""

_TEMPLATES: Final = Path(__file__).parent / "templates"


def tuned_prompt(request: SearchRequest) -> str:
    """Return the short prompt that simulation tuning trains; the reply begins with `Doc 1:`."""
    kind = "Noisy" if request.noisy else "Useful"
    detail = f" ({request.noise_kind})" if request.noisy and request.noise_kind else ""
    wanted = f"{kind} documents{detail}"
    # What is wanted is said twice, as in the paper's prompt: a causal model that knows it from the
    # start reads the query accordingly, and leaks less, least where the two lines differ. All on
    # one line each: a query must not be able to write lines of the prompt.
    return (
        f"{wanted} wanted.\n"
        f"Question: {one_line(request.question)}\n"
        f"Answer: {one_line(' | '.join(request.golden_answers))}\n"
        f"Query: {one_line(request.query)[:MAX_QUERY_LENGTH]}\n"
        f"{wanted}:\n"
    )


def load_prompt(prompt: str | Path | Prompt) -> Prompt:
    """Return the prompt that `prompt` names or is.

    Args:
        prompt: "tuned" (what simulation tuning trains), "prompted" (for any model that follows
            instructions), the path of a jinja2 template, or a function.

    Raises:
        ValueError: If it is no such name and there is no such file, or the template is wrong; the
            message names file and line.
    """
    if callable(prompt):
        return prompt
    if prompt == "tuned":
        return tuned_prompt
    from zs_env.search.prompt_template import PromptTemplate

    try:
        return PromptTemplate.from_file(template_file(prompt))
    except OSError as error:
        raise ValueError(
            f"`prompt` must be tuned, prompted, a template's file or a function, got {prompt!r}: "
            f"{error.strerror}"
        ) from error


def template_file(prompt: str | Path) -> Path:
    """Return the file of a template: a shipped one by its name, or the one at a path."""
    shipped = prompt in ("tuned", "prompted")
    return _TEMPLATES / f"{prompt}.jinja" if shipped else Path(prompt)


def one_line(text: str) -> str:
    r"""Return `text` with every run of blanks and line breaks as one blank.

    Half of a surrogate pair, which no tokenizer takes, becomes a question mark.

    >>> one_line(" a\n b \ud800")
    'a b ?'
    """
    return " ".join(text.encode("utf-8", "replace").decode().split())


def format_documents(texts: Sequence[str]) -> str:
    r"""Return documents as a simulator writes them.

    >>> format_documents(["one", "two"])
    'Doc 1: one\nDoc 2: two'
    """
    return "\n".join(f"Doc {i}: {text}" for i, text in enumerate(texts, 1))

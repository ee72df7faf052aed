"""Prompts as data: jinja2 templates in files.

A template is somebody's file, so it runs in a sandbox, reads no other file and draws no random
numbers of its own; and what an agent wrote is a value to it, never a part of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jinja2 import StrictUndefined, Template, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zs_env.lm.generator import Chat
from zs_env.search.engine import NoiseKind, SearchRequest
from zs_env.search.neutralise import neutralise
from zs_env.search.prompts import MAX_QUERY_LENGTH, one_line

_PROBES: Final = tuple(
    SearchRequest("query", "question", ("answer", "other answer"), is_noisy, noise_kind=kind)
    for is_noisy, kind in [(False, None), (True, None), *((True, kind) for kind in NoiseKind)]
)
"""Requests that every template is tried with; both sorts, and every kind of noise."""


class PromptTemplate:
    """A prompt in a jinja2 template, as a function from a request to a `Chat`.

    The template sees `question`, `golden_answers` (a sequence), `query`, `noisy`, `noise_kind`
    (a text like "near-miss"; none unless that kind of noisy documents is wanted), `top_k` and
    `seed`. Texts are on one line each, and the query is clipped. Beside jinja2's own filters there
    are `one_line`, and `neutralise`, which disarms tags and the tokens of chat templates. The
    template's text is the user's message; what it sets as `system` is the system message.
    """

    def __init__(self, source: str, path: str | Path) -> None:
        """Compile the template, and try it with a request of each sort.

        Args:
            source: The template. A line break at its end is part of the prompt.
            path: Where it comes from, for messages.

        Raises:
            ValueError: If it is no template, fails, or gives an empty prompt; the message names
                file and line.
        """
        self._source, self._path = source, str(path)
        self._template = _compile(source, self._path)
        for request in _PROBES:
            if not self(request).user.strip():
                raise ValueError(f"{self._path}: the prompt of a request must not be empty")

    @classmethod
    def from_file(cls, path: str | Path) -> PromptTemplate:
        """Read a template from a file in UTF-8.

        Raises:
            ValueError: As the constructor, and if it is no text.
            OSError: If the file cannot be read.
        """
        try:
            source = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(source, path)

    def __repr__(self) -> str:
        """Return where the template comes from."""
        return f"{type(self).__name__}({self._path!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made from: the file may have changed since."""
        return type(self), (self._source, self._path)

    def __call__(self, request: SearchRequest) -> Chat:
        """Return the prompt for a request.

        Raises:
            ValueError: If the template fails; the message names file and line.
        """
        try:
            module: Any = self._template.make_module(_variables(request))
            system = getattr(module, "system", None)
            return Chat(str(module), None if system is None else str(system))
        except Exception as error:  # whatever an expression in a template may raise
            raise ValueError(f"{_place(self._template, error)}: {error}") from error


def _compile(source: str, path: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,  # as in chat templates: lines that hold only a block leave no trace
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # What they draw would not be keyed by the request's seed.
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters |= {"one_line": one_line, "neutralise": _neutralise}
    try:
        code = environment.compile(source, path, path)
    except TemplateSyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: {error.message}") from error
    return Template.from_code(environment, code, environment.make_globals(None))


def _neutralise(text: str) -> str:
    return neutralise(text, len(text))


def _variables(request: SearchRequest) -> dict[str, Any]:
    kind = request.noise_kind if request.noisy else None
    return {
        "question": one_line(request.question),
        "golden_answers": tuple(map(one_line, request.golden_answers)),
        "query": one_line(request.query)[:MAX_QUERY_LENGTH],
        "noisy": request.noisy,
        "noise_kind": kind and str(kind),
        "top_k": request.top_k,
        "seed": request.seed,
    }


def _place(template: Template, error: Exception) -> str:
    """Return file and line of a template's error; the file alone if it is in none of its lines."""
    traceback, place = error.__traceback__, str(template.filename)
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == template.filename:
            line = template.get_corresponding_lineno(traceback.tb_lineno)
            place = f"{template.filename}:{line}"
        traceback = traceback.tb_next
    return place

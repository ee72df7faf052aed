"""How servers differ that all call themselves OpenAI-compatible, and what a server says it is.

The standard says neither how a sampler's extras are switched off nor whether a stop string stays
in the text, and each server has its own fields for both. Which server it is stands in its list of
models; one that is not known is sent the standard fields only, for some refuse all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from zs_env.remote.failures import TryError


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server understands beyond the standard.

    Attributes:
        fields: Fields of every request. They undo the sampling defaults that servers take from a
            model's `generation_config.json`, so that temperature alone shapes the distribution.
        keeps_stops: Whether `fields` make it leave the stop string in the text. The others cut it
            off and do not say which one it was, so they are not told of any.
        gives_token_ids: Whether it takes and returns token ids.
        num_seeds: How many seeds it tells apart.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    keeps_stops: bool = False
    gives_token_ids: bool = False
    num_seeds: int = 2**63


DIALECTS: Final[Mapping[str, Dialect]] = {
    "vllm": Dialect(
        {
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "include_stop_str_in_output": True,
            "add_special_tokens": False,
        },
        keeps_stops=True,
        gives_token_ids=True,
    ),
    "sglang": Dialect(
        {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "no_stop_trim": True},
        keeps_stops=True,
    ),
    # Its seeds are 32-bit, and the largest means a random one.
    "llamacpp": Dialect({"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}, num_seeds=2**32 - 1),
}
"""By what a server's models are `owned_by`."""

STANDARD: Final = Dialect()


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself.

    Attributes:
        model: The name that requests ask for.
        dialect: What it understands.
        max_context: Tokens that prompt and completion may have together; None if it does not say.
    """

    model: str
    dialect: Dialect
    max_context: int | None = None


def read_models(reply: Any, model: str | None) -> ServerFacts:
    """Return the facts in a server's list of models.

    Args:
        reply: The JSON reply of `GET /v1/models`, or None if there is no such page.
        model: The model that is wanted; None means the only one.

    Raises:
        TryError: If `model` is None and there is not just one.
        LookupError, TypeError: If the reply is no such list.

    Example:
        >>> read_models({"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 64}]}, None)
        ... # doctest: +ELLIPSIS
        ServerFacts(model='m', dialect=Dialect(...), max_context=64)
    """
    listed = [] if reply is None else [dict(entry) for entry in reply["data"]]
    named = [entry for entry in listed if entry["id"] == model]
    # Adapters are listed too, below the model that they belong to.
    chosen = named or [entry for entry in listed if entry.get("parent") is None]
    if model is None and len(chosen) != 1:
        names = ", ".join(str(entry["id"]) for entry in chosen) or "none"
        raise TryError(f"`model` must be given where not one is listed: {names}", is_final=True)
    entry = chosen[0] if chosen else {}
    context = entry.get("max_model_len")
    return ServerFacts(
        model=str(entry["id"]) if model is None else model,
        dialect=DIALECTS.get(str(entry.get("owned_by")), STANDARD),
        max_context=context if isinstance(context, int) else None,
    )

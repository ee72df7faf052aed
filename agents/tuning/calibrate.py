"""Measuring how much noise a simulator really makes, for `zs_env.search.calibration`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from agents.tuning.measure import gives_fact
from agents.tuning.replies import ask
from agents.tuning.report import Rate
from agents.tuning.requests import NOISE_SORTS, RequestSource, Sort
from zs_env.random import derive, uniform
from zs_env.search.calibration import Calibration, CalibrationPoint
from zs_env.search.engine import NoiseKind, SearchEngine
from zs_env.task.miniwiki import MiniWiki, default_world

WANTED: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Effective noise that a check asks for, as far as it can be reached."""

TOLERANCE: Final = 0.03
"""How far the effective noise of a check may be from what was wanted."""

_PROBABILITIES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_BATCH: Final = 500
# What the key of a request is used for.
_IS_NOISY, _KIND, _REQUEST = range(3)


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """How a simulator is calibrated.

    Attributes:
        num_requests: Requests for each probability, at least 1.
        seed: Key of the requests, at least 0; a check takes those of the next one.
        noise_kinds: Kinds of noise among which each noisy request draws one, as the environment
            does; none leaves the kind to the engine.
        probabilities: Of asking for noisy documents, each in [0, 1]; 0 and 1 among them.

    Raises:
        ValueError: If one is out of its range.
    """

    num_requests: int = 2000
    seed: int = 2
    noise_kinds: tuple[NoiseKind, ...] = ()
    probabilities: tuple[float, ...] = _PROBABILITIES

    def __post_init__(self) -> None:
        if self.num_requests < 1:
            raise ValueError(f"`num_requests` must be at least 1, got {self.num_requests!r}")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {self.seed!r}")
        if not {0.0, 1.0} <= set(self.probabilities) or not all(
            0 <= p <= 1 for p in self.probabilities
        ):
            raise ValueError(
                f"`probabilities` must be in [0, 1], 0 and 1 among them, got {self.probabilities!r}"
            )

    @property
    def sorts(self) -> tuple[Sort, ...]:
        """The sorts of noisy requests."""
        chosen = [sort for sort, kind in NOISE_SORTS.items() if kind in self.noise_kinds]
        return tuple(chosen) or (Sort.PLAIN,)


@dataclass(frozen=True, slots=True)
class Search:
    """One search: whether noisy documents were asked for, and whether what is needed lacks."""

    noisy: bool
    lacks: bool


def calibrate(
    engine: SearchEngine,
    options: CalibrateOptions | None = None,
    world: MiniWiki | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Measure the effective noise of a simulator.

    The requests are those of a sensible agent, seen in training or not: what the simulator will
    be asked. Each search lacks what is needed with one of two probabilities, whatever p is, so
    that all useful ones together estimate one and all noisy ones the other; the points at the
    probabilities in between show whether that is so.

    Args:
        engine: The simulator.
        options: How to calibrate.
        world: The encyclopaedia it was tuned on; None means the shipped one.
        on_progress: Called with the number of requests that were answered.

    Raises:
        ValueError: If noisy documents are as good as useful ones.
        SearchEngineError: If the engine could not answer.
    """
    options, world = options or CalibrateOptions(), world or default_world()
    found = {
        p: searches(engine, p, options, world, derive(options.seed, place), on_progress)
        for place, p in enumerate(options.probabilities)
    }
    everything = [search for part in found.values() for search in part]
    useful = Rate.of(search.lacks for search in everything if not search.noisy)
    noisy = Rate.of(search.lacks for search in everything if search.noisy)
    if not useful.value < noisy.value:
        raise ValueError(
            f"`engine` must find less where noisy documents are asked for, got effective noise "
            f"{useful.value:.3f} without and {noisy.value:.3f} with noise"
        )
    return Calibration(
        floor=useful.value,
        ceiling=noisy.value,
        points=tuple(_point(p, part) for p, part in found.items()),
        origin={
            "useful": asdict(useful),
            "noisy": asdict(noisy),
            "num_requests": options.num_requests,
            "seed": options.seed,
            "noise_kinds": [kind.value for kind in options.noise_kinds],
        },
    )


def check(
    engine: SearchEngine,
    calibration: Calibration,
    options: CalibrateOptions | None = None,
    world: MiniWiki | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> tuple[CalibrationPoint, ...]:
    """Ask fresh requests as a calibration says and return the effective noise that comes of it.

    Args:
        engine: The simulator.
        calibration: Its calibration.
        options: How it was calibrated; the seed is one more here.
        world: The encyclopaedia it was tuned on; None means the shipped one.
        on_progress: Called with the number of requests that were answered.

    Returns:
        For each level of `WANTED` that can be reached, a point whose `requested` is that level.

    Raises:
        SearchEngineError: If the engine could not answer.
    """
    options, world = options or CalibrateOptions(), world or default_world()
    points = []
    for place, wanted in enumerate(reachable(calibration)):
        p, key = calibration.requested(wanted), derive(options.seed + 1, place)
        points.append(_point(wanted, searches(engine, p, options, world, key, on_progress)))
    return tuple(points)


def reachable(calibration: Calibration) -> list[float]:
    """Return the levels of `WANTED` that a simulator can reach."""
    return [noise for noise in WANTED if calibration.floor <= noise <= calibration.ceiling]


def within_tolerance(points: Iterable[CalibrationPoint]) -> bool:
    """Tell whether all points of a check are close enough to what was wanted."""
    return all(abs(point.effective - point.requested) <= TOLERANCE for point in points)


def searches(
    engine: SearchEngine,
    noise: float,
    options: CalibrateOptions,
    world: MiniWiki,
    key: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Search]:
    """Return what becomes of requests that are noisy with probability `noise`.

    Args:
        engine: The simulator.
        noise: The probability, in [0, 1].
        options: How many requests, and of which sorts.
        world: What they are about.
        key: Decides which ones.
        on_progress: Called with the number of requests that were answered.
    """
    source = RequestSource(world, held_out=False)
    found: list[Search] = []
    for start in range(0, options.num_requests, _BATCH):
        batch = range(start, min(start + _BATCH, options.num_requests))
        sorts = [_sort(noise, options.sorts, derive(key, index)) for index in batch]
        drafts = [
            source.draw_one(sort, derive(key, index, _REQUEST))
            for sort, index in zip(sorts, batch, strict=True)
        ]
        replies = ask(engine, [draft.request for draft in drafts])
        for draft, reply in zip(drafts, replies, strict=True):
            assert draft.asked is not None
            lacks = not gives_fact(reply.documents, draft.asked)
            found.append(Search(draft.request.noisy, lacks))
        on_progress(len(batch))
    return found


def _sort(noise: float, noisy: Sequence[Sort], key: int) -> Sort:
    if uniform(key, _IS_NOISY) >= noise:
        return Sort.USEFUL
    return noisy[derive(key, _KIND) % len(noisy)]


def _point(noise: float, found: Sequence[Search]) -> CalibrationPoint:
    rate = Rate.of(search.lacks for search in found)
    return CalibrationPoint(noise, rate.value, rate.low, rate.high, rate.count)

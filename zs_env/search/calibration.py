"""How much noise a simulator really makes: from the noise that is wanted to what to ask it for.

A simulator that is asked for useful documents fails now and then, and one that is asked for noisy
ones sometimes gives away what it should not. So of searches that are noisy with probability p, the
share whose documents lack what is needed, the effective noise, is not p but

    effective(p) = floor + p (ceiling - floor)

with the shares at p = 0 and p = 1: each search lacks it independently, whichever it was asked for.
`zerosearch tune calibrate` measures both and checks the line in between.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from zs_env.search.curriculum import Curriculum

CALIBRATION_FILE: Final = "calibration.json"
_NAMES: Final = ("requested", "effective", "low", "high")


@dataclass(frozen=True, slots=True)
class CalibrationPoint:
    """What was measured for one probability.

    Attributes:
        requested: The probability of asking for noisy documents.
        effective: Share of searches whose documents lack what is needed.
        low: Lower end of its 95 % Wilson interval.
        high: Upper end.
        count: Number of searches.
    """

    requested: float
    effective: float
    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        """Check all values."""
        for name in _NAMES:
            _check_share(name, getattr(self, name))
        _check_count("count", self.count)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The effective noise of one simulator.

    Attributes:
        floor: Effective noise where only useful documents are asked for.
        ceiling: Effective noise where only noisy ones are; above `floor`.
        points: What was measured, for showing how good the line is.
        origin: What was measured and how, JSON values; nothing here reads it.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> calibration = Calibration(floor=0.1, ceiling=0.9)
        >>> round(calibration.requested(0.3), 6), round(calibration.effective(0.25), 6)
        (0.25, 0.3)
    """

    floor: float
    ceiling: float
    points: tuple[CalibrationPoint, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Check that the line rises."""
        _check_share("floor", self.floor)
        _check_share("ceiling", self.ceiling)
        if not self.floor < self.ceiling:
            raise ValueError(
                f"`ceiling` must be greater than floor={self.floor!r}, got {self.ceiling!r}"
            )

    def effective(self, requested: float) -> float:
        """Return the effective noise of asking for noisy documents with a probability."""
        _check_share("requested", requested)
        return self.floor + requested * (self.ceiling - self.floor)

    def requested(self, effective: float) -> float:
        """Return the probability of asking for noisy documents that gives an effective noise.

        Outside [`floor`, `ceiling`] it is that of the nearer end, with a warning.

        Args:
            effective: The noise that is wanted, in [0, 1].
        """
        _check_share("effective", effective)
        reachable = min(self.ceiling, max(self.floor, effective))
        if reachable != effective:
            # Rounded, so that a curriculum that moves on does not warn at every step.
            warnings.warn(
                f"effective noise {effective:.2f} is outside what the simulator can reach, "
                f"[{self.floor:.3f}, {self.ceiling:.3f}]: clipped to {reachable:.3f}",
                stacklevel=2,
            )
        return (reachable - self.floor) / (self.ceiling - self.floor)

    @property
    def largest_error(self) -> float:
        """The largest distance of a measured point from the line; 0 without points."""
        errors = [abs(p.effective - self.effective(p.requested)) for p in self.points]
        return max(errors, default=0.0)

    def as_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        names = (*_NAMES, "count")
        return {
            "floor": self.floor,
            "ceiling": self.ceiling,
            "largest_error": self.largest_error,
            "points": [{name: getattr(point, name) for name in names} for point in self.points],
            **self.origin,
        }

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """Return the calibration that `as_json` gave.

        Raises:
            ValueError: If it is none; names the part that is wrong.
        """
        if not isinstance(value, Mapping):
            raise ValueError(f"a calibration must be an object, got {value!r:.80}")
        points = value.get("points", [])
        if not isinstance(points, list) or not all(isinstance(p, Mapping) for p in points):
            raise ValueError(f"`points` must be a list of objects, got {points!r:.80}")
        known = {"floor", "ceiling", "largest_error", "points"}
        return cls(
            floor=value.get("floor"),  # type: ignore[arg-type]  # checked by the class itself
            ceiling=value.get("ceiling"),  # type: ignore[arg-type]
            points=tuple(_read_point(point) for point in points),
            origin={name: part for name, part in value.items() if name not in known},
        )

    def save(self, path: str | Path) -> Path:
        """Write the calibration to a file, or to `calibration.json` in a folder; return where."""
        file = _file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        partial.replace(file)
        return file

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Return the calibration in a file, or beside a model in a folder.

        Raises:
            ValueError: If the file holds no calibration; names it.
            OSError: If it cannot be read.
        """
        file = _file(path)
        try:
            return cls.from_json(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def _file(path: str | Path) -> Path:
    return Path(path) / CALIBRATION_FILE if Path(path).is_dir() else Path(path)


def _read_point(value: Mapping[str, Any]) -> CalibrationPoint:
    parts = {name: value.get(name) for name in (*_NAMES, "count")}
    return CalibrationPoint(**parts)  # type: ignore[arg-type]  # checked by the class itself


def _check_share(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number in [0, 1], got {value!r:.80}")


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r:.80}")


@dataclass(frozen=True, slots=True)
class CalibratedCurriculum(Curriculum):
    """Another curriculum, whose noise is made effective: it asks for what a simulator needs.

    Attributes:
        curriculum: From progress to the effective noise that is wanted.
        calibration: Of the simulator that the environment searches with.

    Example:
        >>> from zs_env.search.curriculum import ConstantCurriculum
        >>> round(CalibratedCurriculum(ConstantCurriculum(0.5), Calibration(0.0, 0.8))(0.0), 6)
        0.625
    """

    curriculum: Curriculum
    calibration: Calibration

    def __call__(self, progress: float) -> float:
        """Return the probability to ask with; clipped, with a warning, where none is enough."""
        return self.calibration.requested(self.curriculum(progress))

    def after(self, success: float) -> CalibratedCurriculum:
        """Return the calibrated form of how the other curriculum goes on."""
        return CalibratedCurriculum(self.curriculum.after(success), self.calibration)

    def get_state(self) -> dict[str, Any]:
        """Return the other curriculum's state."""
        return self.curriculum.get_state()

    def with_state(self, state: Mapping[str, Any]) -> CalibratedCurriculum:
        """Return the calibrated form of the other curriculum with this state."""
        return CalibratedCurriculum(self.curriculum.with_state(state), self.calibration)

"""The numbers of a benchmark, as JSON values: what `results.json` holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np

from agents.bench.engines import EngineKind, engine_kind, writes_noise
from agents.bench.rows import EpisodeRow
from agents.bench.scores import EFFORTS, PlaceScores, Scores
from agents.bench.statistics import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Floats,
    Interval,
    area_under,
    interquartile_mean,
    mcnemar_mid_p,
    mean_interval,
    percentiles,
    performance_profile,
    rate_interval,
    resample,
    resampled_means,
    sign_flip_test,
)
from agents.experiments.statistics import holm

RATES: Final = ("exact_match", "sub_exact_match")
MEANS: Final = ("f1", *EFFORTS)
THRESHOLDS: Final = np.linspace(0.0, 0.95, 20).round(2)

Json = dict[str, Any]


def summarise(rows: Iterable[EpisodeRow], num: int = NUM_RESAMPLES, seed: int = 0) -> Json:
    """Return all tables of a benchmark.

    Args:
        rows: Its episodes: every question in every place.
        num: Resamples of the bootstrap.
        seed: Key of their draws.

    Raises:
        ValueError: If there are none, or some are missing.
    """
    scores = Scores.of(rows)
    summary = _Summary(scores, resample(scores.source_sizes, num, seed))
    return {
        "conditions": [summary.condition(place) for place in scores.places.values()],
        "comparisons": _corrected(list(summary.comparisons())),
        "aggregates": list(summary.aggregates()),
        "robustness": list(summary.robustness()),
        "sim_to_real": list(summary.sim_to_real()),
        "statistics": {"confidence": CONFIDENCE, "num_resamples": num, "seed": seed},
    }


def _corrected(comparisons: list[Json]) -> list[Json]:
    """Return comparisons with p-values corrected for the number of all of them."""
    corrected = holm([each["p_value"] for each in comparisons])
    return [each | {"p_holm": p} for each, p in zip(comparisons, corrected, strict=True)]


@dataclass(frozen=True, slots=True)
class _Summary:
    """All scores, and how often each question is drawn in each resample."""

    scores: Scores
    counts: Floats

    def condition(self, found: PlaceScores) -> Json:
        """Return the headline numbers of a place."""
        rates = {name: self._rate(found.values(name)) for name in RATES}
        means = {name: self._mean(found.values(name)) for name in MEANS}
        return {
            **found.place._asdict(),
            "num_episodes": found.exact_match.size,
            "num_failed": found.num_failed,
            "metrics": {**rates, **means},
            "by_source": self._by_source(found),
            "by_hops": self._by_hops(found),
        }

    def _rate(self, values: Floats) -> Json:
        return rate_interval(values, self.counts).as_json()

    def _mean(self, values: Floats) -> Json | None:
        """Return a mean with its interval; None where nothing is known."""
        known = ~np.isnan(values)
        if not known.any():
            return None
        sums = np.where(known, values, 0.0).sum(1)
        per_question = np.divide(
            sums, known.sum(1), out=np.full(len(sums), np.nan), where=known.any(1)
        )
        return mean_interval(per_question, self.counts).as_json()

    def _by_source(self, found: PlaceScores) -> Json:
        return {
            source: self._part(found, np.arange(part.start, part.stop))
            for source, part in self.scores.sources.items()
        }

    def _by_hops(self, found: PlaceScores) -> Json:
        names = [str(hops or "?") for hops in self.scores.num_hops]
        return {
            name: self._part(found, np.flatnonzero(np.array(names) == name))
            for name in sorted(set(names))
        }

    def _part(self, found: PlaceScores, chosen: np.ndarray[Any, Any]) -> Json:
        outcomes = found.exact_match[chosen]
        interval = rate_interval(outcomes, self.counts[:, chosen])
        return {"exact_match": interval.as_json(), "num_episodes": outcomes.size}

    # --- between places -------------------------------------------------------------------------

    def _difference(self, one: PlaceScores, other: PlaceScores) -> Interval:
        """Return the difference of exact match on the same questions."""
        return mean_interval(one.exact_match.mean(1) - other.exact_match.mean(1), self.counts)

    def comparisons(self) -> Iterator[Json]:
        """Yield every pair of agents in every environment with every engine and noise."""
        for one, other in combinations(self.scores.places.values(), 2):
            if one.place[1:] == other.place[1:]:
                yield self._compare(one, other)

    def _compare(self, one: PlaceScores, other: PlaceScores) -> Json:
        difference = self._difference(one, other)
        won = (one.exact_match.sum(1) - other.exact_match.sum(1)).astype(int)
        plain = one.exact_match.shape[1] == 1
        return {
            **{name: getattr(one.place, name) for name in ("environment", "engine", "noise")},
            "agent_a": one.place.agent,
            "agent_b": other.place.agent,
            "metric": "exact_match",
            "num_pairs": len(won),
            "difference": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "p_value": sign_flip_test(won.tolist()),
            "p_mid": mcnemar_mid_p(int((won > 0).sum()), int((won < 0).sum())) if plain else None,
            "test": "mcnemar-exact" if plain else "sign-flip-exact",
        }

    def aggregates(self) -> Iterator[Json]:
        """Yield the scores of each agent over all tasks."""
        for (agent, environment), found in self._grouped("agent", "environment").items():
            scores, resampled = self._task_scores(found)
            profile = performance_profile(scores, THRESHOLDS)
            shares = performance_profile(resampled, THRESHOLDS)
            bands = [percentiles(*pair) for pair in zip(profile, shares.T, strict=True)]
            iqm = float(interquartile_mean(scores))
            yield {
                "agent": agent,
                "environment": environment,
                "iqm": percentiles(iqm, interquartile_mean(resampled)).as_json(),
                "mean": percentiles(float(scores.mean()), resampled.mean(-1)).as_json(),
                "profile": {
                    "thresholds": THRESHOLDS.tolist(),
                    "share": [band.mean for band in bands],
                    "low": [band.low for band in bands],
                    "high": [band.high for band in bands],
                },
            }

    def _task_scores(self, found: list[PlaceScores]) -> tuple[Floats, Floats]:
        """Return exact match a task and seed, shape (tasks * seeds,), and that of each resample.

        A task is a data source with an engine and a noise; its questions are resampled, the same
        ones in all tasks of one source.
        """
        parts = [(each, part) for each in found for part in self.scores.sources.values()]
        scores = [each.exact_match[part].mean(0) for each, part in parts]
        resampled = [
            resampled_means(each.exact_match[part], self.counts[:, part]) for each, part in parts
        ]
        return np.concatenate(scores), np.concatenate(resampled, axis=1)

    def robustness(self) -> Iterator[Json]:
        """Yield exact match against noise for each agent and engine that was asked for noise."""
        groups = self._grouped("agent", "environment", "engine")
        for (agent, environment, engine), found in groups.items():
            if not writes_noise(engine) or len(found) < 2:
                continue
            curve = sorted(found, key=lambda each: each.place.noise)
            levels = [each.place.noise for each in curve]
            values = np.array([each.exact_match.mean() for each in curve])
            resampled = resampled_means(
                np.stack([each.exact_match.mean(1) for each in curve], axis=1), self.counts
            )
            area = percentiles(float(area_under(levels, values)), area_under(levels, resampled))
            points = [{"noise": p.place.noise, **self._rate(p.exact_match)} for p in curve]
            yield {
                "agent": agent,
                "environment": environment,
                "engine": engine,
                "points": points,
                "area": area.as_json(),
            }

    def sim_to_real(self) -> Iterator[Json]:
        """Yield the exact match of each agent with a simulator without noise minus a real one's."""
        for (agent, environment), found in self._grouped("agent", "environment").items():
            clean = [each for each in found if each.place.noise == 0]
            kinds = {each.place: engine_kind(each.place.engine) for each in clean}
            for one in (each for each in clean if kinds[each.place] is EngineKind.SIMULATOR):
                for other in (each for each in clean if kinds[each.place] is EngineKind.REAL):
                    yield {
                        "agent": agent,
                        "environment": environment,
                        "simulator": one.place.engine,
                        "real": other.place.engine,
                        "gap": self._difference(one, other).as_json(),
                    }

    def _grouped(self, *names: str) -> Mapping[tuple[str, ...], list[PlaceScores]]:
        groups: dict[tuple[str, ...], list[PlaceScores]] = {}
        for place, found in self.scores.places.items():
            key = tuple(str(getattr(place, name)) for name in names)
            groups.setdefault(key, []).append(found)
        return groups

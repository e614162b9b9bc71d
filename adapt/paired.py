"""Paired: runs of one evaluation, and their differences on the same draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ttest_1samp

from adapt import results
from adapt.results import Results, Row
from skelcore.errors import InputError


@dataclass(frozen=True)
class Run:
    """The results of a run under a name that no other has, and why they cannot be set beside the first's, if so."""

    name: str
    results: Results
    unlike: str | None

    @property
    def shown(self) -> str:
        return f"{self.name} †" if self.unlike else self.name


@dataclass(frozen=True)
class Paired:
    """A run's row minus the first run's on the same draws; ``p`` is corrected for the number of differences."""

    run: str
    name: str
    k: int | str
    mean: float
    half_width: float
    p: float


def read(paths: Sequence[Path]) -> list[Run]:
    """Open runs, the first of them the reference; raises InputError for fewer than two, and as ``results.read``."""
    if len(paths) < 2:
        raise InputError("compare: name at least two runs, each the folder of a skelshot adapt")
    names = _names([path.parent if path.name == "results.json" else path for path in paths])
    first, *rest = (results.read(path) for path in paths)
    return [Run(names[0], first, None),
            *(Run(name, each, _unlike(first, each)) for name, each in zip(names[1:], rest, strict=True))]


def differences(runs: Sequence[Run]) -> list[Paired]:
    """Of every row that a comparable run shares with the first, on the same draws; left out where nothing differs."""
    first = {(row.name, row.k): row for row in runs[0].results.rows}
    found = [(run.name, row, np.array(row.accuracy) - first[row.name, row.k].accuracy)
             for run in runs[1:] if not run.unlike
             for row in run.results.rows if len(row.accuracy) > 1 and _same_draws(first.get((row.name, row.k)), row)]
    found = [(name, row, each) for name, row, each in found if each.any()]
    corrected = holm(np.array([_p(each) for *_, each in found]))
    return [Paired(name, row.name, row.k, *results.interval(each), p)
            for (name, row, each), p in zip(found, corrected.tolist(), strict=True)]


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (m,) corrected for their number by the step-down method of Holm (1979)."""
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(raised, 1)
    return corrected


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("compare: a run is named twice")


def _unlike(first: Results, other: Results) -> str | None:
    """Why numbers of the two must not be set against each other, if so."""
    if other.benchmark.name != first.benchmark.name:
        return f"benchmark {other.benchmark.name}, not {first.benchmark.name}"
    if other.data.get("fingerprint") != first.data.get("fingerprint"):
        return "other data (their fingerprints differ)"
    if other.classes != first.classes:
        return "other classes"
    if other.data.get("query") != first.data.get("query"):
        return "other queries"
    if _leaves_queries(first) and other.draws.sha256.keys() != first.draws.sha256.keys():
        return "other queries (those that the largest k leaves of the one split)"
    shared = first.draws.sha256.keys() & other.draws.sha256.keys()
    if not shared:
        return "no k in common"
    differ = [k for k in first.draws.sha256 if k in shared and other.draws.sha256[k] != first.draws.sha256[k]]
    return f"other draws (their sha256 differ at k = {', '.join(differ)})" if differ else None


def _leaves_queries(found: Results) -> bool:
    """Whether support and queries share a split, so that what is drawn decides what is asked."""
    return found.data.get("support") is not None and found.data.get("support") == found.data.get("query")


def _same_draws(first: Row | None, row: Row) -> bool:
    """Whether the first run has that row on as many draws: methods that train run on the first few only."""
    return first is not None and len(first.accuracy) == len(row.accuracy)


def _p(values: np.ndarray) -> float:
    """Two-sided p-value of the mean of differences (D,) under a t-test; 0 for differences that are all alike."""
    return float(ttest_1samp(values, 0).pvalue) if np.ptp(values) > 1e-12 else 0.0

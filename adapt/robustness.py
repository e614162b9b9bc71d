"""Robustness tables: what few-shot accuracy becomes when poses lose joints, come from another estimator, or show fewer
persons.

The first two tables are those of PoseConv3D (Duan et al. 2022). Draws, heads and statistics are those of `skelshot
adapt`; what ``robustness.json`` holds stands in adapt/robustness_report.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, field_validator

from adapt import benchmarks, checks, evaluate, represent, results, robustness_report
from adapt.config import TRAINING, AdaptConfig, Method, Representation, Shots
from adapt.corrupt import Dropped, Substituted, common
from adapt.episodes import Budget, Episodes
from adapt.represent import Clips
from adapt.robustness_report import Row
from skelcore import command
from skelcore.errors import InputError
from skelcore.store import Store, open_store

Probability = Annotated[float, Field(ge=0, le=1)]
Found = dict[tuple[str, str, Budget], np.ndarray]  # accuracies (D,) by representation, method and k
_UNFIT = TRAINING | {"align"}


class RobustnessConfig(AdaptConfig):
    """A few-shot evaluation, and what happens to its poses."""

    output: str = Field("robustness", description="folder for robustness.json, .md and .png, and the cache")
    k_shot: list[Shots] = Field([5], min_length=1, description="labelled clips a class")
    representations: list[Representation] = Field(
        ["pretrained", "fused", "statistics", "raw", "filled"], min_length=1, description="as of adapt")
    methods: list[Method] = Field(["ridge"], min_length=1, description="heads on frozen, pooled features")
    probabilities: list[Probability] = Field(
        [0, 0.125, 0.25, 0.5, 1], description="of a random joint's being dropped from a frame; 0 is there anyway, none "
                                              "at all leaves this table out")
    query_data: str | None = Field(None, description="the same clips, by id, with the poses of another estimator")
    query_layout: str | None = Field(None, description="its layout, where its joint count does not tell it")
    persons_kept: list[Shots] = Field([], description="numbers of persons of a clip to compare, such as 1, 2")

    @field_validator("methods")
    @classmethod
    def _frozen(cls, methods: list[Method]) -> list[Method]:
        if unfit := _UNFIT.intersection(methods):
            raise ValueError(f"{min(unfit)} takes no pooled features of a frozen encoder; leave it out")
        return methods


@dataclass(frozen=True)
class Bench:
    """What is opened and checked.

    ``clips`` are those of base classes, of the pool and the queries (n,), in this order, so that one that is both
    support and query is there twice and can be altered as the one alone. ``positions`` (n,) are theirs in
    ``substitute``, the data of another estimator.
    """

    config: RobustnessConfig
    asked: Episodes
    budgets: tuple[Budget, ...]
    clips: Clips
    kinds: tuple[str, ...]
    substitute: Store | None
    positions: np.ndarray

    @property
    def queries(self) -> np.ndarray:
        """Which of the clips (n,) are queries."""
        return np.arange(len(self.clips.used)) >= len(self.clips.used) - len(self.asked.queries)

    @property
    def names(self) -> tuple[str, str]:
        """What the data of the two estimators are called: as short as tells them apart."""
        first, second = self.config.data, str(self.config.query_data)
        short = Path(first).stem, Path(second).stem
        return short if short[0] != short[1] else (first, second)


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    return command.run(words, RobustnessConfig, str(__doc__), plan, execute)


def plan(config: RobustnessConfig) -> str:
    """What would be measured, after the checks that it begins with."""
    bench = prepare(config)
    return "\n".join([*_facts(bench), f"features: {', '.join(bench.kinds)}; writes {config.output}/robustness.json"])


def execute(config: RobustnessConfig) -> None:
    """Measure, print the tables, and write the folder."""
    bench = prepare(config)
    rows = [*dropped(bench), *estimators(bench), *persons(bench)]
    draws = {"seeds": list(bench.asked.seeds), "sha256": {str(k): bench.asked.hashes(k) for k in bench.budgets}}
    data = {"uri": config.data, "fingerprint": bench.clips.used.fingerprint, "classes": list(bench.asked.classes),
            "query_uri": config.query_data, "support": len(bench.asked.pool), "query": len(bench.asked.queries)}
    checkpoint = [{"path": each.path, "sha256": each.sha256} for each in bench.clips.sources]
    print(robustness_report.write(Path(config.output), config, rows, _facts(bench),
                                  {"data": data, "checkpoint": checkpoint, "draws": draws}))


def prepare(config: RobustnessConfig) -> Bench:
    """Open and check what is needed, and write nothing; raises InputError for what is wrong."""
    if not (config.probabilities or config.query_data or config.persons_kept):
        raise InputError("probabilities=[] leaves nothing to measure: give some, or query_data= or persons_kept=")
    checks.writable("output", Path(config.output))
    checks.writable("cache", represent.cache_folder(config))
    kinds = represent.kinds(config)
    store, substitute, positions = open_store(config.data, config.data_layout), None, np.zeros(0, np.int64)
    if config.query_data is not None:
        substitute = open_store(config.query_data, config.query_layout)
        store, positions = common(store, substitute)
        substitute = represent.view(substitute, np.arange(len(substitute)), config.project)
    trial = benchmarks.prepare(store, config)
    asked = trial.asked
    if not isinstance(asked, Episodes):
        raise InputError(f"benchmark={config.benchmark}: robustness is measured on nested draws, not on N-way episodes")
    if len(asked.draws) < 2:
        raise InputError("robustness is measured over draws, and there is one: name another benchmark, or more lists")
    chosen = np.concatenate([asked.base, asked.pool, asked.queries])
    clips = represent.open_clips(config, represent.view(store, chosen, config.project), len(asked.learned))
    return Bench(config, asked, trial.budgets, clips, kinds, substitute, positions[chosen] if substitute else positions)


def dropped(bench: Bench) -> Iterator[Row]:
    """Queries that lack a joint in a frame with each probability; support that is clean, and support that lacks some
    alike (robust)."""
    if not bench.config.probabilities:
        return
    store, whole = bench.clips.used, _measured(bench, bench.clips)
    for support, affected in (("clean", bench.queries), ("robust", np.ones(len(store), bool))):
        for p in sorted({0.0, *bench.config.probabilities}):
            altered = Dropped(store, np.arange(len(store)), p * affected, bench.config.seed)
            yield from _rows("dropped", support, p, _of(bench, altered) if p else whole, whole)


def estimators(bench: Bench) -> Iterator[Row]:
    """Support and queries by either of two pose estimators."""
    if bench.substitute is None:
        return
    store, names = bench.clips.used, bench.names
    for query in (0, 1):
        cells = {}
        for support in (query, 1 - query):
            substituted = np.where(bench.queries, query, support) == 1
            altered = Substituted(store, np.arange(len(store)), bench.substitute,
                                  np.where(substituted, bench.positions, -1))
            cells[support] = _of(bench, altered) if substituted.any() else _measured(bench, bench.clips)
            yield from _rows("estimators", names[support], names[query], cells[support], cells[query])


def persons(bench: Bench) -> Iterator[Row]:
    """As many persons of each clip, of support and queries, as are to be kept."""
    reference: Found = {}
    for count in bench.config.persons_kept:
        found = _measured(bench, bench.clips.keeping(count))
        reference = reference or found
        yield from _rows("persons", "equal", count, found, reference)


def _of(bench: Bench, store: Store) -> Found:
    """Accuracies on altered clips."""
    return _measured(bench, bench.clips.of(store))


def _measured(bench: Bench, clips: Clips) -> Found:
    """Accuracies, the mean over training runs, of every head on every representation of the clips."""
    asked, pool = bench.asked, len(bench.asked.base) + np.arange(len(bench.asked.pool))
    found: Found = {}
    for kind in bench.kinds:
        runs = [[torch.from_numpy(each[rows]).to(clips.device) for rows in (pool, bench.queries)]
                for each in clips.features(kind)]
        for method in bench.config.methods:
            for k in bench.budgets:
                predicted = [evaluate.predict(method, asked, support, queries, k) for support, queries in runs]
                found[kind, method, k] = np.mean([evaluate.accuracies(each, asked)[0] for each in predicted], 0)
    return found


def _rows(table: str, support: str, condition: float | str, found: Found, reference: Found) -> Iterator[Row]:
    for (kind, method, k), accuracy in found.items():
        yield Row(table, kind, method, k, support, condition, accuracy.tolist(), *results.interval(accuracy),
                  results.interval(accuracy - reference[kind, method, k]))


def _facts(bench: Bench) -> list[str]:
    config, asked = bench.config, bench.asked
    facts = [f"data: {config.data}, layout {bench.clips.used.layout.name}: {len(asked.pool)} clips for support, "
             f"{len(asked.queries)} queries, {len(asked.classes)} classes; {len(asked.draws)} draws, the same in every "
             "cell"]
    if config.query_data is not None:
        facts.append(f"the same clips by another estimator, as far as both have them: {config.query_data}")
    if asked.transductive:
        facts.append("support and queries share a split, so that draws overlap, and whitening has seen the queries "
                     "without their labels: transductive")
    return [*facts, *(f"checkpoint: {each.path}, sha256 {each.sha256[:16]}" for each in bench.clips.sources),
            *dict.fromkeys(each.note for each in bench.clips.sources if each.note)]


if __name__ == "__main__":
    sys.exit(main())

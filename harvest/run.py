"""Harvest poses from videos: python harvest/run.py configs/harvest.yaml [key=value ...]

Without CONFIG the job is read from the cluster file that `ray submit` leaves on the head node.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harvest import estimators, fetch, plan, summary
from harvest.config import BOOTSTRAP, Harvest
from harvest.estimators import Estimator
from harvest.ledger import Entry, Ledger
from harvest.plan import Source
from harvest.video import Outcome
from harvest.workspace import Workspace
from skelcore import command, layouts
from skelcore.errors import InputError
from skelcore.progress import Progress


def harvest(config: Harvest) -> None:
    """Harvest what the output folder lacks; does nothing when it lacks nothing."""
    fetch.check(config)
    expanded = plan.expand(config.sources)
    with Workspace(config) as workspace:
        sources = plan.update(workspace.plan, expanded, config.shard_size)
        with Ledger(workspace.ledger) as ledger:
            run = _Run(workspace, ledger, sources)
            try:
                run.resume(config)
            finally:
                run.report()


class _Run:
    """One run over a plan: what is left, what has been done."""

    def __init__(self, workspace: Workspace, ledger: Ledger, sources: list[Source]) -> None:
        self._workspace, self._ledger, self._sources = workspace, ledger, sources
        self._shards: dict[int, list[Source]] = {}
        for source in sources:
            self._shards.setdefault(source.shard, []).append(source)
        self._started, self._frames, self._settled = time.monotonic(), 0, 0
        self._left: Counter[int] = Counter()

    def resume(self, config: Harvest) -> None:
        closed = self._ledger.closed
        self._workspace.discard_all_but({source.id for source in self._sources if source.shard not in closed})
        pending = [source for source in self._sources if not self._is_settled(source)]
        self._left.update(source.shard for source in pending)
        for shard in self._shards:
            self._close_if_complete(shard)
        if not pending:
            return
        # Built once here, so that a wrong name or missing weights end the command before Ray starts.
        _check(estimators.build(config.estimator, config.layout), config.estimator)
        from harvest.drive import drive

        self._started = time.monotonic()
        with Progress(len(self._sources), "videos", done=len(self._sources) - len(pending)) as progress:
            def settle(source: Source, outcome: Outcome, attempts: int) -> None:
                self._settle(source, outcome, attempts)
                progress.update(1, **{"frames/s": self._rate()})

            drive(config, pending, settle)

    def report(self) -> None:
        counts = summary.summarise(self._sources, self._ledger)
        before = summary.read(self._workspace.summary)
        run = before.get("run")
        if self._settled or run is None:
            run = {"videos": self._settled, "frames": self._frames, "frames_per_second": round(self._rate(), 2),
                   "seconds": round(time.monotonic() - self._started, 1)}
        # A killed run leaves a summary older than its ledger, so the next must write it even if it settles nothing.
        if before != {**counts, "run": run}:
            summary.write(self._workspace.summary, counts, run)
        print(summary.describe(counts))

    def _is_settled(self, source: Source) -> bool:
        """Settled and, where it gave something, either in a closed shard or still at hand."""
        entry = self._ledger.entries.get(source.id)
        if entry is None or source.shard in self._ledger.closed:
            return entry is not None
        return self._workspace.holds(source) or not entry.gave_tracks

    def _settle(self, source: Source, outcome: Outcome, attempts: int) -> None:
        self._workspace.keep(source, outcome)
        dropped = Counter(str(track["reason"]) for track in outcome.rejected)
        self._ledger.settle(Entry(source.id, outcome.status, outcome.reason, outcome.detail, len(outcome.sequences),
                                  dict(sorted(dropped.items())), outcome.frames, outcome.seconds, attempts))
        self._settled += 1
        self._frames += outcome.frames
        self._left[source.shard] -= 1
        self._close_if_complete(source.shard)

    def _close_if_complete(self, shard: int) -> None:
        if not self._left[shard] and shard not in self._ledger.closed:
            self._workspace.close(shard, self._shards[shard], self._ledger)

    def _rate(self) -> float:
        return self._frames / max(time.monotonic() - self._started, 1e-9)


def _check(estimator: Estimator, name: str) -> None:
    """Raise InputError for an estimator whose poses could not be stored."""
    layout = estimator.layout
    if layouts.get(layout.name) != layout:
        raise InputError(f"estimator={name}: its layout differs from the known {layout.name}")
    provenance = getattr(estimator, "provenance", None)
    if not isinstance(provenance, dict):
        raise InputError(f"estimator={name}: its provenance must be a dict of what JSON can hold")
    try:
        json.dumps(provenance, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"estimator={name}: its provenance is not JSON: {error}") from None


def describe(config: Harvest) -> str:
    """What a run would do, without doing it."""
    sources, _ = plan.merge(Path(config.output) / "plan.jsonl", plan.expand(config.sources), config.shard_size)
    shards = 1 + max(source.shard for source in sources)
    urls = sum(source.is_url for source in sources)
    return f"{len(sources)} sources ({urls} URLs) in {shards} shards -> {config.output}"


def main(argv: Sequence[str] | None = None) -> int:
    bootstrap = Path(BOOTSTRAP).expanduser()
    return command.run(sys.argv[1:] if argv is None else argv, Harvest, (__doc__ or "").strip(), describe, harvest,
                       section=("metadata", "harvest"), default_file=str(bootstrap) if bootstrap.exists() else None)


if __name__ == "__main__":
    sys.exit(main())

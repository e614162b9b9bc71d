"""Harvest poses from videos: python harvest/run.py configs/harvest.yaml [key=value ...]

`ray submit` runs it without CONFIG: the job is then read from the cluster file left on the head node.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harvest import accounts, estimators, fetch, plan, playlists, sources, summary, weeding
from harvest.address import is_url
from harvest.config import BOOTSTRAP, Harvest
from harvest.estimators import Estimator
from harvest.ledger import Entry, Ledger
from harvest.mirror import Mirror
from harvest.monitor import Monitor
from harvest.plan import Plan
from harvest.sources import Source
from harvest.video import Outcome
from harvest.workspace import Workspace
from skelcore import command, layouts
from skelcore.errors import InputError


def harvest(config: Harvest) -> None:
    """Harvest what the output folder lacks; does nothing when it lacks nothing."""
    fetch.check(config)
    with Workspace(config) as space:
        planned = plan.update(space.plan, _named(config), config.shard_size)
        with Ledger(space.ledger, planned) as ledger:
            run = _Run(config, space, ledger, planned)
            try:
                run.resume()
            finally:
                run.report()


class _Run:
    """One run over a plan: what is left, what has been done."""

    def __init__(self, config: Harvest, space: Workspace, ledger: Ledger, planned: Plan) -> None:
        self._config, self._space, self._ledger, self._plan = config, space, ledger, planned
        self._left: Counter[int] = Counter()  # sources to come, by shard
        self._monitor: Monitor | None = None
        self._provenance: dict[str, Any] = {}

    def resume(self) -> None:
        if self._config.retry:
            self._ledger.reopen(self._ledger.select(self._config.retry))
        self._space.discard_closed(self._plan, self._ledger)
        wanted = list(self._wanted())
        self._left.update(self._plan[index].shard for index in wanted)
        for shard in self._open():
            self._close_if_complete(shard)
        if wanted:
            self._harvest(wanted)
        if self._config.duplicates != "keep" and not any(self._open()):
            weeding.weed(self._space, self._plan, self._ledger, self._config.duplicates)

    def _harvest(self, wanted: list[int]) -> None:
        # Built once here, so that a wrong name or missing weights end the command before Ray starts.
        chosen = self._config.estimator
        estimator = estimators.build(chosen, self._config.layout)
        _check(estimator, chosen if isinstance(chosen, str) else chosen.name)
        self._provenance = {"harvest": self._config.fingerprint, **estimator.provenance}
        from harvest.drive import drive

        total = len(self._plan)
        with Monitor(self._space.board, total, total - len(wanted)) as self._monitor:
            drive(self._config, self._plan, wanted, self._settle, self._monitor.state)

    def report(self) -> None:
        """Bring summary, attribution and report in line with the ledger and the shards."""
        monitor = self._monitor
        run = monitor.run() if monitor and monitor.tally.settled else None
        print(summary.describe(accounts.settle(self._space, self._plan, self._ledger, run, self._provenance)))

    def _open(self) -> Iterator[int]:
        return (shard for shard in range(self._plan.shards) if shard not in self._ledger.closed)

    def _wanted(self) -> Iterator[int]:
        """What is not settled, and in open shards what is settled but whose tracks are not at hand."""
        yield from self._ledger.pending().tolist()
        for shard in self._open():
            gave = {self._plan[index].id: index for index in self._plan.members(shard)
                    if self._ledger.gave_tracks(index)}
            yield from (gave[id] for id in self._space.lost(shard, gave))

    def _settle(self, index: int, outcome: Outcome, attempts: int) -> None:
        source = self._plan[index]
        self._space.keep(source, outcome)
        dropped = Counter(outcome.reasons)
        entry = Entry(source.id, outcome.status, outcome.reason, outcome.detail, len(outcome.sequences),
                      dict(sorted(dropped.items())), outcome.frames, outcome.seconds, attempts,
                      fetch.host(source.address) or "", str(outcome.origin.get("licence") or ""),
                      content=outcome.content)
        self._ledger.settle(index, entry)
        assert self._monitor
        self._monitor.settled(entry)
        self._left[source.shard] -= 1
        self._close_if_complete(source.shard)

    def _close_if_complete(self, shard: int) -> None:
        if not self._left[shard] and shard not in self._ledger.closed:
            self._space.close(shard, self._plan, self._ledger)


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
    with TemporaryDirectory() as folder:
        planned = (Mirror(config.output).peek("plan.jsonl", Path(folder)) if is_url(config.output)
                   else Path(config.output) / "plan.jsonl")
        found = plan.preview(planned, _named(config), config.shard_size)
    return f"{found.planned + found.added} sources ({found.urls} URLs) in {found.shards} shards -> {config.output}"


def _named(config: Harvest) -> Iterator[Source]:
    """The sources that the configuration names, looked up one by one."""
    return sources.expand(chain(config.sources, playlists.expand(config.playlists, config.fetch)))


def main(argv: Sequence[str] | None = None) -> int:
    bootstrap = Path(BOOTSTRAP).expanduser()
    # Only where `ray submit` has put this file: a cluster file left on a workstation is nobody's job.
    submitted = bootstrap.exists() and Path(__file__).resolve().parent == bootstrap.parent.resolve()
    if submitted:
        os.environ.setdefault("RAY_ADDRESS", "auto")
    return command.run(sys.argv[1:] if argv is None else argv, Harvest, (__doc__ or "").strip(), describe, harvest,
                       section=("metadata", "harvest"), default_file=str(bootstrap) if submitted else None)


if __name__ == "__main__":
    sys.exit(main())

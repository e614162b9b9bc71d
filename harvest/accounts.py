"""The accounts of an output folder: summary, attribution and report, told again from its ledger and its shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harvest import attribution, copies, holdings, parts, report, summary
from harvest.ledger import Ledger
from harvest.plan import Plan
from harvest.tally import Tally
from harvest.workspace import Workspace


def settle(space: Workspace, planned: Plan, ledger: Ledger, run: Mapping[str, Any] | None = None,
           provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Bring the files in line, if anything has changed, and give the counts.

    ``run`` are the figures of a run that did something, and ``provenance`` is what made its poses; without them those
    of the last one stay. Raises InputError for a damaged shard.
    """
    before = summary.read(space.summary)
    tally = Tally.of(ledger.rows())
    parts.sweep(space.root)
    if tally.states["forgotten"]:
        copies.tidy(space.root, _Forgotten(planned, ledger))
    counts = summary.summarise(len(planned), tally, holdings.count(space.root),
                               provenance or before.get("provenance", {}), copies.count(space.root))
    told = dict(run or before.get("run", {}))
    # A killed run leaves a summary older than its ledger, so the next must write it even if it settles nothing. It
    # comes last, and so vouches for the others.
    if before != {**counts, "run": told} or not space.report.exists():
        attribution.write(space.root)
        report.write(space.root, planned, ledger.rows(), {**counts, "run": told})
        summary.write(space.summary, counts, told)
    space.publish()
    return counts


class _Forgotten:
    """The ids of sources that are forgotten."""

    def __init__(self, planned: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = planned, ledger

    def __contains__(self, id: object) -> bool:
        index = self._plan.find(str(id))
        return index is not None and self._ledger.status(index) == "forgotten"

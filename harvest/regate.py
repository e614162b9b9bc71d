"""Judge the tracks of a finished harvest anew: skelshot regate OUTPUT gates=strict [gates.NAME=VALUE ...] [--dry-run]

Tracks move between OUTPUT/shards and OUTPUT/rejected; no video is needed. Thresholds that are not given are those of
the preset for the harvest's estimator, not those that the folder had. Later harvests into it go on with the new gates.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pydantic import Field

from harvest import accounts, judged, plan, workspace
from harvest.config import Gates
from harvest.gates import main_reason
from harvest.judged import Id, Judged
from harvest.ledger import Entry, Ledger
from harvest.plan import Plan
from harvest.workspace import Workspace
from skelcore import command
from skelcore.config import Config
from skelcore.errors import InputError


class Regate(Config):
    """The output folder of a finished harvest, and the gates that its tracks must pass from now on."""

    output: str = Field(min_length=1, description="folder of the harvest")
    gates: Gates


@dataclass
class Moves:
    """How many tracks there are, and how many changed sides; ``out`` by the reason for which they were kept no more."""

    tracks: int = 0
    kept: int = 0
    back: int = 0
    out: Counter[str] = field(default_factory=Counter)

    def add(self, found: Judged, reasons: dict[Id, str]) -> None:
        self.tracks += len(found.tracks)
        self.kept += len(found.tracks) - len(reasons)
        self.back += sum(id not in reasons and id not in found.kept for id in found.tracks)
        self.out.update(reason for id, reason in reasons.items() if id in found.kept)

    def __str__(self) -> str:
        why = ", ".join(f"{reason} {count}" for reason, count in self.out.most_common())
        return (f"{self.tracks} tracks: {self.out.total()} go out{f' ({why})' if why else ''}, {self.back} come back; "
                f"{self.kept} kept + {self.tracks - self.kept} rejected")


def regate(config: Regate) -> None:
    """Judge all tracks anew and move those whose verdict has changed; a killed run is completed by the next."""
    print(_pass(config, write=True))


def describe(config: Regate) -> str:
    """What ``regate`` would do, without doing it."""
    return str(_pass(config, write=False))


def _pass(config: Regate, write: bool) -> Moves:
    moves = Moves()
    before = workspace.settled(config.output)
    gates = config.gates.fitted(before.estimator)
    with Workspace(before) as space:
        sources = plan.read(space.plan)
        with Ledger(space.ledger, sources) as ledger:
            for shard in closed(config.output, sources, ledger):
                found = judged.read(space.root, shard)
                reasons = found.verdicts(gates)
                moves.add(found, reasons)
                if write:
                    move(space, shard, found, reasons, sources, ledger)
            if write:
                space.resettle(gates=gates.model_dump(mode="json"))
                accounts.settle(space, sources, ledger)
    return moves


def closed(output: str, sources: Plan, ledger: Ledger) -> Iterator[int]:
    """All shards; raises InputError unless each is closed, since what is open was judged by the old gates."""
    left = set(range(sources.shards)) - ledger.closed
    if left:
        raise InputError(f"output={output}: the harvest is not finished, {len(left)} of its {sources.shards} shards "
                         "are open; finish it first")
    return iter(range(sources.shards))


def move(space: Workspace, shard: int, found: Judged, reasons: dict[Id, str], sources: Plan, ledger: Ledger) -> None:
    """Bring a shard and the entries of its sources to new verdicts; ``reasons`` are those of its rejected tracks."""
    # Before any file changes, because it refuses what the ledger does not know.
    changed = _changed(sources, ledger, found, reasons)
    _rewrite(space, shard, found, reasons, ledger)
    if changed:
        ledger.settle_many(changed)
    space.publish_shard(shard, sources, ledger)


def _rewrite(space: Workspace, shard: int, found: Judged, reasons: dict[Id, str], ledger: Ledger) -> None:
    """Bring the files to the new verdicts; what needs no change is not touched.

    Every track is in one of the two places at every moment: those that leave are first put with the rejected, and
    those that come back are taken from there last.
    """
    kept = set(found.tracks).difference(reasons)
    on_disk = found.rejected
    if kept != found.kept or found.torn:
        on_disk = {**found.rejected, **reasons}
        if on_disk != found.rejected:
            judged.write_rejected(space.root, shard, found, on_disk)
        name = judged.write_kept(space.root, shard, found, kept)
        if bool(kept) != bool(found.kept):
            ledger.close_shard(shard, name)
    if reasons != on_disk or found.torn:
        judged.write_rejected(space.root, shard, found, reasons)


def _changed(sources: Plan, ledger: Ledger, found: Judged, reasons: dict[Id, str]) -> list[tuple[int, Entry]]:
    """The entries that differ from what the ledger says, be it because a kill came before the last run could say it."""
    changed = []
    for key in found.videos:
        index = sources.find(key)
        entry = None if index is None else ledger.entry(index)
        if index is None or entry is None or entry.status not in ("ok", "rejected"):
            raise InputError(f"shards of {key}: the ledger knows of no tracks of this source; restore the ledger, or "
                             "harvest again into another output")
        ids = sorted(id for id in found.tracks if id[0] == key)
        after = _entry(entry, [(reasons.get(id), found.tracks[id][1]["frames"]) for id in ids])
        if after != entry:
            changed.append((index, after))
    return changed


def _entry(before: Entry, tracks: list[tuple[str | None, float]]) -> Entry:
    """A source's entry, by the reasons and the frames of its tracks."""
    dropped = Counter(reason for reason, _ in tracks if reason is not None)
    kept = len(tracks) - dropped.total()
    return replace(before, status="ok" if kept else "rejected", reason="" if kept else main_reason(tracks),
                   tracks=kept, dropped=dict(sorted(dropped.items())))


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and "=" not in words[0] and not words[0].endswith((".yaml", ".yml")):
        words[0] = f"output={json.dumps(words[0])}"
    return command.run(words, Regate, (__doc__ or "").strip(), describe, regate)


if __name__ == "__main__":
    sys.exit(main())

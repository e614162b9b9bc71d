"""The tally: what became of the sources, counted from the ledger's entries as they go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harvest.ledger import Entry

STATES = ("ok", "rejected", "failed", "forgotten")
LOCAL = "no host"
OTHER = "other"


@dataclass
class Tally:
    """Counts over entries, one a source.

    ``states`` counts them by status; ``hosts`` those that failed, ``licences`` those that are
    ok; ``retried`` are the attempts after a source's first; ``seconds`` is the length of the video looked at.
    """

    states: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    tracks: int = 0
    frames: int = 0
    seconds: float = 0.0
    retried: int = 0

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Tally:
        tally = cls()
        for entry in entries:
            tally.add(entry)
        return tally

    def add(self, entry: Entry) -> None:
        self.states[entry.status] += 1
        self.tracks += entry.tracks
        self.frames += entry.frames
        self.seconds += entry.seconds
        self.retried += max(entry.attempts - 1, 0)
        self.dropped.update(entry.dropped)
        if entry.status == "failed":
            self.failed[entry.reason] += 1
            self.hosts[entry.host or LOCAL] += 1
        elif entry.status == "rejected":
            self.rejected[entry.reason] += 1
        elif entry.status == "ok":
            self.licences[entry.licence or "none declared"] += 1

    @property
    def settled(self) -> int:
        return sum(self.states.values())


def largest(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """The ``most`` largest counts, the largest first and equals by name; what they leave is ``other``."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[:most])
    if rest := sum(count for _, count in ranked[most:]):
        kept[OTHER] = kept.get(OTHER, 0) + rest
    return kept

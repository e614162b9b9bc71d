"""Evidence for the report: what the ledger's entries say, gathered in one pass and in little memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from harvest.ledger import Entry
from harvest.tally import Tally

_MOST_EXAMPLES = 5
_MOST_BINS = 4096
Bins = defaultdict[int, float]


@dataclass
class Timeline:
    """Counts by state and seconds of video against the time of settling, in bins that widen as the span grows."""

    width: int = 1  # of a bin, in seconds
    states: dict[str, Bins] = field(default_factory=dict)
    seconds: Bins = field(default_factory=lambda: defaultdict(float))

    def add(self, entry: Entry) -> None:
        if entry.time <= 0:  # written before entries had a time
            return
        at = entry.time // self.width
        self.states.setdefault(entry.status, defaultdict(float))[at] += 1
        self.seconds[at] += entry.seconds
        if len(self.seconds) > _MOST_BINS:
            self._widen()

    def binned(self, bins: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """Edges (B + 1,) in unix seconds of at most ``bins`` equal bins, counts (B,) by state, and seconds (B,).

        Raises ValueError where nothing has a time.
        """
        first = min(self.seconds)
        span = max(self.seconds) - first + 1
        least = -(-span // bins)
        # The last bin must not stand half empty, as if the harvest had slowed down.
        step = min(range(least, 2 * least + 1), key=lambda each: (-span % each) / each)
        count = -(-span // step)

        def total(found: Bins) -> np.ndarray:
            where = (np.fromiter(found, np.int64, len(found)) - first) // step
            return np.bincount(where, np.fromiter(found.values(), np.float64, len(found)), count)

        edges = (first + step * np.arange(count + 1)) * self.width
        return edges, {name: total(found) for name, found in self.states.items()}, total(self.seconds)

    def _widen(self) -> None:
        self.width *= 2
        self.states = {name: _halved(found) for name, found in self.states.items()}
        self.seconds = _halved(self.seconds)


@dataclass
class Evidence:
    """The tally, the timeline, and for each reason of failure or rejection its first few entries."""

    tally: Tally = field(default_factory=Tally)
    timeline: Timeline = field(default_factory=Timeline)
    examples: dict[tuple[str, str], list[Entry]] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Evidence:
        evidence = cls()
        for entry in entries:
            evidence.tally.add(entry)
            evidence.timeline.add(entry)
            if entry.status in ("failed", "rejected"):
                found = evidence.examples.setdefault((entry.status, entry.reason), [])
                if len(found) < _MOST_EXAMPLES:
                    found.append(entry)
        return evidence


def _halved(found: Bins) -> Bins:
    wider: Bins = defaultdict(float)
    for at, count in found.items():
        wider[at // 2] += count
    return wider

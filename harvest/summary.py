"""The summary: every source accounted for once, and what there is of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harvest.holdings import Holdings
from harvest.tally import STATES, Tally, largest
from skelcore.files import write_text

_MOST_NAMES = 50


def summarise(sources: int, tally: Tally, holdings: Holdings, provenance: Mapping[str, Any],
              copies: int | None = None) -> dict[str, Any]:
    """The accounts of a plan of ``sources`` sources; a function of these alone.

    sources = ok + rejected + failed + forgotten + pending; ``quarantined`` are those of the failed that killed
    their worker twice. Long counts keep their 50
    largest, and the rest is ``other``. ``hours`` are of the videos looked at, ``person_hours`` of the tracks in the
    shards. ``copies`` is how many of them are listed, None where nobody looked; ``provenance`` says what made the
    poses.
    """
    pending = sources - tally.settled
    assert pending >= 0, f"{tally.settled} entries for {sources} sources"
    return {
        "sources": sources,
        **{state: tally.states[state] for state in STATES},
        "pending": pending,
        "quarantined": tally.failed["crash"],
        "failed_by_reason": _sorted(tally.failed),
        "failed_by_host": largest(tally.hosts, _MOST_NAMES),
        "rejected_by_reason": _sorted(tally.rejected),
        "retried_attempts": tally.retried,
        "tracks": tally.tracks,
        "dropped_tracks_by_reason": _sorted(tally.dropped),
        "copies": copies,
        "licences": largest(tally.licences, _MOST_NAMES),
        "frames": tally.frames,
        "hours": round(tally.seconds / 3600, 6),
        "person_hours": round(holdings.seconds / 3600, 6),
        "shards": holdings.shards,
        "shard_bytes": holdings.bytes,
        "provenance": dict(provenance),
    }


def write(path: Path, counts: dict[str, Any], run: dict[str, Any]) -> None:
    """``summary.json``: the counts, and under ``run`` what the last run that did something measured."""
    write_text(path, json.dumps({**counts, "run": run}, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What ``write`` wrote, or nothing where there is no such file: all of it can be told again from the ledger."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(counts: Mapping[str, Any]) -> str:
    """The counts in a few lines."""
    parts = [f"{counts[name]} {name}" for name in ("ok", "rejected", "failed")]
    parts += [f"{counts['forgotten']} forgotten"] if counts["forgotten"] else []
    lines = [f"{counts['sources']} sources = {' + '.join([*parts, str(counts['pending'])])} pending; "
             f"{counts['tracks']} tracks from {counts['frames']} frames"]
    for state in ("failed", "rejected"):
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts[f"{state}_by_reason"].items())
        if reasons:
            lines.append(f"{state}: {reasons}")
    if counts.get("copies"):
        lines.append(f"copies: {counts['copies']}, listed in duplicates.jsonl")
    return "\n".join(lines)


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))

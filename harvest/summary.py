"""The summary: every source accounted for once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from harvest.ledger import Ledger
from harvest.plan import Source
from skelcore.files import write_text


def summarise(plan: list[Source], ledger: Ledger) -> dict[str, Any]:
    """Counts over the plan; sources = ok + rejected + failed + pending by construction, and checked."""
    entries = [ledger.entries[source.id] for source in plan if source.id in ledger.entries]
    status = Counter(entry.status for entry in entries)
    ok = [entry for entry in entries if entry.status == "ok"]
    dropped: Counter[str] = Counter()
    for entry in entries:
        dropped.update(entry.dropped)
    counts: dict[str, Any] = {
        "sources": len(plan),
        "ok": status["ok"],
        "rejected": status["rejected"],
        "failed": status["failed"],
        "pending": len(plan) - len(entries),
        "failed_by_reason": _sorted(Counter(entry.reason for entry in entries if entry.status == "failed")),
        "rejected_by_reason": _sorted(Counter(entry.reason for entry in entries if entry.status == "rejected")),
        "tracks": sum(entry.tracks for entry in ok),
        "dropped_tracks_by_reason": _sorted(dropped),
        "frames": sum(entry.frames for entry in entries),
        "hours": round(sum(entry.seconds for entry in entries) / 3600, 6),
        "shards": len(ledger.closed),
    }
    assert counts["sources"] == counts["ok"] + counts["rejected"] + counts["failed"] + counts["pending"]
    return counts


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


def describe(counts: dict[str, Any]) -> str:
    """The counts in two or three lines."""
    lines = [f"{counts['sources']} sources = {counts['ok']} ok + {counts['rejected']} rejected + "
             f"{counts['failed']} failed + {counts['pending']} pending; "
             f"{counts['tracks']} tracks from {counts['frames']} frames"]
    for state in ("failed", "rejected"):
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts[f"{state}_by_reason"].items())
        if reasons:
            lines.append(f"{state}: {reasons}")
    return "\n".join(lines)


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))

"""One source from its file to gated tracks: extract, judge."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from harvest import extract, gates
from harvest.causes import FULL, line
from harvest.config import Harvest
from harvest.content import content_key
from harvest.estimators import Estimator
from harvest.fetch import Fetched
from harvest.ledger import Status
from harvest.reasons import VideoError
from harvest.sources import Source
from skelcore.sequence import PoseSequence


@dataclass(frozen=True)
class Outcome:
    """What a source gave: kept ``sequences``, ``dropped`` ones and in the same order the gates that they fail,
    ``reasons``; the block's ``origin``, the seconds that its host asks us to ``wait``, and where nothing is kept the
    ``content_key`` of the file."""

    status: Status
    reason: str = ""
    detail: str = ""
    sequences: list[PoseSequence] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    dropped: list[PoseSequence] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0
    wait: float | None = None
    content: str = ""


def estimate(source: Source, file: Fetched, config: Harvest, estimator: Estimator) -> Outcome:
    """Harvest one source whose file is here; whatever is wrong with it comes back as data."""
    try:
        def worth(numbers: dict[str, float]) -> bool:
            return gates.judge(numbers, config.gates) is None

        found = extract.scan(file.path, estimator, config.fps, config.detect_every, config.short_side,
                             config.limits.max_seconds, config.max_persons, source.clip,
                             together=worth if config.interactions == "together" else None)
        outcome = _judged(source, config, estimator, found, file.info)
        # What is kept is known again by its poses, and costs no second reading.
        return outcome if outcome.sequences else replace(outcome, content=content_key(file.path, source.clip))
    except Exception as error:
        return failed(error)


def failed(error: Exception) -> Outcome:
    """What an error makes of a source: its reason, ``disk`` where that is full, else ``error`` and where it arose."""
    if isinstance(error, VideoError):
        return Outcome("failed", error.reason, line(error.detail, 300), wait=error.wait)
    if isinstance(error, OSError) and error.errno in FULL:
        return Outcome("failed", "disk", str(error.strerror))
    where = traceback.extract_tb(error.__traceback__)[-1]
    told = line(f"{type(error).__name__}: {error}", 250)
    return Outcome("failed", "error", line(f"{told} ({where.name}, line {where.lineno})", 300))


def _judged(source: Source, config: Harvest, estimator: Estimator, found: extract.Extraction,
            info: dict[str, str]) -> Outcome:
    kept: list[PoseSequence] = []
    dropped: list[PoseSequence] = []
    reasons: list[str] = []
    for number, sequence in enumerate(found.sequences):
        # By this number a track is known in its video, whichever of the others are kept.
        numbers = sequence.meta["quality"] = {"track": number, **sequence.meta["quality"]}
        reason = gates.judge(numbers, config.gates)
        if reason is None:
            kept.append(sequence)
        else:
            dropped.append(sequence)
            reasons.append(reason)
    frames = (sequence.meta["quality"]["frames"] for sequence in dropped)
    main = "" if kept else gates.main_reason(zip(reasons, frames, strict=True))
    return Outcome("ok" if kept else "rejected", main, "", kept, _origin(source, info, found.cuts),
                   {"harvest": config.fingerprint, **estimator.provenance}, dropped, reasons, found.frames,
                   round(found.seconds, 3))


def _origin(source: Source, info: dict[str, str], cuts: list[float]) -> dict[str, Any]:
    """What a block says of its source, and where that cuts: no folder of this machine, no credentials."""
    shots = {"cuts": cuts} if cuts else {}
    if not source.is_url:
        return {"file": source.location.rsplit("/", 1)[-1], **source.meta, **shots}
    parts = urlsplit(source.address)
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return {"url": url, **info, **source.meta, **shots}

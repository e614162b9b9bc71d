"""Predictions: what is said of queries, as JSON and as CSV; see adapt/predict.py for the schema."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.annotate import Person
from adapt.windows import Answer

_COLUMNS = ("video", "track", "main", "start", "stop", "answer", "confidence", "novelty", "note")


@dataclass(frozen=True)
class Found:
    """What is said of one query: of its ``people``, whose ``wholes`` are the answers for all of a track, the one that
    the video is about having the number ``main``; or why nothing is said."""

    video: Path
    sha256: str
    people: tuple[Person, ...] = ()
    wholes: tuple[Answer, ...] = ()
    main: int = 0
    note: str = ""
    readable: bool = True


def as_json(found: Found, learnt_from: Collection[str]) -> dict[str, Any]:
    """One entry of ``videos``; ``learnt_from`` are the sha256 of the support."""
    said = _said(found.wholes[found.main]) if found.wholes else {
        "answer": None, "confidence": None, "ranked": [], "novelty": None}
    tracks = [{"track": number, "main": number == found.main, **_times(whole), **_said(whole),
               "segments": [{**_times(each), **_said(each)} for each in person.segments]}
              for number, (person, whole) in enumerate(zip(found.people, found.wholes, strict=True))]
    return {"video": str(found.video), "sha256": found.sha256, "in_support": found.sha256 in learnt_from,
            "note": found.note, **said, "tracks": tracks}


def as_csv(found: Sequence[Found], classes: Sequence[str]) -> str:
    """A line for each segment, or for a query of which nothing is said."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*_COLUMNS, *(f"p({name})" for name in classes)])
    for each in found:
        if not each.people:
            table.writerow([each.video, *[""] * (len(_COLUMNS) - 2), each.note, *[""] * len(classes)])
        for number, person in enumerate(each.people):
            for answer in person.segments:
                table.writerow([each.video, number, int(number == each.main), *_times(answer).values(), answer.name,
                                f"{answer.confidence:.6f}", f"{answer.novelty:.6f}", "",
                                *(f"{share:.6f}" for share in answer.probabilities)])
    return text.getvalue()


def _times(answer: Answer) -> dict[str, float]:
    return {"start": round(answer.start, 3), "stop": round(answer.stop, 3)}


def _said(answer: Answer) -> dict[str, Any]:
    return {"answer": answer.name, "confidence": answer.confidence, "novelty": answer.novelty,
            "ranked": [{"class": name, "confidence": share} for name, share in answer.ranked]}

"""Write report.html on a harvest: skelshot harvest-report OUTPUT

One file that opens from disk: what came in, what failed and why, how fast, how good the tracks are, and how they look.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harvest import plan, specimens, summary
from harvest.evidence import Evidence, Timeline
from harvest.ledger import Entry, Ledger
from harvest.plan import Plan
from harvest.reasons import FAILURES, TRANSIENT
from harvest.specimens import QUALITIES, Specimens
from harvest.tally import STATES, Tally, largest
from skelcore import charts, command, gallery, page
from skelcore.config import flat
from skelcore.errors import InputError
from skelcore.files import write_text

_MOST_HOSTS = 20
_LONGEST = 300  # characters of an address or a detail
_BINS = 40
_COLOURS = {"ok": "a", "rejected": "b", "failed": "c"}
_USER = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


def write(folder: Path, planned: Plan, entries: Iterable[Entry], told: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` into an output folder, from its plan and its ledger's entries, one a source.

    What the shards and the last run amount to is ``told``, by default what ``summary.json`` holds. Takes one pass over
    the entries and memory that does not grow with them. Raises InputError for damaged files.
    """
    evidence = Evidence.of(entries)
    told = summary.read(folder / "summary.json") if told is None else told
    found = specimens.gather(folder)
    path = folder / "report.html"
    write_text(path, page.document("Harvest report", [
        "<h1>Harvest</h1>", *_accounts(len(planned), evidence.tally, told), *_failures(evidence, planned),
        *_speed(evidence.timeline, told.get("run")), *_licences(evidence.tally), *_quality(found, evidence.tally),
        *_gallery(found), *_settings(folder, told, found)]))
    return path


def _accounts(sources: int, tally: Tally, told: Mapping[str, Any]) -> Iterator[str]:
    states = {**{state: tally.states[state] for state in STATES}, "pending": sources - tally.settled}
    terms = [f"{count:,} {state}" for state, count in states.items() if count]
    yield f'<p class="note">{sources:,} sources = {" + ".join(terms) or "none"}</p>'
    yield page.tiles([
        ("videos with people", f"{states['ok']:,}"), ("tracks of people", f"{tally.tracks:,}"),
        ("hours of video", _figure(tally.seconds / 3600)), ("person-hours", _figure(told.get("person_hours"))),
        ("shards", _figure(told.get("shards"))), ("MB of shards", _figure(told.get("shard_bytes", 0) / 1e6))])
    yield "<h2>What came in</h2>"
    yield '<div class="charts">'
    yield charts.bars("Sources by what became of them", {name: count for name, count in states.items() if count},
                      lambda name: _COLOURS.get(name, "d"))
    if tally.rejected:
        yield charts.bars("Rejected videos by reason", largest(tally.rejected, _MOST_HOSTS), lambda _: "b")
    yield "</div>"


def _failures(evidence: Evidence, planned: Plan) -> Iterator[str]:
    yield "<h2>What failed, and why</h2>"
    if not evidence.tally.failed:
        yield "<p>Nothing.</p>"
    else:
        yield ('<p class="note">Orange failures may pass, and <code>retry=transient</code> tries them again; red ones '
               f"lie with the source. {evidence.tally.retried:,} attempts were further ones of the same source.</p>")
        yield '<div class="charts">'
        yield charts.bars("Failures by class", largest(evidence.tally.failed, len(FAILURES)), _gravity,
                          lambda reason: FAILURES.get(reason, ""))
        yield charts.bars("Failures by host", largest(evidence.tally.hosts, _MOST_HOSTS), lambda _: "c")
        yield "</div>"
    if evidence.examples:
        rows = [[reason, status, _address(planned, entry)[:_LONGEST], entry.attempts, entry.detail[:_LONGEST]]
                for (status, reason), found in sorted(evidence.examples.items()) for entry in found]
        yield page.folded(f"{len(rows)} examples of failures and rejections, a few of each class",
                          page.table(["class", "", "source", "attempts", "detail"], rows))


def _speed(timeline: Timeline, run: Any) -> Iterator[str]:
    yield "<h2>Throughput</h2>"
    if isinstance(run, Mapping):
        yield page.tiles([(str(name).replace("_", " "), _figure(value)) for name, value in run.items()])
        yield '<p class="note">Of the last run that did something.</p>'
    if not timeline.seconds:
        return
    edges, counts, seconds = timeline.binned(_BINS)
    ticks = edges[np.linspace(0, len(edges) - 1, min(len(edges), 4)).round().astype(int)]
    days = edges[-1] - edges[0] > 86400
    hours = (edges[1] - edges[0]) / 3600

    def clock(moment: float) -> str:
        return datetime.fromtimestamp(moment, UTC).strftime("%d %b %H:%M" if days else "%H:%M:%S")

    order = [state for state in ("ok", "rejected", "failed") if state in counts]
    yield '<div class="charts">'
    yield charts.columns("Videos settled an hour (UTC)", edges, {state: counts[state] / hours for state in order},
                         clock, ticks)
    yield charts.columns("Hours of video an hour (UTC)", edges, {"hours": seconds / 3600 / hours}, clock, ticks)
    yield "</div>"


def _licences(tally: Tally) -> Iterator[str]:
    if tally.licences:
        yield "<h2>Licences</h2>"
        yield charts.bars("Videos with people by the licence they declare", largest(tally.licences, _MOST_HOSTS))
        yield '<p class="note"><code>ATTRIBUTION.csv</code> names the source of every block.</p>'


def _quality(found: Specimens, tally: Tally) -> Iterator[str]:
    yield "<h2>Quality of the tracks</h2>"
    if tally.dropped:
        yield charts.bars("Rejected tracks by gate", largest(tally.dropped, _MOST_HOSTS), lambda _: "b")
    measured = [name for name in QUALITIES if len(found.kept[name]) + len(found.rejected[name])]
    if not measured:
        yield "<p>There are no tracks in closed shards.</p>"
        return
    sample = "" if found.sampled == found.shards else f" Taken from {found.sampled:,} of {found.shards:,} shards."
    yield f'<p class="note">The outermost columns hold what lies beyond them.{sample}</p><div class="charts">'
    for name in measured:
        yield _histogram(QUALITIES[name], found.kept[name], found.rejected[name])
    yield "</div>"


def _histogram(title: str, kept: np.ndarray, rejected: np.ndarray) -> str:
    low, high = np.percentile(np.concatenate([kept, rejected]), (1, 99)).tolist()
    edges = np.linspace(low, high if high > low else low + 1, _BINS // 2 + 1)
    heights = {name: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
               for name, values in (("kept", kept), ("rejected", rejected))}
    return charts.columns(title, edges, heights, "{:.3g}".format, charts.round_numbers(edges[0], edges[-1]))


def _gallery(found: Specimens) -> Iterator[str]:
    if found.shown is not None:
        yield "<h2>Some of the tracks</h2>"
        yield ('<p class="note">Left is blue, right is orange; a click tells more. <code>skelshot browse OUTPUT</code> '
               f"makes a page of all tracks. These are taken from at most {specimens.MOST_SHOWN} shards.</p>")
        yield gallery.fragment(found.shown)


def _settings(folder: Path, told: Mapping[str, Any], found: Specimens) -> Iterator[str]:
    yield "<h2>Settings and provenance</h2>"
    made = [made for made in (told.get("provenance"), *found.provenance) if isinstance(made, Mapping) and made]
    for number, each in enumerate(made):
        if each not in made[:number]:
            yield page.table(["made by", ""], [[name, str(value)] for name, value in flat(each)])
    try:
        settings = json.loads((folder / "settings.json").read_text("utf-8"))
    except (OSError, ValueError):
        settings = None
    if isinstance(settings, Mapping):
        yield page.table(["setting", ""], [[name, str(value)] for name, value in flat(settings)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.Parser(prog="skelshot harvest-report", description=__doc__,
                            formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="folder of a harvest")
    return parser.run(argv, lambda words: print(f"open {_on(Path(words.output))}"))


def _on(folder: Path) -> Path:
    for name in ("plan.jsonl", "ledger.jsonl"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; OUTPUT must be the output folder of a harvest")
    planned = plan.read(folder / "plan.jsonl")
    with Ledger(folder / "ledger.jsonl", planned) as ledger:
        return write(folder, planned, ledger.rows())


def _gravity(reason: str) -> str:
    return "b" if reason in TRANSIENT else "c"


def _address(planned: Plan, entry: Entry) -> str:
    """Where a source is: no folder of this machine, no credentials."""
    index = planned.find(entry.id)
    if index is None:
        return entry.id
    source = planned[index]
    return _USER.sub(r"\1", source.address) if source.is_url else source.address.rpartition("/")[2]


def _figure(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"
    return "–" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())

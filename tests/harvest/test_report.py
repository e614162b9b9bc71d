import json
import pickle
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from harvest import report, specimens, summary
from harvest.evidence import Evidence, Timeline
from harvest.holdings import Holdings
from harvest.ledger import Entry, Ledger
from harvest.plan import update
from harvest.reasons import FAILURES
from harvest.sources import Source
from harvest.tally import Tally
from skelcore.errors import InputError
from tests import browser
from tests.harvest import stock

# What runs if any of it is taken for markup: it sets the page's title, or throws.
EVIL = "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">\u202e'\"&<!--"
NOON = 1_700_000_000


def harvested(folder, entries, shards=2, evil=""):
    """An output folder as a harvest leaves it: plan, ledger, summary, settings, shards and rejected tracks."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Source(entry.id, f"https://me:secret@host.example/{entry.id}{evil}.mp4") for entry in entries]
    planned = update(folder / "plan.jsonl", [*sources, Source("later", "/home/someone/later.mp4")], 64)
    for number in range(shards):
        stock.shard(folder, number, [(f"k{number}", {"url": "u", "label": evil or "wave"})])
        stock.rejected(folder, number, [{"source": "k", "track": 3, "reason": "small", "score": 0.4, "height": 0.05,
                                         "seconds": 2.0, "presence": 0.9, "jitter": 0.01}])
    counts = summary.summarise(len(planned), Tally.of(entries), Holdings(shards, 10**6, 2, 4, 7200.0),
                               {"harvest": "0123", "estimator": evil or "blobs"})
    summary.write(folder / "summary.json", counts, {"videos": len(entries), "frames_per_second": 12.5})
    (folder / "settings.json").write_text(json.dumps({"fps": 15.0, "gates": {"min_score": 0.65}, "name": evil}))
    with Ledger(folder / "ledger.jsonl", planned) as ledger:
        ledger.settle_many((planned.find(entry.id), entry) for entry in entries)
    return planned


def some(evil=""):
    return [*(Entry(f"ok{i}", "ok", tracks=2, dropped={"small": 1}, frames=30, seconds=36.0, host="host.example",
                    licence=evil or "cc0", time=NOON + 60 * i) for i in range(5)),
            *(Entry(f"gone{i}", "failed", "gone", f"404 {evil}", host=evil or "host.example", attempts=2, time=NOON)
              for i in range(7)),
            Entry("killer", "failed", "crash", time=NOON), Entry("away", "failed", "network", "refused", time=NOON),
            Entry("nobody", "rejected", "no_person", seconds=36.0, time=NOON + 3600)]


class Page(HTMLParser):
    """What a page asks of elsewhere, the labels and series of its charts, its texts."""

    def __init__(self, text):
        super().__init__()
        self.outside, self.labels, self.bars, self.texts, self.scripts = [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.outside += [value for name, value in attributes if name in ("src", "href") and value]
        self.scripts += tag == "script"
        if tag == "svg":
            assert given["role"] == "img" and given["aria-label"]
            self.labels.append(given["aria-label"])

    def handle_data(self, data):
        self.texts.append(data)


def written(folder):
    assert report.main([str(folder)]) == 0
    return (folder / "report.html").read_text("utf-8")


def test_the_page_counts_what_the_ledger_holds(tmp_path, capsys):
    harvested(tmp_path, some())
    text = written(tmp_path)
    assert capsys.readouterr().out == f"open {tmp_path / 'report.html'}\n"
    page = Page(text)
    assert "16 sources = 5 ok + 1 rejected + 9 failed + 1 pending" in page.texts
    for bar in ("ok: 5", "gone: 7 (the host answered 404 or 410)", "crash: 1 (its worker process died twice)",
                "host.example: 7", "no host: 2", "no_person: 1", "cc0: 5", "small: 5"):
        assert bar in page.texts, bar
    assert {"Sources by what became of them", "Failures by class", "Failures by host", "Rejected tracks by gate",
            "Videos settled an hour (UTC)", *specimens.QUALITIES.values()} <= set(page.labels)
    assert page.texts.count("404 ") == 5 and "refused" in page.texts  # examples, capped
    assert page.outside == [] and "min_score" in text and "blobs" in page.texts
    assert "secret" not in text and "someone" not in text and str(tmp_path) not in text
    shown = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])
    assert (shown["tracks"], shown["total"], shown["keys"]) == (4, 4, ["k0", "k1"])
    assert text == written(tmp_path)


def test_histograms_hold_every_track(tmp_path):
    harvested(tmp_path, some())
    found = specimens.gather(tmp_path)
    assert (found.shards, found.sampled) == (2, 2)
    assert all(len(found.kept[name]) == 4 and len(found.rejected[name]) == 2 for name in ("score", "seconds"))
    assert sorted(found.kept["seconds"].round(3).tolist()) == [1, 1, 2, 2]
    assert found.provenance == [{"harvest": "0123"}]
    chart = report._histogram("t", np.array([0.0, 1.0, 1.0, 50.0]), np.array([0.5]))
    counts = [float(count) for count in re.findall(r"(?:kept|rejected) ([0-9.]+)<", chart)]
    assert sum(counts) == 5


def test_a_harvest_without_any_outcome_has_a_page(tmp_path):
    harvested(tmp_path, [], shards=0)
    text = written(tmp_path)
    assert "1 sources = 1 pending" in text and "There are no tracks" in text and "<section" not in text


def test_a_page_of_entries_without_a_time(tmp_path):
    planned = harvested(tmp_path, some())
    report.write(tmp_path, planned, [Entry("ok0", "ok")])
    assert "settled an hour" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("missing", ["plan.jsonl", "ledger.jsonl"])
def test_a_folder_of_something_else_is_refused(tmp_path, capsys, missing):
    harvested(tmp_path, some())
    (tmp_path / missing).unlink()
    assert report.main([str(tmp_path)]) == 2
    assert missing in capsys.readouterr().err and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("line", ["{", "[]", '{"score": "high"}', '{"score": null}'])
def test_a_damaged_list_of_rejected_tracks_is_named(tmp_path, line):
    harvested(tmp_path, some())
    (tmp_path / "rejected" / "000001.jsonl").write_text("{}\n" + line + "\n")
    with pytest.raises(InputError, match=r"000001\.jsonl, line 2"):
        specimens.gather(tmp_path)


def test_hostile_texts_are_texts(tmp_path):
    harvested(tmp_path, some(EVIL), evil=EVIL)
    text = written(tmp_path)
    page = Page(text)
    assert page.scripts == 2 and page.outside == []  # the gallery's data and behaviour
    assert "\u202e" not in text and "<img" not in text
    assert any("document.title" in each for each in page.texts)  # as text, it is there


@pytest.mark.slow
@pytest.mark.parametrize("evil", ["", EVIL])
def test_a_browser_shows_the_page_without_a_complaint(tmp_path, evil):
    harvested(tmp_path / "out", some(evil), evil=evil)
    written(tmp_path / "out")
    with browser.opened(tmp_path / "out" / "report.html", tmp_path / "profile") as page:
        assert page.see("document.title") == "Harvest report"
        assert "16 sources = 5 ok + 1 rejected + 9 failed + 1 pending" in page.see("document.body.textContent")
        page.place(".card")  # scrolls to the gallery, and whoever is in view is drawn: that sets a canvas's size
        page.wait("[...document.querySelectorAll('.card canvas')].filter(each => each.width !== 300).length === 4")
        page.click(".card")
        page.wait("document.querySelector('dialog').open")
        assert page.see("document.title") == "Harvest report"
        assert page.see("document.querySelectorAll('img').length") == 0
        assert page.see("document.querySelectorAll('script').length") == 2
        assert page.complaints == [] and page.requests == [(tmp_path / "out" / "report.html").as_uri()]


def many(count):
    chance = random.Random(0)
    reasons = list(FAILURES)
    for i in range(count):
        failed = chance.random() < 0.3
        yield Entry(f"v{i}", "failed" if failed else "ok", chance.choice(reasons) if failed else "", "x" * 200,
                    seconds=20.0, host=f"host{chance.randrange(300)}.example", time=NOON + 13 * i)


def test_many_sources_need_no_more_memory_or_room_than_few():
    evidence = Evidence.of(many(200_000))
    assert evidence.tally.settled == 200_000 and len(pickle.dumps(evidence)) < 500_000
    assert max(map(len, evidence.examples.values())) == 5
    edges, counts, seconds = evidence.timeline.binned(40)
    assert len(edges) <= 41 and sum(values.sum() for values in counts.values()) == 200_000
    assert seconds.sum() == pytest.approx(4e6)
    assert len("".join(report._speed(evidence.timeline, None))) < 50_000


def test_a_timeline_counts_what_a_loop_over_its_bins_counts():
    chance = random.Random(1)
    entries = [Entry(f"v{i}", chance.choice(["ok", "failed"]), "gone", seconds=float(chance.randrange(9)),
                     time=NOON + chance.randrange(9000)) for i in range(9000)]
    timeline = Timeline()
    for entry in entries:
        timeline.add(entry)
    assert timeline.width > 1
    edges, counts, seconds = timeline.binned(7)
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = [entry for entry in entries if low <= entry.time < high]
        assert counts["ok"][i] == sum(entry.status == "ok" for entry in inside)
        assert counts["failed"][i] == sum(entry.status == "failed" for entry in inside)
        assert seconds[i] == sum(entry.seconds for entry in inside)
    assert sum(values.sum() for values in counts.values()) == len(entries) and len(edges) <= 8


def test_the_command_explains_itself():
    done = subprocess.run([sys.executable, "-m", "harvest.report", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "OUTPUT" in done.stdout

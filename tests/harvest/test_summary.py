import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest import holdings, summary
from harvest.holdings import Holdings
from harvest.ledger import Entry, Ledger
from harvest.plan import update
from harvest.sources import Source
from harvest.tally import OTHER, Tally, largest
from skelcore.errors import InputError
from tests.harvest import stock

REASONS = {"ok": [""], "rejected": ["small", "no_person"], "failed": ["gone", "network", "crash"], "forgotten": [""]}
HOSTS = ["", "a.example", "b.example"]


@st.composite
def entries(draw):
    made = []
    for number in range(draw(st.integers(0, 12))):
        status = draw(st.sampled_from(sorted(REASONS)))
        made.append(Entry(
            f"v{number}", status, draw(st.sampled_from(REASONS[status])),
            tracks=draw(st.integers(0, 3)) if status == "ok" else 0,
            dropped=draw(st.dictionaries(st.sampled_from(["small", "gaps"]), st.integers(1, 4), max_size=2)),
            frames=draw(st.integers(0, 99)), seconds=draw(st.integers(0, 7200)) / 4, attempts=draw(st.integers(1, 3)),
            host=draw(st.sampled_from(HOSTS)), licence=draw(st.sampled_from(["", "cc0"]))))
    return made


@given(entries(), st.integers(0, 5))
def test_every_source_is_accounted_for_once(found, pending):
    counts = summary.summarise(len(found) + pending, Tally.of(found), Holdings(), {})
    states = ("ok", "rejected", "failed", "pending", "forgotten")
    assert counts["sources"] == sum(counts[name] for name in states)
    assert counts["pending"] == pending
    assert counts["quarantined"] == sum(entry.reason == "crash" for entry in found)
    assert sum(counts["failed_by_reason"].values()) == counts["failed"]
    assert sum(counts["failed_by_host"].values()) == counts["failed"]
    assert sum(counts["rejected_by_reason"].values()) == counts["rejected"]
    assert sum(counts["licences"].values()) == counts["ok"]
    assert counts["retried_attempts"] == sum(entry.attempts - 1 for entry in found)
    assert counts["hours"] == pytest.approx(sum(entry.seconds for entry in found) / 3600, abs=1e-6)
    assert counts["dropped_tracks_by_reason"].get("small", 0) == sum(entry.dropped.get("small", 0) for entry in found)


@given(entries(), st.randoms())
def test_the_order_of_the_entries_is_of_no_account(found, random):
    mixed = random.sample(found, len(found))
    one, other = (summary.summarise(20, Tally.of(each), Holdings(), {}) for each in (found, mixed))
    assert json.dumps(one) == json.dumps(other)


def test_more_entries_than_sources_are_noticed():
    with pytest.raises(AssertionError, match="2 entries for 1 sources"):
        summary.summarise(1, Tally.of([Entry("a", "ok"), Entry("b", "ok")]), Holdings(), {})


def test_the_tally_agrees_with_the_ledger_that_it_is_taken_from(tmp_path):
    planned = update(tmp_path / "plan.jsonl", [Source(f"v{i}", f"/v{i}.mp4") for i in range(6)], 4)
    with Ledger(tmp_path / "ledger.jsonl", planned) as ledger:
        outcomes = [("ok", ""), ("failed", "gone"), ("failed", "crash"), ("rejected", "small"), ("ok", "")]
        for index, (status, reason) in enumerate(outcomes):
            ledger.settle(index, Entry(planned[index].id, status, reason, tracks=2, frames=10, seconds=1.5))
        ledger.reopen([1])
        ledger.forget([0])
        told = summary.summarise(len(planned), Tally.of(ledger.rows()), Holdings(), {})
    assert (told["ok"], told["rejected"], told["forgotten"], told["pending"]) == (1, 1, 1, 2)
    assert (told["failed"], told["quarantined"]) == (1, 1)
    assert (told["tracks"], told["frames"], told["hours"]) == (6, 30, pytest.approx(4.5 / 3600, abs=1e-6))


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 9), max_size=9), st.integers(1, 9))
def test_the_largest_counts_lose_nothing_to_the_rest(counts, most):
    kept = largest(counts, most)
    assert sum(kept.values()) == sum(counts.values()) and len(kept) <= most + 1
    assert set(kept) - {OTHER} <= set(counts)
    ranked = [count for _, count in Counter(counts).most_common(most)]
    assert sorted(ranked, reverse=True) == [counts[name] for name in list(kept)[:len(ranked)]] or OTHER in counts


def test_what_is_written_is_read(tmp_path):
    counts = summary.summarise(1, Tally.of([Entry("a", "failed", "gone", host="x")]), Holdings(2, 10, 3, 4, 7200.0),
                               {"estimator": "blobs"})
    summary.write(tmp_path / "summary.json", counts, {"videos": 1})
    assert summary.read(tmp_path / "summary.json") == {**counts, "run": {"videos": 1}}
    assert counts["person_hours"] == 2 and counts["shards"] == 2 and counts["shard_bytes"] == 10
    assert summary.read(tmp_path / "none.json") == {}
    (tmp_path / "summary.json").write_text("[")
    assert summary.read(tmp_path / "summary.json") == {}


def test_the_lines_name_what_there_is():
    found = [Entry("a", "ok", tracks=3, frames=9), Entry("b", "failed", "gone"), Entry("c", "failed", "crash")]
    lines = summary.describe(summary.summarise(4, Tally.of(found), Holdings(), {})).splitlines()
    assert lines == ["4 sources = 1 ok + 0 rejected + 2 failed + 1 pending; 3 tracks from 9 frames",
                     "failed: crash 1, gone 1"]
    told = summary.summarise(4, Tally.of(found), Holdings(), {}, copies=2)
    assert summary.describe(told).splitlines()[2:] == ["copies: 2, listed in duplicates.jsonl"]


def test_holdings_are_those_of_whole_shards(tmp_path):
    assert holdings.count(tmp_path) == Holdings()
    first = stock.shard(tmp_path, 0, [("a", {}), ("b", {})])
    stock.shard(tmp_path, 1, [("c", {})])
    (tmp_path / "shards" / "000002.tar").write_bytes(b"no manifest")
    found = holdings.count(tmp_path)
    assert (found.shards, found.blocks, found.tracks) == (2, 3, 6)
    # Each block has a track of one second and one of two.
    assert found.seconds == pytest.approx(9.0)
    assert found.bytes > first.bytes == (tmp_path / "shards" / "000000.tar").stat().st_size
    for name in ("000001.tar", "000001.index.npz"):
        (tmp_path / "shards" / name).unlink()
    with pytest.raises(InputError, match=r"000001\.tar: cannot be read"):
        holdings.count(tmp_path)

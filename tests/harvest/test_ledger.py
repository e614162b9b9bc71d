import errno
import json
import os
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest import plan
from harvest.ledger import Entry, Ledger
from harvest.reasons import TRANSIENT
from harvest.sources import Source
from harvest.tally import Tally
from skelcore.errors import InputError, RunError

OK = Entry("a", "ok", tracks=2, dropped={"small": 1}, frames=30, seconds=2.0, host="e.org", licence="cc0", time=7)


@pytest.fixture
def planned(tmp_path):
    """Six sources in three shards."""
    return plan.update(tmp_path / "plan.jsonl", [Source(x, f"/{x}.mp4") for x in "abcdef"], 2)


def settled(ledger):
    return {entry.id: entry for entry in ledger.rows()}


def test_a_torn_last_line_is_forgotten_and_the_next_one_is_whole(tmp_path, planned):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, planned) as ledger:
        ledger.settle_many((i, Entry("abc"[i], "ok", tracks=1)) for i in range(3))
        ledger.close_shard(0, "shards/000000.tar")
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-cut])
        with Ledger(path, planned) as ledger:
            assert set(settled(ledger)) == set("abc") and not ledger.closed
            # Another may be writing: who only looks must not touch the file.
            assert path.read_bytes() == whole[:-cut]
            ledger.settle(3, Entry("d", "failed", "gone"))
            assert settled(ledger)["d"].reason == "gone"
        with Ledger(path, planned) as ledger:
            assert ledger.reason(3) == "gone" and len(settled(ledger)) == 4


@pytest.mark.parametrize(("line", "words"), [
    ('{"id": "a", "stat', "not a line of a ledger"), ('{"id": "a", "status": "odd"}', "not a line of a ledger"),
    ('{"id": "a", "status": "ok", "colour": 1}', "not a line of a ledger"), ("[]", "not a line of a ledger"),
    ('{"shard": "x"}', "not a line of a ledger"), ("[" * 99999, "not a line of a ledger"),
    ("3", "not a line of a ledger"),
    ('{"id": "z", "status": "ok"}', "'z' is not in the plan beside it; restore the plan"),
    ('{"id": "z", "status": "pending"}', "'z' is not in the plan beside it; restore the plan"),
    ('{"id": ["a"], "status": "ok"}', "not a line of a ledger"),
])
def test_damage_elsewhere_is_an_error(tmp_path, planned, line, words):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"shard": 1, "file": null}\n' + line + '\n{"shard": 0}\n')
    # Not "remove the line": the source may lie in a closed shard.
    with pytest.raises(InputError, match=f"ledger.jsonl, line 2: {words}.* use another output"):
        Ledger(path, planned)


def test_every_source_is_counted_once(tmp_path, planned):
    with Ledger(tmp_path / "ledger.jsonl", planned) as ledger:
        ledger.settle(0, OK)
        ledger.settle(1, Entry("b", "rejected", "small", dropped={"small": 2}, frames=15, seconds=1.0))
        ledger.settle(2, Entry("c", "failed", "gone"))
        ledger.settle(3, Entry("d", "failed", "gone"))
        ledger.settle(3, Entry("d", "failed", "corrupt"))
        ledger.forget([4])
    for now in (ledger, Ledger(tmp_path / "ledger.jsonl", planned)):
        tally = Tally.of(now.rows())
        assert tally.states == {"ok": 1, "rejected": 1, "failed": 2, "forgotten": 1} and len(now.pending()) == 1
        assert (tally.failed, tally.rejected) == ({"corrupt": 1, "gone": 1}, {"small": 1})
        assert (tally.tracks, tally.dropped, tally.frames, tally.seconds) == (2, {"small": 3}, 45, 3.0)


def test_what_is_known_of_one_source(tmp_path, planned):
    ledger = Ledger(tmp_path / "ledger.jsonl", planned)
    ledger.settle_many([(0, OK), (1, Entry("b", "failed", "gone")), (2, Entry("c", "rejected", "small"))])
    assert [ledger.status(i) for i in range(4)] == ["ok", "failed", "rejected", None]
    assert [ledger.reason(i) for i in range(4)] == ["", "gone", "small", ""]
    assert [ledger.gave_tracks(i) for i in range(4)] == [True, False, False, False]
    assert [ledger.is_settled(i) for i in range(4)] == [True, True, True, False]
    assert ledger.pending().tolist() == [3, 4, 5]
    assert ledger.entry(0) == OK and ledger.entry(3) is None
    assert ledger.entry(1).time > 1_600_000_000


def test_an_older_ledger_is_read(tmp_path, planned):
    (tmp_path / "ledger.jsonl").write_text(
        '{"attempts": 1, "detail": "", "dropped": {"gaps": 1}, "frames": 9, "id": "b", "reason": "", "seconds": 0.6, '
        '"status": "ok", "tracks": 3}\n{"file": null, "shard": 0}\n')
    ledger = Ledger(tmp_path / "ledger.jsonl", planned)
    assert ledger.closed == {0}
    assert ledger.entry(1) == Entry("b", "ok", tracks=3, dropped={"gaps": 1}, frames=9, seconds=0.6)


def test_reopened_sources_and_shards(tmp_path, planned):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, planned) as ledger:
        ledger.settle_many((i, Entry(source.id, "failed", "network")) for i, source in enumerate(planned))
        for shard in range(3):
            ledger.close_shard(shard, None)
        assert ledger.forget([5]) == [2] and ledger.forget([5]) == []
        ledger.close_shard(2, None)
        ledger.reopen([0, 2, 5])
        assert ledger.closed == {2} and ledger.pending().tolist() == [0, 2]
        assert ledger.status(5) == "forgotten"
    again = Ledger(path, planned)
    assert list(again.rows()) == list(ledger.rows()) and again.closed == {2} and set(settled(again)) == set("bdef")
    # A kill between the lines leaves open shards of settled sources, never the other way round.
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(12, len(lines)):
        path.write_bytes(b"".join(lines[:count]))
        partly = Ledger(path, planned)
        assert not partly.closed & {planned[i].shard for i in partly.pending()}


def test_retries_are_chosen_by_name(tmp_path, planned):
    ledger = Ledger(tmp_path / "ledger.jsonl", planned)
    outcomes = [("failed", "network"), ("failed", "gone"), ("failed", "rate_limited"), ("rejected", "network"),
                ("ok", "")]
    ledger.settle_many((i, Entry("abcde"[i], *outcome)) for i, outcome in enumerate(outcomes))
    assert {"network", "rate_limited"} <= set(TRANSIENT) and "gone" not in TRANSIENT
    assert ledger.select(["transient"]) == [0, 2]
    assert ledger.select(["all"]) == [0, 1, 2]
    assert ledger.select(["gone", "network"]) == [0, 1] and ledger.select([]) == ledger.select(["empty"]) == []
    ledger.forget([0])
    assert ledger.select(["transient"]) == [2]


entries = st.builds(
    lambda status, reason, tracks, dropped, frames, millis: Entry("", status, reason, "", tracks, dropped, frames,
                                                                  millis / 1000, time=1),
    st.sampled_from(["ok", "rejected", "failed"]), st.sampled_from(["", "gone", "small", "network"]), st.integers(0, 3),
    st.dictionaries(st.sampled_from(["small", "gaps"]), st.integers(1, 3)), st.integers(0, 99), st.integers(0, 10**6))
steps = st.lists(st.tuples(st.just("settle"), st.lists(st.tuples(st.integers(0, 5), entries), max_size=4))
                 | st.tuples(st.just("reopen"), st.sets(st.integers(0, 5)))
                 | st.tuples(st.just("forget"), st.integers(0, 5))
                 | st.tuples(st.just("close"), st.integers(0, 2)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_what_is_known_follows_whatever_happens(tmp_path_factory, done):
    folder = tmp_path_factory.mktemp("ledger")
    planned = plan.update(folder / "plan.jsonl", [Source(x, f"/{x}.mp4") for x in "abcdef"], 2)
    known: dict[int, Entry] = {}
    closed: set[int] = set()
    with pytest.MonkeyPatch.context() as patch, Ledger(folder / "ledger.jsonl", planned) as ledger:
        patch.setattr(os, "fsync", lambda _: None)
        for what, value in done:
            if what == "settle":
                pairs = [(i, Entry(**asdict(entry) | {"id": "abcdef"[i]})) for i, entry in value]
                ledger.settle_many(pairs)
                known.update(pairs)
            elif what == "reopen":
                ledger.reopen(value)
                opened = {i for i in value if i in known and known[i].status != "forgotten"}
                closed -= {i // 2 for i in opened}
                known = {i: entry for i, entry in known.items() if i not in opened}
            elif what == "forget":
                ledger.forget([value])
                if value not in known or known[value].status != "forgotten":
                    closed.discard(value // 2)
                known[value] = Entry("abcdef"[value], "forgotten", time=ledger.entry(value).time)
            else:
                ledger.close_shard(value, None)
                closed.add(value)
    for now in (ledger, Ledger(folder / "ledger.jsonl", planned)):
        assert {i: now.entry(i) for i in range(6) if now.is_settled(i)} == known and now.closed == closed
        assert [now.status(i) for i in range(6)] == [known[i].status if i in known else None for i in range(6)]
        assert sorted(entry.id for entry in now.rows()) == sorted("abcdef"[i] for i in known)


def test_a_full_disk_leaves_whole_lines(tmp_path, planned, monkeypatch):
    path, write, room = tmp_path / "ledger.jsonl", os.write, 400

    def meagre(file, data):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(room, len(data), 100)
        room -= taken
        return write(file, bytes(data[:taken]))

    monkeypatch.setattr(os, "write", meagre)
    with Ledger(path, planned) as ledger:
        ledger.settle(0, OK)
        with pytest.raises(RunError, match=r"ledger.jsonl: cannot be written: No space left .*run again"):
            ledger.settle_many((i, Entry("abcdef"[i], "failed", "gone")) for i in range(1, 6))
        assert not ledger.is_settled(1)
        room = 10_000
        ledger.settle(2, Entry("c", "failed", "gone"))
        assert set(settled(ledger)) == {"a", "c"}
    assert Ledger(path, planned).pending().tolist() == [1, 3, 4, 5]


def test_a_batch_waits_for_the_disk_once(tmp_path, planned, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Ledger(tmp_path / "ledger.jsonl", planned) as ledger:
        ledger.settle_many((i, Entry("abcdef"[i], "failed", "gone")) for i in range(6))
        assert len(synced) == 1
    assert len([json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]) == 6

"""Copies among harvested tracks: found, listed, rejected, and the same however the folder came to be."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest import accounts, copies, dedup, duplicates, forget, judged, parts, plan, pool, regate, weeding
from harvest.content import content_key
from harvest.copies import grouped, same_content, without
from harvest.ledger import Ledger
from harvest.sources import Source
from harvest.tally import Tally
from harvest.workspace import Workspace
from skelcore import browse, layouts, shards
from skelcore.gallery import Copy
from skelcore.shards import Block
from tests.harvest.twins import GROUPS, SOURCES, config, opened, settle, told, track
from tests.paths import DATA, need


def content(root):
    """All that a harvest leaves but times: tracks and reasons, the list, the parts."""
    rejected = [judged.read(root, shard).rejected for shard in range(4)]
    kept = [sorted(judged.read(root, shard).kept) for shard in range(4)]
    tars = {path.name: path.read_bytes() for path in sorted((root / "shards").iterdir())}
    return rejected, kept, tars, (root / copies.FILE).read_bytes()


def update(root):
    return opened(root, weeding.mark)


def drop(root, *words):
    assert dedup.main([str(root), "--drop", *words]) == 0


def test_copies_are_listed_and_nothing_else_changes(folder, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert dedup.main([str(folder)]) == 0
    assert capsys.readouterr().out == f"3 copies of 2 tracks; listed in {folder}/duplicates.jsonl\n"
    assert told(folder) == GROUPS
    rows = [json.loads(line) for line in (folder / "duplicates.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"group", "id", "of", "score"}] * 3
    assert [row["group"] for row in rows] == [0, 0, 1] and min(row["score"] for row in rows) > duplicates.THRESHOLD
    for name in ("summary.json", "report.html"):
        del before[folder / name]
    assert before.items() <= {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}.items()


def test_each_shard_is_described_once(folder, monkeypatch):
    assert update(folder) == update(folder)
    names = sorted(path.stem for path in (folder / parts.FOLDER).iterdir())
    assert names == sorted(shards.read(folder).shards.values())
    with monkeypatch.context() as patch:
        patch.setattr(parts, "describe", None)
        assert {copy.id: copy.of for copy in update(folder)} == GROUPS
    # Whatever is wrong with a part, it is made again.
    one, other, *_ = sorted((folder / parts.FOLDER).iterdir())
    good = one.read_bytes()
    one.write_bytes(b"damaged")
    np.savez(other, version=np.array(0))
    (folder / parts.FOLDER / f"{'0' * 64}.npz").write_bytes(good)
    assert {copy.id: copy.of for copy in update(folder)} == GROUPS
    assert one.read_bytes() == good and len(list((folder / parts.FOLDER).iterdir())) == 4


def test_a_folder_that_grew_ends_as_one_made_at_once(made, tmp_path):
    whole = shutil.copytree(made, tmp_path / "whole")
    drop(whole)
    for when in ([2, 4, 7], [4, 7]):
        grown = tmp_path / str(len(when))
        for count in when:
            settle(grown, list(SOURCES)[:count])
            drop(grown)
        assert content(grown) == content(whole)
    assert told(whole) == GROUPS


def test_dropped_copies_are_rejected_and_come_back_when_they_are_copies_no_more(folder, capsys):
    drop(folder)
    assert "3 copies of 2 tracks, rejected" in capsys.readouterr().out
    dropped = {id: reason for shard in range(4) for id, reason in judged.read(folder, shard).rejected.items()}
    assert dropped == {("c", 0): "duplicate", ("e", 0): "duplicate", ("f", 0): "duplicate"}
    planned = plan.read(folder / "plan.jsonl")
    with Ledger(folder / "ledger.jsonl", planned) as ledger:
        tally = Tally.of(ledger.rows())
    assert tally.dropped == tally.rejected == {"duplicate": 3} and tally.tracks == 4
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tracks"] == 4 and summary["copies"] == 3
    done = content(folder)
    drop(folder)
    assert content(folder) == done
    drop(folder, "--threshold", "0.999999")
    # Of the trimmed one the ends cannot be told to such a digit.
    assert told(folder) == {"c/0000": "a/0000", "e/0000": "b/0000"}
    assert judged.read(folder, 2).kept == {("f", 0)} and judged.read(folder, 2).rejected == {("e", 0): "duplicate"}
    drop(folder)
    assert content(folder) == done


def test_gates_come_first(folder):
    drop(folder)
    assert regate.main([str(folder), "gates.preset=all", "gates.min_seconds=2.5"]) == 0
    # f and e are too short now; c stays a copy, and does not come back for that.
    drop(folder)
    reasons = {id[0]: reason for shard in range(4) for id, reason in judged.read(folder, shard).rejected.items()}
    assert reasons == {"c": "duplicate", "e": "too_short", "f": "too_short"} and told(folder) == {"c/0000": "a/0000"}
    assert regate.main([str(folder), "gates=all"]) == 0
    drop(folder)
    assert told(folder) == GROUPS


def test_forgetting_removes_all_traces(folder):
    drop(folder)
    old = {path.name for path in (folder / parts.FOLDER).iterdir()}
    forget.forget(folder, ["a"])
    text = (folder / copies.FILE).read_text()
    assert '"a/' not in text and told(folder) == {"f/0000": "c/0000", "e/0000": "b/0000"}
    known = {json.loads(path.read_text())["sha256"] for path in folder.glob("*/*.manifest.json")}
    left = {path.stem for path in (folder / parts.FOLDER).glob("*.npz")}
    assert left <= known and len(left) < len(old)
    # The next search settles who stands in for what has gone.
    drop(folder)
    assert told(folder) == {"f/0000": "c/0000", "e/0000": "b/0000"}
    assert judged.read(folder, 1).kept == {("c", 0), ("d", 0)}


@pytest.mark.slow
def test_a_killed_drop_loses_nothing_and_is_completed(folder, tmp_path, monkeypatch):
    whole = shutil.copytree(folder, tmp_path / "whole")
    drop(whole)
    wanted, real = content(whole), os.replace
    for step in range(60):
        copy = shutil.copytree(folder, tmp_path / "copy")
        left = [step]

        def dying(*names, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(*names)

        died = True
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt), Workspace(config(copy)) as space:
            patch.setattr(os, "replace", dying)
            planned = plan.read(space.plan)
            with Ledger(space.ledger, planned) as ledger:
                weeding.weed(space, planned, ledger, "drop")
                accounts.settle(space, planned, ledger)
            died = False
        assert sum(len(judged.read(copy, shard).tracks) for shard in range(4)) == len(SOURCES)
        drop(copy)
        assert content(copy) == wanted
        shutil.rmtree(copy)
        if not died:
            assert step > 10
            return
    pytest.fail("not every step was tried")


def stored(path, tracks):
    """A shard of one track for each video."""
    made = [replace(one, meta={"start": 0.0}) for one in tracks.values()]
    shards.write(path, [Block(key, [one], [{}], {}, {}) for key, one in zip(tracks, made, strict=True)])
    return path.parent


def test_sets_of_shards_are_searched_across(tmp_path, capsys):
    one = stored(tmp_path / "one" / "0.tar", {"x": track(0), "y": track(1)})
    two = stored(tmp_path / "two" / "0.tar", {"x": track(3), "z": track(0, "mirrored")})
    listed = tmp_path / "list.jsonl"
    assert dedup.main([str(one), f"{two}/", "--output", str(listed)]) == 0
    assert f"1 copies of 1 tracks among 4 tracks; listed in {listed}" in capsys.readouterr().out
    assert [(copy.id, copy.of) for copy in browse.copies(listed)] == [(f"{two}/z/0000", f"{one}/x/0000")]
    assert not (one / parts.FOLDER).exists()


def test_tracks_of_one_video_are_no_copies(tmp_path):
    twins = [replace(track(0), meta={"start": 0.0})] * 2
    shards.write(tmp_path / "0.tar", [Block("x", twins, [{}, {}], {}, {})])
    assert duplicates.find(pool.of_store(shards.read(tmp_path))) == []


def test_proofs_are_those_of_every_pair_in_turn(tmp_path):
    tracks = {name: track(*shown) for name, shown in SOURCES.items()}
    whole = pool.of_store(shards.read(stored(tmp_path / "0.tar", tracks)))
    found = {(a, b) for a, b, _ in duplicates.proofs(whole, duplicates.THRESHOLD)}
    pairs = set()
    for i, (a, one) in enumerate(tracks.items()):
        for j, (b, other) in enumerate(tracks.items()):
            if i < j:
                two = pool.of_store(shards.read(stored(tmp_path / f"{i}{j}" / "0.tar", {a: one, b: other})))
                pairs |= {(i, j) for _ in duplicates.proofs(two, duplicates.THRESHOLD)}
    assert found == pairs == {(0, 2), (0, 5), (2, 5), (1, 4)}


PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.floats(0.5, 1)).filter(lambda p: p[0] != p[1]),
                 max_size=12)


@given(PAIRS, st.randoms())
def test_groups_are_what_pairs_connect(pairs, random):
    names = [f"v{number}/0000" for number in range(8)]
    found = grouped(names, pairs)
    reach = np.eye(8, dtype=bool)
    for a, b, _ in pairs:
        reach[a, b] = reach[b, a] = True
    for _ in range(8):
        reach = reach @ reach
    expected = {names[i]: names[reach[i].argmax()] for i in range(8) if reach[i].argmax() != i}
    assert {copy.id: copy.of for copy in found} == expected
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert grouped(names, shuffled) == found
    for copy in found:
        assert copy.score == round(max(s for a, b, s in pairs if copy.id in (names[a], names[b])), 4)
    gone = {"v0", "v3"}
    left = without(found, gone)
    assert {copy.id for copy in left} | {copy.of for copy in left} <= {name for name in names if name[:2] not in gone}
    assert without(found, set()) == found


def test_lists_are_written_once_and_read(tmp_path):
    rows = [Copy(0, "b/0000", "a/0000", 0.9312), Copy(1, "d/0001", "c/0000", 1.0), Copy(2, "f", "e", 1.0)]
    path = tmp_path / copies.FILE
    copies.write(path, rows)
    assert list(browse.copies(path)) == rows and copies.count(tmp_path) == 3
    before = path.stat()
    copies.write(path, rows)
    assert path.stat() == before
    copies.tidy(tmp_path, {"a", "e"})
    assert list(browse.copies(path)) == [Copy(0, "d/0001", "c/0000", 1.0)]
    # What cannot be read may hold what must go.
    path.write_text('{"group": 0, "id": "a/0000"}\n')
    copies.tidy(tmp_path, {"a"})
    assert path.read_text() == "" and copies.count(tmp_path) == 0
    copies.tidy(tmp_path / "none", {"a"})
    assert copies.count(tmp_path / "none") is None


def test_equal_bytes_are_one_video(tmp_path):
    for name, data in {"a": b"1", "b": b"2", "c": b"1"}.items():
        (tmp_path / name).write_bytes(data)
    keys = {name: content_key(tmp_path / name) for name in "abc"} | {"none": "", "nothing": ""}
    assert [(copy.id, copy.of) for copy in same_content(keys)] == [("c", "a")]
    # Two clips of one file are not the same.
    assert len({content_key(tmp_path / "a", clip) for clip in (None, (0.0, 5.0), (5.0, 9.0))}) == 3
    with pytest.raises(OSError, match="No such file"):
        content_key(tmp_path / "gone")


def test_the_two_clips_of_an_empty_pool_are_one():
    one, other = (need(DATA / "videos" / f"mmaction2_part_{number}.mp4") for number in (0, 1))
    assert content_key(one) == content_key(other)


def said(capsys, *words, status=2):
    assert dedup.main(list(map(str, words))) == status
    line, = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_searched_is_said_in_one_line(folder, tmp_path, capsys):
    plain = stored(tmp_path / "one" / "0.tar", {"x": track(0)})
    other = replace(track(0).to_layout(layouts.get("penn13")), meta={"start": 0.0})
    penn = stored(tmp_path / "penn" / "0.tar", {"x": other})
    assert "must lie between 0 and 1" in said(capsys, folder, "--threshold", 1)
    assert "named twice" in said(capsys, folder, f"{folder}/")
    assert "--drop: takes one OUTPUT" in said(capsys, plain, "--drop")
    assert "--drop: takes one OUTPUT" in said(capsys, folder, plain, "--drop")
    assert "--output FILE: needed" in said(capsys, plain)
    assert "layout penn13, but" in said(capsys, plain, penn, "--output", tmp_path / "x.jsonl")
    assert "no pose shard" in said(capsys, tmp_path / "penn" / "none*", "--output", tmp_path / "x.jsonl")
    assert "cannot be written" in said(capsys, plain, "--output", tmp_path / "one")
    plan.update(folder / "plan.jsonl", [Source("late", "/late.mp4")], 2)
    assert "1 of its 5 shards are open" in said(capsys, folder, "--drop")
    assert not (folder / copies.FILE).exists()

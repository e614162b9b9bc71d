"""Regating a folder that holds real tracks, good ones and ones with planted faults."""

import fcntl
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import gates as bench
from harvest import accounts, gates, judged, plan, regate
from harvest.config import Gates, Harvest
from harvest.judged import Judged
from harvest.ledger import Entry, Ledger
from harvest.quality import measure
from harvest.sources import Source
from harvest.tally import Tally
from harvest.workspace import Workspace
from skelcore import shards
from skelcore.errors import InputError
from skelcore.shards import Block

FAULTS = [None, "jitter", None, "teleport", "gaps", None, "flip", None, "too_short", "small", None, "limb_drift"]
SHARDS = 2
# Takes tracks with faults and leaves out good ones: those of all videos but the first, which shows one person only.
UNCROWDED = "{preset: all, max_crowd: 1}"


def tracks(video):
    """The tracks of a video, some with a fault, of which some are only mild, in a frame that they share."""
    rng = np.random.default_rng(video)
    for number in range(3):
        fault = FAULTS[(3 * video + number) % len(FAULTS)]
        clean = bench.clean(2 * (10 * video + number), seconds=3.0)
        track, told = (clean, {}) if fault is None else bench.FAULTS[fault](clean, rng, rng.choice([0.3, 0.9]))
        track = replace(track, size=bench.SIZE, meta={"start": 0.5 * number})
        yield track, {"track": number, **measure(track, **told, crowd=1 + video)}


def harvested(root, preset="default", estimator="blazepose"):
    """An output folder as a finished harvest leaves it: two shards of videos with tracks, and a source that failed."""
    config = Harvest.model_validate({"sources": ["x"], "output": str(root), "gates": preset, "estimator": estimator})
    thresholds = config.gates
    names = [f"v{i}" for i in range(5)]
    with Workspace(config) as space:
        sources = plan.update(space.plan, [Source(name, f"/{name}.mp4") for name in names], 3)
        with Ledger(space.ledger, sources) as ledger:
            for shard in range(SHARDS):
                found = Judged()
                for index in sources.members(shard):
                    settle(ledger, index, sources[index].id, found, thresholds)
                ledger.close_shard(shard, judged.write(root, shard, found))
            accounts.settle(space, sources, ledger)
    return root


def settle(ledger, index, name, found, thresholds):
    if name == "v4":
        return ledger.settle(index, Entry(name, "failed", "gone", time=7))
    sequences, numbers = zip(*tracks(int(name[1:])), strict=True)
    ids = found.add(Block(name, list(sequences), list(numbers), {"file": f"{name}.mp4"}, {"model": "m"}))
    reasons = {id: r for id, n in zip(ids, numbers, strict=True) if (r := gates.judge(n, thresholds))}
    found.kept.update(set(ids) - set(reasons))
    found.rejected.update(reasons)
    ledger.settle(index, regate._entry(Entry(name, "ok", frames=9, seconds=1.0, attempts=2, host="h", time=7),
                                       [(reasons.get(id), n["frames"]) for id, n in zip(ids, numbers, strict=True)]))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return harvested(tmp_path_factory.mktemp("harvest") / "out")


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "out")


def content(root):
    """Every file that a harvest hands on, by name."""
    return {str(p.relative_to(root)): p.read_bytes() for name in ("shards", "rejected")
            for p in sorted((root / name).iterdir())}


def told(root):
    sources = plan.read(root / "plan.jsonl")
    with Ledger(root / "ledger.jsonl", sources) as ledger:
        return Tally.of(ledger.rows()), [ledger.entry(i) for i in range(len(sources))]


def again(root, *words):
    return regate.main([str(root), *words])


def test_there_and_back_again_every_byte_is_the_same(folder, capsys):
    before, old = content(folder), told(folder)
    assert old[0].tracks < 12, "no fault was found"
    assert again(folder, "gates=strict") == 0
    strict, new = content(folder), told(folder)
    assert strict != before and new[0].tracks < old[0].tracks
    assert again(folder, "gates=default") == 0
    assert content(folder) == before and told(folder) == old
    assert again(folder, "gates=strict") == 0
    assert content(folder) == strict and told(folder) == new
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("12 tracks: ") and out[0] == out[2]


def test_what_a_harvest_with_the_new_gates_would_have_written_is_what_is_there(folder, tmp_path):
    assert again(folder, "gates=strict") == 0
    fresh = harvested(tmp_path / "fresh", "strict")
    assert content(folder) == content(fresh) and told(folder) == told(fresh)
    for name in ("settings.json", "summary.json"):
        assert (folder / name).read_text() == (fresh / name).read_text()


@pytest.mark.parametrize(("estimator", "least"), [
    ("blazepose", 0.75), ({"name": "onnx", "detector": "d.onnx", "pose": "p.onnx"}, 0.55), ("mine:Model", None)])
def test_scores_are_judged_by_the_scale_of_the_estimator_that_gave_them(tmp_path, estimator, least):
    """As a harvest by that estimator would have, which its settings tell, without building it."""
    folder, fresh = harvested(tmp_path / "a", "default", estimator), harvested(tmp_path / "b", "strict", estimator)
    assert again(folder, "gates=strict") == 0
    assert content(folder) == content(fresh) and told(folder) == told(fresh)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings == json.loads((fresh / "settings.json").read_text()) and settings["gates"]["min_score"] == least
    assert again(folder, "gates.preset=strict", "gates.min_score=0.5") == 0
    assert json.loads((folder / "settings.json").read_text())["gates"]["min_score"] == 0.5


def test_the_accounts_agree_with_the_shards(folder):
    assert again(folder, "gates=strict") == 0
    counts, entries = told(folder)
    store = shards.read(folder)
    assert counts.tracks == len(store) and counts.settled == 5 and counts.states["failed"] == 1
    assert counts.tracks + sum(counts.dropped.values()) == 12
    rows = [json.loads(line) for path in (folder / "rejected").glob("*.jsonl") for line in path.open()]
    assert len(rows) == sum(counts.dropped.values())
    assert {row["source"] for row in rows} | set(store.groups) == {"v0", "v1", "v2", "v3"}
    assert all({"source", "track", "reason", "start", "score", "frames"} <= row.keys() for row in rows)
    assert json.loads((folder / "summary.json").read_text())["tracks"] == len(store)
    assert all((entry.frames, entry.attempts, entry.host, entry.time) == (9, 2, "h", 7) for entry in entries[:4])


def test_rejected_poses_are_shards_of_their_own(folder):
    store = shards.read(folder / "rejected")
    assert len(store) == 12 - len(shards.read(folder / "shards"))
    assert shards.verify(folder / "rejected" / "000000.tar").tracks == store[0].persons * sum(
        1 for _ in (folder / "rejected" / "000000.jsonl").open())


def test_all_or_nothing(folder):
    before = content(folder)
    assert again(folder, "gates=all") == 0
    assert told(folder)[0].tracks == 12 and not list((folder / "rejected").glob("*.tar"))
    assert again(folder, "gates.min_seconds=99") == 0
    counts, entries = told(folder)
    assert (counts.tracks, counts.states["rejected"], counts.states["ok"]) == (0, 4, 0)
    assert {entry.reason for entry in entries} == {"too_short", "gone"}
    assert not list((folder / "shards").iterdir()), "a shard without tracks is no file"
    assert again(folder, "gates=default") == 0
    assert content(folder) == before


def test_nothing_is_touched_that_need_not_change(folder):
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert again(folder, "gates=default") == 0
    assert files == {path: path.stat().st_mtime_ns for path in files}
    # Only videos of the second shard are this crowded.
    assert again(folder, "gates.max_crowd=3") == 0
    after = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    assert {path.name for path in after if files[path] != after[path]} == set()
    assert not (folder / "shards" / "000001.tar").exists()


def test_a_dry_run_tells_the_same_and_writes_nothing(folder, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert again(folder, "gates=strict", "--dry-run") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert again(folder, "gates=strict") == 0
    assert capsys.readouterr().out.splitlines()[-1] == line


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "every"), [("default", UNCROWDED, 1), (UNCROWDED, "default", 2)])
def test_killed_anywhere_no_track_is_lost_and_the_next_run_completes_it(original, tmp_path, monkeypatch, before, after,
                                                                        every):
    """Killed before each renaming and removal of a file in turn; tracks go both ways, and a shard goes or comes."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # only a power cut would tell the difference
    start, whole = (shutil.copytree(original, tmp_path / name) for name in ("start", "whole"))
    for words in (before, after):
        assert again(whole, f"gates={words}") == 0
    assert again(start, f"gates={before}") == 0
    wanted = content(whole), told(whole)
    held = [len(judged.read(start, shard).tracks) for shard in range(SHARDS)]
    assert content(start) != wanted[0] and held == [9, 3]
    for moment in range(0, 99, every):
        root = shutil.copytree(start, tmp_path / str(moment))
        with monkeypatch.context() as patch:
            die_at(moment, patch)
            try:
                assert again(root, f"gates={after}") == 0
                break
            except Killed:
                pass
        assert [len(judged.read(root, shard).tracks) for shard in range(SHARDS)] == held, f"lost at moment {moment}"
        assert again(root, f"gates={after}") == 0
        assert (content(root), told(root)) == wanted, moment
        shutil.rmtree(root)
    assert 15 < moment < 99


def die_at(moment, patch):
    """Make the call of os.replace or os.unlink after ``moment`` others, and all later ones, raise Killed."""
    left = [moment]

    def deadly(real):
        def call(*paths, **more):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*paths, **more)
        return call

    for name in ("replace", "unlink"):
        patch.setattr(os, name, deadly(getattr(os, name)))


def test_copies_of_other_tracks_stay_out(folder):
    found = judged.read(folder, 0)
    copy = sorted(found.kept)[0]
    found.kept.remove(copy)
    found.rejected[copy] = "duplicate"
    judged.write(folder, 0, found)
    assert again(folder, "gates=all") == 0
    assert told(folder)[0].dropped == {"duplicate": 1}
    assert judged.read(folder, 0).rejected == {copy: "duplicate"}


def test_the_next_harvest_goes_on_with_the_new_gates(folder):
    old, new = (Harvest(sources=["x"], output=str(folder), gates=Gates.model_validate(name))
                for name in ("default", "strict"))
    assert again(folder, "gates=strict") == 0
    with Workspace(new):
        pass
    with pytest.raises(InputError, match="gates="):
        Workspace(old)


def said(capsys, *words, status=2):
    assert regate.main(list(map(str, words))) == status
    line, = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_regated_is_said_in_one_line(folder, tmp_path, capsys):
    assert "settings.json: no such file" in said(capsys, tmp_path / "nowhere", "gates=strict")
    assert not (tmp_path / "nowhere").exists()
    assert "did you mean 'strict'" in said(capsys, folder, "gates=strickt")
    assert "gates: field required" in said(capsys, folder)
    with open(folder / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another harvest" in said(capsys, folder, "gates=strict", status=1)


def test_an_unfinished_harvest_is_not_regated(folder, capsys):
    before = content(folder)
    plan.update(folder / "plan.jsonl", [Source("late", "/late.mp4")], 3)
    for dry in ([], ["--dry-run"]):
        assert "1 of its 3 shards are open" in said(capsys, folder, "gates=strict", *dry)
    assert content(folder) == before


def test_damage_is_not_covered_up(folder, capsys):
    tar = folder / "shards" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    assert "000000.tar: damaged" in said(capsys, folder, "gates=strict")
    assert tar.read_bytes() == data


@pytest.mark.parametrize("text", ["{", "[]", '{"source": "v0"}', ""])
def test_rows_that_somebody_changed_are_written_again(folder, text):
    path = folder / "rejected" / "000000.jsonl"
    before = path.read_text()
    path.write_text(text + "\n")
    assert again(folder, "gates=default") == 0
    assert path.read_text() == before


def test_folders_of_earlier_releases(folder, capsys):
    block, *_ = shards.stream(folder / "shards" / "000000.tar")
    shards.write(folder / "shards" / "000000.tar",
                 [replace(block, quality=[{k: v for k, v in n.items() if k != "track"} for n in block.quality])])
    assert "its tracks have no numbers" in said(capsys, folder, "gates=strict")


def test_a_ledger_that_knows_nothing_of_the_tracks(folder, capsys):
    path = folder / "ledger.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if '"id": "v0"' not in line) + "\n")
    before = content(folder)
    assert "v0: the ledger knows of no tracks" in said(capsys, folder, "gates=strict")
    assert content(folder) == before

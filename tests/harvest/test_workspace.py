import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest

from harvest import plan, quality, scratch
from harvest.config import Harvest
from harvest.ledger import Entry, Ledger
from harvest.sources import Source
from harvest.video import Outcome
from harvest.workspace import Workspace
from skelcore import layouts, shards
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from tests.harvest import fakes

SOURCE, OTHER = Source("a", "/a.mp4", shard=0), Source("b", "/b.mp4", shard=0)


def config(tmp_path, **values):
    return Harvest.model_validate({"sources": ["x"], "output": str(tmp_path / "out"), **values})


def track(number=0, seed=0):
    """A track that passes every gate."""
    joints = fakes.TEMPLATE * (30, 60) + (20 + seed, 10)
    sway = np.sin(np.arange(30) / 8)[:, None, None] * (6, 0)
    points = (joints + sway)[None].astype(np.float32)
    sequence = PoseSequence(points, np.ones((1, 30, 17), np.float32), layouts.get("coco17"), (96, 160), 15.0, "a")
    sequence.meta.update(start=0.5, quality={**quality.measure(sequence), "track": number})
    return sequence


def good(seed=0):
    return Outcome("ok", sequences=[track(seed=seed)], origin={"file": "a.mp4"}, provenance={"model": "m"})


def mixed(seed=0):
    """A track that is kept between two that are not."""
    brief = [track(number, seed + number) for number in (0, 2)]
    for each in brief:
        each.meta["quality"]["seconds"] = 0.2
    return Outcome("ok", sequences=[track(1, seed)], dropped=brief, origin={"file": "a.mp4"}, provenance={"model": "m"},
                   reasons=["too_short"] * 2)


def entry(source, outcome):
    return Entry(source.id, outcome.status, outcome.reason, tracks=len(outcome.sequences),
                 dropped=dict(Counter(outcome.reasons)))


def planned(space, *sources):
    return plan.update(space.plan, [Source(s.id, s.address, s.meta) for s in sources], 64)


def content(space):
    return {str(path.relative_to(space.root)): path.read_bytes() for folder in ("shards", "rejected")
            for path in sorted((space.root / folder).iterdir())}


def test_a_video_that_fails_after_a_killed_success_leaves_nothing_for_its_shard(tmp_path):
    with Workspace(config(tmp_path)) as space:
        space.keep(SOURCE, good())
        assert space.holds("a")
        space.keep(SOURCE, Outcome("failed", "gone"))
        assert not space.holds("a")


def test_the_ledger_decides_what_enters_a_shard(tmp_path):
    with Workspace(config(tmp_path)) as space:
        sources = planned(space, SOURCE, OTHER)
        with Ledger(space.ledger, sources) as ledger:
            space.keep(SOURCE, good())
            space.keep(OTHER, good())
            ledger.settle_many([(0, Entry("a", "failed", "gone")), (1, Entry("b", "ok", tracks=1))])
            space.close(0, sources, ledger)
            assert json.loads((space.root / "shards" / "000000.manifest.json").read_text())["blocks"] == 1
            assert not list((space.root / "work").iterdir())


def test_a_shard_keeps_every_track_with_its_verdict(tmp_path):
    with Workspace(config(tmp_path)) as space:
        sources = planned(space, SOURCE)
        with Ledger(space.ledger, sources) as ledger:
            space.keep(SOURCE, mixed())
            ledger.settle(0, entry(SOURCE, mixed()))
            space.close(0, sources, ledger)
        kept, rejected = (shards.read(space.root / folder / "000000.tar") for folder in ("shards", "rejected"))
        assert (len(kept), len(rejected)) == (1, 2)
        assert np.abs(kept[0].keypoints - track(1).keypoints).max() < 0.01
        rows = [json.loads(line) for line in (space.root / "rejected" / "000000.jsonl").read_text().splitlines()]
        assert [(row["source"], row["track"], row["reason"], row["start"]) for row in rows] == [
            ("a", 0, "too_short", 0.5), ("a", 2, "too_short", 0.5)]


@pytest.mark.parametrize("late", [mixed(seed=5), good(seed=6), Outcome("failed", "gone")])
def test_a_shard_that_is_closed_again_has_the_bytes_of_one_closed_once(tmp_path, late):
    """A source failed, the shard was closed, and the source was tried again."""
    with Workspace(config(tmp_path / "once")) as space:
        sources = planned(space, SOURCE, OTHER)
        with Ledger(space.ledger, sources) as ledger:
            for index, (source, outcome) in enumerate([(SOURCE, mixed()), (OTHER, late)]):
                space.keep(source, outcome)
                ledger.settle(index, entry(source, outcome))
            space.close(0, sources, ledger)
        once = content(space)
    with Workspace(config(tmp_path / "twice")) as space:
        sources = planned(space, SOURCE, OTHER)
        with Ledger(space.ledger, sources) as ledger:
            space.keep(SOURCE, mixed())
            ledger.settle_many([(0, entry(SOURCE, mixed())), (1, Entry("b", "failed", "network"))])
            space.close(0, sources, ledger)
            ledger.reopen(ledger.select(["transient"]))
            assert ledger.closed == set() and space.lost(0, ["a"]) == [] and space.lost(0, ["b"]) == ["b"]
            space.keep(OTHER, late)
            ledger.settle(1, entry(OTHER, late))
            space.close(0, sources, ledger)
            assert ledger.closed == {0}
        assert content(space) == once


def test_a_kill_while_a_shard_is_written_again_loses_nothing(tmp_path, monkeypatch):
    """At each file that a second closing writes."""
    for step in range(9):
        with Workspace(config(tmp_path / str(step))) as space:
            sources = planned(space, SOURCE, OTHER)
            with Ledger(space.ledger, sources) as ledger:
                space.keep(SOURCE, mixed())
                ledger.settle_many([(0, entry(SOURCE, mixed())), (1, Entry("b", "failed", "network"))])
                space.close(0, sources, ledger)
                ledger.reopen([1])
                space.keep(OTHER, mixed(seed=5))
                ledger.settle(1, entry(OTHER, mixed()))
                replace, left = os.replace, [step]

                def dying(*names, replace=replace, left=left):
                    if not left[0]:
                        raise KeyboardInterrupt
                    left[0] -= 1
                    replace(*names)

                with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                    patch.setattr(os, "replace", dying)
                    space.close(0, sources, ledger)
                died = 0 not in ledger.closed
                if died:
                    assert space.lost(0, ["a", "b"]) == []
                    space.close(0, sources, ledger)
            found = content(space)
            if step == 0:
                first = found
            assert found == first
        if not died:
            return
    pytest.fail("not every step was tried")


def test_what_is_purged_is_in_no_file(tmp_path):
    with Workspace(config(tmp_path)) as space:
        sources = planned(space, SOURCE, OTHER)
        with Ledger(space.ledger, sources) as ledger:
            for index, source in enumerate(sources):
                space.keep(source, mixed(seed=index))
                ledger.settle(index, entry(source, mixed()))
            space.close(0, sources, ledger)
            space.keep(OTHER, good())
            space.purge(0, ["a", "b"], sources, ledger)
        assert content(space) == {"rejected/000000.jsonl": b""} and not list((space.root / "work").iterdir())


def test_videos_of_other_settings_are_forgotten_with_them(tmp_path):
    with Workspace(config(tmp_path, fps=10)) as space:
        space.keep(SOURCE, good())
    with Workspace(config(tmp_path)) as space:
        assert not space.holds("a")


@pytest.mark.parametrize("text", ["[]", "3", "{", "\udcff", None])
def test_settings_that_are_no_settings(tmp_path, text):
    with Workspace(config(tmp_path)) as space, Ledger(space.ledger, planned(space, SOURCE)) as ledger:
        ledger.settle(0, Entry("a", "failed", "gone"))
    path = space.root / "settings.json"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"settings\.json: missing or not a JSON object"):
        Workspace(config(tmp_path))


def test_only_our_own_temporaries_are_swept(tmp_path):
    with Workspace(config(tmp_path)) as space:
        pass
    (space.root / "thesis" / "shards").mkdir(parents=True)
    others = [space.root / ".letter.odt.x1.tmp", space.root / "thesis" / ".x.tmp",
              space.root / "thesis" / "shards" / ".000000.tar.x.tmp"]
    ours = [space.root / ".summary.json.x1.tmp", space.root / ".plan.jsonl.x1.tmp",
            space.root / "work" / ".a.tar.x.tmp", space.root / "shards" / ".000000.tar.x.tmp",
            space.root / "rejected" / ".000000.jsonl.x.tmp"]
    for path in others + ours:
        path.write_bytes(b"x")
    with Workspace(config(tmp_path)):
        pass
    assert [path.exists() for path in others] == [True] * 3 and not any(path.exists() for path in ours)


def test_only_dead_downloads_of_this_host_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here, dead = re.sub(r"[^A-Za-z0-9]+", "_", socket.gethostname()), child.pid
    left = [f"skelshot-video-{here}-{dead}-held", f"skelshot-video-{here}x-{dead}-far", f"skelshot-video-{dead}-old"]
    gone = f"skelshot-video-{here}-{dead}-free"
    for name in [*left, gone]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "video.mp4").write_bytes(b"x")
    # A process of another container: alive, but its number means nothing here.
    holder = os.open(tmp_path / left[0], os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with scratch.folder() as mine:
        monkeypatch.setattr(scratch, "_alive", lambda pid: False)
        scratch.sweep()
        name = mine.rpartition("/")[2]
        assert name.startswith(f"skelshot-video-{here}-{os.getpid()}-")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*left, name])
    os.close(holder)
    scratch.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left[1:])

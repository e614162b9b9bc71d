import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from harvest import scratch
from harvest.config import Harvest
from harvest.ledger import Entry, Ledger
from harvest.plan import Source
from harvest.video import Outcome
from harvest.workspace import Workspace
from skelcore import layouts
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence

SOURCE = Source("a", "/a.mp4", shard=0)


def config(tmp_path, **values):
    return Harvest.model_validate({"sources": ["x"], "output": str(tmp_path / "out"), **values})


def good():
    sequence = PoseSequence(np.ones((1, 6, 17, 2), np.float32), np.ones((1, 6, 17), np.float32),
                            layouts.get("coco17"), (96, 160), 15.0, "a", meta={"quality": {"frames": 6}, "start": 0.0})
    return Outcome("ok", sequences=[sequence], origin={"file": "a.mp4"}, provenance={"model": "m"})


def test_a_video_that_fails_after_a_killed_success_leaves_nothing_for_its_shard(tmp_path):
    with Workspace(config(tmp_path)) as space:
        space.keep(SOURCE, good())
        assert space.holds(SOURCE)
        space.keep(SOURCE, Outcome("failed", "gone"))
        assert not space.holds(SOURCE)


def test_the_ledger_decides_what_enters_a_shard(tmp_path):
    other = Source("b", "/b.mp4", shard=0)
    with Workspace(config(tmp_path)) as space, Ledger(space.ledger) as ledger:
        space.keep(SOURCE, good())
        space.keep(other, good())
        ledger.settle(Entry("a", "failed", "gone"))
        ledger.settle(Entry("b", "ok", tracks=1))
        space.close(0, [SOURCE, other], ledger)
        index = json.loads((space.root / "shards" / "000000.manifest.json").read_text())
        assert index["blocks"] == 1
        assert not list((space.root / "work").iterdir())


def test_videos_of_other_settings_are_forgotten_with_them(tmp_path):
    with Workspace(config(tmp_path, fps=10)) as space:
        space.keep(SOURCE, good())
    with Workspace(config(tmp_path)) as space:
        assert not space.holds(SOURCE)


@pytest.mark.parametrize("text", ["[]", "3", "{", "\udcff", None])
def test_settings_that_are_no_settings(tmp_path, text):
    with Workspace(config(tmp_path)) as space, Ledger(space.ledger) as ledger:
        ledger.settle(Entry("a", "failed", "gone"))
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
            space.root / "work" / ".a.npz.x.tmp", space.root / "shards" / ".000000.tar.x.tmp",
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

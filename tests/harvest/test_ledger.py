import json

import pytest

from harvest import summary
from harvest.config import Harvest
from harvest.ledger import Entry, Ledger
from harvest.plan import Source
from harvest.workspace import Workspace
from skelcore.errors import InputError, RunError


def config(tmp_path, **values):
    return Harvest.model_validate({"sources": ["x"], "output": str(tmp_path / "out"), **values})


def test_a_torn_last_line_is_forgotten_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        for name in "abc":
            ledger.settle(Entry(name, "ok", tracks=1))
        ledger.close_shard(0, "shards/000000.tar")
    whole = path.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole[:-cut])
        with Ledger(path) as ledger:
            assert set(ledger.entries) == set("abc") and not ledger.closed
            ledger.settle(Entry("d", "failed", "gone"))
        with Ledger(path) as ledger:
            assert ledger.entries["d"].reason == "gone" and len(ledger.entries) == 4


def test_damage_elsewhere_is_an_error(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"id": "a", "stat\n{"shard": 0}\n')
    # Not "remove the line": the source may lie in a closed shard, which is never written again.
    with pytest.raises(InputError, match="line 1: not a line of a ledger; restore the file or use another output"):
        Ledger(path)


def test_every_source_is_counted_once(tmp_path):
    plan = [Source(name, f"/{name}.mp4", shard=0) for name in "abcdef"]
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.settle(Entry("a", "ok", tracks=2, dropped={"small": 1}, frames=30, seconds=2.0))
        ledger.settle(Entry("b", "rejected", "small", dropped={"small": 2}, frames=15, seconds=1.0))
        ledger.settle(Entry("c", "failed", "gone"))
        ledger.settle(Entry("d", "failed", "gone"))
        ledger.settle(Entry("d", "failed", "corrupt"))
        ledger.settle(Entry("unplanned", "ok", tracks=9))
        counts = summary.summarise(plan, ledger)
    assert (counts["sources"], counts["ok"], counts["rejected"], counts["failed"], counts["pending"]) == (6, 1, 1, 2, 2)
    assert counts["failed_by_reason"] == {"corrupt": 1, "gone": 1} and counts["rejected_by_reason"] == {"small": 1}
    assert counts["tracks"] == 2 and counts["dropped_tracks_by_reason"] == {"small": 3} and counts["frames"] == 45


def test_one_harvest_at_a_time(tmp_path):
    with Workspace(config(tmp_path)), pytest.raises(RunError, match="another harvest"):
        Workspace(config(tmp_path))
    with Workspace(config(tmp_path)):
        pass


def test_settings_are_fixed_once_something_is_settled(tmp_path):
    with Workspace(config(tmp_path, fps=10)) as space, Ledger(space.ledger):
        pass
    with Workspace(config(tmp_path)) as space, Ledger(space.ledger) as ledger:
        ledger.settle(Entry("a", "failed", "gone"))
    with pytest.raises(InputError, match=r"fps=10.0 differs from 15.0"):
        Workspace(config(tmp_path, fps=10))
    with pytest.raises(InputError, match="gates"):
        Workspace(config(tmp_path, gates={"min_score": 0.1}))
    # What does not touch the content of a block is free.
    with Workspace(config(tmp_path, workers=1, shard_size=3, limits={"max_seconds": 5})):
        pass


def test_half_written_files_are_swept(tmp_path):
    with Workspace(config(tmp_path)) as space, Ledger(space.ledger) as ledger:
        ledger.settle(Entry("open", "ok", tracks=1))
    (space.root / "shards" / ".000000.tar.abc.tmp").write_bytes(b"x")
    (space.root / "work" / "closed.npz").write_bytes(b"x")
    (space.root / "work" / "open.npz").write_bytes(b"x")
    with Workspace(config(tmp_path)) as space:
        space.discard_all_but({"open"})
    assert [p.name for p in (space.root / "work").iterdir()] == ["open.npz"]
    assert not list((space.root / "shards").iterdir())
    assert json.loads((space.root / "settings.json").read_text())["estimator"] == "blazepose"

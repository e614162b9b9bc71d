"""Leases: what is fetched ahead, what a death costs, and what workers are replaced for; real Ray, a tiny model."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from harvest import drive
from harvest.config import Harvest
from harvest.sources import Source
from skelcore.errors import RunError
from tests.harvest import fakes, web
from tests.harvest.test_run import BLOBS, content, finish, ledger, ledger_lines, start
from tests.paths import ROOT

FREE = ["politeness.gap_seconds=0", "politeness.jitter_seconds=0", "fetch.wait_seconds=0.1", "workers=2", BLOBS]


def workers_of(driver: int) -> list[int]:
    """The processes of a driver's actors, told by the parents that Ray gives them."""
    rows = [line.split(None, 2) for line in subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]]
    family, grown = {driver}, True
    while grown:
        more = {int(pid) for pid, parent, _ in rows if int(parent) in family} - family
        family, grown = family | more, bool(more)
    return [int(pid) for pid, _, args in rows if int(pid) in family and args.startswith("ray::Actor")]


@pytest.mark.parametrize(("address", "patience"), [("", 300), ("auto", 1800)])
def test_a_cluster_has_longer_to_hire_its_machines(monkeypatch, address, patience):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(drive.ray, "wait", lambda *waiting, **how: ([], []))
    pool = drive._Pool(Harvest(sources=["a"], output="b"), [], [], lambda *settled: None, lambda *state: None)
    pool._starting[object()] = object()
    pool._workless_since -= patience - 60
    pool._listen()
    pool._workless_since -= 61
    with pytest.raises(RunError, match=f"no worker within {patience} s"):
        pool._listen()


def test_a_lost_node_is_noticed_late_and_is_no_fault_of_a_video(monkeypatch):
    """Ray tells of a lost node long after its workers: until then nobody is judged, and what died there counts not."""
    nodes, clock, ended, hired = {"a": True, "b": True}, [100.0], [], []
    monkeypatch.setattr(drive.ray, "nodes", lambda: [{"NodeID": n, "Alive": lives} for n, lives in nodes.items()])
    monkeypatch.setattr(drive.ray, "kill", lambda actor: None)
    monkeypatch.setattr(drive.time, "monotonic", lambda: clock[0])
    pool = drive._Pool(Harvest(sources=["a"], output="b"), [Source("v", "/v.mp4")], [0],
                       lambda index, outcome, attempts: ended.append((index, outcome.reason)), lambda *state: None)
    monkeypatch.setattr(pool, "_start", lambda: hired.append(clock[0]))

    def die(node):
        hand = drive._Hand(None, node, held=pool._schedule.take(clock[0]))
        assert hand.held == 0
        pool._schedule.landed(0)
        pool._hands.append(hand)
        pool._bury(hand)

    die("a")
    assert not pool._trials and len(pool._schedule) == 1
    die("b")
    pool._judge()
    assert pool._trials and not len(pool._schedule) and not ended
    nodes["a"] = False
    clock[0] += 31
    pool._judge()
    assert not pool._trials and len(pool._schedule) == 1 and not ended
    die("b")
    clock[0] += 31
    pool._judge()
    assert ended == [(0, "crash")] and not len(pool._schedule) and len(hired) == 3
    # A machine alone has no other node to lose, so nobody waits.
    del nodes["a"]
    pool._schedule.add(0, None)
    die("b")
    die("b")
    pool._judge()
    assert len(ended) == 2


def test_a_machine_may_be_lost_while_many_workers_start_on_it(monkeypatch):
    def gone(reference):
        raise drive.RayActorError

    monkeypatch.setattr(drive.ray, "get", gone)
    pool = drive._Pool(Harvest(sources=["a"], output="b"), [], [], lambda *settled: None, lambda *state: None)
    monkeypatch.setattr(pool, "_start", lambda: None)
    pool._size = 4
    for number in range(8):
        pool._starting[number] = None
        pool._welcome(number)
    pool._starting[8] = None
    with pytest.raises(RunError, match="a worker cannot start"):
        pool._welcome(8)


@pytest.mark.slow
def test_killed_workers_cost_no_source_and_change_no_byte(tmp_path):
    """Two workers die in the middle of their work; a video that kills its own is told apart."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(14):
        fakes.write(folder / f"walk{i}.mp4", fakes.walk(1.2, seed=i))
    fakes.write(folder / "poison.mp4", fakes.walk(1.2, corner=fakes.POISON))
    arguments = [f"sources={folder}", "shard_size=4", *FREE]
    finish(start(*arguments, f"output={tmp_path / 'calm'}", home=tmp_path))
    process = start(*arguments, f"output={tmp_path / 'rough'}", home=tmp_path, BLOBS_SECONDS="0.1")
    rng, killed, until = random.Random(3), 0, time.monotonic() + 120
    journal = tmp_path / "rough" / "ledger.jsonl"
    while killed < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
        # Far enough apart that what was in hand at one death, and is next in line, has been settled before another.
        if len(ledger_lines(journal)) >= 1 + 8 * killed and len(found := workers_of(process.pid)) == 2:
            with suppress(ProcessLookupError):  # it may have died of the poison just now
                os.kill(rng.choice(found), signal.SIGKILL)
                killed += 1
    out, _ = finish(process)
    assert killed == 2 and content(tmp_path / "rough") == content(tmp_path / "calm")
    assert "15 sources = 14 ok + 0 rejected + 1 failed + 0 pending" in out
    assert {e["reason"] for e in ledger(tmp_path / "rough").values() if e["status"] == "failed"} == {"crash"}
    assert not list((tmp_path / "rough").rglob("*.tmp")) and not list((tmp_path / "rough" / "work").iterdir())


@pytest.mark.slow
def test_a_host_that_is_too_busy_rests_and_loses_nothing(tmp_path, monkeypatch):
    """429 with Retry-After at first, 503 later: the driver waits and asks again, and every video comes."""
    clip = fakes.write(tmp_path / "walk.mp4", fakes.walk(1.2, seed=9)).read_bytes()
    asked, lock = [], threading.Lock()

    def moody(reply):
        with lock:
            asked.append((time.monotonic(), reply.path))
            count = len(asked)
        if count == 2:
            return reply.send(b"no", "text/plain", 429, {"Retry-After": "2"})
        if count == 4:
            return reply.send(b"no", "text/plain", 503)
        return reply.send(clip, "video/mp4")

    for name in "abc":
        monkeypatch.setitem(web.ROUTES, f"/{name}.mp4", moody)
    with web.serve(tmp_path) as site:
        sources = ", ".join(f"{site.url}/{name}.mp4" for name in "abc")
        out, _ = finish(start(f"sources=[{sources}]", f"output={tmp_path / 'out'}", *FREE, "law.licences=[any]",
                              home=tmp_path, SKELSHOT_CACHE=str(tmp_path / "cache")))
    assert "3 sources = 3 ok" in out and len(asked) == 5
    times = [at for at, _ in asked]
    assert times[2] - times[1] >= 2
    # 503 is a try of the source's own, 429 is not; both fetched their video in the end.
    assert sorted(entry["attempts"] for entry in ledger(tmp_path / "out").values()) == [1, 2, 2]


@pytest.mark.slow
def test_a_worker_is_replaced_after_its_share_of_videos(tmp_path):
    for i in range(5):
        fakes.write(tmp_path / f"walk{i}.mp4", fakes.walk(1.2, seed=i))
    (tmp_path / "counted.py").write_text(f"""
import os
from tests.harvest import fakes
class Model(fakes.Blobs):
    def __init__(self, layout):
        super().__init__(layout)
        open({str(tmp_path)!r} + f"/built-{{os.getpid()}}", "w").close()
""")
    arguments = [f"sources={tmp_path}", f"output={tmp_path / 'out'}", "estimator=counted:Model", "workers=1",
                 "worker.recycle_videos=2"]
    script = f"import sys; from harvest.run import main; sys.exit(main({arguments!r}))"
    clean = {key: value for key, value in os.environ.items() if "RAY" not in key}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
                          env={**clean, "PYTHONPATH": f"{ROOT}:{tmp_path}", "HOME": str(tmp_path)})
    assert "5 sources = 5 ok" in done.stdout, done.stderr[-2000:]
    # The driver's own, and one for each two videos.
    assert len(list(tmp_path.glob("built-*"))) == 1 + 3


@pytest.mark.slow
def test_only_the_failures_that_are_named_are_tried_again(tmp_path, monkeypatch):
    """A video that was not there is, when asked for again; what came is neither asked for nor changed."""
    clip = fakes.write(tmp_path / "walk.mp4", fakes.walk(1.2, seed=9)).read_bytes()
    asked, there = [], {"/a.mp4"}

    def answer(reply):
        asked.append(reply.path)
        return reply.send(clip, "video/mp4") if reply.path in there else reply.send(b"no", "text/plain", 404)

    for name in "ab":
        monkeypatch.setitem(web.ROUTES, f"/{name}.mp4", answer)
    with web.serve(tmp_path) as site:
        sources = f"sources=[{site.url}/a.mp4, {site.url}/b.mp4, {tmp_path / 'brief.mp4'}]"
        fakes.write(tmp_path / "brief.mp4", fakes.walk(0.3))
        arguments = [sources, f"output={tmp_path / 'out'}", *FREE, "law.licences=[any]"]
        cache = {"home": tmp_path, "SKELSHOT_CACHE": str(tmp_path / "cache")}
        out, _ = finish(start(*arguments, **cache))
        assert "3 sources = 1 ok + 1 rejected + 1 failed" in out
        there.add("/b.mp4")
        out, _ = finish(start(*arguments, "retry=transient", **cache))
        assert "3 sources = 1 ok + 1 rejected + 1 failed" in out
        out, _ = finish(start(*arguments, "retry=gone", **cache))
    assert "3 sources = 2 ok + 1 rejected + 0 failed" in out
    assert [path for path in asked if path != "/robots.txt"] == ["/a.mp4", "/b.mp4", "/b.mp4"]
    entries = ledger(tmp_path / "out")
    first, second = (content(tmp_path / "out")[name] for name in ("shards/000000.tar", "rejected/000000.tar"))
    assert all(name.encode() in first for name, row in entries.items() if row["status"] == "ok")
    assert all(name.encode() in second for name, row in entries.items() if row["status"] == "rejected")

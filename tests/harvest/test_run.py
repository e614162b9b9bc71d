"""The whole harvest as users start it: real Ray, real yt-dlp against loopback, a tiny fake model."""

import functools
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from harvest import plan, run, sources
from harvest.config import Harvest
from harvest.ledger import Entry, Ledger
from harvest.workspace import Workspace
from skelcore import shards
from tests.harvest import fakes
from tests.paths import ROOT

BLOBS = "estimator=tests.harvest.fakes:Blobs"


def start(*arguments, home, **environment):
    """The command in a process of its own, away from the user's Ray settings and proxies."""
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and "RAY" not in key}
    return subprocess.Popen([sys.executable, str(ROOT / "harvest" / "run.py"), *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(home), **environment})


def finish(process, wanted=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == wanted, err[-3000:]
    return out, err


def content(output):
    """Every file that a harvest hands on, by name."""
    return {str(p.relative_to(output)): p.read_bytes() for folder in ("shards", "rejected")
            for p in sorted((output / folder).iterdir())}


def ledger(output):
    rows = [json.loads(line) for line in ledger_lines(output / "ledger.jsonl")]
    return {row["id"]: row for row in rows if "id" in row}


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    fakes.write(folder / "walk.mp4", fakes.walk(1.5, seed=9))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_every_kind_of_source_is_accounted_for(tmp_path, web):
    folder, output = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    for i in range(4):
        fakes.write(folder / f"walk{i}.mp4", fakes.walk(1.5, persons=1 + i % 2, seed=i))
    fakes.write(folder / "poison.mp4", fakes.walk(1.5, corner=fakes.POISON))
    fakes.write(folder / "tarpit.mp4", fakes.walk(1.5, corner=fakes.TARPIT))
    fakes.write(folder / "nobody.mp4", np.zeros((20, 96, 160, 3), np.uint8))
    fakes.write(folder / "brief.mp4", fakes.walk(0.3))
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(b"not a video" * 99)
    (tmp_path / "list.csv").write_text(
        f"url,id,label,licence\n{web}/walk.mp4,web,wave,CC BY\n{web}/none.mp4,lost,wave,\n")
    arguments = [f"sources=[{folder}, {tmp_path / 'list.csv'}]", f"output={output}", BLOBS, "workers=2", "shard_size=5",
                 "limits.deadline_seconds=15", "fetch.retries=0",
                 "politeness.gap_seconds=0", "politeness.jitter_seconds=0"]
    out, err = finish(start(*arguments, home=tmp_path))
    assert "12 sources = 5 ok + 2 rejected + 5 failed + 0 pending" in out
    assert "videos/s, ETA" in err
    summary = json.loads((output / "summary.json").read_text())
    assert summary["failed_by_reason"] == {"corrupt": 1, "crash": 1, "empty": 1, "gone": 1, "timeout": 1}
    assert summary["rejected_by_reason"] == {"no_person": 1, "too_short": 1}
    assert summary["tracks"] == 7 and summary["frames"] > 0
    entries = ledger(output)
    assert len(entries) == 12
    # Two deaths in hand; and it may have been fetched for a worker that had to die of the tarpit.
    assert next(e for key, e in entries.items() if key.startswith("poison"))["attempts"] in (2, 3)

    store = shards.read(output / "shards")
    assert len(store) == 7 and set(store.classes) == {"wave"}
    index = list(store.ids).index("web/0000")
    truth = fakes.walk(1.5, seed=9)
    boxes = np.array([fakes.Blobs()._boxes(frame)[0] for frame in truth])
    joints = boxes[:, None, :2] + fakes.TEMPLATE * (boxes[:, None, 2:] - boxes[:, None, :2])
    assert np.abs(store[index].keypoints[0] - joints).max() < 2
    rejected = [json.loads(line) for path in (output / "rejected").glob("*.jsonl") for line in ledger_lines(path)]
    assert [(r["reason"], r["frames"]) for r in rejected] == [("too_short", 4)]
    # Nothing of this machine, and nothing temporary.
    assert not any(str(tmp_path).encode() in data for data in content(output).values())
    assert not list((output / "work").iterdir()) and not list(output.rglob("*.tmp"))

    # Again: nothing to do, so nothing changes, and neither Ray nor faiss is even imported.
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    script = ("import sys; from harvest.run import main; "
              f"code = main({arguments!r}); assert not {{'ray', 'faiss'}} & sys.modules.keys(); sys.exit(code)")
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    # A source more: its own shard, the others untouched.
    fakes.write(folder / "a_late_one.mp4", fakes.walk(1.5, seed=7))
    finish(start(*arguments, home=tmp_path))
    old = {path: data for path, data in before.items() if path.parent.name in ("shards", "rejected")}
    assert old and all(path.read_bytes() == data for path, data in old.items())
    assert len(shards.read(output / "shards")) == 8


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_the_shards_are_the_same_bytes(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(12):
        fakes.write(folder / f"walk{i}.mp4", fakes.walk(1.2 if i % 5 else 0.3, persons=1 + i % 2, seed=i))
    arguments = [f"sources={folder}", BLOBS, "shard_size=4"]
    finish(start(*arguments, f"output={tmp_path / 'calm'}", "workers=1", home=tmp_path))
    calm = content(tmp_path / "calm")
    # Two shards with rejected tracks: twice tar, index and manifest, and the reasons; one without.
    assert len(calm) == 3 * 4 + 2 * 3

    rng, output, settled = random.Random(0), tmp_path / "killed", 0
    journal = output / "ledger.jsonl"
    for sign, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGKILL, -9)):
        process = start(*arguments, f"output={output}", "workers=2", home=tmp_path, BLOBS_SECONDS="0.1")
        until = time.monotonic() + 120
        while (len(ledger_lines(journal)) <= settled + 1) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.8))
        process.send_signal(sign)
        finish(process, status)
        left = len(ledger_lines(journal))
        assert settled < left
        settled = left
    assert settled < 15, "the kills came too late to interrupt anything"
    finish(start(*arguments, f"output={output}", "workers=2", home=tmp_path))
    assert content(output) == calm
    counts = json.loads((output / "summary.json").read_text())
    assert (counts["sources"], counts["ok"], counts["pending"]) == (12, 9, 0)
    assert not list((output / "work").iterdir()) and not list(output.rglob("*.tmp"))


@pytest.mark.slow
def test_a_worker_that_waits_for_a_cpu_holds_no_video(tmp_path):
    """On a busy cluster a video's deadline runs from the moment that somebody works on it."""
    for i in range(4):
        fakes.write(tmp_path / f"walk{i}.mp4", fakes.walk(1.2, seed=i))
    arguments = [f"sources={tmp_path}", f"output={tmp_path / 'out'}", BLOBS, "workers=2", "limits.deadline_seconds=5"]
    script = ("import ray, sys; from harvest.run import main; "
              "ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False); "
              f"sys.exit(main({arguments!r}))")
    clean = {key: value for key, value in os.environ.items() if "RAY" not in key}
    # Four videos of two seconds each: more than the deadline together, and one after the other.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
                          env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "BLOBS_SECONDS": "0.1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 sources = 4 ok" in done.stdout
    assert [entry["attempts"] for entry in ledger(tmp_path / "out").values()] == [1] * 4


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_no_fault_of_a_video(tmp_path):
    """The first two models load, the driver's own and one worker's; no other does."""
    (tmp_path / "fragile.py").write_text(f"""
import os
from tests.harvest import fakes
class Model(fakes.Blobs):
    def __init__(self, layout):
        super().__init__(layout)
        for i in range(2):
            try:
                return os.close(os.open({str(tmp_path)!r} + f"/built{{i}}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
        raise OSError("the model file is gone")
""")
    for i in range(3):
        fakes.write(tmp_path / f"walk{i}.mp4", fakes.walk(1.2, seed=i))
    # So slow that the good worker is still at it when the other fails.
    process = start(f"sources={tmp_path}", f"output={tmp_path / 'out'}", "estimator=fragile:Model", "workers=2",
                    home=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}", BLOBS_SECONDS="0.5")
    _, err = finish(process, 1)
    assert "a worker cannot start: OSError: the model file is gone" in err
    assert not any(entry["status"] == "failed" for entry in ledger(tmp_path / "out").values())


def settled(tmp_path):
    """An output folder of one video, settled by a run that was killed before it could write its summary."""
    video, output = tmp_path / "v.mp4", tmp_path / "out"
    video.write_bytes(b"")
    config = Harvest(sources=[str(video)], output=str(output))
    with Workspace(config) as space:
        planned = plan.update(space.plan, sources.expand(config.sources), config.shard_size)
        with Ledger(space.ledger, planned) as journal:
            journal.settle(0, Entry(planned[0].id, "failed", "empty"))
    return [f"sources={video}", f"output={output}"], output / "summary.json"


def test_a_stale_summary_is_brought_up_to_date_by_a_run_that_settles_nothing(tmp_path, capsys):
    arguments, path = settled(tmp_path)
    figures = {"videos": 3, "frames": 9, "frames_per_second": 4.5, "seconds": 2.0}
    path.write_text(json.dumps({"sources": 1, "pending": 1, "failed": 0, "run": figures}))
    assert run.main(arguments) == 0
    assert "1 failed + 0 pending" in capsys.readouterr().out
    after = json.loads(path.read_text())
    assert (after["failed"], after["pending"], after["shards"], after["run"]) == (1, 0, 0, figures)
    before = path.stat()
    assert run.main(arguments) == 0
    assert path.stat().st_ino == before.st_ino, "written again although nothing had changed"


@pytest.mark.parametrize("text", [None, "{torn", "[]"])
def test_a_lost_summary_is_written_again(tmp_path, text):
    arguments, path = settled(tmp_path)
    if text is not None:
        path.write_text(text)
    assert run.main(arguments) == 0
    assert json.loads(path.read_text())["failed"] == 1


@pytest.mark.parametrize("provenance", ["{'a': object()}", "{'a': float('inf')}", "[1]", "{'a': {1, 2}}"])
def test_provenance_that_no_shard_can_hold_ends_the_run_before_it_starts(tmp_path, monkeypatch, capsys, provenance):
    (tmp_path / "v.mp4").write_bytes(b"x")
    name = f"odd{abs(hash(provenance))}"
    (tmp_path / f"{name}.py").write_text("from tests.harvest import fakes\nclass Model(fakes.Blobs):\n    "
                                         "def __init__(self, layout):\n        super().__init__(layout)\n"
                                         f"        self.provenance = {provenance}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("harvest.drive.drive", lambda *_: pytest.fail("started"))
    arguments = [f"sources={tmp_path}/v.mp4", f"output={tmp_path}/out", f"estimator={name}:Model"]
    assert run.main(arguments) == 2
    err = capsys.readouterr().err.strip()
    assert f"estimator={name}:Model: its provenance" in err and len(err.splitlines()) == 1


def ledger_lines(path):
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "output: field required"), (["output=o"], "sources: needed, or playlists"),
    (["sources=absent.mp4", "output=o"], "no such file or folder: absent.mp4"),
    (["sources=v.mp4", "output=o", "fpss=3"], "did you mean 'fps'"), (["absent.yaml"], "absent.yaml"),
    (["sources=v.mp4", "output=o", "estimator=nonesuch"], "estimator=nonesuch"),
    (["sources=v.mp4", "output=o", "estimator=nonesuch:Model"], "No module named 'nonesuch'"),
    (["sources=v.mp4", "output=v.mp4"], "output=v.mp4"),
    (["sources=v.mp4", "output=o", "fetch.options={paths: x}"], "paths"),
    (["sources=v.mp4", "output=o", "retry=transent"], "did you mean 'transient'"),
    (["playlists=v.mp4", "output=o"], "playlists: v.mp4: not an http"),
])
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("v.mp4").write_bytes(b"x")
    assert run.main(arguments) == 2
    err = capsys.readouterr().err.strip()
    assert words in err and len(err.splitlines()) == 1


def test_dry_run_plans_and_writes_nothing(tmp_path, capsys):
    fakes.write(tmp_path / "v.mp4", fakes.walk(0.2))
    sources = f"sources=[{tmp_path}/v.mp4, 'https://example.org/v']"
    assert run.main([sources, f"output={tmp_path}/out", "--dry-run"]) == 0
    assert "2 sources (1 URLs) in 1 shards" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_job_inside_a_cluster_file(tmp_path, monkeypatch, capsys):
    """`ray submit` leaves the cluster file as JSON on the head node and passes no argument."""
    cluster = yaml.safe_load((ROOT / "configs" / "harvest.yaml").read_text())
    (tmp_path / "videos").mkdir()
    fakes.write(tmp_path / "videos" / "v.mp4", fakes.walk(0.2))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(cluster))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "__file__", str(tmp_path / "run.py"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run.main(["--dry-run"]) == 0
    assert os.environ.pop("RAY_ADDRESS") == "auto"
    assert "1 sources" in capsys.readouterr().out


def test_shipped_configs():
    from harvest.config import Harvest
    from skelcore import config

    for path in [ROOT / "configs" / "harvest.yaml", *(ROOT / "configs" / "harvest").glob("*.yaml")]:
        config.load(Harvest, path, section=("metadata", "harvest"))


@pytest.mark.parametrize("module", ["config", "decode", "extract", "fetch", "gates", "ledger", "plan", "reasons",
                                    "scratch", "summary", "track", "video", "workspace"])
def test_only_the_driver_imports_ray(module):
    source = (ROOT / "harvest" / f"{module}.py").read_text()
    assert "import ray" not in source and "harvest.drive" not in source

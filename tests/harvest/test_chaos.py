"""Everything goes wrong at once: every source is accounted for once, and the shards are a calm run's, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harvest import run
from tests.harvest import calm, fakes, web
from tests.harvest.test_run import BLOBS, ledger
from tests.paths import ROOT

# A cluster of three nodes of which one is lost when work has begun, and soon after it a worker of another.
SCRIPT = """
import os, signal, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from harvest.run import main
from tests.harvest.test_drive import workers_of

journal = Path({output!r}) / "ledger.jsonl"
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False))
nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False, logging_level="critical")

def settled():
    return journal.read_bytes().count(b'"id"') if journal.exists() else 0

def harm():
    while settled() < 3:
        time.sleep(0.05)
    cluster.remove_node(nodes[0], allow_graceful=False)
    while settled() < 8:
        time.sleep(0.05)
    for pid in workers_of(os.getpid())[:1]:
        os.kill(pid, signal.SIGKILL)
    print("harmed", flush=True)

threading.Thread(target=harm, daemon=True).start()
code = main({arguments!r})
ray.shutdown()
cluster.shutdown()
sys.exit(code)
"""


def sources(tmp_path, site):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(16):
        fakes.write(folder / f"walk{i:02d}.mp4", fakes.walk(1.2 if i % 4 else 0.3, persons=1 + i % 2, seed=i))
    fakes.write(folder / "poison.mp4", fakes.walk(1.2, corner=fakes.POISON))
    fakes.write(folder / "tarpit.mp4", fakes.walk(1.2, corner=fakes.TARPIT))
    return [f"sources=[{folder}, {site.url}/short.mp4, {site.url}/good.mp4]", BLOBS, "shard_size=6",
            "law.licences=[any]", "politeness.gap_seconds=0", "politeness.jitter_seconds=0", "fetch.wait_seconds=0.1",
            "limits.deadline_seconds=12", "workers=3"]


@pytest.mark.slow
def test_a_lost_node_a_killed_worker_a_poison_a_tarpit_and_a_torn_download(tmp_path, monkeypatch):
    with web.serve(tmp_path) as site:
        web.alone(site, tmp_path, monkeypatch)
        arguments = sources(tmp_path, site)
        # Ray's sockets must have short names.
        output, scratch = tmp_path / "rough", Path(tempfile.mkdtemp(prefix="chaos"))
        clean = {name: value for name, value in os.environ.items()
                 if "RAY" not in name and not name.lower().endswith("_proxy")}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(output=str(output), arguments=[*arguments, f"output={output}"])],
            env={**clean, "PYTHONPATH": str(ROOT), "BLOBS_SECONDS": "0.05", "TMPDIR": str(scratch)},
            capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "harmed" in done.stdout
        with monkeypatch.context() as patch:
            calm.instead_of_ray(patch)
            assert run.main([*arguments, f"output={tmp_path / 'calm'}"]) == 0
    assert calm.handed_on(output) == calm.handed_on(tmp_path / "calm")
    rows = [json.loads(line) for line in (output / "ledger.jsonl").read_text().splitlines()]
    ids = [row["id"] for row in rows if "id" in row]
    assert len(ids) == len(set(ids)) == 20, "a source is settled twice, or not at all"
    assert {name: row["reason"] for name, row in ledger(output).items() if row["status"] == "failed"}.keys() == {
        name for name in ids if name.startswith(("poison", "tarpit")) or "short" in name}
    assert {row["reason"] for row in rows if row.get("status") == "failed"} == {"crash", "timeout", "incomplete"}
    assert calm.left_over(output) == []
    assert not list(scratch.glob("skelshot-video-*"))
    shutil.rmtree(scratch)

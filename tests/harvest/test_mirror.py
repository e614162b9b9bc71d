"""Output in a bucket: a real S3 server on loopback, and a machine that loses its copy."""

import json
import os
import socket
import subprocess
import sys
import time

import fsspec
import pytest

from harvest import accounts, forget, plan, run, weeding
from harvest.ledger import Ledger
from harvest.sources import Source
from harvest.workspace import Workspace
from skelcore import shards
from skelcore.errors import RunError
from tests.harvest import fakes, twins
from tests.harvest.test_run import BLOBS, content, finish, start
from tests.harvest.test_workspace import config, entry, mixed

pytest.importorskip("s3fs", reason="s3fs is not installed")
pytest.importorskip("moto", reason="moto is not installed")
NAMED = [Source(name, f"/{name}.mp4") for name in "abc"]


@pytest.fixture(scope="module")
def endpoint():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert server.poll() is None and time.monotonic() < until, "the S3 server does not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(endpoint, tmp_path, monkeypatch):
    """A fresh bucket, and a cache of this machine's own."""
    for name, value in {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
                        "AWS_DEFAULT_REGION": "us-east-1", "SKELSHOT_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    fsspec.filesystem("s3").clear_instance_cache()
    name = f"b{abs(hash(tmp_path)) % 10**9}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


def stored(url):
    """All objects below a URL, by name."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return {path.removeprefix(root + "/"): files.cat_file(path) for path in files.find(root)}


def handed_on(url):
    return {name: data for name, data in stored(url).items() if name.startswith(("shards/", "rejected/"))}


def other_machine(monkeypatch, tmp_path, name):
    monkeypatch.setenv("SKELSHOT_CACHE", str(tmp_path / name))


def settle(space, ledger, planned, chosen):
    for index in chosen:
        source = planned[index]
        space.keep(source, mixed(seed=index))
        ledger.settle(index, entry(source, mixed()))


def half(tmp_path, url):
    """The first shard of two closed, and a source of the other settled."""
    with Workspace(config(tmp_path, output=url)) as space:
        planned = plan.update(space.plan, NAMED, 2)
        with Ledger(space.ledger, planned) as ledger:
            settle(space, ledger, planned, range(2))
            space.close(0, planned, ledger)
            settle(space, ledger, planned, [2])
    return space


def whole(tmp_path, url):
    with Workspace(config(tmp_path, output=url)) as space:
        planned = plan.update(space.plan, NAMED, 2)
        with Ledger(space.ledger, planned) as ledger:
            left = [int(index) for index in ledger.pending()]
            settle(space, ledger, planned, left)
            space.close(1, planned, ledger)
            space.publish()
    return left


def test_another_machine_goes_on_with_what_is_there(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/poses"
    half(tmp_path, url)
    assert {"plan.jsonl", "settings.json", ".owner", "shards/000000.manifest.json", "ledger/000000.jsonl"} <= set(
        stored(url))
    other_machine(monkeypatch, tmp_path, "second")
    assert whole(tmp_path, url) == [2], "what was closed is done again, or what was not is lost"
    calm = Workspace(config(tmp_path, output=str(tmp_path / "calm")))
    with calm as space:
        planned = plan.update(space.plan, NAMED, 2)
        with Ledger(space.ledger, planned) as ledger:
            settle(space, ledger, planned, range(3))
            for shard in range(2):
                space.close(shard, planned, ledger)
    assert handed_on(url) == content(tmp_path / "calm")
    assert len(shards.read(url)) == 3


def test_the_same_machine_keeps_what_is_under_way(tmp_path, bucket):
    url = f"{bucket}/poses"
    half(tmp_path, url)
    assert whole(tmp_path, url) == []


def test_a_harvest_that_was_taken_over_writes_no_more(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/poses"
    with Workspace(config(tmp_path, output=url)) as space:
        planned = plan.update(space.plan, NAMED, 2)
        with Ledger(space.ledger, planned) as ledger:
            settle(space, ledger, planned, range(2))
            other_machine(monkeypatch, tmp_path, "second")
            with Workspace(config(tmp_path, output=url)):
                before = stored(url)
                with pytest.raises(RunError, match="another harvest has taken it over"):
                    space.close(0, planned, ledger)
            assert 0 not in ledger.closed and stored(url) == before


def test_a_failure_at_any_object_is_completed(tmp_path, bucket, monkeypatch):
    """The store fails at each write in turn; the same command, and then another machine, find all of it."""
    url = f"{bucket}/poses"
    files, _ = fsspec.core.url_to_fs(url)  # of which there is one for all
    put, pipe = files.put_file, files.pipe_file
    wanted = None
    for step in range(20):
        left = [step]

        def failing(real, left=left):
            def call(*arguments, **more):
                left[0] -= 1
                if left[0] < 0:
                    raise OSError("the store is down")
                return real(*arguments, **more)
            return call

        with monkeypatch.context() as patch:
            patch.setattr(files, "put_file", failing(put))
            patch.setattr(files, "pipe_file", failing(pipe))
            try:
                half(tmp_path, f"{url}{step}")
                failed = False
            except RunError as error:
                failed = True
                assert "the store is down" in str(error) and len(str(error).splitlines()) == 1
        half(tmp_path, f"{url}{step}")
        whole(tmp_path, f"{url}{step}")
        wanted = wanted or handed_on(f"{url}{step}")
        assert handed_on(f"{url}{step}") == wanted, step
        if not failed:
            assert step > 5
            return
    pytest.fail("not every step was tried")


def test_what_is_forgotten_is_gone_there_too(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/poses"
    half(tmp_path, url)
    forget.forget(url, ["a", "c"])
    assert not any(b'"a"' in data or b"a.json" in data for data in handed_on(url).values())
    other_machine(monkeypatch, tmp_path, "second")
    assert whole(tmp_path, url) == []
    assert {block.key for block in shards.stream(f"{url}/shards")} == {"b"}
    assert json.loads(stored(url)["summary.json"])["forgotten"] == 2


def test_copies_are_listed_and_dropped_there_too(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/poses"

    def drop(space, planned, ledger):
        weeding.weed(space, planned, ledger, "drop")
        accounts.settle(space, planned, ledger)

    twins.settle(url, twins.SOURCES)
    twins.opened(url, drop)
    there = stored(url)
    assert {row["id"]: row["of"] for row in map(json.loads, there["duplicates.jsonl"].splitlines())} == twins.GROUPS
    assert {block.key for block in shards.stream(f"{url}/rejected")} == {"c", "e", "f"}
    # Another machine has no notes of the search, and comes to the same.
    other_machine(monkeypatch, tmp_path, "second")
    twins.opened(url, drop)
    assert stored(url).keys() == there.keys() and handed_on(url) == {name: there[name] for name in handed_on(url)}
    forget.forget(url, ["a"])
    assert b'"a/' not in stored(url)["duplicates.jsonl"]


def test_names_in_a_bucket_reach_no_other_folder(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/poses"
    half(tmp_path, url)
    files, root = fsspec.core.url_to_fs(url)
    for name in ("shards/../../../evil.tar", "shards/evil.sh", "ledger/x.jsonl", ".bashrc", "shards/000009.tar/x"):
        files.pipe_file(f"{root}/{name}", b"x")
    other_machine(monkeypatch, tmp_path, "second")
    with Workspace(config(tmp_path, output=url)) as space:
        found = {str(path.relative_to(tmp_path / "second")) for path in (tmp_path / "second").rglob("*")}
    assert space.plan.exists() and not any("evil" in name or "bashrc" in name or "/x" in name for name in found)


def test_a_store_that_is_not_there_is_one_line(tmp_path, bucket, capsys):
    assert run.main(["sources=https://example.org/v", "output=s3://nobodys-bucket/poses"]) in (1, 2)
    err = capsys.readouterr().err
    assert "output=s3://nobodys-bucket/poses" in err and len(err.splitlines()) == 1
    assert run.main(["sources=https://example.org/v", "output=ftp://host/poses"]) == 2
    assert "a bucket's URL" in capsys.readouterr().err


@pytest.mark.slow
def test_a_harvest_from_a_bucket_into_a_bucket(tmp_path, bucket):
    """Real Ray: videos listed and fetched from S3, shards written there, the same bytes as from and to a disk."""
    files = fsspec.filesystem("s3")
    (tmp_path / "videos").mkdir()
    for i in range(3):
        path = fakes.write(tmp_path / "videos" / f"walk{i}.mp4", fakes.walk(1.2, seed=i))
        files.put_file(str(path), f"{bucket}/videos/walk{i}.mp4")
    (tmp_path / "list.csv").write_text("path,id\n" + "".join(f"walk{i}.mp4,v{i}\n" for i in range(3)))
    files.put_file(str(tmp_path / "list.csv"), f"{bucket}/videos/list.csv")
    environment = {name: os.environ[name] for name in os.environ if name.startswith(("AWS_", "SKELSHOT_"))}
    out, _ = finish(start(f"sources={bucket}/videos/list.csv", f"output={bucket}/poses", BLOBS, "shard_size=2",
                          home=tmp_path, **environment))
    assert "3 sources = 3 ok" in out
    found = stored(f"{bucket}/poses")
    assert {"summary.json", "report.html", "ATTRIBUTION.csv", "plan.jsonl"} <= set(found)
    assert len(shards.read(f"{bucket}/poses")) == 3
    assert not any(name.endswith(".tmp") for name in found)
    # Nothing to do: asked again, even elsewhere, it says so.
    out, _ = finish(start(f"sources={bucket}/videos/list.csv", f"output={bucket}/poses", BLOBS, "shard_size=2",
                          home=tmp_path, **{**environment, "SKELSHOT_CACHE": str(tmp_path / "elsewhere")}))
    assert "3 sources = 3 ok" in out and handed_on(f"{bucket}/poses") == {
        name: data for name, data in found.items() if name.startswith(("shards/", "rejected/"))}

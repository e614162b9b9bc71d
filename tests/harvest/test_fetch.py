"""The router, and one table of what users meet: every failure lands in the class that its remedy needs."""

import socket
from pathlib import Path

import fsspec
import pytest

from harvest import fetch, scratch
from harvest import web as client
from harvest.config import Fetch
from harvest.reasons import BUSY, FAILURES, TERMINAL, TRANSIENT, VideoError
from harvest.sources import Source
from skelcore.errors import InputError
from tests.harvest import web


@pytest.fixture(autouse=True)
def _direct(monkeypatch, tmp_path, server):
    web.alone(server, tmp_path, monkeypatch)


def get(address, folder, config=None, **meta):
    folder.mkdir(exist_ok=True)
    return fetch.fetch(web.source(address, **meta), folder, config or web.config())


def failure(address, folder, config=None, **meta):
    with pytest.raises(VideoError) as caught:
        get(address, folder, config, **meta)
    assert caught.value.reason in FAILURES and str(folder) not in caught.value.detail
    assert caught.value.detail.isprintable() and "secret" not in caught.value.detail
    return caught.value


TABLE = [
    ("/gone.mp4", "gone"), ("/really.mp4", "gone"), ("/forbidden.mp4", "forbidden"), ("/login.mp4", "forbidden"),
    ("/busy.mp4", "rate_limited"), ("/later.mp4", "rate_limited"), ("/broken.mp4", "server"), ("/odd.mp4", "download"),
    ("/challenge.mp4", "bot_check"), ("/short.mp4", "incomplete"), ("/unsatisfied.mp4", "incomplete"),
    ("/gzip.mp4", "unsupported"), ("/page.html", "unsupported"), ("/player-gone.html", "gone"),
    ("/player-short.html", "incomplete"), ("/feed.xml", "unsupported"), ("/several.html", "unsupported"),
    ("/html.mp4", "unsupported"), ("/json.mp4", "unsupported"), ("/image.mp4", "unsupported"),
    ("/image", "unsupported"), ("/audio.mp4", "audio_only"),
    ("/loop.mp4", "redirect"), ("/circle.mp4", "redirect"), ("/far0.mp4", "redirect"), ("/passwd.mp4", "redirect"),
    ("/script.mp4", "redirect"), ("/nowhere.mp4", "redirect"),
    ("/private/v.mp4", "robots"), ("/private/player.html", "robots"), ("/into.mp4", "robots"), ("/noai.mp4", "robots"),
    ("/noindex", "robots"), ("/ours.mp4", "robots"), ("/tdm.mp4", "robots"),
    ("/headers.mp4", "download"), ("/many.mp4", "download"), ("/absent", "gone"),
]


@pytest.mark.parametrize(("path", "wanted"), TABLE)
def test_what_a_host_answers_has_a_name(server, tmp_path, path, wanted):
    assert failure(f"{server.url}{path}?token=secret", tmp_path / "f").reason == wanted


@pytest.mark.parametrize("address", [
    "file:///etc/passwd", "ftp://example.org/v.mp4", "http:///nohost", "javascript://x/%0aalert(1)", "data://x,y",
    "http://[bad", "http://example.org:99999/v.mp4", "https://example.org/\ud800", "local:///etc/passwd",
    "zip://v.mp4::file:///etc/x.zip", "simplecache::s3://bucket/v.mp4", "s3://a::file:///etc/passwd"])
def test_only_web_and_bucket_addresses_are_fetched(tmp_path, address):
    folder = tmp_path / "f"
    folder.mkdir()
    with pytest.raises(VideoError) as caught:
        fetch.fetch(Source("v", address), folder, web.config())
    assert caught.value.reason in ("invalid", "missing") and not any(folder.iterdir())


def test_no_such_host_a_closed_port_and_silence_are_told_apart(server, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    no_robots = web.config(law={"robots": False})
    refused = failure(f"http://127.0.0.1:{port}/v.mp4", tmp_path / "a", no_robots)
    unknown = failure("http://no-such-host.invalid/v.mp4", tmp_path / "b", no_robots)
    client._pool.cache_clear()
    monkeypatch.setattr(client, "_SILENCE", 0.3)
    silent = failure(f"{server.url}/silent.mp4", tmp_path / "c", no_robots)
    client._pool.cache_clear()
    assert [e.reason for e in (refused, unknown, silent)] == ["network"] * 3
    assert [e.detail.partition(":")[0] for e in (refused, unknown, silent)] == ["refused", "no such host", "timed out"]


def test_a_host_says_how_long_to_wait(server, tmp_path):
    assert failure(f"{server.url}/busy.mp4", tmp_path / "a").wait == 7
    assert 90 < (failure(f"{server.url}/later.mp4", tmp_path / "b").wait or 0) <= 100
    assert failure(f"{server.url}/broken.mp4", tmp_path / "c").wait is None


def test_limits_hold_for_files_pages_and_buckets(server, tmp_path):
    small = web.config(limits={"max_bytes": 1000})
    fsspec.filesystem("memory").pipe_file("/big.mp4", b"x" * 2000)
    for i, address in enumerate([*(f"{server.url}/{name}" for name in ("good.mp4", "player.html")), "memory://big.mp4"]):
        assert failure(address, tmp_path / str(i), small).reason == "too_large"
    undeclared = web.config(limits={"max_bytes": len(server.video)})
    for name in ("chunked.mp4", "player-chunked.html"):
        assert failure(f"{server.url}/{name}", tmp_path / name, undeclared).reason == "too_large"


def test_a_page_costs_one_request_before_its_video_and_a_file_only_one(server, tmp_path):
    assert get(f"{server.url}/good.mp4", tmp_path / "a").path.read_bytes() == server.video
    assert server.hits == {"/robots.txt": 1, "/good.mp4": 1}
    found = get(f"{server.url}/player.html", tmp_path / "b")
    assert found.path.read_bytes() == server.video and found.info["extractor"] == "HTML5MediaEmbed"
    assert get(f"{server.url}/moved", tmp_path / "c").path.read_bytes() == server.video


@pytest.mark.parametrize("path", ["/feed.xml", "/several.html"])
def test_of_a_playlist_no_item_is_requested(server, tmp_path, path):
    failure(server.url + path, tmp_path / "f")
    assert set(server.hits) == {path, "/robots.txt"}


def test_a_clip_is_fetched_as_its_whole_video(server, tmp_path):
    clip = Source("clip", f"{server.url}/good.mp4#t=1,2")
    assert fetch.fetch(clip, tmp_path, web.config()).path.read_bytes() == server.video
    assert server.asked[-1][0] == "/good.mp4"


def test_buckets(tmp_path):
    fsspec.filesystem("memory").pipe_file("/clips/v.mp4", b"12345")
    found = get("memory://clips/v.mp4", tmp_path / "f")
    assert found.path.read_bytes() == b"12345" and found.info == {}
    assert failure("memory://clips/none.mp4", tmp_path / "g").reason == "missing"


def test_local_files(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"12345")
    assert get(str(path), tmp_path / "f").path == path
    assert failure(str(path), tmp_path / "f", web.config(limits={"max_bytes": 4})).reason == "too_large"
    path.unlink()
    assert failure(str(path), tmp_path / "f").reason == "missing"


@pytest.mark.parametrize(("method", "error", "wanted"), [
    ("open", PermissionError(13, "Permission denied"), "unreadable"),
    ("is_file", PermissionError(13, "Permission denied"), "unreadable"), (None, None, "invalid"),
])
def test_local_files_out_of_reach(tmp_path, monkeypatch, method, error, wanted):
    path = tmp_path / ("v.mp4" if method else "v" * 300)
    if method:
        path.write_bytes(b"12345")

        def refuse(*args, **options):
            raise error

        # Not by chmod, which does not stop root.
        monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(VideoError) as caught:
        fetch.fetch(Source("v", str(path)), tmp_path, web.config())
    assert caught.value.reason == wanted and str(tmp_path) not in caught.value.detail


@pytest.mark.parametrize(("address", "wanted"), [
    ("https://www.Example.org/v", "example.org"), ("http://example.org:8080/v", "example.org"),
    ("https://youtu.be/x", "youtube.com"), ("https://m.youtube.com/watch?v=x", "youtube.com"),
    ("https://www.youtube-nocookie.com/embed/x", "youtube.com"), ("https://user:secret@vimeo.com/1", "vimeo.com"),
    ("https://m.example.org/v", "m.example.org"), ("/data/v.mp4", None), ("s3://bucket/v.mp4", None),
    ("gs://b/v", None), ("hf://datasets/a/b/v.mp4", None), ("http://[bad", None),
])
def test_one_name_for_all_hosts_of_a_site(address, wanted):
    assert fetch.host(address) == wanted


def test_a_failure_is_either_worth_another_try_or_not():
    assert not set(TRANSIENT) & set(TERMINAL) and set(TRANSIENT) >= BUSY
    assert {reason for _, reason in TABLE} <= set(FAILURES)


def test_files_that_a_configuration_names_are_checked_at_once(tmp_path):
    fetch.check(web.config())
    with pytest.raises(InputError, match=r"opt_out: cannot read .*none"):
        fetch.check(web.config(law={"opt_out": str(tmp_path / "none")}))
    with pytest.raises(InputError, match=r"cookies: cannot read .*none"):
        fetch.check(web.config(cookies=str(tmp_path / "none")))


@pytest.mark.parametrize("name", ["outtmpl", "proxy", "cookiefile", "allow_unplayable_formats"])
def test_own_options_are_not_free(name):
    with pytest.raises(ValueError, match=name):
        Fetch(options={name: "x"})


def test_folders_of_dead_processes_are_swept(tmp_path, monkeypatch):
    import subprocess
    import sys
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f"{scratch._own_prefix()}{dead.pid}-abc").mkdir()
    (tmp_path / "skelshot-video-other").mkdir()
    with scratch.folder() as mine:
        scratch.sweep()
        left = sorted(p.name for p in tmp_path.iterdir())
        assert left == sorted([mine.rpartition("/")[2], "skelshot-video-other"])

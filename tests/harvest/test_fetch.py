import http.server
import socket
import threading
from pathlib import Path

import pytest

from harvest import fetch, scratch
from harvest.config import Fetch, Harvest, Limits
from harvest.plan import Source, canonical, identify
from harvest.reasons import FAILURES, VideoError
from tests.harvest import fakes

STATUS = {"/gone.mp4": 404, "/really.mp4": 410, "/forbidden.mp4": 403, "/busy.mp4": 429, "/broken.mp4": 503}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A loopback host with the failures that users meet; ``hits`` counts the requests for a path."""
    video = fakes.write(tmp_path_factory.mktemp("web") / "v.mp4", fakes.walk(2)).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        hits: dict[str, int] = {}  # noqa: RUF012

        def do_GET(self):
            path = self.path.partition("?")[0]
            self.hits[path] = self.hits.get(path, 0) + 1
            if path in STATUS or (path == "/flaky.mp4" and self.hits[path] == 1):
                self.send_error(STATUS.get(path, 503))
            elif path == "/page.html":
                self.answer(b"<html><body>no video here</body></html>", "text/html")
            elif path == "/feed.xml":
                items = "".join(f"<item><title>{i}</title><link>http://{self.headers['Host']}/item{i}.mp4</link></item>"
                                for i in range(4))
                self.answer(f"<rss><channel><title>All</title>{items}</channel></rss>".encode(), "text/xml")
            elif path == "/several.html":
                players = "".join(f"<video src='/item{i}.mp4'></video>" for i in range(4))
                self.answer(f"<html><title>All</title><body>{players}</body></html>".encode(), "text/html")
            elif path == "/loop.mp4":
                self.send_response(302)
                self.send_header("Location", "/loop.mp4")
                self.end_headers()
            elif path == "/short.mp4":
                self.answer(video[: len(video) // 2], "video/mp4", announced=len(video))
            elif path == "/chunked.mp4":
                self.send_response(200)
                self.send_header("Content-Type", "video/mp4")
                self.end_headers()
                self.wfile.write(video * 3)
            else:
                self.answer(video, "video/mp4")

        do_HEAD = do_GET

        def answer(self, body, kind, announced=None):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(announced or len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        running.hits, running.video = Handler.hits, video
        running.url = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def get(url, retries=0, **limits):
    source = Source(identify(canonical(url)), canonical(url))
    settings = Fetch(retries=retries, wait_seconds=0.01, options={"retries": 0, "socket_timeout": 2})
    with fetch.fetched(source, settings, Limits(**limits)) as file:
        return file.path.read_bytes(), file.info, file.path


def reason(url, **options):
    with pytest.raises(VideoError) as caught:
        get(url, **options)
    assert caught.value.reason in FAILURES and "/tmp" not in caught.value.detail
    return caught.value.reason


def test_a_video_is_fetched_whole_and_then_deleted(server):
    data, info, path = get(f"{server.url}/good.mp4")
    assert data == server.video
    assert not path.exists() and not path.parent.exists()
    assert info["extractor"] == "Generic"


@pytest.mark.parametrize(("path", "wanted"), [
    ("/gone.mp4", "gone"), ("/really.mp4", "gone"), ("/forbidden.mp4", "forbidden"), ("/busy.mp4", "rate_limited"),
    ("/broken.mp4", "server"), ("/page.html", "unsupported"), ("/short.mp4", "incomplete"),
])
def test_what_a_host_answers_has_a_name(server, path, wanted):
    assert reason(server.url + path) == wanted


@pytest.mark.parametrize("path", ["/feed.xml", "/several.html"])
def test_of_a_playlist_no_item_is_requested(server, path):
    server.hits.clear()
    assert reason(server.url + path, retries=2) == "unsupported"
    assert set(server.hits) == {path}


def test_redirects_without_end(server):
    assert reason(f"{server.url}/loop.mp4") in ("download", "network")


def test_no_such_host_or_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert reason(f"http://127.0.0.1:{port}/v.mp4") == "network"
    assert reason("http://no-such-host.invalid/v.mp4") == "network"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/v.mp4", "http:///nohost", "javascript://x/%0aalert(1)",
                                 "http://[bad", "http://example.org:99999/v.mp4", "https://example.org/\ud800"])
def test_only_web_addresses_are_fetched(url):
    assert reason(url) == "invalid"


def test_too_large_with_and_without_an_announced_length(server):
    assert reason(f"{server.url}/good.mp4", max_bytes=100) == "too_large"
    assert reason(f"{server.url}/chunked.mp4", max_bytes=len(server.video)) == "too_large"


def test_transient_failures_are_tried_again_and_terminal_ones_are_not(server):
    server.hits.pop("/flaky.mp4", None)
    assert get(f"{server.url}/flaky.mp4", retries=1)[0] == server.video
    server.hits.pop("/gone.mp4", None)
    reason(f"{server.url}/gone.mp4", retries=3)
    assert server.hits["/gone.mp4"] == 1
    server.hits.pop("/broken.mp4", None)
    reason(f"{server.url}/broken.mp4", retries=2)
    assert server.hits["/broken.mp4"] == 3


def test_local_files(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"12345")
    with fetch.fetched(Source("v", str(path)), Fetch(), Limits()) as file:
        assert file.path == path
    assert path.exists()
    for limits, wanted in ((Limits(max_bytes=4), "too_large"), (Limits(), "missing")):
        with pytest.raises(VideoError) as caught, fetch.fetched(Source("v", str(path)), Fetch(), limits):
            pass
        assert caught.value.reason == wanted
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(("text", "wanted"), [
    ("Sign in to confirm you're not a bot", "bot_check"), ("Private video. Sign in if you have access", "unavailable"),
    ("This content isn't available, try again later. Rate-limited for up to an hour", "bot_check"),
    ("Sign in to confirm your age. This video may be inappropriate for some users.", "unavailable"),
    ("Requested format is not available. Use --list-formats for a list of available formats", "no_format"),
    ("Video unavailable", "unavailable"), ("something new", "download"),
])
def test_what_sites_say_only_in_prose(text, wanted):
    from yt_dlp.utils import DownloadError, ExtractorError

    inner = ExtractorError(text, expected=True)
    assert fetch.reason_of(DownloadError(f"ERROR: {inner}", (type(inner), inner, None))) == wanted


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
    with pytest.raises(VideoError) as caught, fetch.fetched(Source("v", str(path)), Fetch(), Limits()):
        pass
    assert caught.value.reason == wanted and str(tmp_path) not in caught.value.detail


def test_output_is_a_local_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert Harvest(sources="v.mp4", output="~/x").output == "/home/someone/x"
    with pytest.raises(ValueError, match="local folder"):
        Harvest(sources="v.mp4", output="s3://bucket/x")


def test_own_options_are_not_free():
    with pytest.raises(ValueError, match="outtmpl"):
        Fetch(options={"outtmpl": "/etc/x"})


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

"""Model files by path and URL, against a loopback server that knows ranges, cuts, refusals and lies."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from harvest.estimators import download
from harvest.estimators.download import Weights, load, unzipped
from skelcore.errors import InputError, RunError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_WAIT_SECONDS", 0)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server():
    """``answers`` are used up one a request, then the file is served; ``seen`` holds the requests' ranges."""
    state = SimpleNamespace(answers=[], seen=[], content=CONTENT, ranges=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.seen.append(wanted)
            answer = state.answers.pop(0) if state.answers else None
            if isinstance(answer, int) and 400 <= answer < 600:
                self.send_error(answer)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start >= len(state.content) > 0 and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                shown = 0 if answer == "other part" else start
                self.send_header("Content-Range", f"bytes {shown}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            self.wfile.write(state.content[start:start + answer if isinstance(answer, int) else None])

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=httpd.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/models/tiny%20pose.onnx?version=2"
    yield state
    httpd.shutdown()
    httpd.server_close()


def test_a_url_is_fetched_once(server, cache):
    assert load(server.url, SHA.upper()) == Weights("tiny_pose.onnx", CONTENT, SHA)
    assert load(server.url, SHA).content == CONTENT
    assert server.seen == [None]
    assert sorted(path.name for path in cache.iterdir() if not path.name.startswith(".")) == [
        f"{SHA[:12]}-tiny_pose.onnx"]


def test_a_cut_download_goes_on_where_it_was(server):
    server.answers = [1_000_000, 500_000]
    assert load(server.url, SHA).content == CONTENT
    assert server.seen == [None, "bytes=1000000-", "bytes=1500000-"]


def test_the_next_call_goes_on_too(server, cache):
    server.answers = [1_000_000] + [503] * 10
    with pytest.raises(RunError, match="HTTP 503"):
        load(server.url, SHA)
    server.answers = []
    assert load(server.url, SHA).content == CONTENT
    assert server.seen[-1] == "bytes=1000000-"
    assert not list(cache.glob("*.part"))


def test_a_server_without_ranges_starts_over(server):
    server.ranges, server.answers = False, [1_000_000]
    assert load(server.url, SHA).content == CONTENT


@pytest.mark.parametrize("left", [b"of another file" * 1000, CONTENT + b"more"])
def test_what_does_not_fit_is_fetched_anew(server, cache, left):
    cache.mkdir(parents=True)
    (cache / f"{SHA[:12]}-tiny_pose.onnx.part").write_bytes(left)
    assert load(server.url, SHA).content == CONTENT


def test_another_part_than_asked_for(server):
    server.answers = [1_000_000, "other part"]
    assert load(server.url, SHA).content == CONTENT
    assert server.seen == [None, "bytes=1000000-", None]


def test_a_whole_part_is_taken_without_its_bytes(server, cache):
    cache.mkdir(parents=True)
    (cache / f"{SHA[:12]}-tiny_pose.onnx.part").write_bytes(CONTENT)
    assert load(server.url, SHA).content == CONTENT


def test_another_hash_is_refused_and_leaves_nothing(server, cache):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(RunError, match="another sha256 than the configured"):
        load(server.url, SHA)
    assert not [path for path in cache.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (503, 4)])
def test_refusals(server, cache, code, requests):
    server.answers = [code] * 10
    with pytest.raises(RunError) as caught:
        load(server.url, SHA)
    message = str(caught.value)
    assert f"HTTP {code}" in message and server.url in message and f"put it as {cache}/{SHA[:12]}-" in message
    assert len(server.seen) == requests and "\n" not in message


def test_offline_says_what_to_do_and_a_file_put_there_is_taken(cache):
    url = "http://127.0.0.1:9/pose.onnx"
    with pytest.raises(RunError, match=r"fetch it where there is a network and put it as (\S+)") as caught:
        load(url, SHA)
    place = str(caught.value).rsplit(" ", 1)[-1]
    with open(place, "wb") as file:
        file.write(CONTENT)
    assert load(url, SHA).content == CONTENT


def test_too_much_is_broken_off(server, monkeypatch, cache):
    monkeypatch.setattr(download, "_MOST_BYTES", 2_000_000)
    with pytest.raises(RunError, match="more than 2000000 bytes"):
        load(server.url, SHA)
    assert not list(cache.glob("*.part"))


def test_many_processes_fetch_once(server):
    """Six interpreters at once; the server hears of one."""
    program = "import sys; from harvest.estimators.download import load; print(len(load(*sys.argv[1:]).content))"
    started = [subprocess.Popen([sys.executable, "-c", program, server.url, SHA], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(
                                    sys.path)}) for _ in range(6)]
    assert [each.communicate(timeout=100)[0].strip() for each in started] == [str(len(CONTENT))] * 6
    assert server.seen == [None]


def test_paths(tmp_path):
    path = tmp_path / "pose.onnx"
    path.write_bytes(CONTENT)
    assert load(str(path)) == load(str(path), SHA) == Weights("pose.onnx", CONTENT, SHA)
    with pytest.raises(InputError, match=f"sha256 is {SHA}, not {'0' * 64} as configured"):
        load(str(path), "0" * 64)
    with pytest.raises(InputError, match="cannot read the model file"):
        load(str(tmp_path / "absent.onnx"))
    with pytest.raises(InputError, match="cannot read the model file"):
        load(str(tmp_path))


@pytest.mark.parametrize(("url", "sha256", "words"), [
    ("https://example.org/a.onnx", None, "needs the sha256"),
    ("file:///etc/passwd", SHA, "http or https"),
    ("ftp://example.org/a.onnx", SHA, "http or https")])
def test_urls_that_are_not_asked(url, sha256, words):
    with pytest.raises(InputError, match=words):
        load(url, sha256)


@pytest.mark.parametrize(("source", "name"), [
    ("http://h/..%2f..%2fetc%2fpasswd", "passwd"), ("http://h/", "model"), ("http://h/.hidden", "hidden"),
    ("http://h/a%00b;c.onnx", "a_b_c.onnx"), ("http://h/" + "x" * 300 + ".onnx", "x" * 75 + ".onnx")])
def test_names_in_urls_are_plain_files(source, name):
    assert download._name(source) == name


def zipped(**members: bytes) -> Weights:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return Weights("a.zip", content.getvalue(), "")


def test_archives(monkeypatch):
    assert unzipped(zipped(sdk__end2end_onnx=CONTENT, sdk__pipeline_json=b"{}"), ".onnx").content == CONTENT
    assert unzipped(Weights("a.onnx", CONTENT, SHA), ".onnx").content == CONTENT
    for members in ({"readme_txt": b""}, {"a_onnx": b"1", "b_onnx": b"2"}):
        with pytest.raises(InputError, match=r"it must hold one"):
            unzipped(zipped(**members), ".onnx")
    broken = zipped(a_onnx=CONTENT).content
    with pytest.raises(InputError, match="cannot be read as a zip archive"):
        unzipped(Weights("a.zip", broken[:1000], ""), ".onnx")
    monkeypatch.setattr(download, "_MOST_BYTES", 1000)
    assert len(unzipped(zipped(a_onnx=bytes(10 ** 7)), ".onnx").content) == 1001

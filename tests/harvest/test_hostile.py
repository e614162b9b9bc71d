"""Sources whose names, columns and pages are written to do harm, through one whole harvest, and what it hands on."""

import base64
import csv
import html.parser
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from harvest import fetch, forget, run
from harvest.reasons import VideoError
from skelcore import shards
from tests.harvest import calm, fakes, magic, web
from tests.harvest.test_run import BLOBS, finish, start
from tests.paths import ROOT

SCRIPT, MARKUP = "<script>alert(1)</script>", "\"'></script><img src=x onerror=alert(1)>"
NAMES = ["-rf.mp4", "--output=x.mp4", "$(touch pwned).mp4", "`touch pwned`.mp4", "a;touch pwned;|b&c.mp4",
         "new\nline.mp4", "esc\x1b[31m\x07.mp4", "rtl\u202egpj.mp4", "=cmd()|'x'!A0.mp4",
         "<img src=x onerror=alert(1)>.mp4", "%s%n{0}.mp4", "quote\".mp4", "\udcff\udcfe.mp4", "x" * 240 + ".mp4",
         "t#t=1,2.mp4", "@SUM(1+1).mp4", "\t=tab.mp4", ".hidden.mp4"]
IDS = ["../../x", "-rf", "a/b", "/etc/shadow", "x\ny", "=cmd()", "\x1b[2J", "\u202e", "y" * 5000, "CON",
       "$(touch pwned)", SCRIPT, ".", ".."]
CELLS = [SCRIPT, MARKUP, "=HYPERLINK(\"http://evil.example\")", "+1", "-1", "@SUM(1)", "\t=1+1", "\r=1+1",
         "\n=1+1", "＝1", "a\nb,c\r\nd", "\x1b]0;pwned\x07", "\u202egpj", "{{7*7}}", "'; DROP TABLE x; --", "z" * 3000]
PAGES = ["/good.mp4", "/hostile.html", "/disposition.mp4", "/passwd.mp4", "/script.mp4",
         "/;rm -rf ~;$(x)/v.mp4", "/odd\x1b[31m.mp4", "/good.mp4?q=" + SCRIPT, "/../../good.mp4",
         "/%00.mp4", "/%2e%2e/%2e%2e/good.mp4", "/told.mp4"]
ELSEWHERE = ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript://%0aalert(1)", "memory://../../x", "http://[::1",
             "http://127.0.0.1:99999/x", "http:///x", "file://x::http://y", "data://text/html," + SCRIPT,
             "http://esc\x1b(Bape.example/x", "http://gpj\u202e.example/x"]
PATHS = ["../../../../../../../etc/passwd", "/dev/zero", "/dev/stdin", "x\0y.mp4", "~root/x.mp4", "w" * 6000, "-",
         "/"]


@pytest.fixture(scope="module")
def harvested(tmp_path_factory):
    """The output folder, what was said, and all files there were and are."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("videos", "home", "temp"):
        (folder / name).mkdir()
    for i, name in enumerate(NAMES):
        fakes.write(folder / "plain.mp4", fakes.walk(1.2 if i % 4 else 0.3, seed=i))
        os.rename(folder / "plain.mp4", os.path.join(os.fsencode(folder / "videos"), os.fsencode(name)))
    for i, (suffix, codec) in enumerate([("mkv", "libx264"), ("avi", "mpeg4"), ("ts", "libx264"), ("webm", "libvpx")]):
        fakes.write(folder / "videos" / f"kind.{suffix}", fakes.walk(1.2, seed=50 + i), codec=codec)
    with pytest.MonkeyPatch.context() as patch, web.serve(folder) as site:
        patch.setitem(web.ROUTES, "/told.mp4", web.video(
            f"video/mp4; x={SCRIPT}", Link=f'<{MARKUP.replace(">", "")}\x1b[31m>; rel="license"', ETag='"\x1b[31m"'))
        rows = [{"url": site.url + page} for page in PAGES]
        rows += [{"url": site.url.replace("//", "//user:secret@") + "/good.mp4"}]
        rows += [{"url": address} for address in ELSEWHERE] + [{"path": path} for path in PATHS]
        for i in range(max(len(IDS), len(CELLS))):
            rows.append({"url": f"{site.url}/good.mp4?{i}", "id": dict(enumerate(IDS)).get(i, ""),
                         "label": CELLS[i % len(CELLS)], "licence": CELLS[(i + 1) % len(CELLS)],
                         "uploader_sha256": CELLS[(i + 2) % len(CELLS)], "extractor": CELLS[(i + 3) % len(CELLS)],
                         "video": CELLS[(i + 4) % len(CELLS)], SCRIPT: MARKUP, "=col()": "=1", "cuts": "=2",
                         "file": "../x"})
        with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
            writer.writeheader()
            writer.writerows(rows)
        odd = [{"label": [SCRIPT], "licence": {MARKUP: 1}}, {"split": {"a": "=1"}},
               {"id": ["../x"], "__proto__": {"x": 1}, "url ": "\0"}]
        (folder / "list.jsonl").write_text("".join(json.dumps({"url": f"{site.url}/good.mp4?j{i}", **row}) + "\n"
                                                   for i, row in enumerate(odd)))
        before = files(folder)
        said = finish(start(f"sources=[{folder / 'videos'}, {folder / 'list.csv'}, {folder / 'list.jsonl'}]", BLOBS,
                            f"output={folder / 'out'}", "workers=2", "shard_size=16", "law.licences=[any]",
                            "fetch.retries=0", "politeness.gap_seconds=0", "politeness.jitter_seconds=0",
                            "fetch.options={retries: 0, extractor_retries: 0, socket_timeout: 5}",
                            home=folder / "home", SKELSHOT_CACHE=str(folder / "cache"), TMPDIR=str(folder / "temp"),
                            RAY_TMPDIR="/tmp"))
    return folder / "out", said, before, files(folder), len(rows) + len(odd) + len(NAMES) + 4


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def lines(path):
    data = path.read_bytes()
    assert data.endswith(b"\n") or not data
    return data.decode().split("\n")[:-1]


@pytest.mark.slow
def test_no_file_is_written_anywhere_else(harvested):
    output, _, before, after, _ = harvested
    assert before <= after
    for path in after - before:
        # Ray and matplotlib keep files of their own below HOME.
        ours = path.relative_to(output.parent).parts[:2]
        assert ours[0] in ("out", "cache") or ours in (("home", ".ray"), ("home", ".cache")), path
    assert not any((place / "pwned").exists() for place in (Path.cwd(), ROOT, Path("/tmp")))
    assert not calm.left_over(output) and not list((output.parent / "temp").glob("skelshot-*"))
    for path in files(output):
        assert re.fullmatch(r"[\w.-]+", path.name) and not path.name.startswith("-"), path
    handed = {path: path.read_bytes() for path in files(output) if path.name != "plan.jsonl"}
    for word in (b"root:x:0", b"secret", os.fsencode(output.parent)):
        assert not [path for path, data in handed.items() if word in data and path.name != "ledger.jsonl"], word


@pytest.mark.slow
def test_every_line_is_one_line(harvested):
    output, (out, err), _, _, sources = harvested
    for name in ("plan.jsonl", "ledger.jsonl"):
        told = [json.loads(line) for line in lines(output / name)]
        ids = [row["id"] for row in told if "id" in row]
        assert len(ids) == len(set(ids)) == sources
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,90}", id) for id in ids)
        assert all(line.isprintable() for line in lines(output / name))
    for path in output.glob("rejected/*.jsonl"):
        assert all(json.loads(line)["source"] in ids for line in lines(path))
    assert all(line.isprintable() for line in [*out.split("\n"), *err.split("\n")])
    known = r"\d+/\d+ videos \(.*|[\w.:-]+: .*; asked again in \d+ s|"
    assert all(re.fullmatch(known, line) for line in err.split("\n")), err
    assert f"{sources} sources = " in out and "+ 0 pending" in out and len(out.split("\n")) <= 5
    entries = {row["id"]: row for line in lines(output / "ledger.jsonl") if "id" in (row := json.loads(line))}
    assert {row["reason"] for row in entries.values()}.isdisjoint({"error", "crash", "timeout", "network"}), entries
    assert all(row["detail"].isprintable() for row in entries.values())


@pytest.mark.slow
def test_a_spreadsheet_takes_no_cell_for_a_formula(harvested):
    output = harvested[0]
    text = (output / "ATTRIBUTION.csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text), strict=True))
    assert len(rows) == text.count("\n") > 30 and {len(row) for row in rows} == {8}
    for cell in (cell for row in rows for cell in row):
        assert cell.isprintable() and not re.match(r"\s*[=+\-@＝＋－＠]", cell), cell
    assert any(row[2] == "'=HYPERLINK(\"http://evil.example\")" for row in rows)


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.odd, self.scripts, self.words = set(), [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.odd += [(tag, name, value) for name, value in attrs if name.startswith("on")
                     or (name in ("src", "href", "style") and re.search(r"url|script|//", value or ""))]
        self.scripts += [""] if tag == "script" else []

    def handle_data(self, data):
        if self.lasttag == "script" and self.cdata_elem:
            self.scripts[-1] += data
        else:
            self.words.append(data)


@pytest.mark.slow
def test_the_report_shows_what_strangers_wrote_and_runs_none_of_it(harvested):
    text = (harvested[0] / "report.html").read_text("utf-8")
    page = Page(text)
    assert not page.odd
    assert page.tags.isdisjoint({"img", "iframe", "object", "embed", "link", "base", "form", "video", "audio"})
    assert len(page.scripts) == 2 and json.loads(page.scripts[0])["tracks"]
    assert "alert" not in page.scripts[1] and "</script" not in page.scripts[0].lower()
    assert SCRIPT in "".join(page.words), "what was listed is shown nowhere"
    assert "\x1b" not in text and "\u202e" not in text and "\\u202e" not in text


@pytest.mark.slow
def test_shards_hold_what_was_listed_and_can_be_read(harvested):
    output = harvested[0]
    for tar in output.glob("*/*.tar"):
        shards.verify(tar)
        with tarfile.open(tar) as archive:
            assert not [name for name in archive.getnames() if "/" in name or ".." in name]
    sources = [block.source for block in shards.stream(output / "shards")]
    assert {source["label"] for source in sources if "label" in source} >= {SCRIPT, MARKUP, *CELLS[2:6]}


def stills():
    frame = fakes.walk(0.1, size=(64, 64))[0]
    for suffix in ("jpg", "png", "webp", "bmp", "tiff"):
        yield suffix, cv2.imencode(f".{suffix}", frame)[1].tobytes()


def moving(folder):
    for suffix, codec in (("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"),
                          ("ts", "libx264"), ("flv", "flv"), ("h264", "libx264"), ("mpg", "mpeg2video"), ("gif", None)):
        path = folder / f"v.{suffix}"
        if codec is None:
            with av.open(str(path), "w") as container:
                stream = container.add_stream("gif", rate=10)
                stream.width = stream.height = 64
                stream.pix_fmt = "rgb8"
                frame = av.VideoFrame.from_ndarray(fakes.walk(0.1)[0], "rgb24").reformat(64, 64, "rgb8")
                container.mux([*stream.encode(frame), *stream.encode()])
        else:
            fakes.write(path, fakes.walk(1), fps=25 if suffix == "mpg" else 15, codec=codec)
        yield suffix, path.read_bytes()


def sounds(folder):
    for suffix, codec in (("mp3", "libmp3lame"), ("ogg", "libopus"), ("flac", "flac"), ("wav", "pcm_s16le")):
        path = folder / f"a.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=48000)
            samples = (np.random.default_rng(0).normal(size=(1, 48000)) * 3000).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16p" if suffix == "mp3" else "s16", layout="mono")
            frame.sample_rate = 48000
            container.mux([*stream.encode(frame), *stream.encode()])
        yield suffix, path.read_bytes()


def test_the_search_for_pictures_and_sound_finds_them(tmp_path):
    """Wherever they stand, and inside of what is written as text or as a zip."""
    rng, kinds = np.random.default_rng(0), set()
    noise = rng.bytes(30_000)
    assert not magic.media(noise) and not magic.media(bytes(30_000)) and not magic.media(b"words " * 9999)
    for suffix, data in [*stills(), *moving(tmp_path), *sounds(tmp_path)]:
        found = magic.media(noise[:777] + data + noise[:333])
        assert found, f"{suffix} was not found"
        kinds |= found
        bare = data[data.find(b"\xff\xfb"):] if suffix == "mp3" else data
        assert magic.media(b"x" * 51 + bare), suffix
        packed = io.BytesIO()
        np.savez_compressed(packed, a=np.frombuffer(data, np.uint8))
        assert magic.media(packed.getvalue()), suffix
        assert magic.media(b'<img src="data:;base64,' + base64.b64encode(data) + b'">'), suffix
    assert kinds >= {"jpeg", "png", "riff", "bmp", "tiff", "mp4", "matroska", "mpeg-ts", "flv", "h264", "mpeg-ps",
                     "gif", "mp3", "ogg", "flac", "id3"}


@pytest.mark.slow
def test_nothing_of_a_picture_or_a_sound_is_handed_on(harvested):
    output = harvested[0]
    outcome = {path: path.read_bytes() for path in files(output)}
    assert {path.suffix for path in outcome} >= {".tar", ".npz", ".json", ".jsonl", ".csv", ".html"}
    for path, data in outcome.items():
        assert not magic.media(data), (path.name, magic.media(data))
        for inner in _members(path):
            assert not magic.media(inner), path.name
    everything = b"".join(outcome.values())
    for video in files(output.parent / "videos"):
        data = video.read_bytes()
        pieces = [data[at:at + 24] for at in range(0, len(data) - 24, 24)]
        assert not any(piece in everything for piece in pieces if len(set(piece)) > 16), video


def _members(path):
    if path.suffix == ".tar":
        with tarfile.open(path) as tar:
            for member in tar:
                yield tar.extractfile(member).read()


@pytest.mark.parametrize("words", [
    ["sources=a\x1b[31m\nb\u202e.mp4"], ["sources=[{tmp}/twice.jsonl]"], ["sources=[{tmp}/clash.csv]"],
    ["sources=[{tmp}/surrogate.jsonl]"], ["sources=[{tmp}/bytes.csv]"], ["sources=[{tmp}/nul.csv]"],
    ["sources=[{tmp}/odd\x1b[31m.csv]"], ["sources=v.mp4", "x\n\x1b[31m=1"], ["sources=v.mp4", "retry=x\n\x1b[31m"],
    ["sources=v.mp4", "estimator=x\n\x1b[31m:y"], ["sources=v.mp4", "law.opt_out=x\n\x1b[31m"], ["x\n\x1b[31m.yaml"],
    ["sources=file:///x\n\x1b[31m"], ["sources=s3:///"], ["sources=x\0y.mp4"],
], ids=range(15))
def test_an_error_is_one_line_that_steers_no_terminal(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.mp4").write_bytes(b"x")
    rows = [{"path": "v\n\x1b[31m.mp4", "label": f"\n\x1b[31m{i}"} for i in range(2)]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "clash.csv").write_text('path,id\n"a\n\x1b[31m",x\nb,x\n')
    (tmp_path / "surrogate.jsonl").write_text('{"path": "v.mp4", "label": "\\ud800"}\n')
    (tmp_path / "bytes.csv").write_bytes(b"path\n\xff\xfe\n")
    (tmp_path / "nul.csv").write_bytes(b'path,"=x\x1b[31m\n"\nv.mp4,1,2\x1b[31m\n')
    (tmp_path / "odd\x1b[31m.csv").write_text("nothing\n1\n")
    assert run.main([*(word.replace("{tmp}", str(tmp_path)) for word in words), f"output={tmp_path}/out"]) in (1, 2)
    out, err = capsys.readouterr()
    assert not out and err.endswith("\n") and err.count("\n") == 1 and err[:-1].isprintable(), err


@pytest.mark.parametrize("name", ["esc\x1b(Bape.example", "gpj\u202e.example", "bell\x07.example"])
def test_a_host_that_cannot_be_printed_is_no_host(name):
    """Else the notice that it rests would steer a terminal."""
    address = f"http://{name}/x"
    assert fetch.host(address) is None
    with pytest.raises(VideoError) as caught:
        fetch.fetch(web.source(address), Path("unused"), web.config())
    assert caught.value.reason == "invalid"


def test_forgetting_takes_hostile_names_for_names(tmp_path, capsys):
    for name in ("../../x", "\x1b[31m\n", "$(touch pwned)", "<script>"):
        assert forget.main([str(tmp_path), name]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and err[:-1].isprintable()
    assert not list(tmp_path.iterdir()) and sys.exc_info() == (None, None, None)

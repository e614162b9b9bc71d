"""What a harvest hands on holds no picture and no sound, and what others call their videos does no harm."""

import csv
import json
import os
import re
from html.parser import HTMLParser

import pytest

from harvest import run
from skelcore import shards
from tests.harvest import calm, fakes, web
from tests.harvest.test_run import BLOBS

# How files of pictures, sound and video begin; of those that begin with two bytes only what follows tells them apart.
MAGIC = {
    "jpeg": rb"\xff\xd8\xff[\xe0-\xef\xdb]", "png": rb"\x89PNG\r\n\x1a\n", "gif": rb"GIF8[79]a",
    "riff": rb"RIFF....(?:WEBP|WAVE|AVI )", "mp4": rb"ftyp(?:isom|iso[0-9]|mp4[12]|avc1|M4[AV] |qt  |dash|heic|avif)",
    "matroska": rb"\x1a\x45\xdf\xa3", "ogg": rb"OggS\x00", "flac": rb"fLaC\x00", "mp3": rb"ID3[\x02-\x04]\x00",
    "flv": rb"FLV\x01[\x01\x04\x05]", "mpeg-ps": rb"\x00\x00\x01\xba[\x44\x21]",
    "h264": rb"\x00\x00\x00\x01[\x67\x27][\x42\x4d\x58\x64\x6e\x7a\xf4].[\x0a-\x3e]",
    "bmp": rb"BM....\x00\x00\x00\x00\x36",
    "tiff": rb"(?:II\*\x00\x08\x00|MM\x00\*\x00\x00\x00\x08)", "data url": rb"data:(?:image|video|audio)/",
}
FORMULA = "=HYPERLINK(\"http://evil.example\";\"x\")"
NASTY = [
    "../../../../tmp/evil", "..\\..\\evil", "-rf", "$(touch evil)", "`touch evil`", "; touch evil #", "| touch evil",
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", FORMULA, "+1+1", "@SUM(A1)",
    "a\x1b[31mred\x07",
    "a\u202egnp.exe", "line\u2028separator", "tab\tand\rreturn", "nul\x00byte", "\udcff",
    "é" * 300, "%00%2e%2e%2f", "'\"; --",
]


def found_in(data):
    return {name for name, pattern in MAGIC.items() if re.search(pattern, data, re.DOTALL)}


def test_the_scanner_sees_what_it_must(tmp_path):
    video = fakes.write(tmp_path / "walk.mp4", fakes.walk(0.5)).read_bytes()
    assert "mp4" in found_in(b"x" * 7 + video)
    for name, sample in {"jpeg": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n\x1a\n", "riff": b"RIFF1234WEBP",
                         "gif": b"GIF89a",
                         "matroska": b"\x1a\x45\xdf\xa3", "ogg": b"OggS\x00",
                         "mp3": b"ID3\x03\x00", "flac": b"fLaC\x00",
                         "data url": b"data:image/png;base64"}.items():
        assert found_in(b"abc" + sample + b"def") == {name}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.handlers = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attributes if name.startswith("on")]


@pytest.mark.slow
def test_names_titles_and_addresses_do_no_harm_and_no_pixel_is_kept(tmp_path, monkeypatch, capsys):
    """Local files, list columns and URLs, all in one harvest, in one process that would be the one to be harmed."""
    videos = tmp_path / "videos"
    videos.mkdir()
    clip = fakes.write(tmp_path / "walk.mp4", fakes.walk(1.2, seed=1)).read_bytes()
    listed, local = [], 0
    for number, text in enumerate(NASTY):
        name = text.replace("/", "_").replace("\x00", "_")[:80] + ".mp4"
        (videos / name).write_bytes(clip)
        local += 1
        if "\udcff" not in text and "\x00" not in text:
            (videos / f"row{number}.bin").write_bytes(clip)
            listed.append({"path": f"videos/row{number}.bin", "id": text, "label": text, "licence": f"CC0 {text}",
                           "title": text, "uploader": text})
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    calm.instead_of_ray(monkeypatch)
    with web.serve(tmp_path) as site:
        web.alone(site, tmp_path, monkeypatch)
        urls = [f"{site.url}/good.mp4?x={text}"
                for text in ("$(touch evil)", "../../evil", "<script>", "%0d%0aX-Evil: 1")]
        (tmp_path / "urls.txt").write_text("\n".join([*urls, f"{site.url}/../../etc/passwd", "file:///etc/passwd",
                                                       "https://[::1", "http://user:secret@127.0.0.1:1/v.mp4"]) + "\n")
        monkeypatch.chdir(tmp_path)
        before = {path for path in tmp_path.rglob("*")}
        arguments = [f"sources=[{videos}, {tmp_path}/list.jsonl, {tmp_path}/urls.txt]", "output=out", BLOBS,
                     "law.licences=[any]", "shard_size=16"]
        status = run.main(arguments)
    told = capsys.readouterr()
    assert status == 0, told.err
    output = tmp_path / "out"
    made = {path for path in tmp_path.rglob("*")} - before
    assert all(path == output or output in path.parents or (tmp_path / "cache") in [path, *path.parents]
               or path.name.startswith("robots") for path in made), made
    assert not any("evil" in path.name for path in made if output not in path.parents)
    rows = [json.loads(line) for line in (output / "ledger.jsonl").read_text().splitlines()]
    entries = [row for row in rows if "id" in row]
    assert len(entries) == len({row["id"] for row in entries}) == local + len(listed) + len(urls) + 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,90}", row["id"]) for row in entries)
    assert sum(row["status"] == "ok" for row in entries) >= local + len(listed)
    # No control character reaches the terminal, and no secret or folder of this machine what is handed on.
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e]", (told.out + told.err).replace("\r", ""))
    files = [path for path in output.rglob("*") if path.is_file() and path.name not in (".lock", "plan.jsonl")]
    handed_on = [path for path in files if path.parent.name in ("shards", "rejected", "out")]
    for path in handed_on:
        data = path.read_bytes()
        assert found_in(data) == set(), path
        assert b"secret" not in data, path
        assert str(videos).encode() not in data or path.name == "settings.json", path
    store = shards.read(output)
    assert len(store) >= local + len(listed)
    # A spreadsheet takes no cell for a formula, and every line has all its fields.
    with open(output / "ATTRIBUTION.csv", newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert len({len(row) for row in table}) == 1
    assert not [cell for row in table for cell in row if cell.startswith(("=", "+", "-", "@"))]
    page = Page((output / "report.html").read_text("utf-8"))
    assert "img" not in page.tags and "iframe" not in page.tags and page.handlers == []
    assert os.path.exists(output / "summary.json")

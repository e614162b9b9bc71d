import itertools
import json
import math
import os
import re
import string
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest import address, sources
from harvest.sources import Source
from skelcore.errors import InputError, RunError

VIDEO = "abcDEF-_123"


def expand(*named):
    return list(sources.expand(map(str, named)))


@pytest.fixture
def bucket():
    """A folder of an object store."""
    files = fsspec.filesystem("memory")
    files.pipe({f"/Bucket/{name}": b"x" for name in ("deep/a.mp4", "deep/B #1?.MKV", "c.avi", "notes.md")})
    files.pipe("/Bucket/list.csv", b"path,url,start\nc.avi,,1\n,HTTPS://e.org/v,\n")
    yield "memory://Bucket"
    files.rm("/Bucket", recursive=True)


@pytest.mark.parametrize("text", [
    "https://example.org/", "https://example.org/../../etc/passwd", "https://e.org/a;rm -rf $HOME|x", "/tmp/ä ö/\n.mp4",
    "https://example.org/" + "x" * 500, "https://user:secret@example.org/v.mp4", "/v.mp4#t=1.25,3", "/" + "v" * 500,
])
def test_ids_are_safe_keys(text):
    name = address.identify(text)
    assert re.fullmatch(r"[A-Za-z0-9_-]{13,90}", name)
    assert "secret" not in name
    assert name == address.identify(text)


def test_ids_have_not_changed_since_they_were_first_given():
    assert address.identify("https://example.org/a/v.mp4?x=1") == "example-org-a-v-mp4-x-1-25428fbe3110"
    assert address.identify("/data/My clip.mp4") == "My-clip-8e37c1ad6b72"


def test_two_files_of_one_name_differ():
    assert address.identify("/a/v.mp4") != address.identify("/b/v.mp4")


@pytest.mark.parametrize(("a", "b"), [
    ("HTTPS://Example.org:443/a?q=1#t=3", "https://example.org/a?q=1"), ("http://example.org", "http://example.org/"),
    ("http://[::1]:80/x", "http://[::1]/x"), (" https://e.org/a ", "https://e.org/a"),
    ("https://e.org/v?utm_source=x&id=3&fbclid=a&utm_medium", "https://e.org/v?id=3"),
    ("https://e.org/v?fbclid=a", "https://e.org/v"),
    *((url, f"https://www.youtube.com/watch?v={VIDEO}") for url in (
        f"https://youtu.be/{VIDEO}?si=track", f"http://youtube.com/watch?v={VIDEO}&list=PL1&t=3s",
        f"https://m.youtube.com/watch?feature=share&v={VIDEO}", f"https://www.youtube.com/shorts/{VIDEO}",
        f"https://www.youtube.com/embed/{VIDEO}?start=4", f"https://www.youtube-nocookie.com/embed/{VIDEO}",
        f"HTTPS://YOUTU.BE:443/{VIDEO}", f"https://www.youtube.com/live/{VIDEO}/")),
])
def test_spellings_of_one_url(a, b):
    assert address.canonical(a) == b == address.canonical(b)
    assert [source.address for source in expand(a.strip())] == [b]


@pytest.mark.parametrize("url", [
    "https://e.org/v?q=utm_source=x&Utm_a=1", "https://e.org/v?b=%2F&a=+&&c", "https://e.org/a//b/../c",
    "https://www.youtube.com/playlist?list=PL1", "https://www.youtube.com/@name/videos", "https://youtu.be/short",
    f"https://notyoutu.be/{VIDEO}", f"https://youtube.com.evil.org/watch?v={VIDEO}",
    "s3://Bucket/Key #1?.mp4", "memory://A/b#t=3",
])
def test_what_a_url_says_is_kept(url):
    assert address.canonical(url) == url


plain = st.text(string.ascii_lowercase + "/?&#=.:_-@[]%A\t é", max_size=30)


@given(st.sampled_from(["http", "https", "HTTPS"]), st.sampled_from([
    "e.org", "E.org", "e.org:80", "youtu.be", "www.youtube.com", "e.org/?utm_a=b&", "e.org/?a=b&fbclid=c", "u:p@e.org",
    "www.youtube.com/watch?v=abcdefghijk", "",
]), plain)
def test_the_short_way_to_the_one_spelling_agrees_with_the_long_one(scheme, host, rest):
    url = f"{scheme}://{host}{rest}"
    short = address.canonical(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(address, "_CANONICAL", re.compile(r"(?!)"))
        assert address.canonical(url) == short


@given(st.sampled_from(["/v.mp4", "/v.mp4#t=3", "https://e.org/v?a=b", "s3://b/k#t=1,2#t=0"]),
       st.floats(0, 1e8, allow_nan=False), st.floats(0, 1e8) | st.just(math.inf))
def test_a_clip_is_told_by_its_address_and_whole_videos_are_told_apart(location, start, end):
    source = Source("x", address.cut(location, start, end))
    assert source.location == location
    assert source.clip == (None if (start, end) == (0, math.inf) else (start, end))
    assert address.cut(*address.split(source.address)[:1], *(source.clip or ())) == source.address


@pytest.mark.parametrize(("start", "end", "fragment"), [
    ("10", "", "#t=10"), ("10.50", "12", "#t=10.5,12"), ("", "5", "#t=0,5"), ("0", "", ""),
    ("1:30", "90.1", "#t=90,90.1"), ("01:00:00.123", "1:00:01", "#t=3600.123,3601"),
    ("0.0000001", "1.", "#t=0.0000001,1"),
])
def test_clips_in_lists(tmp_path, start, end, fragment):
    (tmp_path / "l.csv").write_text(f"url,start,end,label\nhttps://e.org/v.mp4,{start},{end},wave\n")
    (source,) = expand(tmp_path / "l.csv")
    assert source.address == f"https://e.org/v.mp4{fragment}" and source.location == "https://e.org/v.mp4"
    assert source.meta == {"label": "wave"} and source.id == address.identify(source.address)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_times(hours, minutes, rest, thousandths):
    want = (3600_000 * hours + 60_000 * minutes + 1000 * rest + thousandths) / 1000
    assert address.seconds(f"{hours}:{minutes:02d}:{rest:02d}.{thousandths:03d}") == want
    assert address.seconds(f" {hours * 60 + minutes}:{rest}.{thousandths:03d} ") == want
    assert address.seconds(want) == address.seconds(str(want)) == want


def test_clips_of_one_video_are_sources_of_their_own(tmp_path):
    rows = [{"label": "a", "start": 0, "end": 2.5}, {"label": "b", "start": "0:02.5"}, {"label": "whole"}]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"path": "v.mp4", **row}) + "\n" for row in rows))
    found = expand(tmp_path / "l.jsonl")
    assert [source.clip for source in found] == [(0.0, 2.5), (2.5, math.inf), None]
    assert {source.location for source in found} == {str(tmp_path / "v.mp4")}
    assert len({source.id for source in found}) == 3


def test_a_file_whose_name_ends_like_a_clip(tmp_path):
    (tmp_path / "v.mp4#t=3").write_bytes(b"x")
    (source,) = expand(tmp_path / "v.mp4#t=3")
    assert source.location == str(tmp_path / "v.mp4#t=3") and source.clip is None


def test_sources_of_every_kind(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("deep/a.mp4", "deep/b.MKV", "c.avi", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text("# my videos\nc.avi\n\nhttps://example.org/1\n")
    (tmp_path / "list.csv").write_text("path,url,label,id\ndeep/a.mp4,,wave,\n,https://example.org/2,clap,two\n")
    (tmp_path / "list.jsonl").write_text('{"url": "https://example.org/3", "label": 7, "licence": "CC BY"}\n')
    monkeypatch.chdir(tmp_path)
    found = {s.address.removeprefix(f"{tmp_path}/"): s for s in
             expand(".", "*.avi", "list.txt", "list.csv", "list.jsonl", tmp_path / "c.avi")}
    assert set(found) == {"deep/a.mp4", "deep/b.MKV", "c.avi", *(f"https://example.org/{n}" for n in (1, 2, 3))}
    assert found["deep/a.mp4"].meta == {"label": "wave"}
    assert found["https://example.org/2"].id == "two"
    # A label is a name even where the list writes a number.
    assert found["https://example.org/3"].meta == {"label": "7", "licence": "CC BY"}


def test_the_same_elsewhere(bucket):
    folder = {f"{bucket}/{name}" for name in ("deep/a.mp4", "deep/B #1?.MKV", "c.avi")}
    assert {source.address for source in expand(bucket)} == folder == {s.address for s in expand(f"{bucket}/")}
    assert {source.address for source in expand(f"{bucket}/deep/*.*")} == folder - {f"{bucket}/c.avi"}
    assert [source.address for source in expand("MEMORY://Bucket/c.avi")] == [f"{bucket}/c.avi"]
    assert [source.address for source in expand(f"{bucket}/list.csv")] == [f"{bucket}/c.avi#t=1", "https://e.org/v"]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", source.id) for source in expand(bucket))


@pytest.mark.parametrize(("uri", "words"), [
    ("memory://Bucket/absent.mp4", "absent.mp4: no such file"), ("memory://Bucket/*.webm", "nothing matches"),
    ("nosuch://x/y", "nosuch"), ("zip://v.mp4::memory://Bucket/x.zip", "chained"), ("memory://Bucket/void/", "no such"),
])
def test_what_is_not_there_elsewhere(bucket, uri, words):
    with pytest.raises(InputError, match=re.escape(words)):
        expand(uri)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.mp4", "a/../../b.mp4"])
def test_a_list_from_elsewhere_names_nothing_of_this_machine(bucket, path):
    fsspec.filesystem("memory").pipe("/Bucket/evil.txt", path.encode())
    with pytest.raises(InputError, match=r"Bucket/evil\.txt, line 1: .*leads out of the folder"):
        expand(f"{bucket}/evil.txt")


def test_a_file_system_that_fails(bucket, monkeypatch):
    def fail(*_, **__):
        raise ConnectionResetError("no route")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", fail)
    with pytest.raises(RunError, match=f"{bucket}: cannot be read: no route"):
        expand(bucket)


@pytest.mark.parametrize(("text", "name", "words"), [
    (None, "absent.mp4", "no such file"), (None, "none/*.mp4", "nothing matches"),
    ("a,b\n1,2\n", "l.csv", "url or path"), ("url,path\nhttps://e.org/1,x.mp4\n", "l.csv", "line 2: needs either"),
    ("url\nexample\n", "l.csv", "line 2.*no scheme"),
    ("url\nhttps://e.org,1\n", "l.csv", "line 2: more fields"), ("[1]\n", "l.jsonl", "line 1: not a JSON object"),
    ('{"url": "https://e.org/1", "x": NaN}', "l.jsonl", "line 1: not a JSON object"),
    ('{"path": "v.mp4"}\n{"path": "w.mp4", "x": [1e999]}', "l.jsonl", "l.jsonl, line 2: .* finite numbers"),
    ('{"url": "https://e.org/\\ud800"}', "l.jsonl", "line 1: .* valid text"),
    ('{"path": "v.mp4", "x": ' + "[" * 900 + "]" * 900 + "}", "l.jsonl", "line 1: .* levels deep"),
    ('{"path": "v.mp4", "x": ' + "[" * 99999 + "]" * 99999 + "}", "l.jsonl", "line 1: .* levels deep"),
    ('url,"label\nhttps://e.org/1,a\n', "l.csv", "l.csv, line 2: unexpected end"),
    ("url,label\n", "l.csv", "no source in"), ("# none yet\n\n", "l.txt", "no source in"),
    ("", "l.jsonl", "no source in"), ("\udcff", "l.txt", "l.txt: cannot be read"),
    (None, "x" * 300, "no such file"), (None, "x" * 300 + ".csv", "no such file"),
    *((f"path,start,end\nok.mp4,,\nv.mp4,{clip}\n", "l.csv", f"l.csv, line 3: .*{words}") for clip, words in (
        ("5,5", "not before"), ("6,5", "not before"), (",0", "not before its end 0 s"), ("-1,5", "is no time"),
        ("nan,", "is no time"), ("0,inf", "is no time"), ("1:60,", "sixty"), ("1:60:00,", "sixty"),
        ("1e3,", "is no time"), ("1:2:3:4,", "is no time"), ("٣,", "is no time"))),
    ('{"path": "v.mp4", "start": true}', "l.jsonl", "line 1: True is no time"),
    ('{"path": "v.mp4", "end": [1]}', "l.jsonl", "line 1: .* is no time"),
])
def test_bad_sources_say_where(tmp_path, text, name, words):
    if text is not None:
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=words):
        expand(tmp_path / name)


def test_one_address_is_one_source_whoever_names_it():
    mentions = [Source(address.identify("/v.mp4"), "/v.mp4"), Source("clip", "/v.mp4"),
                Source(address.identify("/v.mp4"), "/v.mp4", {"label": "wave"})]
    for a, b, c in itertools.permutations(mentions):
        assert sources.unite(sources.unite(a, b), c) == Source("clip", "/v.mp4", {"label": "wave"})


def test_only_a_line_feed_ends_a_row(tmp_path):
    odd = ["v\x0c.mp4", "v\u2028.mp4", "v\x85.mp4"]
    (tmp_path / "l.txt").write_text("\r\n".join(odd), "utf-8", newline="")
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"path": p}, ensure_ascii=False) + "\n" for p in odd), "utf-8")
    (tmp_path / "l.csv").write_text("path,title\n" + "".join(f'{p},"two\nlines"\n' for p in odd), "utf-8")
    for name in ("l.txt", "l.jsonl", "l.csv"):
        found = expand(tmp_path / name)
        assert [Path(source.address).name for source in found] == odd
    assert {source.meta["title"] for source in found} == {"two\nlines"}


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "v.mp4").touch()
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(folder="."):
        if os.fspath(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scandir(folder)

    # Not by chmod, which does not stop root.
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot read the folder .*locked: Permission denied"):
        expand(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="holds no video"):
        expand(tmp_path)


def test_sources_come_while_the_list_is_read(tmp_path):
    (tmp_path / "l.txt").write_text("a.mp4\n" * 20_000 + "http://e.org/\n")
    with open(tmp_path / "l.txt", "ab") as file:
        file.write(b"\xff\n")
    found = sources.expand([str(tmp_path / "l.txt")])
    assert next(found).address == str(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="cannot be read"):
        list(found)


def test_the_text_of_a_time_is_the_shortest_that_reads_back():
    for value in np.random.default_rng(0).uniform(0, 1e5, 200).tolist():
        assert address.cut("", value) == f"#t={value!r}"

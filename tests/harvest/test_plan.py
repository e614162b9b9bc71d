import itertools
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest import plan
from skelcore.errors import InputError

urls = st.lists(st.integers(0, 500).map(lambda n: f"https://host{n % 7}.example/clip?id={n}"), min_size=1, max_size=30)


def placed(sources):
    return {source.id: (source.address, source.shard) for source in sources}


@given(urls, st.randoms(use_true_random=False), st.integers(1, 5))
def test_plan_does_not_depend_on_order_or_repetition(tmp_path_factory, addresses, random, size):
    folder = tmp_path_factory.mktemp("plan")
    shuffled = addresses + addresses[:3]
    random.shuffle(shuffled)
    first = plan.update(folder / "a", plan.expand(addresses), size)
    second = plan.update(folder / "b", plan.expand(shuffled), size)
    assert first == second
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert len(first) == len(set(addresses)) == len({source.id for source in first})
    assert max(sum(source.shard == s.shard for s in first) for source in first) <= size


@settings(max_examples=40)
@given(urls, urls, st.integers(1, 5), st.integers(1, 5))
def test_appending_keeps_every_planned_source(tmp_path_factory, before, added, size, later_size):
    path = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    first = placed(plan.update(path, plan.expand(before), size))
    lines = path.read_bytes()
    # The second run may name fewer, other or more sources: what was planned stays.
    second = placed(plan.update(path, plan.expand(added), later_size))
    assert path.read_bytes().startswith(lines)
    assert second.items() >= first.items()
    new = {key: value for key, value in second.items() if key not in first}
    assert {address for address, _ in new.values()} == set(added) - set(before)
    assert not {shard for _, shard in new.values()} & {shard for _, shard in first.values()}
    assert placed(plan.read(path)) == second


@pytest.mark.parametrize("address", [
    "https://example.org/", "https://example.org/../../etc/passwd", "https://e.org/a;rm -rf $HOME|x", "/tmp/ä ö/\n.mp4",
    "https://example.org/" + "x" * 500, "https://user:secret@example.org/v.mp4",
])
def test_ids_are_safe_keys(address):
    name = plan.identify(address)
    assert re.fullmatch(r"[A-Za-z0-9_-]{13,90}", name)
    assert "secret" not in name
    assert name == plan.identify(address)


@pytest.mark.parametrize(("a", "b"), [
    ("HTTPS://Example.org:443/a?q=1#t=3", "https://example.org/a?q=1"), ("http://example.org", "http://example.org/"),
    ("http://[::1]:80/x", "http://[::1]/x"),
])
def test_spellings_of_one_url(a, b):
    assert plan.canonical(a) == plan.canonical(b)
    assert plan.expand([a, b])[0].address == plan.canonical(b)
    assert len(plan.expand([a, b])) == 1


def test_sources_of_every_kind(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("deep/a.mp4", "deep/b.MKV", "c.avi", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text("# my videos\nc.avi\n\nhttps://example.org/1\n")
    (tmp_path / "list.csv").write_text("path,url,label,id\ndeep/a.mp4,,wave,\n,https://example.org/2,clap,two\n")
    (tmp_path / "list.jsonl").write_text('{"url": "https://example.org/3", "label": 7, "licence": "CC BY"}\n')
    monkeypatch.chdir(tmp_path)
    found = {s.address.removeprefix(f"{tmp_path}/"): s for s in
             plan.expand([".", "*.avi", "list.txt", "list.csv", "list.jsonl", str(tmp_path / "c.avi")])}
    assert set(found) == {"deep/a.mp4", "deep/b.MKV", "c.avi", *(f"https://example.org/{n}" for n in (1, 2, 3))}
    assert found["deep/a.mp4"].meta == {"label": "wave"}
    assert found["https://example.org/2"].id == "two"
    # A label is a name even where the list writes a number.
    assert found["https://example.org/3"].meta == {"label": "7", "licence": "CC BY"}


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
    ("", "l.jsonl", "no source in"),
    (None, "x" * 300, "no such file"), (None, "x" * 300 + ".csv", "no such file"),
    ("path,id\nv.mp4,a\nv.mp4,b\n", "l.csv", "two ids: 'a' and 'b'"),
    ("url,id\nhttps://e.org/1,a\nhttps://e.org/2,a\n", "l.csv", "'a' stands for two sources"),
    ("url,label\nhttps://e.org/1,a\nhttps://e.org/1,b\n", "l.csv", "different columns"),
])
def test_bad_sources_say_where(tmp_path, text, name, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        plan.expand([str(tmp_path / name)])


def test_an_id_never_changes_its_address(tmp_path):
    rows = tmp_path / "l.jsonl"
    rows.write_text(json.dumps({"url": "https://e.org/1", "id": "one"}))
    plan.update(tmp_path / "plan.jsonl", plan.expand([str(rows)]), 4)
    rows.write_text(json.dumps({"url": "https://e.org/2", "id": "one"}))
    with pytest.raises(InputError, match="'one' stands for https://e"):
        plan.update(tmp_path / "plan.jsonl", plan.expand([str(rows)]), 4)


@pytest.mark.parametrize(("data", "words"), [
    (b'{"id": "a"', "line 1"), (b'{"id": "caf\xe9"}', "cannot read the plan"),
    (b'{"id": "a", "address": "b", "meta": {}, "shard": 1e999}', "line 1"), (b"[" * 99999, "line 1"),
])
def test_damaged_plan(tmp_path, data, words):
    (tmp_path / "plan.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=words):
        plan.read(tmp_path / "plan.jsonl")


def test_one_address_is_one_source_whoever_names_it(tmp_path):
    video = tmp_path / "v.mp4"
    video.touch()
    (tmp_path / "a.csv").write_text("path,id\nv.mp4,clip\n")
    (tmp_path / "b.jsonl").write_text('{"path": "v.mp4", "label": "wave"}\n')
    (tmp_path / "c.txt").write_text("v.mp4\n./v.mp4\n")
    for named in itertools.permutations([video, *(tmp_path / name for name in ("a.csv", "b.jsonl", "c.txt"))]):
        assert plan.expand(map(str, named)) == [plan.Source("clip", str(video), {"label": "wave"})]


def test_a_planned_source_keeps_its_id(tmp_path):
    video, path = tmp_path / "v.mp4", tmp_path / "plan.jsonl"
    video.touch()
    (tmp_path / "list.csv").write_text("path,id\nv.mp4,clip\n")
    first = plan.update(path, plan.expand([str(video)]), 4)
    assert plan.update(path, plan.expand([str(tmp_path / "list.csv")]), 4) == first == plan.read(path)


def test_a_file_name_that_is_not_utf8(tmp_path):
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "cafe.mp4").write_bytes(b"x")
    written = plan.update(tmp_path / "plan.jsonl", plan.expand([str(tmp_path)]), 4)
    assert len({source.id for source in written}) == 2
    assert plan.read(tmp_path / "plan.jsonl") == written
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", s.id) and Path(s.address).read_bytes() == b"x" for s in written)


def test_only_a_line_feed_ends_a_row(tmp_path):
    odd = ["v\x0c.mp4", "v\u2028.mp4", "v\x85.mp4"]
    (tmp_path / "l.txt").write_text("\r\n".join(odd), "utf-8", newline="")
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"path": p}, ensure_ascii=False) + "\n" for p in odd), "utf-8")
    (tmp_path / "l.csv").write_text("path,title\n" + "".join(f'{p},"two\nlines"\n' for p in odd), "utf-8")
    for name in ("l.txt", "l.jsonl", "l.csv"):
        found = plan.expand([str(tmp_path / name)])
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
        plan.expand([str(tmp_path)])


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="holds no video"):
        plan.expand([str(Path(tmp_path))])

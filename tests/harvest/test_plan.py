import itertools
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest import plan, sources
from harvest.sources import Source
from skelcore.errors import InputError

urls = st.lists(st.integers(0, 500).map(lambda n: f"https://host{n % 7}.example/clip?id={n}"), min_size=1, max_size=30)


def update(path, named, size=4):
    return plan.update(path, sources.expand(map(str, named)), size)


def placed(planned):
    return {source.id: (source.address, source.shard) for source in planned}


def consistent(planned):
    """Everything that a plan says of itself against a plain look at its sources."""
    listed = list(planned)
    assert len(planned) == len(listed) == len({s.id for s in listed}) == len({s.address for s in listed})
    assert planned.shards == len({source.shard for source in listed})
    for shard in range(planned.shards):
        assert [i for i, source in enumerate(listed) if source.shard == shard] == list(planned.members(shard))
    assert [planned.find(source.id) for source in listed] == list(range(len(listed)))
    assert planned.find("absent") is None
    return True


@given(urls, st.randoms(use_true_random=False), st.integers(1, 5))
def test_plan_does_not_depend_on_order_or_repetition(tmp_path_factory, addresses, random, size):
    folder = tmp_path_factory.mktemp("plan")
    shuffled = addresses + addresses[:3]
    random.shuffle(shuffled)
    first, second = update(folder / "a", addresses, size), update(folder / "b", shuffled, size)
    assert list(first) == list(second) and consistent(first)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert len(first) == len(set(addresses))
    assert max(len(first.members(shard)) for shard in range(first.shards)) <= size


@settings(max_examples=60)
@given(st.lists(st.tuples(urls, st.integers(1, 5), st.floats(0, 1)), min_size=2, max_size=5))
def test_appending_keeps_every_planned_source(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    before: dict = {}
    named: set = set()
    content = b""
    for number, (addresses, size, torn) in enumerate(steps):
        if content and torn < 0.7:
            # An append that was killed anywhere has not happened.
            update(path, [f"https://torn.example/{number}/{i}" for i in range(6)], 2)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(content) + round(torn * (len(whole) - len(content) - 1))])
            assert placed(plan.read(path)) == before
        # A later run may name fewer, other or more sources: what was planned stays.
        now = update(path, addresses, size)
        new = placed(now).items() - before.items()
        assert path.read_bytes().startswith(content) and placed(now).items() >= before.items() and consistent(now)
        assert sorted(address for _, (address, _) in new) == sorted(set(addresses) - named)
        assert not {shard for _, (_, shard) in new} & {shard for _, shard in before.values()}
        assert placed(plan.read(path)) == placed(now)
        # Where nothing was new, what was torn off lies behind these bytes still.
        before, content, named = placed(now), path.read_bytes()[: now.size], named | set(addresses)


def test_nothing_new_changes_nothing(tmp_path):
    path = tmp_path / "plan.jsonl"
    update(path, ["https://e.org/1"])
    content, modified = path.read_bytes(), path.stat().st_mtime_ns
    assert len(update(path, ["https://e.org/1"])) == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, modified)
    assert len(plan.update(tmp_path / "none", [], 4)) == 0 and not (tmp_path / "none").exists()


def test_a_preview_tells_what_an_update_does(tmp_path):
    path = tmp_path / "plan.jsonl"
    first = [Source("a", "/a.mp4"), Source("b", "https://e.org/b"), Source("c", "/c.mp4")]
    assert plan.preview(path, first, 2) == plan.Preview(planned=0, added=3, urls=1, shards=2)
    assert not path.exists()
    plan.update(path, first, 2)
    more = [*first, Source("d", "s3://b/d"), Source("e", "/e.mp4"), Source("f", "/f.mp4")]
    assert plan.preview(path, more, 2) == plan.Preview(planned=3, added=3, urls=2, shards=4)
    assert plan.update(path, more, 2).shards == 4


def test_a_plan_is_a_sequence(tmp_path):
    planned = plan.update(tmp_path / "plan.jsonl", [Source(x, f"/{x}.mp4", {"label": x}) for x in "dbca"], 3)
    assert planned[0] == Source("a", "/a.mp4", {"label": "a"}, 0) and planned[-1].id == "d" and planned[-1].shard == 1
    assert [source.id for source in planned[1:3]] == ["b", "c"] and planned[2] in planned
    with pytest.raises(IndexError):
        planned[4]


def test_two_ids_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "hash", lambda text: 0 if len(text) == 1 else hash(text), raising=False)
    path = tmp_path / "plan.jsonl"
    first = plan.update(path, [Source(x, f"/{x}.mp4") for x in "abc"], 2)
    assert [first.find(x) for x in "abcd"] == [0, 1, 2, None]
    second = plan.update(path, [Source(x, f"/{x}.mp4") for x in "bdc"], 2)
    assert [source.id for source in second] == list("abcd")
    with pytest.raises(InputError, match="two sources"):
        plan.update(path, [Source("x", "/1.mp4"), Source("y", "/2.mp4"), Source("x", "/3.mp4")], 2)


def test_an_older_plan_is_read_and_continued(tmp_path):
    path = tmp_path / "plan.jsonl"
    rows = [{"id": x, "address": f"/{x}.mp4", "shard": i // 2, "meta": {"label": x}} for i, x in enumerate("abc")]
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    assert placed(plan.read(path)) == {"a": ("/a.mp4", 0), "b": ("/b.mp4", 0), "c": ("/c.mp4", 1)}
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    now = plan.update(path, [Source("z", "/a.mp4"), Source("d", "/d.mp4")], 2)
    assert [source.id for source in now] == list("abcd") and now[3].shard == 2 and consistent(now)


@pytest.mark.parametrize(("name", "text", "words"), [
    ("l.csv", "path,id\nv.mp4,a\nv.mp4,b\n", "two ids: 'a' and 'b'"),
    ("l.csv", "url,id\nhttps://e.org/1,a\nhttps://e.org/2,a\n", "'a' stands for two sources"),
    ("l.csv", "url,label\nhttps://e.org/1,a\nhttps://e.org/1,b\n", "different columns"),
    ("l.csv", "path,id,label\nv.mp4,,\nw.mp4,a,\nv.mp4,,x\nv.mp4,a,\n", "'a' stands for two sources"),
])
def test_lists_that_contradict_themselves(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        update(tmp_path / "plan.jsonl", [tmp_path / name])
    assert not (tmp_path / "plan.jsonl").exists()


def test_an_id_never_changes_its_address(tmp_path):
    rows = tmp_path / "l.jsonl"
    rows.write_text(json.dumps({"url": "https://e.org/1", "id": "one"}))
    update(tmp_path / "plan.jsonl", [rows])
    rows.write_text(json.dumps({"url": "https://e.org/2", "id": "one"}))
    with pytest.raises(InputError, match=r"'one' stands for https://e.org/1 in the plan, now for https://e.org/2"):
        update(tmp_path / "plan.jsonl", [rows])


def line(**values):
    return json.dumps({"address": "/a", "id": "a", "meta": {}, "shard": 0} | values).encode() + b"\n"


@pytest.mark.parametrize(("data", "words"), [
    (b'{"id": "a"', "line 1"), (b'{"id": "caf\xe9"}\n', "line 1"), (b"[" * 99999 + b"\n", "line 1"),
    (b"[]\n", "line 1"),
    (line(shard=1), "line 1"), (line().replace(b"0", b"1e999"), "line 1"), (line()[:-1], "line 1"), (b"\n", "line 1"),
    (line() + line(id="b", shard=2), "line 2"), (line() + line(shard=1) + line(shard=0), "line 3"),
    (line() + b'{"sources": 2}\n{"sources": 1}\n', "line 3"), (line() + line()[:-9], "line 2"),
    (line() + b'{"sources": "x"}\n', "line 2"), (line() + b'{"sources": 1}\n{}\n', "line 3"),
])
def test_damaged_plan(tmp_path, data, words):
    (tmp_path / "plan.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=f"{words}: not a line of a plan; restore the file or use another output"):
        plan.read(tmp_path / "plan.jsonl")


def test_a_plan_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="cannot read the plan"):
            plan.read(path)
    (tmp_path / "empty").touch()
    assert list(plan.read(tmp_path / "empty")) == [] and plan.read(tmp_path / "empty").shards == 0


def test_one_address_is_one_source_whoever_names_it(tmp_path):
    video = tmp_path / "v.mp4"
    video.touch()
    (tmp_path / "a.csv").write_text("path,id\nv.mp4,clip\n")
    (tmp_path / "b.jsonl").write_text('{"path": "v.mp4", "label": "wave"}\n')
    (tmp_path / "c.txt").write_text("v.mp4\n./v.mp4\n")
    named = [video, *(tmp_path / name for name in ("a.csv", "b.jsonl", "c.txt"))]
    for number, order in enumerate(itertools.permutations(named)):
        assert list(update(tmp_path / f"plan{number}", order)) == [Source("clip", str(video), {"label": "wave"}, 0)]


def test_a_planned_source_keeps_its_id(tmp_path):
    video, path = tmp_path / "v.mp4", tmp_path / "plan.jsonl"
    video.touch()
    (tmp_path / "list.csv").write_text("path,id\nv.mp4,clip\n")
    first = list(update(path, [video]))
    assert list(update(path, [tmp_path / "list.csv"])) == first == list(plan.read(path))


def test_a_file_name_that_is_not_utf8(tmp_path):
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / 'ca"f\\e.mp4').write_bytes(b"x")
    written = update(tmp_path / "plan.jsonl", [tmp_path])
    assert len(update(tmp_path / "plan.jsonl", [tmp_path])) == 2 and consistent(written)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", s.id) and Path(s.address).read_bytes() == b"x" for s in written)

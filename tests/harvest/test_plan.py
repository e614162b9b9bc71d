import json
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


def test_damaged_plan(tmp_path):
    (tmp_path / "plan.jsonl").write_text('{"id": "a"')
    with pytest.raises(InputError, match="line 1"):
        plan.read(tmp_path / "plan.jsonl")


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="holds no video"):
        plan.expand([str(Path(tmp_path))])

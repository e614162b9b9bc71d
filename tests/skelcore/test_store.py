"""Stores: labels, splits, groups and O(1) access over several shards, and what open_store accepts."""

import http.server
import pickle
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skelcore import layouts, shards
from skelcore.errors import InputError, RunError
from skelcore.sequence import PoseSequence
from skelcore.shards import Block
from skelcore.store import Subset, group_codes, indices_of, open_store
from tests.paths import DATA, need

COCO = layouts.get("coco17")


def video(key: str, tracks: int, source: dict, layout=COCO, quality=None) -> Block:
    poses = [PoseSequence(np.full((1, 3 + i, len(layout), 2), 10.0 + i), np.ones((1, 3 + i, len(layout))), layout,
                          (100, 200), 10.0, meta={"start": float(i)}) for i in range(tracks)]
    return Block(key, poses, quality or [{"area": float(i)} for i in range(tracks)], source, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labelled = {"label": "wave", "split": "train"}
    shards.write(tmp_path / "00.tar", [video("b", 2, labelled), video("a", 1, {"label": "bow"})])
    shards.write(tmp_path / "01.tar", [])
    shards.write(tmp_path / "02.tar", [video("c", 3, {"split": "test"}, quality=[{"blur": 2}, {}, {"area": True}]),
                                       video("d", 1, labelled)])
    return tmp_path


def test_tables_over_several_shards(folder):
    store = open_store(str(folder))
    assert list(store.ids) == ["a/0000", "b/0000", "b/0001", "c/0000", "c/0001", "c/0002", "d/0000"]
    assert list(store.groups) == ["a", "b", "b", "c", "c", "c", "d"]
    assert store.classes == ["bow", "wave"]
    assert store.labels.tolist() == [0, 1, 1, -1, -1, -1, 1] and store.labels.dtype == np.int64
    assert store.splits == {"test": ["c/0000", "c/0001", "c/0002"], "train": ["b/0000", "b/0001", "d/0000"]}
    assert indices_of(store, "train").tolist() == [1, 2, 6]
    assert store.frames.tolist() == [3, 3, 4, 3, 4, 5, 3] and store.persons.tolist() == [1] * 7
    assert_array_equal(store.quality["area"], [0, 0, 1, np.nan, np.nan, 1, 0])
    assert_array_equal(store.quality["blur"], [np.nan, np.nan, np.nan, 2, np.nan, np.nan, np.nan])
    assert store.ids[-1] == "d/0000" and store.ids[1:3] == ["b/0000", "b/0001"]
    with pytest.raises(IndexError):
        store[7]


def test_sequences_carry_their_tables(folder):
    store = open_store(str(folder / "*.tar"))
    for index, poses in enumerate(store):
        assert poses.id == store.ids[index] and poses.frames == store.frames[index]
        assert poses.label == (None if store.labels[index] < 0 else store.labels[index])
        assert (poses.size, poses.fps, poses.layout) == ((100, 200), 10.0, COCO)
        assert poses.meta == {"start": store.start[index]}
        assert np.abs(poses.keypoints - (7.0 + poses.frames)).max() < 200 * 1.5 / 65535
        assert store.document(index).tracks[int(store.ids[index][-4:])].frames == poses.frames


def test_subset_of_shards(folder):
    store = open_store(str(folder))
    subset = Subset(store, indices_of(store, "train"))
    assert list(subset.ids) == store.splits["train"] and subset[2].id == "d/0000"


def test_video_numbers_follow_names_only(folder):
    store = open_store(str(folder))
    codes = group_codes(store)

    def fnv1a(name):  # RFC 9923
        value = 0xCBF29CE484222325
        for byte in name.encode():
            value = (value ^ byte) * 0x100000001B3 % 2**64
        return value - 2**64 * (value >= 2**63)

    assert codes.tolist() == [fnv1a(name) for name in store.groups] and codes.dtype == np.int64
    assert fnv1a("foobar") == 0x85944171F73967E8 - 2**64
    shards.write(folder / "00a.tar", [video("a-much-longer-key-of-a-video", 2, {})])
    grown = dict(zip(*(lambda new: (new.groups, group_codes(new).tolist()))(open_store(str(folder))), strict=True))
    assert {name: grown[name] for name in store.groups} == dict(zip(store.groups, codes.tolist(), strict=True))
    some = Subset(store, np.array([5, 0]))
    assert group_codes(some).tolist() == codes[[5, 0]].tolist() and list(some.groups) == ["c", "a"]
    assert some.ids[-1] == "a/0000" and some.ids[0:2] == list(some.ids) == ["c/0002", "a/0000"]


def test_shards_of_an_earlier_time_are_found_again(folder, tmp_path):
    before = open_store(str(folder))
    shards.write(folder / "00a.tar", [video("e", 2, {})])
    shards.write(folder / "04.tar", [])  # the same content as 01
    grown = open_store(str(folder))
    assert len(grown) == 9 and grown.fingerprint != before.fingerprint
    again = shards.read(folder, before.shards)
    assert list(again.ids) == list(before.ids) and again.fingerprint == before.fingerprint
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.glob("0*"):
        (moved / path.name.replace("02", "0")).write_bytes(path.read_bytes())
    assert list(shards.read(moved, grown.shards).ids) == list(grown.ids)
    for earlier in (before, grown):
        assert list(shards.read(moved, earlier.shards).shards.values()) == list(earlier.shards.values())
    shards.write(folder / "02.tar", [video("c", 3, {"split": "other"})])
    with pytest.raises(RunError, match=r"02\.tar: the shard was replaced"):
        shards.read(folder, before.shards)
    for path in folder.glob("02.*"):
        path.unlink()
    with pytest.raises(RunError, match=r"02\.tar: the shard has vanished"):
        shards.read(folder, before.shards)


def test_fingerprint_follows_content_not_place(folder, tmp_path):
    before = open_store(str(folder)).fingerprint
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.glob("0*"):
        (copy / path.name).write_bytes(path.read_bytes())
    assert open_store(str(copy)).fingerprint == before
    shards.write(copy / "02.tar", [video("c", 3, {"split": "test"})])
    assert open_store(str(copy)).fingerprint != before


def test_sets_that_do_not_go_together_are_refused(folder):
    shards.write(folder / "03.tar", [video("a", 1, {})])
    with pytest.raises(InputError, match=r"03\.tar: key 'a' is also in .*00\.tar"):
        open_store(str(folder))
    shards.write(folder / "03.tar", [video("z", 1, {}, layouts.get("penn13"))])
    with pytest.raises(InputError, match=r"03\.tar: layout penn13, but .*00\.tar has coco17"):
        open_store(str(folder))
    with pytest.raises(InputError, match="the shards hold no tracks"):
        open_store(str(folder / "01.tar"))


@pytest.mark.parametrize("uri", ["absent", "absent/*.tar", "absent.tar", "notes.txt", "."])
def test_open_store_refuses_what_is_not_data(tmp_path, uri):
    (tmp_path / "notes.txt").write_text("no poses")
    with pytest.raises(InputError, match="data="):
        open_store(str(tmp_path / uri))


class Answers(http.server.SimpleHTTPRequestHandler):
    """The files of a folder, but a path with 403 or 500 in it is answered with that."""

    def send_head(self):
        for status in (403, 500):
            if str(status) in self.path:
                self.send_error(status)
                return None
        return super().send_head()

    def log_message(self, *args):
        pass


@pytest.fixture
def web(folder: Path, monkeypatch):
    """The URL of a host that serves the folder of shards as /sh, and /p.pkl with class names."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    root = folder / "web"
    (root / "sh").mkdir(parents=True)
    for path in folder.glob("0*"):
        path.rename(root / "sh" / path.name)
    (root / "p.pkl").write_bytes(pickle.dumps({"frame_dir": "a", "label": 0, "keypoint": np.ones((1, 2, 17, 2), "f2")}))
    (root / "p_classes.json").write_text('["walk"]')
    monkeypatch.setenv("SKELSHOT_CACHE", str(folder / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Answers, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("uri", ["sh/", "sh", "sh/*.tar"])
def test_a_folder_of_shards_over_http(web, uri):
    assert len(open_store(f"{web}/{uri}")) == 7
    assert sum(len(block.sequences) for block in shards.stream(f"{web}/{uri}")) == 7


def test_a_pickle_over_http_with_a_query(web):
    store = open_store(f"{web}/p.pkl?token=a/b.c")
    assert list(store.ids) == ["a"] and store.classes == ["walk"]


@pytest.mark.parametrize(("uri", "kind", "message"), [
    ("gone.pkl", InputError, "no such file"), ("gone.tar", InputError, "no pose shard"),
    ("gone/", InputError, "no pose shard"),
    ("500.pkl", RunError, "500"), ("p.pkl?500", RunError, "500"), ("500.tar", RunError, "500"),
    ("500/", RunError, "500"), ("500/*.tar", RunError, "500"), ("403.pkl", RunError, "403"),
])
def test_what_a_server_answers_is_said_in_one_line(web, uri, kind, message):
    with pytest.raises(kind, match=message) as caught:
        open_store(f"{web}/{uri}")
    assert "\n" not in str(caught.value) and uri in str(caught.value)


@pytest.mark.parametrize("broken", ["00.manifest.json", "00.tar"])
def test_a_server_that_fails_between_listing_and_reading(web, broken, monkeypatch):
    answer = Answers.send_head

    def fail(self):
        return self.send_error(500) if self.path.endswith(broken) else answer(self)

    monkeypatch.setattr(Answers, "send_head", fail)
    for read in (open_store, lambda uri: list(shards.stream(uri))):
        with pytest.raises(RunError, match=rf"{broken[:2]}\.tar: .*500") as caught:
            read(f"{web}/sh/")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.pkl", "a.tar", "folder/"])
def test_a_host_that_does_not_answer(name):
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        port = server.server_port
    with pytest.raises(RunError, match="Cannot connect"):
        open_store(f"http://127.0.0.1:{port}/{name}")


def test_a_local_folder_may_be_given_as_a_url(folder):
    assert len(open_store(f"file://{folder}")) == 7
    assert len(open_store(f"file://{folder}/00.tar")) == 3
    assert len(open_store(f"file://{need(DATA / 'ntu')}")) == 1

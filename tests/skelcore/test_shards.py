"""Pose shards: bytes, round trip, trust, hostile input, remote reading, plain webdataset."""

import hashlib
import io
import json
import logging
import pickle
import resource
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skelcore import layouts, shard_format, shard_index, shard_store, shards, ustar
from skelcore.errors import InputError, RunError
from skelcore.sequence import PoseSequence
from skelcore.shards import Block

COCO = layouts.get("coco17")


def sequence(seed: int, frames: int = 9, persons: int = 1, size=(360, 640), start: float = 0.0) -> PoseSequence:
    generator = np.random.default_rng(seed)
    scores = generator.random((persons, frames, 17)).astype(np.float32)
    scores[generator.random(scores.shape) < 0.2] = 0
    keypoints = generator.random((persons, frames, 17, 2)) * (size[1], size[0])
    return PoseSequence(keypoints, scores, COCO, size, 15.0, meta={"start": start})


def block(key: str, count: int = 2, **source) -> Block:
    seed = sum(map(ord, key))
    sequences = [sequence(seed + i, frames=4 + 3 * i, persons=1 + i % 2, start=1.5 * i) for i in range(count)]
    quality = [{"mean_score": 0.25 * (i + 1), "note": "text"} for i in range(count)]
    return Block(key, sequences, quality, {"url": f"file:{key}", **source}, {"model": "sha256:0", "config": "1"})


def all_bytes(path: Path) -> list[bytes]:
    return [path.with_suffix(suffix).read_bytes() for suffix in (".tar", ".index.npz", ".manifest.json")]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    shards.write(tmp_path / "a.tar", [block("one", 3, label="wave"), block("two-b", 1), block("two", 2)])
    return tmp_path / "a.tar"


def test_same_blocks_in_any_order_give_the_same_bytes(tmp_path, shard):
    before = all_bytes(shard)
    shards.write(tmp_path / "b.tar", [block("two", 2), block("one", 3, label="wave"), block("two-b", 1)])
    assert all_bytes(tmp_path / "b.tar") == before
    shards.write(shard, shards.stream(shard))  # what is read is written as it was
    assert shard.read_bytes() == before[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{kind}" for name in "ab" for kind in ("tar", "index.npz", "manifest.json"))


def test_tar_members_are_plain_and_anonymous(shard):
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names) and len(names) == 6
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
        assert (member.uname, member.gname) == ("", "")
        assert member.isreg() and not member.pax_headers


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5000), st.integers(1, 5000), st.floats(0.0, 1.0))
def test_round_trip_is_within_half_a_step_and_keeps_missing(seed, height, width, missing):
    generator = np.random.default_rng(seed)
    extent = np.array([width, height])
    keypoints = (generator.uniform(-0.3, 1.3, (2, 3, 17, 2)) * extent).astype(np.float32)
    scores = generator.random((2, 3, 17)).astype(np.float32) * generator.choice([1e-6, 1e-2, 1], (2, 3, 17))
    scores[generator.random(scores.shape) < missing] = 0
    records = shard_format.quantise(keypoints, scores, (height, width))
    found, found_scores = shard_format.dequantise(records, (height, width))
    fraction = keypoints.astype(np.float64) / extent
    kept = (scores > 0) & ((fraction >= -0.25) & (fraction <= 1.25)).all(-1)
    assert_array_equal(found_scores > 0, kept)
    assert_array_equal(found[~kept], 0)
    assert (np.abs(found - keypoints)[kept] <= extent * (1.5 / 65535 / 2 + 1e-6)).all()
    assert (np.abs(found_scores - scores)[kept] <= np.maximum(0.5 / 255, 1 / 255 - scores[kept]) + 1e-6).all()


def test_edges_of_the_range_are_kept_and_the_error_at_1920_is_below_a_fortieth_of_a_pixel():
    keypoints = np.zeros((1, 1, 17, 2), np.float32)
    keypoints[0, 0, :5, 0] = [-480, 2400, -480.01, 2400.01, 1919.99]
    records = shard_format.quantise(keypoints, np.ones((1, 1, 17), np.float32), (1080, 1920))
    assert (records["score"][0, 0, :5] > 0).tolist() == [True, True, False, False, True]
    assert records["xy"][0, 0, :4, 0].tolist() == [0, 65535, 0, 0]
    x = np.linspace(-480, 2400, 17 * 4000, dtype=np.float32).reshape(1, 4000, 17)
    track = np.stack([x, np.zeros_like(x)], -1)
    found, _ = shard_format.dequantise(shard_format.quantise(track, np.ones_like(x), (1080, 1920)), (1080, 1920))
    assert 0.02 < np.abs(found - track).max() <= 0.0222


def test_normalised_coordinates_need_no_size(tmp_path):
    poses = replace(sequence(0), size=None, fps=None, keypoints=sequence(0).keypoints / (640, 360))
    shards.write(tmp_path / "a.tar", [Block("k", [poses], [{}], {}, {})])
    found = shards.read(tmp_path / "a.tar")[0]
    assert found.size is None and found.fps is None and found.label is None
    assert np.abs(found.keypoints - poses.keypoints).max() < 1.2e-5


def test_manifest_and_documents_say_what_is_inside(shard):
    manifest = shards.verify(shard)
    assert json.loads(shard.with_suffix(".manifest.json").read_text()) == manifest.model_dump()
    assert (manifest.blocks, manifest.tracks, manifest.bytes) == (3, 6, shard.stat().st_size)
    assert manifest.frames == sum(s.persons * s.frames for n in (3, 1, 2) for s in block("x", n).sequences)
    store = shards.read(shard)
    document = store.document(1)
    assert store.ids[1] == "one/0001" and document.source == {"url": "file:one", "label": "wave"}
    assert document.provenance == {"model": "sha256:0", "config": "1"} and document.size == (360, 640)
    track = document.tracks[1]
    assert (track.frames, track.persons, track.start) == (7, 2, 1.5)
    assert track.quality == {"mean_score": 0.5, "note": "text"}
    seen = store[1].keypoints[store[1].scores > 0]
    np.testing.assert_allclose(track.box, [*seen.min(0), *seen.max(0)], atol=0.01)


def test_tracks_keep_their_numbers_when_others_are_taken_out(tmp_path):
    told = {"kept": [1, 4, 16777215], "twice": [2, 2], "falls": [3, 1], "half": [0.5, 1], "silent": [None, 7],
            "huge": [2**24, 2**24 + 1], "text": ["1", "2"], "below": [-1, 0]}
    blocks = [replace(block(key, len(numbers)), quality=[{} if n is None else {"track": n} for n in numbers])
              for key, numbers in told.items()]
    shards.write(tmp_path / "a.tar", blocks)
    ids = [f"{key}/{number:04d}" for key, numbers in sorted(told.items())
           for number in (numbers if key == "kept" else range(2))]
    assert list(shards.read(tmp_path / "a.tar").ids) == ids
    assert [each.id for found in shards.stream(tmp_path / "a.tar") for each in found.sequences] == ids


def test_plain_numpy_and_webdataset_read_the_tar(tmp_path, shard):
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["one", "two-b", "two"]
    store = shards.read(shard)
    for sample in samples:
        for number, track in enumerate(sample["json"]["tracks"]):
            rows = sample["pose.npy"][track["offset"]:track["offset"] + track["frames"] * track["persons"]]
            index = list(store.ids).index(f"{sample['__key__']}/{number:04d}")
            assert_array_equal(rows.reshape(track["persons"], track["frames"]), store.records(index))


def test_webdataset_splits_resampled_shards_by_node(tmp_path):
    for name in "abcd":
        shards.write(tmp_path / f"{name}.tar", [block(f"{name}{i}", 1) for i in range(3)])
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    data = webdataset.WebDataset(urls, resampled=True, shardshuffle=False, nodesplitter=webdataset.split_by_node)
    data = data.decode().with_epoch(10)
    assert [len(list(data)) for _ in range(2)] == [10, 10]


def test_truncated_tar_is_refused_at_open(shard):
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(InputError, match=r"a\.tar: \d+ bytes, but its manifest says \d+: truncated"):
        shards.read(shard)


def test_damaged_byte_is_found_by_verify(shard):
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tar: damaged: its sha256"):
        shards.verify(shard)


def test_tar_without_manifest_is_ignored_in_a_folder_and_an_error_by_name(tmp_path, shard, caplog):
    (tmp_path / "b.tar").write_bytes(shard.read_bytes())
    with caplog.at_level(logging.WARNING):
        store = shards.read(tmp_path)
    assert len(store) == 6 and list(store.ignored) == [str(tmp_path / "b.tar")]
    assert "b.tar is ignored: no manifest" in caplog.text
    with pytest.raises(InputError, match=r"b\.tar has no manifest"):
        shards.read(tmp_path / "b.tar")
    with pytest.raises(InputError, match="no pose shard"):
        shards.read(tmp_path / "absent.tar")


@pytest.mark.parametrize("spoil", ["missing", "stale", "garbage", "outside"])
def test_index_is_rebuilt_when_missing_or_stale(tmp_path, shard, spoil, caplog):
    expected = [poses.keypoints for poses in shards.read(shard)]
    index = shard.with_suffix(".index.npz")
    if spoil == "missing":
        index.unlink()
    elif spoil == "garbage":
        index.write_bytes(b"PK\x03\x04 nothing")
    elif spoil == "stale":
        shards.write(tmp_path / "c.tar", [block("other", 6)])
        index.write_bytes((tmp_path / "c.index.npz").read_bytes())
    else:
        with np.load(index) as tables:
            changed = {**tables, "offset": tables["offset"] + shard.stat().st_size}
        np.savez(index, **changed)
    store = shards.read(shard)
    assert "rebuilding the index" in caplog.text
    for poses, keypoints in zip(store, expected, strict=True):
        assert_array_equal(poses.keypoints, keypoints)


def test_a_crash_between_the_files_leaves_nothing_trusted(tmp_path, shard, monkeypatch):
    good = shard.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(shard_index.Index, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        shards.write(shard, [block("new")])
    with pytest.raises(InputError, match="no manifest"):
        shards.read(shard)
    monkeypatch.undo()
    shards.write(shard, [block("one", 3, label="wave"), block("two-b", 1), block("two", 2)])
    assert shard.read_bytes() == good and len(shards.read(shard)) == 6
    assert not list(tmp_path.glob(".*"))


def forge(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> None:
    """A shard with those members and sidecars that vouch for it."""
    with tarfile.open(path, "w", format=form) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = path.read_bytes()
    manifest = shards.Manifest(schema_version=1, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), blocks=1,
                               tracks=1, frames=4, layout="coco17")
    path.with_suffix(".manifest.json").write_text(manifest.model_dump_json())


def pair(key: str = "k", **changes) -> list[tuple[tarfile.TarInfo, bytes]]:
    document, pose = shard_format.encode(block("k", 1))
    document = json.dumps({**json.loads(document), **changes}).encode()
    return [(tarfile.TarInfo(f"{key}.json"), document), (tarfile.TarInfo(f"{key}.pose.npy"), pose)]


def test_the_forgery_itself_is_sound(tmp_path):
    forge(tmp_path / "a.tar", pair())
    assert len(shards.read(tmp_path / "a.tar")) == 1


@pytest.mark.parametrize("name", ["../k", "/k", "a/k", "..", "k.x", "k k", "ü", "k\\j", ""])
def test_hostile_member_names_are_refused(tmp_path, name):
    forge(tmp_path / "a.tar", pair(name))
    with pytest.raises(InputError, match=r"a\.tar: (refused member|damaged tar header)"):
        shards.read(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("k.json")
    info.type, info.linkname = kind, "/etc/hostname"
    forge(tmp_path / "a.tar", [(info, b""), *pair()])
    with pytest.raises(InputError, match=r"refused member 'k\.json/?'"):
        shards.read(tmp_path / "a.tar")


def test_extended_headers_are_refused(tmp_path):
    members = pair()
    members[0][0].pax_headers = {"path": "../../k.json"}
    forge(tmp_path / "a.tar", members, tarfile.PAX_FORMAT)
    with pytest.raises(InputError, match="refused member"):
        shards.read(tmp_path / "a.tar")


@pytest.mark.parametrize(("members", "message"), [
    (pair() + pair(), "key 'k' occurs twice"),
    (pair()[:1], "has no k.pose.npy"),
    (pair()[::-1], "not in a pair"),
    (pair()[:1] + pair("j")[1:], "not in a pair"),
    (pair(schema_version=2), r"k\.json: schema_version is 2, but this release reads 1 only"),
    (pair(schema_version=None), "schema_version is None"),
    (pair(layout="coco18"), "unknown layout 'coco18'; did you mean coco17"),
    (pair(layout="ntu25"), "layout needs|needs"),
    (pair(tracks=[]), "tracks: List should have at least 1"),
    (pair(size=[0, 5]), r"size\.0: Input should be greater than 0"),
    (pair(source={"label": 3}), "source.label must be a string"),
    (pair(extra=1), "extra: Extra inputs are not permitted"),
    ([(pair()[0][0], b"{"), pair()[1]], "not JSON"),
    ([pair()[0], (pair()[1][0], b"\x93NUMPY\x01\x00")], "not a pose array"),
    ([pair()[0], (pair()[1][0], pair()[1][1][:-1])], "holds"),
])
def test_contradictions_are_refused_with_a_reason(tmp_path, members, message):
    forge(tmp_path / "a.tar", [(tarfile.TarInfo(info.name), data) for info, data in members])
    with pytest.raises(InputError, match=message):
        shards.read(tmp_path / "a.tar")


def test_tracks_beyond_the_array_and_pickled_arrays_are_refused(tmp_path):
    (info, document), (pose_info, _) = pair()
    fields = json.loads(document)
    fields["tracks"][0]["offset"] = 1
    forge(tmp_path / "a.tar", [(info, json.dumps(fields).encode()), pair()[1]])
    with pytest.raises(InputError, match="track 0 reaches beyond"):
        shards.read(tmp_path / "a.tar")
    hostile = io.BytesIO()
    np.save(hostile, np.array([{"a": 1}], object), allow_pickle=True)
    forge(tmp_path / "a.tar", [(info, document), (pose_info, hostile.getvalue())])
    with pytest.raises(InputError, match="holds"):
        shards.read(tmp_path / "a.tar")


def test_a_damaged_header_is_not_the_end_of_the_archive(tmp_path, shard):
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        data[tar.getmembers()[4].offset] ^= 1
    with pytest.raises(InputError, match="damaged tar header"):
        list(ustar.members(io.BytesIO(data), "x.tar", len(data)))


def test_other_schema_versions_of_the_manifest_are_refused(shard):
    path = shard.with_suffix(".manifest.json")
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 7'))
    with pytest.raises(InputError, match=r"a\.manifest\.json: schema_version is 7, but this release reads 1 only"):
        shards.read(shard)


@pytest.mark.parametrize(("change", "message"), [
    ({"key": "../x"}, "a key is"), ({"key": "x" * 91}, "a key is"), ({"key": ""}, "a key is"),
    ({"key": "a.b"}, "a key is"),
    ({"sequences": []}, "0 sequences"), ({"quality": []}, "0 quality dicts"),
    ({"sequences": [sequence(0), sequence(1, size=(1, 1))]}, "differ in layout, fps or size"),
    ({"source": {"label": 1}}, r"source\['label'\] must be a string"), ({"source": {"x": {1, 2}}}, "not plain JSON"),
    ({"quality": [{"x": float("nan")}] * 2}, "not plain JSON"),
    ({"sequences": [replace(sequence(0), fps=-1.0)] * 2}, "fps: Input should be greater than 0"),
])
def test_blocks_that_the_format_cannot_hold_are_refused_and_leave_nothing(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        shards.write(tmp_path / "a.tar", [block("good"), replace(block("k"), **change)])
    assert not list(tmp_path.iterdir())


def test_duplicate_keys_and_mixed_layouts_are_refused(tmp_path):
    with pytest.raises(InputError, match="key 'k' occurs twice"):
        shards.write(tmp_path / "a.tar", [block("k"), block("k")])
    penn = layouts.get("penn13")
    other = [poses.to_layout(penn) for poses in block("j").sequences]
    with pytest.raises(InputError, match="layouts coco17 and penn13 in one shard"):
        shards.write(tmp_path / "a.tar", [block("k"), replace(block("j"), sequences=other)])


def test_remote_shards_are_fetched_once_checked_and_streamed(tmp_path, shard, monkeypatch):
    monkeypatch.setenv("SKELSHOT_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    for path in shard.parent.glob("a.*"):
        memory.pipe(f"/remote/{path.name}", path.read_bytes())
    local = shards.read(shard)
    for uri in ("memory://remote/a.tar", "memory://remote", "memory://remote/*.tar"):
        store = shards.read(uri)
        assert list(store.ids) == list(local.ids) and store.fingerprint == local.fingerprint
        assert_array_equal(store[3].keypoints, local[3].keypoints)
    streamed = [poses for found in shards.stream("memory://remote") for poses in found.sequences]
    assert [poses.id for poses in streamed] == list(local.ids)
    assert_array_equal(streamed[2].keypoints, local[2].keypoints)
    memory.rm("/remote/a.tar")
    memory.pipe("/remote/a.tar", b"\0" * 2048)
    assert len(shards.read("memory://remote")) == 6  # the cache answers for the same content
    monkeypatch.setenv("SKELSHOT_CACHE", str(tmp_path / "other"))
    with pytest.raises(InputError, match="truncated or damaged"):
        shards.read("memory://remote/a.tar")
    assert not list((tmp_path / "other" / "shards").iterdir())
    memory.rm("/remote", recursive=True)
    with pytest.raises(InputError, match="nosuch"):
        shards.read("nosuch://bucket/a.tar")


def test_reading_survives_pickling_and_notices_a_replaced_file(shard):
    store = shards.read(shard)
    expected = store[4]
    copied = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own object, as a DataLoader worker gets it
    assert_array_equal(copied[4].keypoints, expected.keypoints)
    assert len(pickle.dumps(store)) < 6000
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    shard.write_bytes(b"short")
    with pytest.raises(RunError, match="changed while in use"):
        again[0]


@pytest.mark.parametrize("place", ["a.tar", "", "*.tar", "a*"])
def test_a_manifest_without_its_tar_is_data_that_went_missing(tmp_path, shard, place):
    shards.write(tmp_path / "b.tar", [block("other")])
    shard.unlink()
    with pytest.raises(InputError, match=r"a\.manifest\.json: a manifest without its tar: fetch the tar again"):
        shards.read(tmp_path / place)
    assert len(shards.read(tmp_path / "b.tar")) == 2


def test_the_output_folder_of_a_harvest_stands_for_its_shards(tmp_path):
    (tmp_path / "harvested/shards").mkdir(parents=True)
    shards.write(tmp_path / "harvested/shards/000000.tar", [block("one", 3)])
    assert list(shards.read(tmp_path / "harvested").ids) == list(shards.read(tmp_path / "harvested/shards").ids)
    shards.write(tmp_path / "harvested/own.tar", [block("other")])  # shards of its own come first
    assert set(shards.read(tmp_path / "harvested").groups) == {"other"}


@pytest.mark.parametrize("kind", ["compression", "deflate"])
def test_a_hostile_index_is_rebuilt(shard, kind, caplog):
    index = shard.with_suffix(".index.npz")
    with zipfile.ZipFile(index, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sha256.npy", bytes(range(256)) * 8)
    data = bytearray(index.read_bytes())
    if kind == "compression":
        data[8], data[data.index(b"PK\x01\x02") + 10] = 99, 99
    else:
        data[40:60] = b"\xff" * 20
    index.write_bytes(data)
    with pytest.raises((NotImplementedError, zlib.error)), np.load(index) as tables:
        tables["sha256"]
    assert len(shards.read(shard)) == 6 and "rebuilding the index" in caplog.text


@pytest.mark.parametrize("error", [MemoryError, RecursionError, zlib.error])
def test_no_error_of_reading_an_index_gets_out(shard, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(np, "load", fail)
    assert len(shards.read(shard)) == 6


@pytest.mark.parametrize("text", [b"{'descr': (", b"[" * 5000, b"{'descr': '" + b"x" * 99, b"-" * 9000 + b"1", b"\x00"])
def test_a_hostile_header_of_an_array_is_refused(tmp_path, text):
    hostile = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    document, (pose, _) = pair()
    forge(tmp_path / "a.tar", [document, (pose, hostile)])
    with pytest.raises(InputError, match=r"k\.pose\.npy: not a pose array: .") as caught:
        next(shards.stream(tmp_path / "a.tar"))
    assert "\n" not in str(caught.value)


def test_more_shards_than_a_process_may_open(tmp_path, monkeypatch):
    for i in range(20):
        shards.write(tmp_path / f"{i:02d}.tar", [block(f"k{i}", 1)])
    store = shards.read(tmp_path)
    expected = [poses.keypoints for poses in store]
    assert len(store._maps) == 20
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 16))
    store = shards.read(tmp_path)
    for index in np.random.default_rng(0).permutation(np.repeat(np.arange(20), 3)).tolist():
        assert_array_equal(store[index].keypoints, expected[index])
        assert len(store._maps) <= 4
    keypoints, _ = store.clips(np.arange(20), 4)  # over more shards than are mapped at once
    np.testing.assert_allclose(keypoints[:, 0], np.stack([poses[0] for poses in expected]), rtol=1e-4)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert shard_store._map_limit() == 1024

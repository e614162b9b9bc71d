import json

import numpy as np
import pytest
from pyarrow import parquet

from adapt import embed, embedded, features
from adapt.features import Clips
from skelcore import batches, checkpoint
from skelcore.errors import InputError
from skelcore.store import Subset, open_store
from tests.adapt import clips as made


@pytest.fixture(scope="module")
def expected(data, weights):
    """Ids, and features of clips encoded one at a time."""
    store, encoder = open_store(str(data)), checkpoint.load_encoder(weights)[0]
    clips = Clips(store, 16, 1, store.layout)
    rows = [features.encode(encoder, clips.only(np.array([i])).inputs(encoder)) for i in range(len(store))]
    return list(store.ids), np.concatenate(rows)


def joined(rows):
    names, blocks = zip(*rows, strict=True)
    return [name for each in names for name in each], np.concatenate(blocks)


def loaded(path):
    """Ids, features and labels of what was written."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return file["ids"].tolist(), file["features"], [str(file["classes"][i]) for i in file["labels"]]
    if path.suffix == ".parquet":
        columns = parquet.read_table(path).to_pydict()
        return columns["id"], np.array(columns["features"], np.float32), columns["class"]
    header, *lines = (line.split("\t") for line in (path / "metadata.tsv").read_text().splitlines())
    assert header == ["id", "class"]
    assert 'tensor_path: "tensors.tsv"' in (path / "projector_config.pbtxt").read_text()
    ids, classes = map(list, zip(*lines, strict=True))
    return ids, np.loadtxt(path / "tensors.tsv", np.float32), classes


@pytest.mark.parametrize("name", ["out.npz", "out.parquet", "out"])
@pytest.mark.parametrize("batch_size", [7, 128])
def test_a_file_holds_every_clip_under_its_id(data, weights, expected, tmp_path, monkeypatch, name, batch_size):
    monkeypatch.setattr(embedded, "_GROUP", 10)
    assert embed.main([str(weights), str(data), str(tmp_path / name), f"batch_size={batch_size}"]) == 0
    ids, found, classes = loaded(tmp_path / name)
    assert ids == expected[0] and found.dtype == np.float32
    np.testing.assert_allclose(found, expected[1], rtol=1e-4, atol=1e-5)
    store = open_store(str(data))
    assert classes == [store.classes[label] for label in store.labels]


def test_parquet_groups_rows_and_npz_needs_no_pickle(data, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "_GROUP", 10)
    for name in ("a.parquet", "a.npz"):
        assert embed.main([str(weights), str(data), str(tmp_path / name), "batch_size=4", "split=train"]) == 0
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [12, 6]
    assert str(file.schema_arrow.field("features").type).startswith("fixed_size_list")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert {name: archive[name].shape for name in archive} == {
            "ids": (18,), "features": (18, 32), "labels": (18,), "classes": (3,)}


def test_the_call_gives_batches_and_reads_no_more_than_it_gives(data, weights, expected, monkeypatch):
    monkeypatch.setattr(batches, "_CACHE_BYTES", 0)  # as of data that are too large to be kept

    class Counted(Subset):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    read: list[int] = []
    store = open_store(str(data))
    rows = embed.embed(str(weights), Counted(store, np.arange(len(store))), batch_size=4)
    read.clear()
    ids, block = next(rows)
    assert ids == expected[0][:4] and block.shape == (4, 32) and len(read) == 4
    ids, found = joined([(ids, block), *rows])
    assert ids == expected[0] and len(read) == 30
    np.testing.assert_allclose(found, expected[1], rtol=1e-4, atol=1e-5)


def test_looks_are_averaged_and_a_split_is_embedded_alone(data, weights):
    options = {"split": "test", "pool": "segments", "segments": 2}
    ids, both = joined(embed.embed(str(weights), str(data), mirror=True, **options))
    encoder, store = checkpoint.load_encoder(weights)[0], open_store(str(data))
    assert sorted(ids) == sorted(store.splits["test"])
    used = Subset(store, np.array([store.ids.index(name) for name in ids]))
    each = [features.encode(encoder, Clips(used, 16, 1, store.layout, look=look).inputs(encoder), "segments", 2)
            for look in (features.Look(), features.Look(mirror=True))]
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-5)
    assert both.shape[1] == 2 * 32


@pytest.mark.parametrize("name", ["out.npz", "out.parquet", "out"])
def test_unlabelled_clips_have_no_class(weights, tmp_path, name):
    assert embed.main([str(weights), "procedural:5?seed=3", str(tmp_path / name)]) == 0
    if name == "out.npz":
        with np.load(tmp_path / name) as file:
            assert file["labels"].tolist() == [-1] * 5 and file["classes"].shape == (0,) and len(set(file["ids"])) == 5
    else:
        assert set(loaded(tmp_path / name)[2]) == ({None} if name == "out.parquet" else {"-"})


@pytest.mark.parametrize("name", ["out.npz", "out.parquet", "out"])
def test_nothing_is_left_of_what_broke_off(data, tmp_path, name):
    def rows():
        yield ["a", "b"], np.zeros((2, 3), np.float32)
        raise InputError("the rest is damaged")

    with pytest.raises(InputError, match="damaged"):
        embedded.write(tmp_path / name, rows(), open_store(str(data)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_names_cannot_shift_the_columns_of_the_projector(tmp_path):
    clips = [made.moving_joint(0, i, name=f"clip\t{i}\nx") for i in range(2)]
    made.annotations.write_pyskl(tmp_path / "clips.pkl", clips, {})
    store = open_store(str(tmp_path / "clips.pkl"))
    embedded.write(tmp_path / "out", iter([(list(store.ids), np.zeros((2, 3), np.float32))]), store)
    assert (tmp_path / "out/metadata.tsv").read_text() == f"id\tclass\nclip 0 x\t{store.classes[0]}\n" \
                                                           f"clip 1 x\t{store.classes[0]}\n"


def test_another_layout_is_refused_or_mapped(weights, tmp_path, capsys):
    data = made.write(tmp_path / "penn.pkl", layout="penn13")
    assert embed.main([str(weights), str(data), str(tmp_path / "a.npz")]) == 2
    assert "map_layout=true" in capsys.readouterr().err and not (tmp_path / "a.npz").exists()
    assert embed.main([str(weights), str(data), str(tmp_path / "a.npz"), "map_layout=true"]) == 0
    assert "is mapped to the checkpoint's coco17" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    (["{weights}", "{data}", "a.csv"], "out: "),
    (["{weights}", "{data}"], "out: field required"),
    (["nowhere.pt", "{data}", "a.npz"], "checkpoint=nowhere.pt: no such file"),
    (["{weights}", "nowhere.pkl", "a.npz"], "nowhere.pkl: no such file"),
    (["{weights}", "{data}", "a.npz", "split=val"], "no split 'val'"),
    (["{weights}", "{data}", "a.npz", "device=cuda:77"], "device=cuda:77: not available"),
    (["{weights}", "{data}", "a.npz", "pol=mean"], "did you mean 'pool'?"),
    (["{weights}", "{data}", "a.npz", "b.npz"], "b.npz: cannot read the configuration"),
    (["{weights}", "{data}", "folder.npz"], "is a folder"),
    (["{weights}", "{data}", "a.npz", "project=true"], "project=true is for 3D poses"),
])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_bad_input_is_one_line_and_status_2(data, weights, tmp_path, monkeypatch, capsys, words, message, dry):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    assert embed.main([*(word.format(weights=weights, data=data) for word in words), *dry]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npz"]


def test_places_may_be_named_and_may_look_like_numbers(data, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "embed.yaml"
    config.write_text(json.dumps({"checkpoint": str(weights), "data": str(data)}))
    assert embed.main([str(config), "out=2024"]) == 0
    assert (tmp_path / "2024/tensors.tsv").exists()
    assert embed.main([str(weights), str(data), "010", "split=test", "--dry-run"]) == 0
    assert "12 clips -> 010" in capsys.readouterr().out and not (tmp_path / "010").exists()

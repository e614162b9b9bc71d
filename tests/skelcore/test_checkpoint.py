import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from skelcore import checkpoint, encoders, layouts
from skelcore.errors import InputError, RunError
from tests.paths import PARITY, need


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return encoders.build("stgcn++", "penn13", width=8).eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class TestFile:
    def test_round_trip_with_optimizer_and_generators(self, path):
        layer = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(layer.parameters())
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        generator = torch.Generator().manual_seed(7)
        generator.manual_seed(8)
        contents = {"optimizer": optimizer.state_dict(), "torch": torch.get_rng_state(), "own": generator.get_state(),
                    "python": random.Random(1).getstate(), "numpy": np.random.default_rng(1).bit_generator.state,
                    "plain": [1, 2.5, "three", None, True, (4,)]}
        checkpoint.save(path, contents)
        again = checkpoint.load(path)
        assert again["plain"] == contents["plain"] and again["python"] == contents["python"]
        assert again["numpy"] == contents["numpy"]
        other = torch.optim.AdamW(layer.parameters())
        other.load_state_dict(again["optimizer"])
        assert torch.equal(other.state_dict()["state"][0]["exp_avg"], contents["optimizer"]["state"][0]["exp_avg"])
        restored = torch.Generator()
        restored.set_state(again["own"])
        assert torch.equal(torch.rand(3, generator=restored), torch.rand(3, generator=generator))

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_hostile_file_is_refused_and_not_run(self, path, legacy, recwarn):
        marker = path.with_name("marker")
        torch.save({"state_dict": Hostile(f"touch {marker}")}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(InputError, match=r"checkpoint\.pt: refused.*asks for \w+\.system") as caught:
            checkpoint.load(path)
        assert "weights_only" not in str(caught.value) and "trust" not in str(caught.value)
        for protocol in (2, 4):
            path.write_bytes(pickle.dumps(Hostile(f"touch {marker}"), protocol=protocol))
            with pytest.raises(InputError, match=r"checkpoint\.pt"):
                checkpoint.load(path)
        assert not marker.exists() and not recwarn.list

    def test_truncated_at_any_place(self, path, encoder):
        checkpoint.save_encoder(path, encoder, 8, "joint")
        whole = path.read_bytes()
        for size in (0, 1, 10, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(InputError, match=r"checkpoint\.pt"):
                checkpoint.load(path)

    def test_one_flipped_byte_among_the_weights_is_noticed(self, path):
        checkpoint.save(path, {"weight": torch.zeros(1000)})
        damaged = bytearray(path.read_bytes())
        start = damaged.index(bytes(4000))
        damaged[start + 2001] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"checkpoint\.pt: damaged"):
            checkpoint.load(path)

    def test_an_archive_that_unpacks_to_more_than_its_size_is_not_unpacked(self, path, monkeypatch):
        checkpoint.save(path, {"weight": torch.zeros(100_000)})
        with zipfile.ZipFile(path) as stored:
            entries = {name: stored.read(name) for name in stored.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
        with pytest.raises(InputError, match=r"checkpoint\.pt: damaged.*compressed"):
            checkpoint.load(path)

    def test_a_pipe_is_not_replaced(self, path):
        os.mkfifo(path)
        with pytest.raises(RunError, match=r"checkpoint\.pt: cannot write .*no regular file"):
            checkpoint.save(path, {"epoch": 1})
        assert path.is_fifo() and [entry.name for entry in path.parent.iterdir()] == [path.name]

    def test_flipped_bytes_never_escape_as_another_error(self, path, encoder):
        checkpoint.save_encoder(path, encoder, 8, "joint")
        whole = bytearray(path.read_bytes())
        numbers = np.random.default_rng(0)
        for _ in range(20):
            damaged = whole.copy()
            for place in numbers.integers(0, len(whole), 200):
                damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            with pytest.raises(InputError):
                checkpoint.load_encoder(path)

    def test_missing_and_foreign_files(self, path, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            checkpoint.load(path)
        with pytest.raises(InputError, match="is a folder"):
            checkpoint.load(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="is no regular file"):
            checkpoint.load(tmp_path / "pipe")
        path.write_text("base: other.yaml\n")
        with pytest.raises(InputError, match=r"checkpoint\.pt: not a checkpoint, but a file of another kind$"):
            checkpoint.load(path)
        torch.save([1, 2], path)
        with pytest.raises(InputError, match="no dictionary"):
            checkpoint.load(path)

    @pytest.mark.parametrize("value", [np.float32(1), np.float64(1), np.zeros(2), object(), os.path])
    def test_only_what_can_be_read_again_is_written(self, path, value):
        with pytest.raises(TypeError, match=r"checkpoint\['a'\]\[0\]"):
            checkpoint.save(path, {"a": [value]})
        assert not path.exists()

    @pytest.mark.parametrize("culprit", ["fsync", "replace"])
    def test_a_failed_write_leaves_the_old_file_and_no_litter(self, path, culprit, monkeypatch):
        checkpoint.save(path, {"epoch": 1})

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, culprit, fail)
        with pytest.raises(RunError, match="No space left"):
            checkpoint.save(path, {"epoch": 2})
        monkeypatch.undo()
        assert checkpoint.load(path) == {"epoch": 1}
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]


class TestEncoder:
    def test_round_trip(self, path, encoder):
        checkpoint.save_encoder(path, encoder, frames=48, stream="bone", epoch=3)
        again, meta = checkpoint.load_encoder(path, "stgcn++", "penn13")
        x = torch.randn(2, 1, 8, 13, 3)
        torch.testing.assert_close(again(x), encoder(x), rtol=0, atol=0)
        assert (meta["frames"], meta["stream"], meta["epoch"], meta["spec"]) == (48, "bone", 3, encoder.spec)
        assert not again.training

    def test_user_defined_layout(self, path):
        layout = layouts.Layout("stick", ("a", "b"), ((0, 1),), 1)
        checkpoint.save_encoder(path, encoders.build("stgcn++", layout, 2, 8), 8, "joint")
        assert checkpoint.load_encoder(path, layout=layout)[0].layout == layout
        with pytest.raises(InputError, match="stick"):
            checkpoint.load_encoder(path)

    def test_another_layout_or_encoder_is_named_with_the_wanted_one(self, path, encoder):
        checkpoint.save_encoder(path, encoder, 8, "joint")
        with pytest.raises(InputError, match=r"penn13.*coco17"):
            checkpoint.load_encoder(path, layout="coco17")
        with pytest.raises(InputError, match=r"stgcn\+\+.*ctrgcn"):
            checkpoint.load_encoder(path, name="ctrgcn")

    @pytest.mark.parametrize("change", [
        {"spec": None}, {"spec": {"name": "stgcn++"}}, {"encoder": 3},
        {"spec": {"name": "stgcn++", "layout": "penn13", "in_channels": 3, "width": "8"}},
        {"spec": {"name": "stgcn++", "layout": "penn13", "in_channels": 3, "width": 16}},
        {"spec": {"name": "stgcn++", "layout": "coco17", "in_channels": 3, "width": 8}},
        {"spec": {"name": "pointnet", "layout": "penn13", "in_channels": 3, "width": 8}},
        {"encoder": {"weight": torch.zeros(3)}},
    ])
    def test_contents_that_do_not_fit(self, path, encoder, change):
        checkpoint.save(path, {"encoder": encoder.state_dict(), "spec": encoder.spec, **change})
        with pytest.raises(InputError):
            checkpoint.load_encoder(path)

    @pytest.mark.parametrize("change", [
        {"width": 100_000}, {"width": 0}, {"width": True}, {"in_channels": 10**12}, {"in_channels": 10**30},
        {"name": "x" * 10**6}, {"layout": "x" * 10**6}, {"name": [["x" * 1000] * 100] * 100}, {"other": 1},
    ])
    def test_a_spec_beyond_reason_is_refused_before_anything_is_built(self, path, encoder, change, monkeypatch):
        checkpoint.save(path, {"encoder": {}, "spec": encoder.spec | change})
        monkeypatch.setattr(encoders, "build", lambda *_, **__: pytest.fail("built"))
        with pytest.raises(InputError, match="`spec` must hold") as caught:
            checkpoint.load_encoder(path)
        assert len(str(caught.value).removeprefix(f"checkpoint={path}")) < 300

    def test_weights_that_do_not_fit_are_refused_without_memory_for_them(self, path, encoder, monkeypatch):
        made = []
        monkeypatch.setattr(encoders, "build", lambda build=encoders.build, **spec: made.append(build(**spec))
                            or made[-1])
        checkpoint.save(path, {"encoder": encoder.state_dict(), "spec": encoder.spec | {"width": 1024}})
        with pytest.raises(InputError, match=r"penn13 has \(3072, "):
            checkpoint.load_encoder(path)
        [sketch] = made
        assert sum(parameter.numel() for parameter in sketch.parameters() if not parameter.is_meta) < 10_000  # graphs

    @pytest.mark.parametrize(("key", "value", "reason"), [
        (3, torch.ones(1), "1 keys are not those of stgcn.., such as 3"),
        (("x" * 500, 2), torch.ones(1), r"such as \('xxx"), ("x" * 500, torch.ones(1), "such as 'xxx"),
        ("blocks.0.gcn.mix.weight", [["x" * 100] * 100] * 100, "blocks"),
        ("data_bn.weight", torch.ones(1).view([1] * 60), r"is \(1, 1.*\.\.\.\), but"),
        ("data_bn.weight", torch.ones(1).expand(39), "no dense tensor"),
    ])
    def test_hostile_weights_are_one_short_line(self, path, encoder, key, value, reason):
        key = next((own for own in encoder.state_dict() if own.endswith("bn.weight")), key) if (
            key == "data_bn.weight") else key
        checkpoint.save(path, {"encoder": {**encoder.state_dict(), key: value}, "spec": encoder.spec})
        with pytest.raises(InputError, match=reason) as caught:
            checkpoint.load_encoder(path)
        text = str(caught.value).removeprefix(f"checkpoint={path}")
        assert len(text) < 300 and "\n" not in text


class TestPyskl:
    @pytest.fixture(scope="class")
    def weights(self):
        return torch.load(need(PARITY / "stgcnpp_coco.pth"), weights_only=True)["state_dict"]

    def test_report(self):
        report = checkpoint.load_pyskl(encoders.build("stgcn++", "coco17"), need(PARITY / "stgcnpp_coco.pth"))
        assert len(report.matched) == 690 and not report.missing
        assert report.unused == ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias")
        assert "690 keys matched, 2 unused (cls_head.fc_cls.weight" in str(report)

    def test_the_map_uses_every_key_once(self, weights):
        parts = [part for keys in encoders.build("stgcn++", "coco17").pyskl_keys().values() for part in keys]
        assert len(parts) == len(set(parts))
        assert {f"backbone.{part}" for part in parts} == {key for key in weights if key.startswith("backbone")}

    def test_counters_may_be_missing_and_are_reported(self, weights):
        old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
        report = checkpoint.load_pyskl(encoders.build("stgcn++", "coco17"), old)
        assert len(report.matched) + len(report.missing) == 690
        assert all(key.endswith("num_batches_tracked") for key in report.missing)

    def test_a_key_that_is_missing_or_too_many(self, weights):
        key = "backbone.gcn.3.tcn.branches.2.3.conv.weight"
        less = {name: value for name, value in weights.items() if name != key}
        with pytest.raises(InputError, match=r"gcn\.3\.tcn\.branches\.2\.3\.conv\.weight"):
            checkpoint.load_pyskl(encoders.build("stgcn++", "coco17"), less)
        with pytest.raises(InputError, match=r"gcn\.10\.A"):
            checkpoint.load_pyskl(encoders.build("stgcn++", "coco17"), {**weights, "backbone.gcn.10.A": torch.ones(1)})

    def test_a_wrong_shape_names_the_key_and_changes_nothing(self, weights):
        encoder = encoders.build("stgcn++", "coco17")
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        key = "backbone.gcn.9.tcn.branches.1.0.weight"
        for wrong in (torch.zeros(41, 256, 1, 1), torch.zeros(42, 255, 1, 1)):
            with pytest.raises(InputError, match=r"gcn\.9\.tcn\.branches\.1\.0\.weight"):
                checkpoint.load_pyskl(encoder, {**weights, key: wrong})
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())

    def test_another_layout(self, weights):
        with pytest.raises(InputError, match=r"data_bn\.weight \(51,\)"):
            checkpoint.load_pyskl(encoders.build("stgcn++", "ntu25"), weights)

    @pytest.mark.parametrize("other", ["stgcn_coco", "ctrgcn_coco", "posec3d_slowonly"])
    def test_another_model(self, other):
        with pytest.raises(InputError, match=rf"{other}.*not the weights of stgcn\+\+"):
            checkpoint.load_pyskl(encoders.build("stgcn++", "coco17"), need(PARITY / f"{other}.pth"))

    def test_not_a_state_dict(self, path):
        checkpoint.save(path, {"state_dict": {"backbone.A": 3}})
        with pytest.raises(InputError, match="no state dict"):
            checkpoint.load_pyskl(encoders.build("stgcn++", "coco17"), path)

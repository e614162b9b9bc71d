"""skelshot import-weights and export-weights: files in, files out, one line for what is wrong."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adapt import run as adapt
from skelcore import annotations, checkpoint, cli, encoders, export_weights, foreign, import_weights, layouts
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from tests.adapt import clips
from tests.paths import ROOT
from tests.skelcore import originals

# ctrgcn-orig too: our own export says which of the two functions its weights are for.
NAMES = [name for name in encoders.ENCODERS if foreign._reference_names(name)]


@pytest.fixture
def st_gcn(tmp_path):
    """A file as the st-gcn repository writes it, and its network, in float32."""
    network = originals.trained(originals.STGCN, 17).float()
    torch.save(network.state_dict(), tmp_path / "st_gcn.pt")
    return tmp_path / "st_gcn.pt", network


@torch.no_grad()
def test_a_file_becomes_a_checkpoint_with_its_classifier(st_gcn, tmp_path, capsys):
    source, network = st_gcn
    out = tmp_path / "new" / "stgcn.pt"
    assert cli.main(["import-weights", str(source), "--to", str(out)]) == 0
    printed = capsys.readouterr().out
    assert ("st-gcn -> stgcn: layout coco17 (assumed from 17 joints; --layout says otherwise), 3 channels, width 8, "
            "stream joint (assumed; --stream says otherwise) of 2D poses, 100 frames, 2 persons\n" in printed)
    assert "matched  170 keys" in printed and "unused   fcn.weight, fcn.bias" in printed
    assert "missing  none" in printed and "7 classes" in printed
    encoder, contents = checkpoint.load_encoder(out, "stgcn", "coco17")
    assert (contents["frames"], contents["stream"], contents["persons"]) == (100, "joint", 2)
    assert contents["imported"] == {"file": "st_gcn.pt", "format": "st-gcn",
                                    "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    x = torch.randn(3, 2, 9, 17, 3)
    torch.testing.assert_close(F.linear(encoder(x), **contents["head"]), network(x), rtol=1e-5, atol=1e-5)


def test_the_checkpoint_can_be_adapted(st_gcn, tmp_path, capsys):
    out, data = tmp_path / "stgcn.pt", clips.write(tmp_path / "clips.pkl")
    assert import_weights.main([str(st_gcn[0]), "--to", str(out), "--frames", "16", "--persons", "1"]) == 0
    status = adapt.main([str(ROOT / "configs/adapt/base.yaml"), "--k-shot", "1", f"data={data}", f"checkpoint={out}",
                         f"output={tmp_path / 'out'}", "draws=2", "representations=[pretrained]"])
    assert status == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["checkpoints"][0]["spec"]["name"] == "stgcn"
    assert found["checkpoints"][0]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_3d_weights_without_scores_are_adapted_to_3d_poses_only(tmp_path, capsys):
    encoder = encoders.build("stgcn++", "ntu25", 3, 8)
    torch.save({"state_dict": checkpoint.to_pyskl(encoder)}, tmp_path / "ntu.pth")
    assert import_weights.main([str(tmp_path / "ntu.pth"), "--to", str(tmp_path / "ntu.pt"), "--frames", "16"]) == 0
    assert "otherwise) of 3D poses" in capsys.readouterr().out
    deep = [PoseSequence(np.random.default_rng(i).normal(size=(1, 20, 25, 3)), np.ones((1, 20, 25)),
                         layouts.get("ntu25"), None, 30.0, f"clip-{i}", i % 2) for i in range(12)]
    flat = [dataclasses.replace(clip, keypoints=clip.keypoints[..., :2], size=(480, 640)) for clip in deep]
    splits = {"train": [clip.id for clip in deep[:8]], "test": [clip.id for clip in deep[8:]]}
    for name, clips_, wanted in (("deep", deep, 0), ("flat", flat, 2)):
        annotations.write_pyskl(tmp_path / f"{name}.pkl", clips_, splits)
        status = adapt.main([str(ROOT / "configs/adapt/base.yaml"), f"data={tmp_path / name}.pkl", "k_shot=[1]",
                             f"checkpoint={tmp_path / 'ntu.pt'}", f"output={tmp_path / name}", "draws=2",
                             "representations=[pretrained]", "methods=[prototype]"])
        assert status == wanted, capsys.readouterr().err
    assert "2D poses" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_export_and_import_are_inverse(name, tmp_path):
    torch.manual_seed(0)
    encoder = encoders.build(name, "hand21", width=8)
    head = {"weight": torch.randn(4, encoder.dim), "bias": torch.randn(4)}
    checkpoint.save_encoder(tmp_path / "ours.pt", encoder, frames=33, stream="bone", persons=3, head=head)
    if encoder.in_channels == 21:  # heatmaps of joints
        checkpoint.save_encoder(tmp_path / "ours.pt", encoder, frames=33, stream="joint", persons=3, head=head)
    report = export_weights.convert(tmp_path / "ours.pt", tmp_path / "pyskl.pth")
    assert ("ReLU" in report) == (name == "ctrgcn-orig")
    written = torch.load(tmp_path / "pyskl.pth", weights_only=True)
    assert set(written) == {"meta", "state_dict"}
    assert set(written["state_dict"]) == {*checkpoint.to_pyskl(encoder), "cls_head.fc_cls.weight",
                                          "cls_head.fc_cls.bias"}
    again = import_weights.convert(tmp_path / "pyskl.pth", tmp_path / "back.pt")
    ours, back = checkpoint.load(tmp_path / "ours.pt"), checkpoint.load(tmp_path / "back.pt")
    assert {key: back[key] for key in ("spec", "frames", "stream", "persons")} == {
        key: ours[key] for key in ("spec", "frames", "stream", "persons")}
    assert "assumed" not in again and "graph" not in again
    for part in ("encoder", "head"):
        assert back[part].keys() == ours[part].keys()
        assert all(torch.equal(back[part][key], value) for key, value in ours[part].items())


def test_what_the_user_says_goes_before_what_the_file_says(tmp_path):
    encoder = encoders.build("ctrgcn", "coco17", width=8)
    checkpoint.save_encoder(tmp_path / "ours.pt", encoder, frames=33, stream="bone")
    export_weights.convert(tmp_path / "ours.pt", tmp_path / "pyskl.pth")
    import_weights.main([str(tmp_path / "pyskl.pth"), "--to", str(tmp_path / "back.pt"), "--encoder", "ctrgcn-orig",
                         "--frames", "7", "--stream", "bone_motion", "--persons", "1"])
    again, contents = checkpoint.load_encoder(tmp_path / "back.pt", "ctrgcn-orig")
    assert (contents["frames"], contents["stream"], contents["persons"]) == (7, "bone_motion", 1)
    assert "head" not in contents
    assert all(torch.equal(again.state_dict()[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(("arguments", "reason"), [
    ([], "arguments are required"),
    (["{source}"], "--to"),
    (["absent.pt", "--to", "{out}"], "absent.pt: no such file"),
    (["{source}", "--to", "{source}"], "is the file to read"),
    (["{source}", "--to", "{out}", "--encoder", "resnet"], "--encoder 'resnet': unknown; known: stgcn"),
    (["{source}", "--to", "{out}", "--encoder", "stgcn++"], r"not the weights of stgcn\+\+"),
    (["{source}", "--to", "{out}", "--encoder", "transformer"], "no PYSKL weights"),
    (["{source}", "--to", "{out}", "--layout", "body9"], "--layout 'body9': unknown"),
    (["{source}", "--to", "{out}", "--layout", "ntu25"], "17 joints, but layout ntu25 has 25"),
    (["{source}", "--to", "{out}", "--stream", "smell"], "--stream 'smell': unknown; known: joint"),
    (["{source}", "--to", "{out}", "--frames", "0"], "--frames 0: must be"),
    (["{source}", "--to", "{out}", "--persons", "-1"], "--persons -1: must be"),
    (["{source}", "--to", "{out}", "--frames", "many"], "--frames"),
    (["{source}", "--to", "{out}", "--frames", "10001"], "--frames 10001: must be"),
    (["{source}", "--to", "{out}", "--frames", "9" * 5000], "--frames: invalid int value: '9999"),
    (["{text}", "--to", "{out}"], "notes.txt: not a checkpoint"),
    (["{folder}", "--to", "{out}"], "is a folder"),
    (["{source}", "--to", "{folder}"], "--to .*: is a folder; name a file in it"),
    (["{source}", "--to", ""], "--to: must name a file"),
    (["", "--to", "{out}"], "FILE: must name a file"),
])
def test_bad_arguments_and_files_end_with_one_line(st_gcn, tmp_path, capsys, arguments, reason):
    (tmp_path / "notes.txt").write_text("weights")
    places = {"source": st_gcn[0], "out": tmp_path / "out.pt", "text": tmp_path / "notes.txt", "folder": tmp_path}
    before = st_gcn[0].read_bytes()
    assert import_weights.main([argument.format(**places) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert len(printed.err) < 500
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and not printed.out
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(printed.err)
    assert not (tmp_path / "out.pt").exists() and st_gcn[0].read_bytes() == before


@pytest.mark.parametrize("hints", [
    {"name": 3}, {"name": "resnet"}, {"layout": ["coco17"]}, {"layout": "ntu25"}, {"stream": "smell"}, {"frames": "9"},
    {"persons": -1}, {"frames": 2.5}, {"frames": True}, {"persons": 10**9}, {"coordinates": 7},
    {"coordinates": True}, {"frames": [["x" * 1000] * 1000]}, {"layout": "x" * 1000},
])
def test_what_a_file_says_about_itself_is_not_trusted(tmp_path, hints):
    encoder = encoders.build("stgcn++", "coco17", width=8)
    checkpoint.save(tmp_path / "file.pth", {"meta": {"skelshot": hints}, "state_dict": checkpoint.to_pyskl(encoder)})
    with pytest.raises(InputError, match=next(iter(hints)).replace("name", "encoder")) as caught:
        import_weights.convert(tmp_path / "file.pth", tmp_path / "out.pt")
    assert "file.pth: " in str(caught.value) and "--" not in str(caught.value)
    assert len(str(caught.value).removeprefix(f"checkpoint={tmp_path}")) < 300
    assert not (tmp_path / "out.pt").exists()


def test_what_had_to_be_assumed_is_said(tmp_path):
    ours = encoders.build("posec3d", "coco17", width=8)  # 17 heatmaps: of joints or of limbs
    torch.save(checkpoint.to_pyskl(ours), tmp_path / "file.pth")
    for options, said in (
        ({}, ("coco17 (assumed from 17 heatmaps; --layout", "stream joint (assumed; --stream")),
        ({"stream": "bone"}, ("coco17 (assumed from 17 heatmaps", "stream bone of 2D")),
        ({"layout": "coco17"}, ("layout coco17, 17", "stream joint (assumed")),
    ):
        first = import_weights.convert(tmp_path / "file.pth", tmp_path / "out.pt", **options).splitlines()[0]
        assert all(part in first for part in said)


@pytest.mark.parametrize("name", ["stgcn", "msg3d"])
def test_a_graph_that_is_not_the_layouts_is_said_and_kept(tmp_path, name):
    ours = encoders.build(name, "coco17", width=8)
    for graph in ours.buffers():
        if graph.ndim > 1:
            graph.copy_(graph.flip(-1))
    torch.save(checkpoint.to_pyskl(ours), tmp_path / "file.pth")
    report = import_weights.convert(tmp_path / "file.pth", tmp_path / "out.pt")
    assert "its graph is another than layout coco17's: kept" in report
    again, _ = checkpoint.load_encoder(tmp_path / "out.pt")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in ours.state_dict().items())


def test_a_file_of_ours_is_told_apart(tmp_path, capsys):
    checkpoint.save_encoder(tmp_path / "ours.pt", encoders.build("stgcn++", "coco17", width=8), 8, "joint")
    arguments = [str(tmp_path / "ours.pt"), "--to", str(tmp_path / "out.pt")]
    assert import_weights.main(arguments) == 2
    assert "is a checkpoint of SkelShot already" in capsys.readouterr().err
    assert export_weights.main(arguments) == 0
    assert export_weights.main([arguments[2], "--to", str(tmp_path / "twice.pth")]) == 2
    assert "import-weights" in capsys.readouterr().err


def test_what_pyskl_does_not_have_is_not_exported(tmp_path, capsys):
    checkpoint.save_encoder(tmp_path / "ours.pt", encoders.build("transformer", "coco17", width=8), 8, "joint")
    assert export_weights.main([str(tmp_path / "ours.pt"), "--to", str(tmp_path / "out.pth")]) == 2
    assert "no PYSKL weights" in capsys.readouterr().err
    assert export_weights.main([str(tmp_path / "ours.pt"), "--to", str(tmp_path / "ours.pt")]) == 2


def test_help_names_the_options(capsys):
    assert import_weights.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("FILE", "--to", "--encoder", "--layout", "--frames", "--stream", "CTR-GCN"))

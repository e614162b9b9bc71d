"""Weights of other repositories: same outputs, strict keys, and nothing in a file ever runs."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from skelcore import checkpoint, encoders, foreign
from skelcore.encoders.heatmaps import HeatmapEncoder
from skelcore.errors import InputError
from tests.paths import PARITY, need
from tests.skelcore import originals

ORIGINALS = {"stgcn": originals.STGCN, "aagcn": originals.AAGCN, "ctrgcn-orig": originals.CTRGCN}
# In PYSKL's naming, too; what another name there means is for the file to say.
PYSKL = [name for name in encoders.ENCODERS if foreign._reference_names(name) and name != "ctrgcn-orig"]


@pytest.fixture(scope="module", params=ORIGINALS)
def original(request):
    """(encoder name, network, its state dict in float32)."""
    network = originals.trained(ORIGINALS[request.param])
    return request.param, network, {key: value.float() if value.is_floating_point() else value
                                    for key, value in network.state_dict().items()}


def imported(contents, **kwargs):
    weights = foreign.parse(contents, "file.pth")
    encoder = foreign.encoder_for(weights, **kwargs)
    return encoder, foreign.fill(encoder, weights), foreign.head(weights, encoder.dim)


@torch.no_grad()
def test_an_original_network_gives_the_same_logits(original):
    name, network, state = original
    encoder, report, head = imported(state)
    joints = 18 if name == "stgcn" else 25
    assert encoder.spec == {"name": name, "layout": "openpose18" if joints == 18 else "ntu25", "in_channels": 3,
                            "width": 8}
    x = torch.randn(3, 2, 13, joints, 3, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    theirs = network(x)
    ours = F.linear(encoder.eval().double()(x), head["weight"].double(), head["bias"].double())
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    single = F.linear(encoder.float()(x.float()), head["weight"], head["bias"])
    torch.testing.assert_close(single.double(), theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
    classifier = "fcn" if name == "stgcn" else "fc"
    assert report.unused == (f"{classifier}.weight", f"{classifier}.bias") and not report.missing
    assert set(report.matched) | set(report.unused) == set(state)


def test_other_sizes_are_seen_in_the_shapes():
    for joints, layout, channels, width in ((17, "coco17", 2, 12), (21, "hand21", 6, 8)):
        for name, network in ORIGINALS.items():
            encoder, _, _ = imported(network(joints, channels, width).state_dict())
            assert encoder.spec == {"name": name, "layout": layout, "in_channels": channels, "width": width}


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state},
    lambda state: {"weights": state}, lambda state: {"net": state},
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {"state_dict": {f"module.{key}": torch.nn.Parameter(value, value.is_floating_point())
                                  for key, value in state.items()}},
], ids=["bare", "state_dict", "model", "weights", "net", "module", "nested module"])
def test_how_files_wrap_their_state(original, wrap):
    weights = foreign.parse(wrap(original[2]), "file.pth")
    assert weights.form.encoder == original[0] and weights.state.keys() == original[2].keys()
    assert all(torch.equal(value, original[2][key]) for key, value in weights.state.items())


def test_every_key_of_an_original_is_needed_but_counters(original):
    name, _, state = original
    layer = {"stgcn": "st_gcn_networks.7.tcn.2.weight", "aagcn": "l8.gcn1.conv_b.1.weight",
             "ctrgcn-orig": "l8.gcn1.convs.2.conv1.weight"}[name]
    with pytest.raises(InputError, match=rf"file\.pth.*missing.*'{layer}'"):
        imported({key: value for key, value in state.items() if key != layer})
    extra = layer.replace("weight", "scale")
    with pytest.raises(InputError, match=rf"file\.pth.*unknown.*'{extra}'"):
        imported(state | {extra: torch.ones(1)})
    with pytest.raises(InputError, match=rf"file\.pth: {layer} \(3, 5\).*does not fit"):
        imported(state | {layer: torch.zeros(3, 5)})
    _, report, _ = imported({key: value for key, value in state.items() if "num_batches" not in key})
    assert report.missing == tuple(sorted(key for key in state if "num_batches" in key))
    assert len(report.matched) + len(report.missing) + 2 == len(state)


def test_a_graph_that_differs_from_ours_is_kept(original):
    name, _, state = original
    if name == "stgcn":
        assert all(torch.equal(block.graph.adjacency, state["A"]) for block in imported(state)[0].blocks)
    else:
        theirs = state["l3.gcn1.PA"] if name == "aagcn" else state["l3.gcn1.PA"].mT
        assert torch.equal(foreign.to_reference(imported(state)[0])[
            "gcn.2.gcn.A" if name == "aagcn" else "net.2.gcn1.A"], theirs)


def test_ctrgcns_original_is_not_loaded_into_the_references_function():
    state = originals.CTRGCN().state_dict()
    encoder = encoders.build("ctrgcn", "ntu25", width=8)
    with pytest.raises(InputError, match="ctrgcn-orig"):
        checkpoint.load_pyskl(encoder, state)
    checkpoint.load_pyskl(encoders.build("ctrgcn-orig", "ntu25", width=8), state)


def test_2s_agcn_without_attention_is_refused_by_name():
    state = {key: value for key, value in originals.AAGCN().state_dict().items()
             if not any(part in key for part in ("conv_sa", "conv_ta", "fc1c", "fc2c"))}
    with pytest.raises(InputError, match=r"conv_sa.*without attention"):
        imported(state)
    state = checkpoint.to_pyskl(encoders.build("aagcn", "coco17", width=8))
    with pytest.raises(InputError, match=r"conv_sa.*without attention"):
        imported({key: value for key, value in state.items() if "_sa" not in key})


class TestPyskl:
    @pytest.mark.parametrize("name", PYSKL)
    @pytest.mark.parametrize(("layout", "width"), [("coco17", None), ("hand21", 16), ("ntu25", 24)])
    def test_name_and_sizes_are_found(self, name, layout, width):
        if name.startswith("ctrgcn") and layout == "coco17":
            width = 8  # where no branch is as the published one
        ours = encoders.build(name, layout, width=width)
        encoder, report, head = imported({"meta": {}, "state_dict": checkpoint.to_pyskl(ours)})
        assert encoder.spec == ours.spec and head is None and not report.unused + report.missing
        theirs = encoder.state_dict()
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(theirs[key], value, rtol=0, atol=0, msg=key)

    @pytest.mark.parametrize("name", [name for name in PYSKL if issubclass(encoders.ENCODERS[name], HeatmapEncoder)])
    def test_limb_heatmaps(self, name):
        ours = encoders.build(name, "ntu25", encoders.channels(name, "ntu25", stream="bone"), 8)
        state = checkpoint.to_pyskl(ours)
        assert imported(state, stream="bone")[0].spec == ours.spec
        with pytest.raises(InputError, match="reads 24 heatmaps, which stream joint of no layout"):
            imported(state)
        with pytest.raises(InputError, match=r"layout coco17.*--stream"):
            imported(state, layout="coco17")

    @torch.no_grad()
    @pytest.mark.parametrize("tag", ["stgcnpp_coco", "ctrgcn_coco", "x3d_shallow"])
    def test_the_fixtures_logits_come_out_of_the_file_alone(self, tag):
        contents = checkpoint.load(need(PARITY / f"{tag}.pth"))
        fixture = np.load(need(PARITY / f"{tag}.npz"))
        encoder, _, head = imported(contents)
        views = torch.from_numpy(fixture["input"])
        x = views.flatten(0, 1) if tag == "x3d_shallow" else views[:, 0]
        logits = F.linear(encoder.eval()(x, compat=True), **head)
        scale = np.abs(fixture["logits"]).max()
        np.testing.assert_allclose(logits, fixture["logits"], rtol=1e-5, atol=1e-5 * scale)

    def test_mmaction2_names_its_classifier_fc(self):
        ours = encoders.build("stgcn++", "coco17", width=8)
        fc = {"cls_head.fc.weight": torch.randn(5, 32), "cls_head.fc.bias": torch.randn(5)}
        weights = foreign.parse({"state_dict": checkpoint.to_pyskl(ours) | fc}, "file.pth")
        assert weights.form.name == "MMAction2"
        assert foreign.fill(ours, weights).unused == tuple(fc)
        assert torch.equal(foreign.head(weights, 32)["weight"], fc["cls_head.fc.weight"])
        half = foreign.parse({key: value.half() for key, value in fc.items()} | checkpoint.to_pyskl(ours), "file.pth")
        assert {value.dtype for value in foreign.head(half, 32).values()} == {torch.float32}

    @pytest.mark.parametrize("change", [
        {"neck.weight": torch.ones(2)}, {"backbone.gcn.0.gcn.alpha": torch.ones(1)}, {"gcn.0.gcn.A": torch.ones(1)}])
    def test_keys_that_are_neither_backbone_nor_head(self, change):
        state = checkpoint.to_pyskl(encoders.build("stgcn++", "coco17", width=8))
        with pytest.raises(InputError, match=rf"1 keys are unknown, such as '{next(iter(change))}'"):
            imported(state | change)

    def test_rows_of_a_fused_tensor_cannot_change_places(self):
        ours = encoders.build("stgcn++", "coco17", width=64)
        state = checkpoint.to_pyskl(ours)
        for end in ("weight", "bias"):
            keys = [f"backbone.gcn.1.tcn.branches.{i}.0.{end}" for i in (0, 1)]
            state[keys[0]], state[keys[1]] = state[keys[1]], state[keys[0]]
        with pytest.raises(InputError, match=r"branches\.0\.0\.\w+ \(10"):
            imported(state)


class TestRefusals:
    @pytest.mark.parametrize(("contents", "reason"), [
        ({}, "no state dict"), ({"state_dict": {}}, "no state dict"), ({"state_dict": 3}, "no state dict"),
        ({"state_dict": {"a": 3}}, "no state dict.*'a'"), ({"state_dict": {3: torch.ones(1)}}, "no state dict.*3"),
        ({"a": torch.ones(1)}, "'a', are those of no known repository"),
        ({"sgcn1.0.mlp.layers.0.weight": torch.ones(1)}, "no known repository"),
        ({"backbone.rgb_path.conv1.conv.weight": torch.ones(1)}, "keys are those of no encoder here"),
        ({"spec": {}, "encoder": {}}, "already"),
    ])
    def test_other_contents(self, contents, reason):
        with pytest.raises(InputError, match=rf"checkpoint=file\.pth: .*{reason}"):
            imported(contents)

    @pytest.mark.parametrize("value", [
        torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf]), torch.ones(1, dtype=torch.complex64),
        torch.ones(2, 2).to_sparse(), torch.empty(3, device="meta"), torch.zeros(1).expand(1 << 40),
        torch.ones(2).to(torch.float8_e5m2), torch.tensor([1e300], dtype=torch.double),
        torch.ones(2, dtype=torch.int64),
    ], ids=["nan", "infinite", "complex", "sparse", "meta", "expanded", "float8", "overflow", "integer"])
    def test_tensors_that_are_no_weights(self, original, value):
        key = next(key for key in original[2] if key.endswith("running_mean"))
        with pytest.raises(InputError, match=f"'{key}' is no dense tensor of finite floating-point numbers"):
            imported(original[2] | {key: value})

    def test_a_negative_variance(self, original):
        key = next(key for key in original[2] if key.endswith("running_var"))
        with pytest.raises(InputError, match=f"'{key}' is negative"):
            imported(original[2] | {key: -original[2][key]})

    @pytest.mark.parametrize("key", ["x" * 1000, "backbone." + "x" * 1000, "cls_head." + "x" * 1000, "a\nb" * 200],
                             ids=["bare", "backbone", "head", "lines"])
    def test_long_keys_are_said_in_short(self, key):
        state = checkpoint.to_pyskl(encoders.build("stgcn++", "coco17", width=8))
        for contents in (state | {key: torch.ones(1)}, state | {key: torch.ones(1, dtype=torch.int64)},
                         {key: torch.ones(1)}):
            try:
                text = str(imported(contents)[1])
            except InputError as error:
                text = str(error)
            assert len(text) < 300 and "\n" not in text

    def test_nothing_large_is_built_for_a_file_that_does_not_fit(self, monkeypatch):
        state = checkpoint.to_pyskl(encoders.build("stgcn", "coco17", width=8))
        wide = {key: torch.ones(4096) for key in state if key.endswith("gcn.9.tcn.bn.running_mean")}
        made = []
        monkeypatch.setattr(encoders, "build", lambda *spec, build=encoders.build: made.append(build(*spec))
                            or made[-1])
        assert wide
        with pytest.raises(InputError, match="does not fit"):
            imported(state | wide)
        [sketch] = made
        assert sum(parameter.numel() for parameter in sketch.parameters() if not parameter.is_meta) < 10_000  # graphs

    def test_heatmaps_of_another_layout(self):
        state = checkpoint.to_pyskl(encoders.build("posec3d", "coco17", width=8))
        with pytest.raises(InputError, match="reads 17 heatmaps, but stream joint of layout penn13 gives 13"):
            imported(state, layout="penn13")

    def test_shapes_that_fit_nothing(self):
        state = checkpoint.to_pyskl(encoders.build("ctrgcn", "coco17", width=8))
        with pytest.raises(InputError, match=r"data_bn\.weight has 51 rows, but encoder ctrgcn needs 34.*two persons"):
            imported(state | {"backbone.data_bn.weight": torch.ones(51)})
        with pytest.raises(InputError, match="is for 17 joints, but layout ntu25 has 25"):
            imported(state, layout="ntu25")
        graphs = {key: torch.ones(3, 19, 19) for key in state if key.endswith(".A")}
        with pytest.raises(InputError, match=r"is for 19 joints, which no layout here has: coco17 17"):
            imported(state | graphs | {"backbone.A": torch.ones(3, 19, 19)})
        wide = {key: torch.ones(100_000) for key in state if key.endswith("9.gcn1.bn.running_mean")}
        with pytest.raises(InputError, match="fit no width"):
            imported(state | wide)
        without = {key: value for key, value in state.items() if not key.endswith(".A")}
        with pytest.raises(InputError, match="is for 0 joints"):
            imported({key: value for key, value in without.items() if key != "backbone.A"})

    @pytest.mark.parametrize(("name", "key"), [
        ("stgcn", "A"), ("stgcn", "data_bn.weight"), ("stgcn", "edge_importance.0"), ("ctrgcn-orig", "l1.gcn1.PA"),
        ("ctrgcn-orig", "data_bn.weight"), ("ctrgcn-orig", "l10.gcn1.bn.running_mean"),
        ("posec3d", "backbone.conv1.conv.weight"), ("posec3d", "backbone.layer3.2.conv3.bn.running_mean"),
    ])
    def test_tensors_that_sizes_are_read_from_may_be_absent_or_scalars(self, name, key):
        if name in ORIGINALS:
            state = ORIGINALS[name](17).state_dict()
        else:
            state = checkpoint.to_pyskl(encoders.build(name, "coco17", width=8))
        for broken in ({other: value for other, value in state.items() if other != key},
                       state | {key: torch.tensor(1.0)}, state | {key: torch.ones(3)}):
            with pytest.raises(InputError, match=r"checkpoint=file\.pth"):
                imported(broken, name=name)

    def test_a_head_that_fits_not(self, original):
        key = next(key for key in original[2] if key.startswith("fc") and key.endswith("weight"))
        layer = key.removesuffix(".weight")
        for changed in (original[2] | {key: torch.ones(7, 5)}, original[2] | {key: torch.ones(32, 7)},
                        original[2] | {key: torch.ones(0, 32), f"{layer}.bias": torch.ones(0)},
                        {name: value for name, value in original[2].items() if name != f"{layer}.bias"}):
            with pytest.raises(InputError, match=rf"file\.pth: {layer} is no classifier of the encoder's 32 features"):
                imported(changed)


MMACTION2 = """
import collections, os, sys, types
import numpy as np
import torch
from skelcore import checkpoint, encoders

folder = sys.argv[1]
for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
    sys.modules[name] = types.ModuleType(name)


class HistoryBuffer:
    def __init__(self, values):
        self.max_length = 1000000
        self._log_history, self._count_history = np.array(values), np.ones(len(values), int)


class Command:
    def __reduce__(self):
        return os.system, (f"touch {folder}/ran",)


HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
sys.modules[HistoryBuffer.__module__].HistoryBuffer = HistoryBuffer
torch.manual_seed(0)
encoder = encoders.build("stgcn++", "coco17", width=8)
state = checkpoint.to_pyskl(encoder)
state |= {"cls_head.fc.weight": torch.randn(5, 32), "cls_head.fc.bias": torch.randn(5)}
loss = HistoryBuffer([2.5, 1.5])
scalars = collections.OrderedDict({"train/loss": loss, "train/lr": HistoryBuffer([0.1, 0.1])})
info = collections.OrderedDict({"epoch": 16, "loss": np.float64(1.5), "best": np.int64(3), "flag": np.bool_(True)})
meta = {"epoch": 16, "cfg": "model = dict()", "mmengine_version": "0.7.4", "dataset_meta": {}, "iter": np.int32(9)}
contents = {"meta": meta, "state_dict": state, "message_hub": {"log_scalars": scalars, "runtime_info": info,
            "resumed_keys": collections.OrderedDict()}, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
torch.save(contents, f"{folder}/zip.pth")
torch.save(contents, f"{folder}/legacy.pth", _use_new_zipfile_serialization=False)
loss.extra = Command()
torch.save(contents, f"{folder}/buffer.pth")
del loss.extra
info["more"] = Command()
torch.save(contents, f"{folder}/hub.pth")
"""


@pytest.fixture(scope="module")
def mmaction2(tmp_path_factory):
    """What MMAction2 leaves behind, from a process that has mmengine's class under its real name."""
    folder = tmp_path_factory.mktemp("mmaction2")
    subprocess.run([sys.executable, "-c", MMACTION2, folder], check=True,
                   env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    return folder


class TestMMAction2File:
    @pytest.mark.parametrize("kind", ["zip", "legacy"])
    def test_its_log_is_read_as_nothing(self, mmaction2, tmp_path, kind):
        path = mmaction2 / f"{kind}.pth"
        if kind == "legacy":  # written with numpy before 2.0
            whole = path.read_bytes()
            assert b"numpy._core.multiarray" in whole
            path = tmp_path / "old.pth"
            path.write_bytes(whole.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        with pytest.raises(InputError, match=r"refused.*asks for"):
            checkpoint.load(path)
        contents = checkpoint.load(path, foreign.STAND_INS)
        assert isinstance(contents["message_hub"]["log_scalars"]["train/loss"], foreign.Inert)
        assert vars(contents["message_hub"]["log_scalars"]["train/loss"]) == {}
        torch.manual_seed(0)
        theirs = encoders.build("stgcn++", "coco17", width=8)
        encoder, report, head = imported(contents)
        assert encoder.spec == theirs.spec and report.unused == ("cls_head.fc.weight", "cls_head.fc.bias")
        assert head["weight"].shape == (5, 32)
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(encoder.state_dict()[key], value, rtol=0, atol=0, msg=key)
        assert len(checkpoint.load_pyskl(theirs, path).matched) == len(report.matched)
        with pytest.raises(InputError, match="refused"):  # the stand-ins are gone again
            checkpoint.load(path)

    @pytest.mark.parametrize("hostile", ["hub", "buffer"])
    def test_a_command_in_its_log_is_refused_and_not_run(self, mmaction2, hostile):
        path = mmaction2 / f"{hostile}.pth"
        with pytest.raises(InputError, match=rf"{hostile}\.pth: refused.*asks for \w+\.system"):
            checkpoint.load_pyskl(encoders.build("stgcn++", "coco17", width=8), path)
        assert not (mmaction2 / "ran").exists()

    def test_stand_ins_hold_nothing_of_numpy_or_the_standard_library(self):
        assert {stand_in for stand_in, _ in foreign.STAND_INS} == {foreign.Inert}
        assert vars(foreign.Inert(os.system, "true")) == {}

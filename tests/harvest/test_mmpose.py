"""The backend mmpose against MMPose's own inference, its codecs, and its models exported to ONNX."""

import importlib
import io
import pickle
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch

from harvest.estimators import People, build
from harvest.estimators import mmpose_models as module
from harvest.estimators.config import MMPoseConfig, OnnxConfig
from harvest.estimators.download import Weights
from harvest.estimators.mmpose_models import MMPose, read_checkpoint
from harvest.estimators.topdown import Crops, heatmaps
from skelcore.errors import InputError, RunError
from tests.harvest.graphs import Boxes, export
from tests.paths import DATA, need

pytest.importorskip("mmpose", reason="MMPose is not installed (make mmpose)")

TINY = "rtmpose-t_8xb256-420e_coco-256x192"
SMALL = "td-hm_mobilenetv2_8xb64-210e_coco-256x192"
CPU = torch.device("cpu")
BOXES = np.array([[100, 50, 200, 300], [300, 20, 600, 340], [-20, 100, 90, 380]], np.float32)


def checkpoint(model, meta=True) -> bytes:
    """As MMEngine writes it: numpy arrays in its meta."""
    content = io.BytesIO()
    torch.save({"state_dict": model.state_dict()} | ({"meta": {"dataset_meta": model.dataset_meta}} if meta else {}),
               content)
    return content.getvalue()


def random_model(name: str):
    """MMPose's own model of a configuration, with weights that make its answers differ from joint to joint."""
    api = module._api()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = api.init_model(module._settings(name), device="cpu")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return model


@pytest.fixture(scope="module")
def tiny():
    return random_model(TINY)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (360, 640, 3), np.uint8), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """The tiny model as a checkpoint and as ONNX, and a detector."""
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = tiny.backbone, tiny.head

        def forward(self, images):
            return self.head(self.backbone(images))

    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.pth").write_bytes(checkpoint(tiny))
    (folder / "tiny.onnx").write_bytes(export(Bare(), (2, 3, 256, 192), outputs=2).content)
    (folder / "boxes.onnx").write_bytes(export(Boxes(), (1, 3, 100, 100), outputs=2).content)
    return folder


def configured(folder, **options) -> MMPoseConfig:
    return MMPoseConfig(detector=str(folder / "boxes.onnx"), config=TINY, checkpoint=str(folder / "tiny.pth"),
                        device="cpu", **options)


@pytest.mark.parametrize("kind", ["simcc", "heatmap", "udp"])
def test_keypoints_are_those_of_mmpose_itself(kind, tiny, frame, tmp_path):
    name = {"simcc": TINY, "heatmap": SMALL, "udp": str(tmp_path / "udp.py")}[kind]
    if kind == "udp":
        settings = module._settings(SMALL)
        settings.model.head.decoder.type = "UDPHeatmap"
        settings.test_dataloader.dataset.pipeline[2].use_udp = True
        settings.dump(name)
    model = tiny if name == TINY else random_model(name)
    pose = MMPose(name, Weights("w.pth", checkpoint(model), ""), CPU)
    assert pose.flip and pose.udp == (kind == "udp") and pose.joints == 17
    crops = Crops.of(BOXES, pose.size, pose.padding, pose.udp)
    points, scores = pose(crops.cut(frame))
    expected = module._api().inference_topdown(model, frame[..., ::-1].copy(), BOXES)
    for ours, sure, theirs in zip(crops.to_frame(points), scores, expected, strict=True):
        assert np.abs(ours - theirs.pred_instances.keypoints[0]).max() < 0.01
        np.testing.assert_allclose(sure, np.clip(theirs.pred_instances.keypoint_scores[0], 0, 1), atol=1e-4)


def test_a_model_answers_alike_by_mmpose_and_by_onnx(folder, frame):
    one = build(configured(folder, flip=False))
    other = build(OnnxConfig(detector=str(folder / "boxes.onnx"), pose=str(folder / "tiny.onnx")))
    frames, people = np.stack([frame, frame[::-1]]), [People(BOXES, np.ones(3)), People(BOXES[:1], np.ones(1))]
    for ours, theirs in zip(one.estimate(frames, people), other.estimate(frames, people), strict=True):
        seen = ours.scores > 0
        assert seen.any() and np.abs(ours.keypoints - theirs.keypoints)[seen].max() < 0.01
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)
    assert one.provenance["models"].keys() == {"detector boxes.onnx", "pose tiny.pth"}
    assert one.provenance["config"] == TINY and one.provenance["flip"] is False


def test_real_footage_and_nobody(folder, frame):
    config = configured(folder).model_copy(update={"detector": str(need(
        DATA / "models" / "yolox_nano_416_coco80.onnx"))})
    pose = pickle.loads(pickle.dumps(build(config)))  # noqa: S301
    nothing = np.full_like(frame, 90)[None]
    people = pose.detect(nothing)
    assert len(people[0]) == 0 and len(pose.estimate(nothing, people)[0]) == 0
    person = np.zeros_like(frame)[None]
    assert pose.estimate(person, [People(BOXES, np.ones(3))])[0].keypoints.shape == (3, 17, 2)


@pytest.mark.parametrize(("how", "codec"), [
    ("quarter", {"type": "MSRAHeatmap", "sigma": 2}),
    ("dark", {"type": "MSRAHeatmap", "sigma": 2, "unbiased": True}),
    ("udp", {"type": "UDPHeatmap", "sigma": 2})])
@pytest.mark.parametrize("peaks", [True, False], ids=["gaussians", "noise"])
def test_heatmaps_are_read_as_mmpose_reads_them(how, codec, peaks):
    module._api()
    codecs = importlib.import_module("mmpose.registry").KEYPOINT_CODECS
    theirs = codecs.build({**codec, "input_size": (192, 256), "heatmap_size": (48, 64)})
    rng = np.random.default_rng(2)
    maps = rng.uniform(0, 0.02 if peaks else 1, (3, 17, 64, 48)).astype(np.float32)
    if peaks:
        y, x = np.mgrid[:64, :48]
        centre = rng.uniform([0, 0], [48, 64], (3, 17, 2))
        maps += np.exp(-((x - centre[..., 0, None, None]) ** 2 + (y - centre[..., 1, None, None]) ** 2) / 8)
    points, scores = heatmaps(maps.astype(np.float32), (256, 192), how)
    for ours, sure, each in zip(points, scores, maps, strict=True):
        expected, certainty = theirs.decode(each.astype(np.float32))
        np.testing.assert_allclose(ours, expected[0], atol=1e-2, rtol=1e-3)
        np.testing.assert_allclose(sure, np.clip(certainty[0], 0, 1), atol=1e-6)


def test_stand_ins_are_gone_once_mmpose_is_imported():
    module._api()
    for name in ("mmdet", "torchvision", "mmcv.ops", "pkg_resources", "xtcocotools"):
        assert not hasattr(sys.modules.get(name), "__path__") or sys.modules[name].__spec__.loader is not None


class Bomb:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('exploded').touch()",)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    torch.save({"state_dict": {}, "meta": Bomb()}, content)
    with pytest.raises(InputError, match=r"bomb\.pth: not a checkpoint of tensors and numbers alone"):
        read_checkpoint(Weights("bomb.pth", content.getvalue(), ""))
    assert not (tmp_path / "exploded").exists()
    assert not {np.ndarray, np.dtype} & set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\3\4 pretends", pickle.dumps([1, 2], 2)],
                         ids=["empty", "text", "zip", "list"])
def test_other_files_are_no_checkpoints(content):
    with pytest.raises(InputError) as caught:
        read_checkpoint(Weights("w.pth", content, ""))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("w.pth: ")


@pytest.mark.parametrize(("change", "words"), [
    (lambda state: state.pop("head.final_layer.weight"), r"it lacks 1 of .*such as head\.final_layer\.weight"),
    (lambda state: state.update(more=torch.ones(1)), "has beyond them 1 .*such as more"),
    (lambda state: state.update({"head.final_layer.bias": torch.ones(3)}), r"mismatch for head\.final_layer\.bias"),
    (lambda state: state.update(state=3), "holds no state_dict of tensors"),
], ids=["less", "more", "shape", "number"])
def test_checkpoints_of_another_model_are_refused(tiny, change, words):
    state = dict(tiny.state_dict())
    change(state)
    content = io.BytesIO()
    torch.save({"state_dict": state}, content)
    with pytest.raises(InputError, match=words):
        MMPose(TINY, Weights("w.pth", content.getvalue(), ""), CPU)


def test_checkpoints_from_before_mmpose_1_are_renamed():
    model = random_model(SMALL)
    old = {name.replace("head.", "keypoint_head.") if name.startswith("head.") else name: tensor
           for name, tensor in model.state_dict().items()}
    content = io.BytesIO()
    torch.save({"state_dict": old}, content)
    pose = MMPose(SMALL, Weights("old.pth", content.getvalue(), ""), CPU)
    for name, tensor in pose.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_configurations_by_name_and_by_file(tiny, tmp_path):
    weights = Weights("w.pth", checkpoint(tiny, meta=False), "")
    with pytest.raises(InputError, match="0 configurations of MMPose have that name"):
        MMPose("rtmpose-xxl", weights, CPU)
    with pytest.raises(InputError, match="no top-down model"):
        MMPose("rtmo-s_8xb32-600e_coco-640x640", weights, CPU)
    with pytest.raises(InputError, match="cannot be read"):
        MMPose(str(tmp_path / "absent.py"), weights, CPU)
    (tmp_path / "broken.py").write_text("model = 1 / 0\n")
    with pytest.raises(InputError, match="not a configuration of MMPose"):
        MMPose(str(tmp_path / "broken.py"), weights, CPU)
    (tmp_path / "own.py").write_text(module._settings(TINY).pretty_text)
    assert MMPose(str(tmp_path / "own.py"), weights, CPU).name == "own"


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(InputError, match="device=cuda:1: torch sees no CUDA device"):
        module._device("cuda:1")
    assert module._device("auto") == CPU


def test_without_mmpose_the_message_tells_how_to_install_it(monkeypatch):
    for name in [each for each in sys.modules if each.split(".")[0] == "mmpose"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mmpose", None)
    with pytest.raises(RunError, match="`make mmpose` installs it"):
        module._api()

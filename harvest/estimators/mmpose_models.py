"""The backend mmpose: MMPose's own top-down configurations and checkpoints, without mmcv's compiled operators.

MMPose 1.3 (https://github.com/open-mmlab/mmpose) imports packages that its top-down models do not need; they are stood
in for while it is imported. The person detector is that of the backend onnx.
"""

from __future__ import annotations

import importlib
import io
import logging
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch

from harvest.estimators import download
from harvest.estimators.config import MMPoseConfig
from harvest.estimators.download import Weights
from harvest.estimators.onnx_models import detector
from harvest.estimators.twostage import TwoStage
from skelcore.errors import InputError, RunError


def mmpose(config: MMPoseConfig, layout: str = "coco17") -> TwoStage:
    """The estimator of a configuration; raises RunError without MMPose, InputError for what it cannot build."""
    torch.set_num_threads(config.threads)
    weights = download.load(config.checkpoint, config.checkpoint_sha256)
    pose = MMPose(config.config, weights, _device(config.device), config.flip)
    detect, provenance = detector(config)
    provenance["models"][f"pose {weights.name}"] = weights.sha256
    provenance |= {"config": Path(config.config).stem, "flip": pose.flip, "device": pose.device.type,
                   "runtime": f"mmpose {version('mmpose')}, torch {torch.__version__}, {provenance['runtime']}"}
    return TwoStage(config, layout, detect, pose, provenance)


class MMPose:
    """A PoseModel (see ``twostage``) built from an MMPose configuration; ``config`` is a name or a .py file."""

    def __init__(self, config: str, weights: Weights, device: torch.device, flip: bool | None = None) -> None:
        api = _api()
        self.name, self.device = Path(config).stem, device
        settings = _settings(config)
        self.size, self.padding, self.udp = _crops(settings, self.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.model = api.init_model(settings, device=str(device))
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError, ImportError) as error:
            raise InputError(f"{config}: MMPose cannot build it ({_line(error)})") from None
        _fill(self.model, weights)
        self.flip = bool(self.model.test_cfg.get("flip_test", False)) if flip is None else flip
        self.model.test_cfg["flip_test"] = self.flip
        self._kept = self.model.test_cfg.get("output_keypoint_indices")
        self._sample = importlib.import_module("mmpose.structures").PoseDataSample(metainfo={
            "flip_indices": self.model.dataset_meta["flip_indices"], "input_size": self.size[::-1],
            "input_center": np.array(self.size[::-1]) / 2, "input_scale": np.array(self.size[::-1])})
        self.joints = self(np.zeros((1, *self.size, 3), np.uint8))[1].shape[1]

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # MMPose's own preparation expects OpenCV's order of colours.
        images = torch.from_numpy(np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2)))
        batch = self.model.data_preprocessor({"inputs": list(images), "data_samples": [self._sample] * len(crops)})
        features = self.model.extract_feat(batch["inputs"])
        if self.flip:
            features = [features, self.model.extract_feat(batch["inputs"].flip(-1))]
        answers = self.model.head.predict(features, batch["data_samples"], test_cfg=self.model.test_cfg)
        found = answers[0] if isinstance(answers, tuple) else answers
        points = np.concatenate([each.keypoints for each in found])[..., :2]
        scores = np.clip(np.concatenate([each.keypoint_scores for each in found]), 0, 1)
        return (points, scores) if self._kept is None else (points[:, self._kept], scores[:, self._kept])


def read_checkpoint(weights: Weights) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, without running any code that it may hold; InputError if it asks for that.

    Checkpoints of MMEngine hold numpy arrays beside tensors, whose classes are allowed here and nowhere else.
    """
    _api()
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    history = importlib.import_module("mmengine.logging.history_buffer").HistoryBuffer
    allowed = [multiarray._reconstruct, multiarray.scalar, np.ndarray, np.dtype, history,
               *(getattr(np.dtypes, name) for name in np.dtypes.__all__)]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(io.BytesIO(weights.content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise InputError(f"{weights.name}: not a checkpoint of tensors and numbers alone "
                         f"({_line(error)})") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise InputError(f"{weights.name}: it holds no state_dict of tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def _fill(model: Any, weights: Weights) -> None:
    # MMPose renames what its versions before 1.0 called otherwise while it loads.
    try:
        found = model.load_state_dict(read_checkpoint(weights), strict=False)
    except RuntimeError as error:
        raise InputError(f"{weights.name}: the checkpoint is of another model ({_line(error)})") from None
    for what, names in (("lacks", found.missing_keys), ("has beyond them", found.unexpected_keys)):
        names = [name for name in names if not name.endswith("num_batches_tracked")]
        if names:
            raise InputError(f"{weights.name}: the checkpoint is of another model: it {what} {len(names)} of the "
                             f"configuration's tensors, such as {min(names)}")


def _settings(config: str) -> Any:
    """An mmengine Config; a name is looked up among those that come with MMPose."""
    api = importlib.import_module("mmengine.config")
    path = Path(config).expanduser()
    if path.suffix != ".py":
        folder = Path(importlib.import_module("mmpose").__file__ or "").parent / ".mim" / "configs"
        found = sorted(each for each in folder.rglob("*.py") if each.stem == config)
        if len(found) != 1:
            raise InputError(f"config={config}: {len(found)} configurations of MMPose have that name; name one, or a "
                             f".py file" + (f": {', '.join(map(str, found))}" if found else ""))
        path = found[0]
    try:
        return api.Config.fromfile(str(path))
    except OSError as error:
        raise InputError(f"config={config}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a configuration is a program, which may fail in any way
        raise InputError(f"config={config}: not a configuration of MMPose "
                         f"({_line(error)})") from None


def _crops(settings: Any, name: str) -> tuple[tuple[int, int], float, bool]:
    """Size, padding and UDP of the crops, as the configuration's test pipeline cuts them."""
    steps = settings.get("test_dataloader", {}).get("dataset", {}).get("pipeline", [])
    by_type = {step["type"]: step for step in steps}
    affine = by_type.get("TopdownAffine")
    if affine is None:
        raise InputError(f"{name}: no top-down model (its test pipeline has no TopdownAffine); it has "
                         f"{', '.join(by_type) or 'none'}")
    width, height = affine["input_size"]
    padding = by_type.get("GetBBoxCenterScale", {}).get("padding", 1.25)
    return (int(height), int(width)), float(padding), bool(affine.get("use_udp", False))


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name.startswith("cuda") and not there:
        raise InputError(f"device={name}: torch sees no CUDA device here")
    return torch.device(("cuda" if there else "cpu") if name == "auto" else name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _api() -> ModuleType:
    """``mmpose.apis``, imported once; RunError says how to install it."""
    if "mmpose.apis" in sys.modules:
        return sys.modules["mmpose.apis"]
    try:
        with _stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            api = importlib.import_module("mmpose.apis")
    except ImportError as error:
        raise RunError(f"estimator mmpose: MMPose cannot be imported ({error}); `make mmpose` installs it") from None
    # What it says of deprecated calls, and of registries of packages that are not there, is not the user's business.
    warnings.filterwarnings("ignore", category=FutureWarning, module="mmpose")
    importlib.import_module("mmengine.logging").MMLogger.get_current_instance().setLevel(logging.ERROR)
    return api


class _Absent(torch.nn.Module):
    """What no top-down model needs: operators of mmcv's compiled code, tools for data sets."""

    def __init__(self, *args: object, **kwargs: object) -> NoReturn:
        raise ImportError("this configuration needs mmcv's compiled operators, xtcocotools or torchvision, which are "
                          "not installed")


def _unknown(package: str) -> NoReturn:
    raise LookupError(package)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Modules that MMPose imports without need, for as long as it is being imported."""
    absent: dict[str, dict[str, Any]] = {}
    if not _importable("pkg_resources"):  # setuptools has dropped it; without it MMEngine looks for modules by itself
        absent["pkg_resources"] = {"DistributionNotFound": LookupError, "get_distribution": _unknown}
    if not _importable("mmcv._ext"):
        absent["mmcv.ops"] = dict.fromkeys(
            ("MultiScaleDeformableAttention", "DeformConv2d", "ModulatedDeformConv2d"), _Absent)
    if not _importable("xtcocotools.mask"):  # for the scores of annotated data sets; its wheels are built for numpy 1
        absent |= {"xtcocotools": {}, "xtcocotools.mask": {}, "xtcocotools.coco": {"COCO": _Absent},
                   "xtcocotools.cocoeval": {"COCOeval": _Absent}}
    if not _importable("mmdet"):
        absent |= {"mmdet": {}, "mmdet.utils": {"ConfigType": dict, "reduce_mean": lambda tensor: tensor}}
    if not _importable("torchvision"):
        for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        absent |= {"torchvision": {}, "torchvision.transforms": {"ToPILImage": _Absent}}
    for name, content in absent.items():
        module = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None, is_package=True), []
        vars(module).update(content)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # a build for another machine fails with errors of all kinds
        return False
    return True

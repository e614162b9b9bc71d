"""The pose backends on one core, three persons a frame: what surrounds the bare models costs, and what batches gain.

Two pairs of models: the smallest, YOLOX-nano of the shared data with MMPose's RTMPose-t, and the sizes of rtmlib's mode
`lightweight`, YOLOX-tiny with RTMPose-s. All but the first have random weights, which cost the same. A backend looks
for people in each fifth frame, as in a harvest, and takes the persons of all five together. Baselines: the same models
on inputs that lie ready in memory; a loop over our own code that looks for people in each frame and takes one person at
a time; and that loop in public tools: rtmlib's (where `pip install --no-deps rtmlib` was run) and MMPose's
`inference_topdown`. All take turns; medians of CPU time, so that other work on the machine does not count. Decoding
and tracking, which benchmarks/harvest.py measures, are left out.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import cv2
import numpy as np
import torch
from torch import nn

from harvest.estimators import Estimator, People, build
from harvest.estimators.config import MMPoseConfig, OnnxConfig

ROUNDS, FRAMES, EVERY, PERSONS = 5, 10, 5, 3
POSES = "rtmpose-{}_8xb256-420e_coco-256x192"
DATA = Path(os.environ.get("SKELSHOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
NANO = DATA / "models" / "yolox_nano_416_coco80.onnx"
BOXES = np.array([[40, 60, 160, 340], [260, 40, 380, 330], [460, 80, 600, 350]], np.float32)


class Pose(nn.Module):
    """Backbone and head alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.backbone(images))


class Tiny(nn.Module):
    """YOLOX-tiny from MMPose's own parts, with random weights by which nobody is there; answers in a raw grid."""

    def __init__(self, width: int = 96) -> None:
        from mmpose.models.backbones import CSPDarknet
        from mmpose.models.necks import YOLOXPAFPN

        super().__init__()
        self.backbone = CSPDarknet(deepen_factor=0.33, widen_factor=0.375)
        self.neck = YOLOXPAFPN([width, 2 * width, 4 * width], width, num_csp_blocks=1)
        self.levels = nn.ModuleList(nn.ModuleDict({
            "stem": self._block(width, 1), "classes": nn.Sequential(self._block(width), self._block(width)),
            "boxes": nn.Sequential(self._block(width), self._block(width)), "class": nn.Conv2d(width, 80, 1),
            "box": nn.Conv2d(width, 4, 1), "there": nn.Conv2d(width, 1, 1)}) for _ in range(3))
        for level in self.levels:
            nn.init.zeros_(level["there"].weight)
            nn.init.constant_(level["there"].bias, -20)

    @staticmethod
    def _block(width: int, kernel: int = 3) -> nn.Module:
        return nn.Sequential(nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(width),
                             nn.SiLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = []
        for level, feature in zip(self.levels, self.neck(self.backbone(images)), strict=True):
            stem = level["stem"](feature)
            classes, boxes = level["classes"](stem), level["boxes"](stem)
            found.append(torch.cat([level["box"](boxes), level["there"](boxes).sigmoid(),
                                    level["class"](classes).sigmoid()], 1).flatten(2))
        return torch.cat(found, 2).transpose(1, 2)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def export(model: nn.Module, path: Path, shape: tuple[int, ...], outputs: list[str]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.zeros(shape),), str(path), dynamo=False, opset_version=17,
                          input_names=["input"], output_names=outputs,
                          dynamic_axes={name: {0: "batch"} for name in ("input", *outputs)})
    return path


def people(count: int) -> list[People]:
    return [People(BOXES, np.ones(PERSONS))] * count


def batched(estimator: Estimator, frames: np.ndarray) -> None:
    """As the backends are used: one look for people, then all persons of the frames up to the next."""
    for i in range(0, len(frames), EVERY):
        estimator.detect(frames[i:i + 1])
        estimator.estimate(frames[i:i + EVERY], people(EVERY))


def one_by_one(estimator: Estimator, frames: np.ndarray) -> None:
    for frame in frames:
        estimator.detect(frame[None])
        for box in BOXES:
            estimator.estimate(frame[None], [People(box[None], np.ones(1))])


def rtmlib(detector: Path, pose: Path) -> Callable[[np.ndarray], None] | None:
    """The loop of rtmlib over frames, if it is installed."""
    try:
        from rtmlib import YOLOX, RTMPose
    except ImportError:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as for the others; its own choice is all cores
    with contextlib.redirect_stdout(io.StringIO()):
        find, tell = YOLOX(str(detector), (416, 416)), RTMPose(str(pose), (192, 256))
    for tool, path in ((find, detector), (tell, pose)):
        tool.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def loop(frames: np.ndarray) -> None:
        for frame in frames:
            image = np.ascontiguousarray(frame[..., ::-1])
            find(image)
            tell(image, list(BOXES))

    return loop


def works(config: str, detector: Path | None, folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    from harvest.estimators import mmpose_models

    api = mmpose_models._api()
    model = api.init_model(mmpose_models._settings(config), device="cpu")
    model.test_cfg["flip_test"] = False
    torch.save({"state_dict": model.state_dict()}, folder / "pose.pth")
    bare = Pose(model)
    pose = export(bare, folder / "pose.onnx", (2, 3, 256, 192), ["simcc_x", "simcc_y"])
    detector = detector or export(Tiny(), folder / "tiny.onnx", (1, 3, 416, 416), ["grid"])
    onnx: Any = build(OnnxConfig(detector=str(detector), pose=str(pose), providers=["cpu"]))
    theirs: Any = build(MMPoseConfig(detector=str(detector), config=config, checkpoint=str(folder / "pose.pth"),
                                     device="cpu", providers=["cpu"], flip=False))
    find, tell = onnx._detect._session, onnx._pose._session
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (FRAMES, 360, 640, 3), np.uint8)
    crops = rng.normal(size=(FRAMES * PERSONS, 3, 256, 192)).astype(np.float32)
    images = rng.normal(size=(FRAMES // EVERY, 3, *find.size)).astype(np.float32)

    @torch.inference_mode()
    def bare_torch() -> None:
        find(images)
        for some in torch.from_numpy(crops).split(PERSONS * EVERY):
            bare(some)

    def bare_onnx() -> None:
        find(images)
        for some in np.split(crops, FRAMES // EVERY):
            tell(some)

    def topdown() -> None:
        for frame in frames:
            onnx.detect(frame[None])
            for box in BOXES:
                api.inference_topdown(model, frame[..., ::-1], box[None])

    found: dict[str, Callable[[], object]] = {
        "detector bare": lambda: find(images), "detector": lambda: onnx.detect(frames[::EVERY]),
        "onnx bare": bare_onnx, "onnx": lambda: batched(onnx, frames),
        "onnx one by one": lambda: one_by_one(onnx, frames), "mmpose bare": bare_torch,
        "mmpose": lambda: batched(theirs, frames), "mmpose one by one": lambda: one_by_one(theirs, frames),
        "mmpose public": topdown}
    if (loop := rtmlib(detector, pose)) is not None:
        found["onnx public"] = lambda: loop(frames)
    return found


def table(title: str, tasks: dict[str, Callable[[], object]]) -> None:
    times: dict[str, list[float]] = {each: [] for each in tasks}
    for _ in range(ROUNDS + 1):
        for each, work in tasks.items():
            times[each].append(seconds(work))
    medians = {each: median(values[1:]) for each, values in times.items()}  # the first round warms up
    print(f"{title:35} {'frames/s':>10} {'of the bare speed':>18} {'over one by one':>16} {'over the public tool':>21}")
    for each in ("detector", "onnx", "mmpose"):
        count = FRAMES // EVERY if each == "detector" else FRAMES
        gains = [f"{medians[other] / medians[each]:.2f}" if (other := f"{each} {way}") in medians else "-"
                 for way in ("one by one", "public")]
        print(f"{each:35} {count / medians[each]:10.1f} {medians[f'{each} bare'] / medians[each]:18.2f} "
              f"{gains[0]:>16} {gains[1]:>21}")


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if not NANO.exists():
        print(f"skipped: {NANO.name} is absent (set SKELSHOT_DATA to the folder that holds models/)")
        return 0
    try:
        import mmpose  # noqa: F401
    except ImportError:
        print("skipped: MMPose is not installed (make mmpose)")
        return 0
    for title, size, detector in (("YOLOX-nano, RTMPose-t", "t", NANO), ("YOLOX-tiny, RTMPose-s", "s", None)):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table(title, works(POSES.format(size), detector, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

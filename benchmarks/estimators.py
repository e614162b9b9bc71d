"""The pose backends on one core, three persons a frame: what surrounds the bare models costs, and what batches gain.

The pose model is MMPose's RTMPose-t with random weights, in the backend mmpose as it is and in the backend onnx
exported; the detector is YOLOX-nano from the shared data. A backend looks for people in each fifth frame, as in a
harvest, and takes the persons of all five together. Baselines: the same models on inputs that lie ready in memory; a
loop over our own code that looks for people in each frame and takes one person at a time; and that loop in public
tools on the same models: rtmlib's (where `pip install --no-deps rtmlib` was run) and MMPose's `inference_topdown`.
All take turns; medians of CPU time, so that other work on the machine does not count. Decoding and tracking, which
benchmarks/pipeline.py measures, are left out.
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

import cv2
import numpy as np
import torch

from harvest.estimators import Estimator, People, build
from harvest.estimators.config import MMPoseConfig, OnnxConfig

ROUNDS, FRAMES, EVERY, PERSONS = 5, 10, 5, 3
CONFIG = "rtmpose-t_8xb256-420e_coco-256x192"
DATA = Path(os.environ.get("SKELSHOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DETECTOR = DATA / "models" / "yolox_nano_416_coco80.onnx"
BOXES = np.array([[40, 60, 160, 340], [260, 40, 380, 330], [460, 80, 600, 350]], np.float32)


class Bare(torch.nn.Module):
    """Backbone and head alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.backbone(images))


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def export(folder: Path) -> tuple[Path, Path, Any]:
    """The random model as a checkpoint, as ONNX and as it is."""
    from harvest.estimators import mmpose_models

    api = mmpose_models._api()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = api.init_model(mmpose_models._settings(CONFIG), device="cpu")
        content = io.BytesIO()
        torch.onnx.export(Bare(model).eval(), (torch.zeros(2, 3, 256, 192),), content, dynamo=False, opset_version=17,
                          input_names=["input"], output_names=["simcc_x", "simcc_y"],
                          dynamic_axes={name: {0: "batch"} for name in ("input", "simcc_x", "simcc_y")})
    model.test_cfg["flip_test"] = False
    torch.save({"state_dict": model.state_dict()}, folder / "tiny.pth")
    (folder / "tiny.onnx").write_bytes(content.getvalue())
    return folder / "tiny.pth", folder / "tiny.onnx", model


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


def rtmlib(pose: Path) -> Callable[[np.ndarray], None] | None:
    """The loop of rtmlib over frames, if it is installed."""
    try:
        from rtmlib import YOLOX, RTMPose
    except ImportError:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # as for the others; its own choice is all cores
    with contextlib.redirect_stdout(io.StringIO()):
        detector, model = YOLOX(str(DETECTOR), (416, 416)), RTMPose(str(pose), (192, 256))
    for tool, path in ((detector, DETECTOR), (model, pose)):
        tool.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def loop(frames: np.ndarray) -> None:
        for frame in frames:
            image = np.ascontiguousarray(frame[..., ::-1])
            detector(image)
            model(image, list(BOXES))

    return loop


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if not DETECTOR.exists():
        print(f"skipped: {DETECTOR.name} is absent (set SKELSHOT_DATA to the folder that holds models/)")
        return 0
    try:
        import mmpose  # noqa: F401
    except ImportError:
        print("skipped: MMPose is not installed (make mmpose)")
        return 0
    from harvest.estimators import mmpose_models

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (FRAMES, 360, 640, 3), np.uint8)
    crops = rng.normal(size=(FRAMES * PERSONS, 3, 256, 192)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        checkpoint, pose, model = export(Path(name))
        onnx: Any = build(OnnxConfig(detector=str(DETECTOR), pose=str(pose), providers=["cpu"]))
        loop = rtmlib(pose)
        theirs: Any = build(MMPoseConfig(detector=str(DETECTOR), config=CONFIG, checkpoint=str(checkpoint),
                                         device="cpu", providers=["cpu"], flip=False))
    bare, detector, session = Bare(model), onnx._detect._session, onnx._pose._session
    images = rng.normal(size=(FRAMES // EVERY, 3, *detector.size)).astype(np.float32)

    @torch.inference_mode()
    def bare_torch() -> None:
        detector(images)
        for some in torch.from_numpy(crops).split(PERSONS * EVERY):
            bare(some)

    def bare_onnx() -> None:
        detector(images)
        for some in np.split(crops, FRAMES // EVERY):
            session(some)

    def their_loop() -> None:
        for frame in frames:
            onnx.detect(frame[None])
            for box in BOXES:
                mmpose_models._api().inference_topdown(model, frame[..., ::-1], box[None])

    works: dict[str, Callable[[], object]] = {
        "detector bare": lambda: detector(images), "detector": lambda: onnx.detect(frames[::EVERY]),
        "onnx bare": bare_onnx, "onnx": lambda: batched(onnx, frames),
        "onnx one by one": lambda: one_by_one(onnx, frames), "mmpose bare": bare_torch,
        "mmpose": lambda: batched(theirs, frames), "mmpose one by one": lambda: one_by_one(theirs, frames),
        "mmpose public": their_loop}
    if loop is not None:
        works["onnx public"] = lambda: loop(frames)
    times: dict[str, list[float]] = {each: [] for each in works}
    for _ in range(ROUNDS + 1):
        for each, work in works.items():
            times[each].append(seconds(work))
    medians = {each: median(values[1:]) for each, values in times.items()}  # the first round warms up
    print(f"{f'{FRAMES} frames 640x360 with {PERSONS} persons':35} {'frames/s':>10} {'of the bare speed':>18} "
          f"{'over one by one':>16} {'over the public tool':>21}")
    for each in ("detector", "onnx", "mmpose"):
        count = FRAMES // EVERY if each == "detector" else FRAMES
        gains = [f"{medians[other] / medians[each]:.2f}" if (other := f"{each} {way}") in medians else "-"
                 for way in ("one by one", "public")]
        print(f"{each:35} {count / medians[each]:10.1f} {medians[f'{each} bare'] / medians[each]:18.2f} "
              f"{gains[0]:>16} {gains[1]:>21}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

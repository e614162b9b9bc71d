"""The pose backends on one core, three persons a frame: what surrounds the bare models costs, and what batches gain.

The pose model of the two-stage backends is MMPose's RTMPose-t with random weights, in the backend mmpose as it is and
in the backend onnx exported; the detector is YOLOX-nano from the shared data. Baselines: the models on inputs that
lie ready in memory, and a loop that hands over one person of one frame at a time. All take turns; medians.
"""

from __future__ import annotations

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

ROUNDS, FRAMES, PERSONS = 7, 4, 3
CONFIG = "rtmpose-t_8xb256-420e_coco-256x192"
DATA = Path(os.environ.get("SKELSHOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DETECTOR = DATA / "models" / "yolox_nano_416_coco80.onnx"


class Bare(torch.nn.Module):
    """Backbone and head alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.backbone(images))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def export(folder: Path) -> tuple[Path, Path, Bare]:
    """The random model as a checkpoint, as ONNX and as it is."""
    from harvest.estimators import mmpose_models

    api = mmpose_models._api()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = api.init_model(mmpose_models._settings(CONFIG), device="cpu")
        bare, content = Bare(model).eval(), io.BytesIO()
        torch.onnx.export(bare, (torch.zeros(2, 3, 256, 192),), content, dynamo=False, opset_version=17,
                          input_names=["input"], output_names=["simcc_x", "simcc_y"],
                          dynamic_axes={name: {0: "batch"} for name in ("input", "simcc_x", "simcc_y")})
    torch.save({"state_dict": model.state_dict()}, folder / "tiny.pth")
    (folder / "tiny.onnx").write_bytes(content.getvalue())
    return folder / "tiny.pth", folder / "tiny.onnx", bare


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
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (FRAMES, 360, 640, 3), np.uint8)
    boxes = np.array([[40, 60, 160, 340], [260, 40, 380, 330], [460, 80, 600, 350]], np.float32)
    people = [People(boxes, np.ones(PERSONS))] * FRAMES
    crops = rng.normal(size=(FRAMES * PERSONS, 3, 256, 192)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        checkpoint, pose, bare = export(Path(name))
        onnx: Any = build(OnnxConfig(detector=str(DETECTOR), pose=str(pose)))
        theirs = build(MMPoseConfig(detector=str(DETECTOR), config=CONFIG, checkpoint=str(checkpoint), device="cpu",
                                    flip=False))
        detector, session = onnx._detect._session, onnx._pose._session
    images = rng.normal(size=(FRAMES, 3, *detector.size)).astype(np.float32)

    def model() -> None:
        with torch.inference_mode():
            bare(torch.from_numpy(crops))

    def loop(estimator: Estimator) -> None:
        for i in range(FRAMES):
            for box in boxes:
                estimator.estimate(frames[i:i + 1], [People(box[None], np.ones(1))])

    works: dict[str, Callable[[], object]] = {
        "detector, bare": lambda: detector(images), "detector": lambda: onnx.detect(frames),
        "onnx, bare": lambda: session(crops), "onnx": lambda: onnx.estimate(frames, people),
        "onnx, one by one": lambda: loop(onnx), "mmpose, bare": model,
        "mmpose": lambda: theirs.estimate(frames, people), "mmpose, one by one": lambda: loop(theirs)}
    times: dict[str, list[float]] = {each: [] for each in works}
    for _ in range(ROUNDS + 1):
        for each, work in works.items():
            times[each].append(seconds(work))
    medians = {each: median(values[1:]) for each, values in times.items()}  # the first round warms up
    print(f"{FRAMES} frames 640x360 with {PERSONS} persons{'':3} {'ms/frame':>10} {'of the bare speed':>18} "
          f"{'over one by one':>16}")
    for each in ("detector", "onnx", "mmpose"):
        single = medians.get(f"{each}, one by one")
        print(f"{each:35} {medians[each] / FRAMES * 1e3:10.1f} {medians[f'{each}, bare'] / medians[each]:18.2f} "
              f"{'-' if single is None else f'{single / medians[each]:.2f}':>16}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

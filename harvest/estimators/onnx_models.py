"""The backend onnx: any YOLOX or RTMDet detector and any SimCC or heatmap pose model, by ONNX Runtime.

The models of MMPose are RTMPose (Jiang et al., arXiv 2303.07399) and its kin, exported to ONNX.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harvest.estimators import download, topdown
from harvest.estimators.config import DetectorConfig, OnnxConfig
from harvest.estimators.detectors import Detector
from harvest.estimators.download import Weights
from harvest.estimators.session import Session, planes
from harvest.estimators.twostage import TwoStage
from skelcore.errors import InputError


def onnx(config: OnnxConfig, layout: str = "coco17") -> TwoStage:
    """The estimator of a configuration; raises InputError and RunError as ``download.load`` and ``Session`` do."""
    detect, provenance = detector(config)
    weights = download.load(config.pose, config.pose_sha256)
    session = _session(config, weights, config.pose_size)
    pose = OnnxPose(session, config.heatmap, config.mean, config.std)
    provenance["models"][f"pose {weights.name}"] = weights.sha256
    provenance |= {"reading": pose.reading, "mean": list(config.mean), "std": list(config.std)}
    return TwoStage(config, layout, detect, pose, provenance)


def detector(config: DetectorConfig) -> tuple[Detector, dict[str, Any]]:
    """The person detector of a two-stage backend, and what is told of it in the shards."""
    weights = download.load(config.detector, config.detector_sha256)
    session = _session(config, weights, config.detector_size)
    provenance = {"models": {f"detector {weights.name}": weights.sha256}, "runtime": session.runtime,
                  "provider": session.providers[0]}
    return Detector(session, config.detector_kind, config.min_score, config.nms), provenance


class OnnxPose:
    """A PoseModel (see ``twostage``) in a session; the kind is read from its outputs.

    Two outputs (N, V, K * width) and (N, V, K * height) are SimCC, one (N, V, H, W) are heatmaps, read as ``heatmap``
    says (see ``topdown.heatmaps``). Raises InputError for others.
    """

    padding = topdown.PADDING

    def __init__(self, session: Session, heatmap: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._session, self.name, self.size = session, session.name, session.size
        shapes = [each.shape for each in session.trial]
        ranks = [len(shape) for shape in shapes]
        if ranks == [3, 3] and shapes[0][1] == shapes[1][1] and self._split(shapes[0]) == self._split(shapes[1], 0):
            self.reading, self.udp = "simcc", False
        elif ranks == [4] and min(shapes[0][2:]) >= 8:
            self.reading, self.udp = heatmap, heatmap == "udp"
        else:
            raise InputError(f"{self.name}: its outputs are {session.outputs}, in a trial {shapes}; expected SimCC "
                             "(N, V, K * width) and (N, V, K * height), or heatmaps (N, V, height, width)")
        self.joints = int(shapes[0][1])
        self._mean, self._std = np.array(mean, np.float32), np.array(std, np.float32)

    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self._session(planes(crops, self._mean, self._std))
        if self.reading == "simcc":
            return topdown.simcc(outputs[0], outputs[1], self.size)
        return topdown.heatmaps(outputs[0], self.size, self.reading)

    def _split(self, shape: tuple[int, ...], axis: int = 1) -> float:
        """Bins of a SimCC row a pixel of the crop's width, or of its height for axis 0."""
        return shape[2] / self.size[axis]


def _session(config: DetectorConfig, weights: Weights, size: tuple[int, int] | None) -> Session:
    return Session(weights, config.providers, config.threads, size, config.batch)

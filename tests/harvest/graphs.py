"""Small ONNX models that do what they are made for, exported from torch: their answers are known exactly."""

import io
import warnings

import numpy as np
import torch

from harvest.estimators.download import Weights

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
# One colour a joint, far apart from each other and from black.
COLOURS = np.array([[r, g, b] for r in (40, 140, 240) for g in (40, 140, 240) for b in (40, 140, 240)])[1:18]


class Dots(torch.nn.Module):
    """A pose model that finds a dot of each joint's colour, (N, V, H, W) or its maxima by column and by row."""

    def __init__(self, kind, stride=4, joints=17):
        super().__init__()
        self.kind, self.stride = kind, stride
        self.register_buffer("colours", torch.tensor(COLOURS[:joints], dtype=torch.float32).view(1, -1, 3, 1, 1))

    def forward(self, images):
        pixels = images * STD + MEAN
        likeness = torch.exp(-((pixels[:, None] - self.colours) ** 2).sum(2) / 2000)
        for _ in range(2):
            likeness = torch.nn.functional.avg_pool2d(likeness, 7, 1, 3)
        if self.kind == "simcc":
            return [torch.repeat_interleave(likeness.amax(axis), 2, -1) for axis in (2, 3)]
        return torch.nn.functional.avg_pool2d(likeness, self.stride)


class Boxes(torch.nn.Module):
    """A detector that ends in dets and labels: fixed boxes, the first of them as sure as the picture is bright."""

    def forward(self, images):
        bright = images.mean((1, 2, 3)).view(-1, 1, 1)
        rows = torch.tensor([[[8.0, 8, 40, 60, 0], [10, 9, 42, 61, 0.5], [70, 8, 90, 60, 0.8], [0, 0, 99, 99, 0.9]]])
        first = torch.zeros(1, 4, 5)
        first[0, 0, 4] = 1
        dets = rows.expand(images.shape[0], 4, 5) + bright * first
        return dets, torch.tensor([[0, 0, 0, 7]]).expand(images.shape[0], 4)


def export(model, shape, dynamic=(0,), name="model.onnx", outputs=1):
    """The module as ONNX Weights; ``dynamic`` are the axes of the input that stay open."""
    content = io.BytesIO()
    axes = {"input": {axis: f"axis{axis}" for axis in dynamic}}
    if 0 in dynamic:
        axes |= {f"output{i}": {0: "axis0"} for i in range(outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.zeros(shape),), content, dynamo=False, opset_version=17,
                          input_names=["input"], output_names=[f"output{i}" for i in range(outputs)],
                          dynamic_axes=axes)
    return Weights(name, content.getvalue(), "0" * 64)


def dotted(points, size, radius=4.0):
    """A black frame with a soft dot of each joint's colour at (V, 2) pixels."""
    y, x = np.mgrid[:size[0], :size[1]]
    frame = np.zeros((*size, 3))
    for (px, py), colour in zip(points, COLOURS, strict=False):
        weight = np.clip(radius + 0.5 - np.hypot(x - px, y - py), 0, 1)
        frame = frame * (1 - weight[..., None]) + colour * weight[..., None]
    return frame.round().astype(np.uint8)

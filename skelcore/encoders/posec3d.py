"""PoseConv3D's SlowOnly: Duan, Zhao, Chen, Lin, Dai, "Revisiting Skeleton-based Action Recognition", CVPR 2022.

A 3D ResNet-50 of three stages over heatmaps: bottlenecks of a pointwise, a 3 x 3 and a pointwise convolution, the first
of them over 3 frames in the last two stages. Outputs equal the reference's; the arithmetic is arranged for speed:

* Activations are (N T, C, H, W), channels last, so that every convolution is two-dimensional and a pointwise or
  temporal one is a matrix product over contiguous pixels.
* Where a pointwise convolution widens, its batch norm is folded into its weights even in training (``FoldedNorm``).
* A residual connection adds and masks its gradients in place, and the weight gradient of a convolution over frames is
  a pointwise one (``ReluConv``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skelcore.encoders.encoder import NEAR_ZERO
from skelcore.encoders.heatmaps import HeatmapEncoder, folded
from skelcore.layouts import Layout

LAST = torch.channels_last


def rows(x: Tensor) -> Tensor:
    """The pixels (N T H W, C) of channels-last maps (N T, C, H, W)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def every(x: Tensor, frames: int, time: int, space: int) -> Tensor:
    """Every ``time``-th of the ``frames`` of each clip in (N T, C, H, W), and every ``space``-th row and column."""
    if time == space == 1:
        return x
    kept = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))[:, ::time, ::space, ::space]
    return kept.flatten(0, 1).contiguous().permute(0, 3, 1, 2)


def clips_first(x: Tensor, frames: int) -> Tensor:
    """Maps (N T, C, H, W) seen as (N, C, T, H W)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(3)


def convolve_frames(x: Tensor, weight: Tensor, frames: int, bias: Tensor | None = None) -> Tensor:
    """Convolution of (N T, C, H, W) over 3 frames with ``weight`` (O, C, 3), zeros beyond the first and the last."""
    y = F.conv2d(clips_first(x, frames), weight[..., None].contiguous(memory_format=LAST), bias, 1, (1, 0))
    return y.transpose(1, 2).flatten(0, 1).unflatten(2, x.shape[2:])


def gradients(g: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """Gradients of a pointwise convolution of ``x`` with ``weight`` (O, C): those of ``x`` and of ``weight``."""
    gx, gw, _ = torch.ops.aten.convolution_backward(
        g, x, weight[..., None, None], None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [*wanted, False])
    return gx, gw


class ReluConv(torch.autograd.Function):
    """A ReLU in place and a convolution over 1 or 3 frames with ``weight`` (O, C, 1 or 3); gives both results.

    Where a residual connection starts, the two gradients are then added and masked in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, frames: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x.relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, weight)
        ctx.frames = frames
        return convolve_frames(x, weight, frames) if weight.shape[2] > 1 else F.conv2d(x, weight[..., None]), x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, g_skip: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        if weight.shape[2] > 1:
            gx, gw = convolve_frames(g, weight.flip(2).transpose(0, 1), ctx.frames), weight_gradient(g, x, ctx.frames)
        else:
            gx, gw = gradients(g, x, weight[..., 0], (True, True))
        gx += g_skip
        torch.ops.aten.threshold_backward.grad_input(gx, x, 0, grad_input=gx)
        return gx, gw.reshape(weight.shape), None


def weight_gradient(g: Tensor, x: Tensor, frames: int) -> Tensor:
    """Gradient (O, C, 3) of the weight of ``convolve_frames``, slow in oneDNN: here a pointwise one of shifted copies.

    It goes clip by clip, as ``FoldedNorm`` does, since memory that fits a cache and is used again costs less than
    fresh memory.
    """
    outputs, inputs = g.shape[1], x.shape[1]
    taps = x.new_zeros(3 * outputs, inputs)
    for clip, pixels in zip(x.split(frames), g.permute(0, 2, 3, 1).split(frames), strict=True):
        shifted = pixels.new_empty(*pixels.shape[:-1], 3, outputs)
        shifted[-1, ..., 0, :] = shifted[0, ..., 2, :] = 0
        shifted[:-1, ..., 0, :] = pixels[1:]
        shifted[..., 1, :] = pixels
        shifted[1:, ..., 2, :] = pixels[:-1]
        taps += gradients(shifted.flatten(-2).permute(0, 3, 1, 2), clip, taps, (False, True))[1].flatten(1)
    return taps.view(3, outputs, inputs).permute(1, 2, 0)


class FoldedNorm(torch.autograd.Function):
    """Pointwise convolution and training batch norm of (N T, C, H, W) in one pass, as in evaluation.

    The statistics of y = W x follow from those of the narrower x: E[y] = W E[x] and Var[y] = diag(W Cov[x] W^T). So the
    norm's scale s and shift go into the convolution, and y itself is never made, read or kept. With g the gradient of
    the output, n pixels and y' = (y - E[y]) / std[y], the gradient of y is s (g - mean(g) - y' mean(g y')); its
    products with x and with W need only sum(g x^T), sum(g), E[x] and Cov[x].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bn: nn.BatchNorm2d,  # type: ignore[override]
                gamma: Tensor, beta: Tensor, frames: int) -> Tensor:
        pixels = rows(x)
        count = len(pixels)
        mean = pixels.mean(0)
        cov = pixels.new_zeros(len(mean), len(mean))
        for clip in pixels.split(count // len(x) * frames):
            centred = clip - mean
            cov.addmm_(centred.t(), centred, alpha=1 / count)
        out_mean, out_var = weight @ mean, ((weight @ cov) * weight).sum(1).clamp_(min=0)
        track(bn, out_mean, out_var * (count / (count - 1)))
        inverse = torch.rsqrt(out_var + bn.eps)
        scale = gamma * inverse
        ctx.save_for_backward(x, weight, mean, cov, inverse, scale)
        ctx.frames = frames
        return F.conv2d(x, (scale[:, None] * weight)[..., None, None], beta - out_mean * scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None, Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, mean, cov, inverse, scale = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        gx, product = gradients(g, x, scale[:, None] * weight, (True, True))
        total = rows(g).sum(0)
        product = product.flatten(1).addr(total, mean, alpha=-1)  # sum of g (x - E[x])^T
        g_gamma = (product * weight).sum(1) * inverse
        slope = scale * inverse * g_gamma
        g_weight = scale[:, None] * product - slope[:, None] * (weight @ cov)
        inner = weight.t() @ (weight * (slope / count)[:, None])
        shift = inner @ mean - (scale * total / count) @ weight
        for part, clip in zip(gx.split(ctx.frames), x.split(ctx.frames), strict=True):
            part += F.conv2d(clip, -inner[..., None, None], shift)
        return gx, g_weight, None, g_gamma, total, None


@torch.no_grad()
def track(bn: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    """Update the running statistics as a batch norm in training does."""
    assert bn.num_batches_tracked is not None and bn.running_mean is not None and bn.running_var is not None
    bn.num_batches_tracked.add_(1)
    factor = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
    bn.running_mean.lerp_(mean, factor)
    bn.running_var.lerp_(var, factor)


def by_hand_pays(x: Tensor) -> bool:
    """Whether the two functions above apply: on a CPU; in low precision or TF32 a covariance would be too coarse."""
    return (x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling())


class ConvNorm(nn.Module):
    """A convolution without bias, over space or over 3 frames, and its batch norm, on (N T, C, H, W)."""

    def __init__(self, inputs: int, outputs: int, frames: int = 1, size: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, (frames, size, size), bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.pointwise = frames == size == 1
        self.widens = self.pointwise and inputs <= outputs
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, frames: int) -> Tensor:
        if self.pointwise:
            x = every(x, frames, 1, self.stride)
        weight, bn = self.conv.weight, self.bn
        if not bn.training:
            return self.convolve(x, *folded(self.conv, bn), frames)
        if self.widens and by_hand_pays(x):
            y = FoldedNorm.apply(x, weight.flatten(1), bn, bn.weight, bn.bias, frames)
            assert isinstance(y, Tensor)
            return y
        normed: Tensor = bn(self.convolve(x, weight, None, frames))
        return normed

    def rectified(self, x: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """This layer on relu(x), computed in place of ``x``, and relu(x) itself."""
        if self.bn.training and not self.widens and by_hand_pays(x):
            y, x = ReluConv.apply(x, self.conv.weight[..., 0, 0], frames)
            return self.bn(y), x
        x = F.relu_(x)
        return self(x, frames), x

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, frames: int) -> Tensor:
        if weight.shape[2] > 1:
            return convolve_frames(x, weight[..., 0, 0], frames, bias)
        return F.conv2d(x, weight[:, :, 0], bias, 1 if self.pointwise else self.stride, weight.shape[-1] // 2)


class Bottleneck(nn.Module):
    """Pointwise (or 3 frames), 3 x 3, pointwise and the residual: (N T, C, H, W) -> (N T', 4 width, H', W').

    The ReLU after a block is the next one's first step.
    """

    def __init__(self, inputs: int, width: int, frames: int, time: int = 1, space: int = 1) -> None:
        super().__init__()
        self.time = time
        self.conv1 = ConvNorm(inputs, width, frames)
        self.conv2 = ConvNorm(width, width, 1, 3, space)
        self.conv3 = ConvNorm(width, 4 * width)
        nn.init.constant_(self.conv3.bn.weight, NEAR_ZERO)
        self.downsample = None if inputs == 4 * width and space == 1 else ConvNorm(inputs, 4 * width, stride=space)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        y, x = self.conv1.rectified(x, frames)
        y = every(F.relu_(y), frames, self.time, 1)
        x, frames = every(x, frames, self.time, 1), -(-frames // self.time)
        y = self.conv3(F.relu_(self.conv2(y, frames)), frames)
        return y.add_(x if self.downsample is None else self.downsample(x, frames))


class PoseC3D(HeatmapEncoder):
    """The encoder: (N, K, T, H, W) -> (N, 16 width, ceil(T / 2), H / 8, W / 8), sides rounded up."""

    name = "posec3d"
    WIDTH = 32
    BLOCKS = (4, 6, 3)

    def __init__(self, layout: Layout, in_channels: int = 17, width: int = 32) -> None:
        super().__init__(layout, in_channels, width)
        self.dim = 16 * width
        self.conv1 = ConvNorm(in_channels, width, 1, 7)
        self.layer1 = _stage(width, width, self.BLOCKS[0], 1, 1)
        self.layer2 = _stage(4 * width, 2 * width, self.BLOCKS[1], 3, 1)
        self.layer3 = _stage(8 * width, 4 * width, self.BLOCKS[2], 3, 2)

    def features(self, x: Tensor) -> Tensor:
        self.check(x)
        clips, frames = x.shape[0], x.shape[2]
        x = x.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)
        y = F.max_pool2d(F.relu_(self.conv1(x, frames)), 3, 1, 1)
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                y = block(y, frames)
                frames = y.shape[0] // clips
        return F.relu_(y).unflatten(0, (clips, frames)).transpose(1, 2)

    def pyskl_keys(self) -> dict[str, list[str]]:
        return {key: [key] for key in self.state_dict()}


class PoseC3D346(PoseC3D):
    """The deeper-at-the-end variant (3, 4, 6) that the reference trains on Kinetics, UCF101 and HMDB51."""

    name = "posec3d-346"
    BLOCKS = (3, 4, 6)


def _stage(inputs: int, width: int, blocks: int, frames: int, time: int) -> nn.ModuleList:
    first = Bottleneck(inputs, width, frames, time, 2)
    return nn.ModuleList([first, *(Bottleneck(4 * width, width, frames) for _ in range(blocks - 1))])

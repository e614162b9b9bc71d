"""Batch norm of wide maps (1, C, ...), and max pooling over time, faster on a CPU than torch's own.

On other devices, in low precision and under export both are torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Norm(nn.BatchNorm2d):
    """Batch norm of the concatenation of ``parts`` (1, C_i, A, B), each channel plus ``offset`` (C,).

    ``offset`` is the bias of the convolution before; in training it moves the running mean and no activation. torch's
    kernel counts the statistics of a contiguous map number by number, which takes three times as long as the passes
    here.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, *parts: Tensor, offset: Tensor | None = None) -> Tensor:  # type: ignore[override]
        first = parts[0]
        eager = first.is_cpu and len(first) == 1 and not torch.compiler.is_compiling()
        several = first.shape[2] * first.shape[3] > 1  # torch has the words to refuse a single value
        if self.training and eager and several and first.dtype == self.weight.dtype:
            return self._train_on_cpu(parts, torch.zeros_like(self.bias) if offset is None else offset)
        x = torch.cat(parts, 1) if len(parts) > 1 else first
        if self.training:
            return super().forward(x if offset is None else x + offset[:, None, None].to(x.dtype))
        bias: Tensor = self.bias
        if offset is not None:
            bias = torch.addcmul(bias, offset, self.weight * torch.rsqrt(self.running_var + self.eps))
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, bias, False, 0.0, self.eps)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (C, K) and bias (C, B) of the product before that do this norm's work, too, in evaluation."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        return weight * scale[:, None], torch.addcmul(shift[:, None], bias, scale[:, None])

    def _train_on_cpu(self, parts: tuple[Tensor, ...], offset: Tensor) -> Tensor:
        y, mean, variance = _Standardise.apply(offset, self.weight, self.bias, self.eps, *parts)
        count = y.shape[2] * y.shape[3]
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance * (count / (count - 1)), factor)
        return y


class _Standardise(torch.autograd.Function):
    """Training batch norm of the concatenation of ``parts`` (1, C_i, A, B)."""

    @staticmethod
    def forward(ctx: Any, offset: Tensor, weight: Tensor, bias: Tensor, eps: float,
                *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.shapes, widths = [part.shape for part in parts], [part.shape[1] for part in parts]
        y = weight.new_empty(1, len(weight), *parts[0].shape[2:])
        centred, mean = torch.empty_like(y).flatten(2)[0], torch.empty_like(weight[:, None])
        for part, middle, rows in zip(parts, mean.split(widths), centred.split(widths), strict=True):
            torch.mean(part.flatten(2)[0], 1, keepdim=True, out=middle)
            torch.sub(part.flatten(2)[0], middle, out=rows)
        variance = torch.linalg.vector_norm(centred, dim=1, keepdim=True).square_().div_(centred.shape[1])
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(centred, inverse, weight)
        torch.mul(centred, inverse * weight[:, None], out=y.flatten(2)[0]).add_(bias[:, None])
        mean, variance = mean[:, 0] + offset, variance[:, 0]
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        centred, inverse, weight = ctx.saved_tensors
        dy = dy.reshape(centred.shape)
        product = dy * centred
        along, total = product.sum(1, keepdim=True), dy.sum(1, keepdim=True)
        dx = torch.mul(centred, along * inverse.square() / -dy.shape[1], out=product).add_(dy)
        dx = dx.sub_(total / dy.shape[1]).mul_(inverse * weight[:, None])
        parts = dx.split([shape[1] for shape in ctx.shapes])
        # Nothing downstream depends on the offset: the mean takes it away again.
        return (torch.zeros_like(weight), (along * inverse)[:, 0], total[:, 0], None,
                *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)))


def largest(x: Tensor, stride: int, dim: int) -> Tensor:
    """Max pool of (1, C, A, B) over windows of three frames, which lie along ``dim`` (2 or 3)."""
    if torch.compiler.is_compiling() or not x.is_cpu:
        if dim == 2:
            return F.max_pool2d(x, (3, 1), (stride, 1), (1, 0))
        return F.max_pool2d(x, (1, 3), (1, stride), (0, 1))
    y: Tensor = _Largest.apply(x, stride, dim)
    return y


class _Largest(torch.autograd.Function):
    """The first of equal values gets the gradient, as in torch's max pool, whose kernel takes ten times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, dim: int) -> Tensor:
        x = x.movedim(dim, -1)
        y = x[..., ::stride].clone()
        before, after = x[..., stride - 1 : stride * (y.shape[-1] - 1) : stride], x[..., 1::stride]
        torch.maximum(y[..., 1:], before, out=y[..., 1:])
        torch.maximum(y[..., : after.shape[-1]], after, out=y[..., : after.shape[-1]])
        ctx.stride, ctx.dim = stride, dim
        ctx.save_for_backward(x, y)
        return y.movedim(-1, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        x, y = ctx.saved_tensors
        stride, dx, rest = ctx.stride, torch.zeros_like(x), dy.movedim(ctx.dim, -1).clone()
        before = slice(stride - 1, stride * (y.shape[-1] - 1), stride)
        dx[..., before] = rest[..., 1:] * (x[..., before] == y[..., 1:])
        rest[..., 1:] -= dx[..., before]
        centre = rest * (x[..., ::stride] == y)
        dx[..., ::stride] += centre
        after = dx[..., 1::stride]
        after += rest.sub_(centre)[..., : after.shape[-1]]
        return dx.movedim(-1, ctx.dim), None, None

"""Batch norm of wide maps (1, C, ...), and max pooling over time, faster on a CPU than torch's own.

On other devices, in low precision and under export both are torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CACHED = 2**18  # numbers of a piece of a map that stays in the cache between two passes


class Norm(nn.BatchNorm2d):
    """Batch norm of the concatenation of ``parts`` (1, C_i, A, B), each channel plus ``offset`` (C,).

    ``offset`` is the bias of the convolution before; in training it moves the running mean and no activation. torch's
    kernel counts the statistics of a contiguous map number by number, which takes three times as long as the passes
    here; its other kernels, for the rest of the forward pass and for the backward pass, take one pass or two and are
    used.
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
        ctx.eps, widths = eps, [part.shape[1] for part in parts]
        y = weight.new_empty(1, len(weight), *parts[0].shape[2:])
        mean, variance = torch.empty_like(weight), torch.empty_like(weight)
        unused = weight.new_empty(0), weight.new_empty(0)
        for part, middle, spread, scale, shift, rows in zip(
                parts, *(whole.split(widths) for whole in (mean, variance, weight, bias)), y.split(widths, 1),
                strict=True):
            _statistics(part.flatten(2)[0], middle, spread)
            torch.ops.aten.native_batch_norm.out(part, scale, shift, middle, spread, False, 0.0, eps, out=rows,
                                                 save_mean=unused[0], save_invstd=unused[1])
        ctx.save_for_backward(weight, mean, torch.rsqrt(variance + eps), *parts)
        mean = mean + offset
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, inverse, *parts = ctx.saved_tensors
        widths = [part.shape[1] for part in parts]
        each = [torch.ops.aten.native_batch_norm_backward(rows, part, scale, None, None, middle, narrow, True, ctx.eps,
                                                          [True] * 3)
                for part, rows, scale, middle, narrow in zip(
                    parts, dy.contiguous().split(widths, 1), weight.split(widths), mean.split(widths),
                    inverse.split(widths), strict=True)]
        dx, dweight, dbias = zip(*each, strict=True)
        # Nothing downstream depends on the offset: the mean takes it away again.
        return torch.zeros_like(weight), torch.cat(dweight), torch.cat(dbias), None, *dx


def _statistics(x: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Write mean and variance of each row; some rows at a time, so that the differences stay in the cache."""
    count = max(1, CACHED // x.shape[1])
    torch.mean(x, 1, out=mean)
    centred = x.new_empty(min(count, len(x)), x.shape[1])
    for rows, middle, spread in zip(x.split(count), mean.split(count), variance.split(count), strict=True):
        torch.sub(rows, middle[:, None], out=centred[: len(rows)])
        torch.linalg.vector_norm(centred[: len(rows)], dim=1, out=spread)
    variance.square_().div_(x.shape[1])


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

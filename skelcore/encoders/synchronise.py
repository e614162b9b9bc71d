"""Batch norm over all processes of torch.distributed, as one process would compute it on the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from skelcore.encoders.dgstgcn import TakeUp
from skelcore.encoders.layers import DataNorm
from skelcore.encoders.norm import Norm
from skelcore.encoders.posec3d import ConvNorm, track
from skelcore.errors import InputError


def synchronise(module: nn.Module) -> None:
    """Make every batch norm of ``module`` take its training statistics over all processes, in place.

    Processes may hold different numbers of rows, or none; each must call each norm equally often and in the same order.
    Running statistics are then equal everywhere. Evaluation, parameters and the keys of the state dict stay as they
    were. Gradients of weights and biases are those of a process's own rows, for DistributedDataParallel to average.
    Raises TypeError for a kind of batch norm that is not known here.
    """
    for part in module.modules():
        if type(part) in _KINDS:
            part.__class__ = _KINDS[type(part)]
        elif isinstance(part, _BatchNorm) and type(part) not in _KINDS.values():
            raise TypeError(f"{type(part).__name__} has no form that spans processes")
        elif isinstance(part, ConvNorm):
            part.widens = False  # folding into the convolution before would take this process's statistics


class _Standardise(torch.autograd.Function):
    """Training batch norm of (N, C, ...) over all processes; also gives its mean, variance (C,) and count (1,).

    With n values a channel, y' the standardised ones and g the gradient of the output, the gradient of x is
    weight / std (g - sum(g) / n - y' sum(g y') / n), both sums over all processes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, offset: Tensor,
                eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _combine(*_statistics(x, weight))
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        moved = mean + offset
        ctx.mark_non_differentiable(moved, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), moved, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        if x.numel():
            dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
                dy, x, weight, mean, variance, None, None, False, ctx.eps, [True] * 3)
        else:  # torch's kernel divides by zero
            dx, dweight, dbias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        # Nothing downstream depends on the offset, since the mean takes it away again; but DistributedDataParallel
        # waits for the gradient of the bias that it is made of.
        rest = dweight, dbias, torch.zeros_like(weight), None
        if not ctx.needs_input_grad[0]:
            return None, *rest
        sums = torch.stack([dweight, dbias])
        dist.all_reduce(sums)
        sums *= -weight * torch.rsqrt(variance + ctx.eps) / count
        return dx.add_(F.batch_norm(x, mean, variance, sums[0], sums[1], False, 0.0, ctx.eps)), *rest


def _statistics(x: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (C,) of this process's (N, C, ...), and how many values a channel has (1,)."""
    count = like.new_full((1,), x.numel() // x.shape[1])
    mean, variance = torch.zeros_like(like), torch.zeros_like(like)
    if x.numel():
        # Given running statistics, which a momentum of 0 leaves alone, it computes in their precision.
        mean, variance = torch.batch_norm_update_stats(x, mean, variance, 0.0)
    return mean, variance, count


def _combine(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The statistics of all processes' values, from each one's (Chan, Golub, LeVeque 1983), in one exchange."""
    mine = torch.cat([mean, variance, count])
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    means, variances, counts = torch.stack(every).split([len(mean), len(mean), 1], 1)
    total = counts.sum(0)
    share = counts / total.clamp(min=1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), total


@torch.compiler.disable
def standardise(x: Tensor, weight: Tensor, bias: Tensor, offset: Tensor,
                eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``x`` (N, C, ...) normalised over all processes; then mean (plus ``offset``), unbiased variance, and count."""
    y, mean, variance, count = _Standardise.apply(x, weight, bias, offset, eps)
    return y, mean, variance * (count / (count - 1).clamp(min=1)), count


class _Synchronised(_BatchNorm):
    """What the batch norms below have in common: the training forward pass over (N, C, ...)."""

    def train_on(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        plain = x.new_zeros(self.num_features, dtype=None if self.weight is None else self.weight.dtype)
        weight, bias = (plain + 1, plain) if self.weight is None else (self.weight, self.bias)
        y, mean, variance, _ = standardise(x, weight, bias, plain if offset is None else offset, self.eps)
        if self.running_mean is not None:
            track(self, mean, variance)  # type: ignore[arg-type]
        return y


class _Plain(_Synchronised):
    def forward(self, x: Tensor) -> Tensor:
        return self.train_on(x) if self.training else super().forward(x)


class SynchronisedBatchNorm1d(_Plain, nn.BatchNorm1d):
    """torch's batch norm of (N, C) or (N, C, L)."""


class SynchronisedBatchNorm2d(_Plain, nn.BatchNorm2d):
    """torch's batch norm of (N, C, H, W)."""


class SynchronisedBatchNorm3d(_Plain, nn.BatchNorm3d):
    """torch's batch norm of (N, C, T, H, W)."""


class SynchronisedNorm(_Synchronised, Norm):
    """The batch norm of wide maps, of which each process has some columns."""

    def forward(self, *parts: Tensor, offset: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if not self.training:
            return Norm.forward(self, *parts, offset=offset)
        return self.train_on(torch.cat(parts, 1) if len(parts) > 1 else parts[0], offset)


class SynchronisedTakeUp(TakeUp, SynchronisedNorm):
    """The batch norm of wide maps of joints that take up their mean."""


class SynchronisedDataNorm(DataNorm):
    """The batch norm of input coordinates, of which each process has some persons, or none in a slot."""

    def forward(self, x: Tensor, slot: Tensor) -> Tensor:  # type: ignore[override]
        if not self.training:
            return super().forward(x, slot)
        self.num_batches_tracked.add_(1)
        rows, slot = x.flatten(2), slot.clamp(max=self.slots - 1)
        y = torch.zeros_like(rows)
        tables = (part.view(self.slots, -1) for part in (self.running_mean, self.running_var, self.weight, self.bias))
        for i, (mean, var, weight, bias) in enumerate(zip(*tables, strict=True)):
            chosen = (slot == i).nonzero()[:, 0]
            normed, middle, spread, count = standardise(rows[chosen].transpose(1, 2), weight, bias,
                                                        torch.zeros_like(bias), self.eps)
            if count == 1:
                raise InputError(f"one frame of one person in place {i + 1} is too little to train batch norm on")
            if count:
                batches = self.num_batches_tracked if self.slots == 1 else self.seen[i].add_(1)
                factor = 1 / float(batches) if self.momentum is None else self.momentum
                mean.lerp_(middle, factor)
                var.lerp_(spread, factor)
            y = y.index_copy(0, chosen, normed.transpose(1, 2))
        return y.view_as(x)


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
    nn.BatchNorm3d: SynchronisedBatchNorm3d,
    Norm: SynchronisedNorm,
    TakeUp: SynchronisedTakeUp,
    DataNorm: SynchronisedDataNorm,
}

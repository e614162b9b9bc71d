"""Batch-norm statistics for an encoder that was never trained, so that random weights are a fair control."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skelcore.errors import InputError


@torch.no_grad()
def calibrate(encoder: nn.Module, batches: Iterable[Tensor | tuple[Tensor, Tensor | None]]) -> None:
    """Set every batch norm's running statistics to their average over ``batches`` of ``x`` or ``(x, valid)``.

    Weights, gradients, momenta and the train/eval mode of every module stay as they were. Raises InputError when
    there is no batch; after any error the statistics are what they were.
    """
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    modes = {module: module.training for module in encoder.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [{key: value.clone() for key, value in norm.named_buffers()} for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # cumulative average
        norm.reset_running_stats()
    try:
        empty = True
        for batch in batches:
            encoder(*(batch if isinstance(batch, tuple) else (batch,)))
            empty = False
        if empty:
            raise InputError("calibrate: no batch of clips to take batch-norm statistics from")
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for key, value in buffers.items():
                norm.get_buffer(key).copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode

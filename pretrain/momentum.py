"""Teachers: copies of a module that follow it slowly."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def teacher(student: M) -> M:
    """A copy of ``student`` whose weights take no gradients."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's weights to ``momentum`` of themselves plus the rest of the student's; buffers are copied."""
    weights: list[torch.Tensor] = list(teacher.parameters())
    if weights:
        torch._foreach_lerp_(weights, [p.detach() for p in student.parameters()], 1 - momentum)
    for own, other in zip(teacher.buffers(), student.buffers(), strict=True):
        own.copy_(other)


def rising(start: float, progress: float, end: float = 1.0) -> float:
    """A momentum that rises from ``start`` to ``end`` by a half cosine while ``progress`` goes from 0 to 1 (BYOL)."""
    return end - (end - start) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

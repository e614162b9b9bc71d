"""Heads: the small perceptrons between an encoder's features and a loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from skelcore.errors import InputError


class Perceptron(nn.Sequential):
    """Layers of which a batch norm cannot train on a single row; raises InputError for one."""

    def forward(self, input: Tensor) -> Tensor:
        # By exact type: a norm that spans processes has another, and rows elsewhere.
        if self.training and len(input) < 2 and any(type(layer) is nn.BatchNorm1d for layer in self):
            raise InputError("batch_size: the objective's batch norm needs at least 2 clips a batch")
        output: Tensor = super().forward(input)
        return output


def perceptron(widths: Sequence[int], norm: bool = True, bias: bool = False, final_norm: bool = False) -> Perceptron:
    """Linear layers of ``widths`` (inputs first) with ReLU between them, each behind a batch norm if ``norm``.

    The last layer has a bias only if asked, and a batch norm without scale and shift behind it with ``final_norm``.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=bias))
    if final_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return Perceptron(*layers)

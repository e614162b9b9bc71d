"""Layer decay: a learning rate that falls from the last layer of an encoder to its first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def scales(encoder: nn.Module, decay: float) -> dict[str, float]:
    """The factor on the learning rate of each parameter, by name: decay^(L - l) in layer l of L.

    After BEiT (Bao et al., ICLR 2022, appendix), as in MAE (He et al. 2022) and MAMP (Mao et al. 2023).
    """
    layer = _layers(encoder)
    last = max(layer.values())
    return {name: decay ** (last - depth) for name, depth in layer.items()}


def groups(parameters: Iterable[tuple[nn.Parameter, float]], weight_decay: float) -> list[dict[str, Any]]:
    """An optimiser's groups of parameters, each given with its factor, which the group keeps as ``scale``.

    ``weight_decay`` is that of weights alone: vectors (biases, scales of norms) have none.
    """
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter, scale in parameters:
        found.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    return [{"params": members, "scale": scale, "weight_decay": weight_decay if decays else 0.0}
            for (scale, decays), members in found.items()]


def _layers(encoder: nn.Module) -> dict[str, int]:
    """The layer, from 0, of each parameter: a child of the encoder, or an item of a list of them, in order.

    The encoder's own parameters are positions, which belong to the first.
    """
    depth: dict[str, int] = {}
    found = {}
    for name, _ in encoder.named_parameters():
        first, dot, rest = name.partition(".")
        number = rest.partition(".")[0]
        found[name] = depth.setdefault(f"{first}.{number}" if number.isdigit() else first, len(depth)) if dot else 0
    return found

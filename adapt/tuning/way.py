"""Way: what a way of training an encoder on few clips must say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from skelcore.encoders import Encoder

Groups = list[dict[str, Any]]  # of an optimiser, each with its ``scale``, the factor on the learning rate


@dataclass(frozen=True)
class Way:
    """``prepare(encoder, generator)`` readies an encoder in place and returns what of it is trained; ``finish`` makes
    it an ordinary encoder again. ``rate`` is the peak learning rate."""

    prepare: Callable[[Encoder, torch.Generator], Groups]
    finish: Callable[[Encoder], None]
    rate: float


def plain(encoder: Encoder) -> None:
    """The ``finish`` of a way that adds nothing to an encoder."""

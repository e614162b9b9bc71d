"""Nearest class mean under the cosine: SimpleShot's CL2N (Wang et al. 2019), ProtoNet's rule on frozen features."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import normalize


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Scores are cosines between a query and each class's mean of unit vectors."""
    means = (targets / targets.sum(0)).T @ normalize(support, dim=-1)
    directions = normalize(means, dim=-1)
    return lambda queries: normalize(queries, dim=-1) @ directions.mT

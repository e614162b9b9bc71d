"""Nearest class mean under the cosine: SimpleShot's CL2N (Wang et al. 2019), ProtoNet's rule on frozen features."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import normalize


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Scores are cosines between a query and each class's mean of unit vectors."""
    directions = normalize(means(normalize(support, dim=-1), targets), dim=-1)
    # Dividing W scores by a query's norm is less work than dividing its F features.
    return lambda queries: (queries @ directions.mT) / vector_norm(queries, dim=-1, keepdim=True).clamp(min=1e-12)


def means(support: Tensor, targets: Tensor) -> Tensor:
    """Mean (D, W, F) of each class's support (D, S, F)."""
    return (targets / targets.sum(0)).T @ support

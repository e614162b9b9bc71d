"""LaplacianShot: neighbouring queries are drawn to the same class (Ziko et al. 2020). Transductive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from adapt.methods.rectify import rectified

NEIGHBOURS = 3  # this and the pull are the paper's, and the best of a few on the training split of Penn Action
PULL = 1.0
UPDATES = 20

_AFFINITIES = 1 << 22  # cosines between queries that are held at a time


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Scores are the shares y of the classes in a query that bound updates leave (eq. 10, algorithm 1).

    y <- softmax(-a + PULL W y), a the squared distances of unit vectors to rectified prototypes (as in the paper's own
    experiments), W the affinities; ``predict`` wants all queries of a draw at once.
    """

    def predict(queries: Tensor) -> Tensor:
        directions, shifted = rectified(support, targets, queries)
        distances = 2 - 2 * shifted @ directions.mT
        # Before the shift, so that draws with the same queries share one graph.
        unit = normalize(queries, dim=-1).view(-1, *queries.shape[-2:])
        near = neighbours(unit).expand(len(support), -1, -1)
        shares = torch.softmax(-distances, -1)
        for _ in range(UPDATES):
            shares = torch.softmax(PULL * pulled(shares, near) - distances, -1)
        return shares

    return predict


def neighbours(unit: Tensor) -> Tensor:
    """The NEIGHBOURS (D, Q, K) of each query (D, Q, F) among the others by cosine, or all others if there are fewer."""
    draws, asked = unit.shape[:2]
    found, rows = [], torch.arange(asked, device=unit.device)
    for part in rows.split(max(1, _AFFINITIES // (draws * asked))):
        cosines = unit[:, part] @ unit.mT
        cosines[:, part - part[0], part] = -torch.inf
        found.append(cosines.topk(min(NEIGHBOURS, asked - 1), -1).indices)
    return torch.cat(found, 1)


def pulled(shares: Tensor, near: Tensor) -> Tensor:
    """W y (D, Q, W) of shares y (D, Q, W): W is 1 for a neighbour, halved where it is not mutual."""
    draws, asked = near.shape[:2]
    first = asked * torch.arange(draws, device=near.device)[:, None, None]
    target, rows = (near + first).flatten(0, 1), shares.flatten(0, 1)
    total = torch.zeros_like(rows)
    for column in target.unbind(-1):
        total += rows[column]
        total.index_add_(0, column, rows)
    return (total / 2).view_as(shares)

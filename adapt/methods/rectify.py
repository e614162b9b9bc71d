"""BD-CSPN: prototypes rectified by the queries they attract (Liu, Song & Qin 2020). Transductive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from adapt.methods.prototype import means

SHARPNESS = 10.0  # of a clip's weight in its class's prototype, as in the paper


def fit(support: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """Scores are cosines to the rectified prototypes; ``predict`` wants all queries of a draw at once."""

    def predict(queries: Tensor) -> Tensor:
        directions, shifted = rectified(support, targets, queries)
        return shifted @ directions.mT

    return predict


def rectified(support: Tensor, targets: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Unit prototypes (D, W, F), and unit queries (D, Q, F) shifted onto the mean of the support (eq. 7).

    A prototype is the mean of its class's support and of the queries that are nearest to the class's mean, each
    weighted by the softmax over them of SHARPNESS times its cosine to that mean (eqs. 5 and 6).
    """
    known, asked = normalize(support, dim=-1), normalize(queries, dim=-1)
    shifted = normalize(asked + (known.mean(1) - asked.mean(-2))[:, None], dim=-1)
    everything = torch.cat([known, shifted], 1)
    cosines = everything @ normalize(means(known, targets), dim=-1).mT
    guessed = one_hot(cosines[:, len(targets):].argmax(-1), targets.shape[1]).bool()
    members = torch.cat([(targets > 0).expand(len(support), -1, -1), guessed], 1)
    weights = torch.softmax((SHARPNESS * cosines).masked_fill(~members, -torch.inf), 1)
    return normalize(weights.mT @ everything, dim=-1), shifted

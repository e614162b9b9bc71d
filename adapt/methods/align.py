"""Aligned matching: the best classes of a first stage, ranked again by segments of time and parts of the body.

Clips are compared as sequences of T segments of P parts by soft-DTW (Cuturi & Blondel 2017, eq. 1 and algorithm 1), so
that an action which is done later or more slowly still fits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adapt.methods.prototype import means

SMOOTH = 0.1  # chosen with the weight on the training split of Penn Action, at k = 1 to 5
WEIGHT = 2.0  # of a distance against a cosine of the first stage
WIDTH = 16  # of a condensed token; of 64 features, another 0.1 points are in the rest

_COSINES = 1 << 21  # between segments, held at a time


def rerank(scores: Tensor, support: Tensor, targets: Tensor, queries: Tensor, top: int = 5) -> Tensor:
    """Scores (D, Q, W) with those of each query's ``top`` best classes dealt out anew among these.

    ``scores`` are cosines, as `prototype` gives them; ``support`` (D, S, T, P, C) and ``queries``, (Q, T, P, C) or
    (D, Q, T, P, C), are centred tokens of the clips, ``targets`` (S, W) is one-hot. Classes are ordered by score minus
    WEIGHT times the distance to the class's template, the mean of its clips' tokens: its cost does not grow with k, and
    it ranks as well as the nearest clip.
    """
    draws, length, classes = len(support), support.shape[2], targets.shape[1]
    templates = normalize(means(_segments(support).flatten(2), targets).unflatten(2, (length, -1)), dim=-1)
    best = scores.topk(min(top, classes), -1)
    chunk = max(1, _COSINES // (draws * classes * length * queries.shape[-3]))
    found = [_distances(_segments(part), templates, chosen)
             for part, chosen in zip(queries.split(chunk, -4), best.indices.split(chunk, 1), strict=True)]
    order = (best.values - WEIGHT * torch.cat(found, 1)).argsort(dim=-1, descending=True, stable=True)
    return scores.scatter(-1, best.indices.gather(-1, order), best.values)


def condense(tokens: np.ndarray, learned: int) -> np.ndarray:
    """Tokens (n, T, P, C) as coordinates (n, T, P, WIDTH) on principal axes, which all parts share.

    Features are centred and scaled by the statistics of each part in the first ``learned`` clips, which give the axes.
    """
    seen = tokens[:learned]
    mean, spread = seen.mean((0, 1), dtype=np.float64), seen.std((0, 1), dtype=np.float64)
    spread = np.maximum(spread, 0.01 * spread.max() or 1)  # dead features carry rounding noise, no signal
    parts = range(tokens.shape[2])
    scaled = (((seen[:, :, part] - mean[part]) / spread[part]).reshape(-1, tokens.shape[3]) for part in parts)
    axes = np.linalg.eigh(sum(rows.T @ rows for rows in scaled))[1][:, ::-1][:, :WIDTH]
    turned = [(axes / spread[part][:, None]).astype(tokens.dtype) for part in parts]
    return np.stack([tokens[:, :, part] @ turned[part] - (mean[part] @ turned[part]).astype(tokens.dtype)
                     for part in parts], 2)


def soft_dtw(costs: Tensor) -> Tensor:
    """Soft minimum (...) over the monotone paths through ``costs`` (A, B, ...) of the costs on a path."""
    never = torch.full_like(costs[0, 0], torch.inf)
    above = [torch.zeros_like(never), *[never] * costs.shape[1]]
    for row in costs:
        here = [never]
        for column, cost in enumerate(row):
            steps = torch.stack([above[column], above[column + 1], here[column]])
            here.append(cost - SMOOTH * torch.logsumexp(steps / -SMOOTH, 0))
        above = here
    return above[-1]


def _segments(tokens: Tensor) -> Tensor:
    """Unit vectors (..., T, P C) of the segments of tokens (..., T, P, C), in which every part weighs the same."""
    return normalize(tokens, dim=-1).flatten(-2) / tokens.shape[-2] ** 0.5


def _distances(queries: Tensor, templates: Tensor, chosen: Tensor) -> Tensor:
    """Distances (D, Q, top) of queries ([D,] Q, T, F) to the templates (D, W, T', F) of the chosen classes."""
    draws, classes, length = templates.shape[:3]
    # All classes in one product: it takes no longer than many small ones for the chosen alone.
    cosines = queries.flatten(-3, -2) @ templates.flatten(1, 2).mT
    by_class = cosines.view(draws, -1, queries.shape[-2], classes, length).movedim(3, 2)
    picked = by_class.gather(2, chosen[..., None, None].expand(*chosen.shape, *by_class.shape[3:]))
    return soft_dtw((1 - picked).movedim((-2, -1), (0, 1)).contiguous()) / length

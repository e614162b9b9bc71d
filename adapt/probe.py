"""All labels of the support split: the nearest neighbour and a linear layer on frozen features."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from adapt.episodes import Episodes
from adapt.methods import ridge


def accuracies(episodes: Episodes, pool: Tensor, queries: Tensor) -> dict[str, float]:
    """Accuracy of 1-NN by cosine (`knn`) and of ridge regression on one-hot targets (`linear`), from all of ``pool``.

    Features (P, F) and (Q, F) are rescaled by the pool. Empty when support and query share a split: a clip is then its
    own neighbour.
    """
    if np.isin(episodes.queries, episodes.pool).any():
        return {}
    targets = one_hot(torch.from_numpy(episodes.pool_labels), len(episodes.classes)).to(pool)
    linear = ridge.fit(pool[None], targets)(queries)[0].argmax(1).cpu().numpy()
    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(_unit(pool))
    nearest = index.search(_unit(queries), 1)[1][:, 0]
    return {"knn": _share(episodes.pool_labels[nearest], episodes), "linear": _share(linear, episodes)}


def _unit(features: Tensor) -> np.ndarray:
    return np.ascontiguousarray(normalize(features, dim=1).cpu().numpy(), np.float32)


def _share(predicted: np.ndarray, episodes: Episodes) -> float:
    return float((predicted == episodes.query_labels).mean())

"""Adjacency subsets of a layout's skeleton graph."""

from __future__ import annotations

import numpy as np

from skelcore.layouts import Layout


def spatial_subsets(layout: Layout) -> np.ndarray:
    """Adjacency (3, V, V) float32: each joint itself, its outer neighbours -> it, its inner neighbour -> it.

    Entry [k, u, w] is the weight with which joint u feeds joint w; every non-empty column of a subset sums to one
    (the `spatial` graph of ST-GCN++, Duan et al. 2022, section 3).
    """
    outward = np.zeros((len(layout), len(layout)), np.float32)
    for outer, inner in layout.edges:
        outward[outer, inner] = 1
    return np.stack([np.eye(len(layout), dtype=np.float32), normalise_columns(outward.T), normalise_columns(outward)])


def normalise_columns(adjacency: np.ndarray) -> np.ndarray:
    """Divide each column by its sum; an empty column stays empty."""
    return adjacency / np.maximum(adjacency.sum(0, keepdims=True), 1)

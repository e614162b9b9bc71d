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


def neighbours(layout: Layout) -> np.ndarray:
    """Adjacency (V, V) float32: 1 between the two ends of every edge, 0 elsewhere (the `binary_adj` graph)."""
    adjacency = np.zeros((len(layout), len(layout)), np.float32)
    for outer, inner in layout.edges:
        adjacency[outer, inner] = adjacency[inner, outer] = 1
    return adjacency


def hops(adjacency: np.ndarray, scales: int) -> np.ndarray:
    """Adjacency (scales, V, V) float32 whose subset k joins each joint to itself and to those exactly k edges away.

    Every column sums to one; a scale beyond the graph's diameter is the identity (the disentangled multi-scale
    aggregation of MS-G3D, Liu et al. 2020, section 3.2; column sums as in PYSKL).
    """
    itself = np.eye(len(adjacency), dtype=bool)
    step = (adjacency > 0) | itself
    subsets, within = [itself], itself
    for _ in range(scales - 1):
        further = (within.astype(np.float32) @ step) > 0
        subsets.append(further & ~within | itself)
        within = further
    return np.stack([normalise_columns(subset.astype(np.float32)) for subset in subsets])


def windowed(adjacency: np.ndarray, frames: int) -> np.ndarray:
    """Adjacency (frames V, frames V) of a window of frames: a joint meets itself and its neighbours in all of them.

    Rows and columns are indexed frame, joint (MS-G3D, section 3.3).
    """
    return np.tile((adjacency + np.eye(len(adjacency), dtype=adjacency.dtype) > 0).astype(adjacency.dtype),
                   (frames, frames))


def distance_subsets(layout: Layout) -> np.ndarray:
    """Adjacency (3, V, V) float32: each joint itself, its neighbours not nearer to the centre -> it, its nearer ones.

    Entry [k, u, w] is the weight with which joint u feeds joint w; the columns of the sum of the three sum to one (the
    distance partition of ST-GCN, Yan et al. 2018, section 3.3). As in its published code, distances to the centre
    are known up to one edge only: beyond that all joints count as equally far, so along a limb both neighbours of a
    joint are in the second subset, and the third holds but edges from the centre and from its neighbours outwards.
    """
    joints = np.eye(len(layout), dtype=np.float32)
    linked = np.maximum(neighbours(layout), joints)
    distance = np.where(linked[layout.centre] > 0, 1 - joints[layout.centre], 2)
    nearer = distance[:, None] < distance
    shared = normalise_columns(linked)
    return np.stack([shared * joints, shared * ~nearer * (1 - joints), shared * nearer])

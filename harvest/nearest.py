"""The nearest of many unit vectors: exactly while they are few, by an inverted file of coarse codes beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import faiss

EXACT = 20_000  # vectors up to which every one is compared with every query
PROBES = 24  # cells of the inverted file that a query looks into
_CELLS, _TRAINING = 2048, 50  # cells, and vectors a cell to place them by
_AXES = 128  # numbers that are kept of a vector in a cell; poses differ in few ways at a time
_BATCH = 65_536


class Nearest:
    """An index over vectors (n, D) of length 1; the same vectors in the same order give the same index.

    Beyond ``exact`` vectors each is kept in the cell of its nearest of 2048 centres, as one byte for each of the 128
    principal axes of all.
    """

    def __init__(self, vectors: np.ndarray, exact: int = EXACT) -> None:
        import faiss  # here, since most runs of a harvest have nothing to search

        count, dimensions = vectors.shape
        self._axes: np.ndarray | None = None
        self._index: faiss.Index = faiss.IndexFlatIP(dimensions)
        if count > exact:
            cells = min(_CELLS, max(1, count // _TRAINING))
            # Evenly spread over all, for neighbours are often windows of one track.
            chosen = vectors[np.linspace(0, count - 1, min(count, cells * _TRAINING)).astype(np.int64)]
            chosen = chosen.astype(np.float32)
            self._axes = np.linalg.eigh(chosen.T @ chosen)[1][:, -_AXES:]
            kept = self._axes.shape[1]
            inverted = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(kept), kept, cells,
                                                     faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            inverted.cp.niter = 8
            inverted.nprobe = PROBES
            inverted.train(self._seen(chosen))
            self._index = inverted
        for begin in range(0, count, _BATCH):
            self._index.add(self._seen(vectors[begin:begin + _BATCH]))

    def search(self, queries: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (q, most), falling, and positions (q, most) of the nearest; positions are -1 where there are fewer.
        """
        cosines, found = self._index.search(self._seen(queries), most)
        return cosines, found

    def _seen(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as the index takes them."""
        vectors = vectors.astype(np.float32)
        return np.ascontiguousarray(vectors if self._axes is None else vectors @ self._axes)

"""The nearest of many unit vectors: exactly while they are few, by an inverted file of coarse codes beyond."""

from __future__ import annotations

import faiss
import numpy as np

EXACT = 100_000  # vectors up to which every one is compared with every query
PROBES = 24  # cells of the inverted file that a query looks into
_CELLS, _TRAINING = 2048, 50  # cells, and vectors a cell to place them by
_BATCH = 65_536


class Nearest:
    """An index over vectors (n, D) of length 1; the same vectors in the same order give the same index.

    Beyond ``exact`` vectors each is kept as one byte a dimension in the cell of its nearest of 2048 centres.
    """

    def __init__(self, vectors: np.ndarray, exact: int = EXACT) -> None:
        count, dimensions = vectors.shape
        flat = faiss.IndexFlatIP(dimensions)
        self._index: faiss.Index = flat
        if count > exact:
            cells = min(_CELLS, max(1, count // _TRAINING))
            inverted = faiss.IndexIVFScalarQuantizer(flat, dimensions, cells, faiss.ScalarQuantizer.QT_8bit,
                                                     faiss.METRIC_INNER_PRODUCT)
            inverted.cp.niter = 8
            inverted.nprobe = PROBES
            # Evenly spread over all, for neighbours are often windows of one track.
            chosen = np.linspace(0, count - 1, min(count, cells * _TRAINING)).astype(np.int64)
            inverted.train(np.ascontiguousarray(vectors[chosen], np.float32))
            self._index = inverted
        for begin in range(0, count, _BATCH):
            self._index.add(np.ascontiguousarray(vectors[begin:begin + _BATCH], np.float32))

    def search(self, queries: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (q, most), falling, and positions (q, most) of the nearest; positions are -1 where there are fewer.
        """
        cosines, found = self._index.search(np.ascontiguousarray(queries, np.float32), most)
        return cosines, found

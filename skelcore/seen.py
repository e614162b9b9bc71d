"""Which clips pretraining saw, kept in its checkpoint by a hash of each id, so that evaluations can tell an overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from skelcore.errors import InputError
from skelcore.mixture import Mixture
from skelcore.procedural import ProceduralStore
from skelcore.store import Store, Subset

_BYTES = 8  # of each hash: of a million clips, one of 10,000 others is taken for seen with a chance of 5e-10


def seen(store: Store) -> Tensor:
    """Sorted hashes (n,) int64 of the ids of a store's clips, 8 bytes a clip.

    The clips of a mixture count under the ids that they have in their own source, as an evaluation knows them.
    Procedural sources are left out: no evaluation holds clips improvised for the run.
    """
    stores = store.stores if isinstance(store, Mixture) else [store]
    found = [_hashes(each.ids) for each in stores if not _improvised(each)]
    return torch.from_numpy(np.unique(np.concatenate([*found, np.zeros(0, np.int64)])))


def together(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """What either has seen; None, which is unknown, where one of them is unknown. Raises InputError as ``shared``."""
    if first is None or second is None:
        return None
    return torch.from_numpy(np.union1d(_known(first), _known(second)))


def shared(seen: Tensor | None, ids: Sequence[str]) -> list[str] | None:
    """Those of ``ids`` that are among the ``seen`` (n,), in their order; None, which is unknown, where ``seen`` is.

    Raises InputError for anything else than what ``seen`` gives.
    """
    if seen is None:
        return None
    known, asked = _known(seen), _hashes(ids)
    if not len(known):
        return []
    nearest = known[np.searchsorted(known, asked).clip(max=len(known) - 1)]
    return [ids[i] for i in np.flatnonzero(nearest == asked).tolist()]


def _known(seen: object) -> np.ndarray:
    """Hashes (n,) that come from a file."""
    if not (isinstance(seen, Tensor) and seen.dtype == torch.int64 and seen.dim() == 1
            and bool((seen[1:] > seen[:-1]).all())):
        raise InputError("`seen` in a checkpoint must be ascending hashes (n,) int64 of clips: this one is damaged, or "
                         "was not written by pretraining")
    return seen.numpy()


def _hashes(ids: Iterable[str]) -> np.ndarray:
    """The first bytes (n,) of sha256 of each id, the same on every machine."""
    digests = b"".join(hashlib.sha256(name.encode()).digest()[:_BYTES] for name in ids)
    return np.frombuffer(digests, "<i8").astype(np.int64)


def _improvised(store: Store) -> bool:
    return isinstance(store.store if isinstance(store, Subset) else store, ProceduralStore)

"""Features by sample id as a file, a batch at a time, so that memory does not grow with the number of clips."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from skelcore.files import atomic, write_text
from skelcore.store import Store

Rows = Iterator[tuple[list[str], np.ndarray]]
_GROUP = 4096  # rows of a parquet file that are compressed, and can be read, together

_PROJECTOR = """embeddings {
  tensor_name: "features"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
}
"""


def check_name(path: str) -> str:
    """The path; raises ValueError for one whose suffix names no format."""
    if Path(path).suffix not in _WRITERS:
        raise ValueError("must end in .npz or .parquet, or be a folder's name without a suffix")
    return path


def write(path: str | Path, rows: Rows, store: Store) -> None:
    """Write ids and features (B, F), batch by batch, of all clips of ``store`` in order, with their labels.

    The suffix names the format, see ``check_name``. A file appears when it is complete; a folder's configuration, which
    TensorBoard looks for, comes last.
    """
    _WRITERS[Path(path).suffix](Path(path), rows, store)


def _npz(path: Path, rows: Rows, store: Store) -> None:
    with atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as member:
            for number, (_, block) in enumerate(rows):
                if number == 0:
                    np.lib.format.write_array_header_1_0(member, {
                        "descr": "<f4", "fortran_order": False, "shape": (len(store), block.shape[1])})
                member.write(np.ascontiguousarray(block, "<f4").tobytes())
        for name, values in (("ids", store.ids), ("labels", store.labels), ("classes", store.classes)):
            array = np.array(values, np.int64) if name == "labels" else np.array(list(values), np.str_)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _parquet(path: Path, rows: Rows, store: Store) -> None:
    # It takes a while to import, which other commands need not wait for.
    import pyarrow
    from pyarrow import parquet

    everyone, done = np.asarray(store.labels), 0
    with atomic(path) as file:
        writer = None
        for ids, block in _regrouped(rows):
            labels = everyone[done:done + len(ids)]
            values = pyarrow.array(block.reshape(-1), pyarrow.float32())
            table = pyarrow.table({
                "id": ids, "label": labels, "class": pyarrow.array(_classes(store, labels), pyarrow.string()),
                "features": pyarrow.FixedSizeListArray.from_arrays(values, block.shape[1])})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
            done += len(ids)
        if writer is not None:
            writer.close()


def _projector(folder: Path, rows: Rows, store: Store) -> None:
    everyone, done = np.asarray(store.labels), 0
    with atomic(folder / "tensors.tsv") as tensors, atomic(folder / "metadata.tsv") as metadata:
        metadata.write(b"id\tclass\n")
        for ids, block in rows:
            names = _classes(store, everyone[done:done + len(ids)])
            _lines(tensors, (map("{:.6g}".format, row) for row in block.tolist()))
            _lines(metadata, ((_one_cell(each), _one_cell(name or "-")) for each, name in zip(ids, names, strict=True)))
            done += len(ids)
    write_text(folder / "projector_config.pbtxt", _PROJECTOR)


_WRITERS: dict[str, Callable[[Path, Rows, Store], None]] = {".npz": _npz, ".parquet": _parquet, "": _projector}


def _regrouped(rows: Rows) -> Rows:
    """The same in blocks of at least ``_GROUP`` rows, but for the last."""
    ids: list[str] = []
    blocks: list[np.ndarray] = []
    for names, block in rows:
        ids, blocks = [*ids, *names], [*blocks, block]
        if len(ids) >= _GROUP:
            yield ids, np.concatenate(blocks)
            ids, blocks = [], []
    if ids:
        yield ids, np.concatenate(blocks)


def _classes(store: Store, labels: np.ndarray) -> list[str | None]:
    return [store.classes[label] if label >= 0 else None for label in labels.tolist()]


def _lines(file: IO[bytes], lines: Iterator[Iterator[str]] | Iterator[tuple[str, ...]]) -> None:
    file.write("".join("\t".join(line) + "\n" for line in lines).encode())


def _one_cell(text: str) -> str:
    """Without tabs and ends of lines, which would shift what follows."""
    return " ".join(text.split())

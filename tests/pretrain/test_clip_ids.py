"""What a checkpoint says of the clips that it saw: overlaps are found by the ids that evaluations know."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.trainer import Trainer
from skelcore import checkpoint, mixture
from skelcore.config import build
from skelcore.encoders import build as build_encoder
from skelcore.errors import InputError
from skelcore.seen import seen, shared, together
from skelcore.sources import Source
from skelcore.store import Store, open_store
from tests.pretrain.runs import OBJECTIVES, config, write_shard


def opened(*sources: dict[str, Any]) -> Store:
    return mixture.open_sources([build(Source, each, "test") for each in sources])


def naive(ids: list[str]) -> list[int]:
    return sorted({int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True) for name in ids})


def saved(folder: Path, **changes: Any) -> dict[str, Any]:
    """The checkpoint of a run that has not trained a step."""
    Trainer(config(changes.pop("data"), folder, **changes)).save()
    return checkpoint.load(folder / "checkpoint.pt")


def test_hashes_are_the_first_bytes_of_sha256_in_ascending_order(store: Store) -> None:
    assert seen(store).tolist() == naive(list(store.ids)) and seen(store).dtype == torch.int64
    assert len(seen(store)) == len(store)


def test_an_overlap_is_found_in_the_order_of_the_question(store: Store) -> None:
    asked = ["nobody", *reversed(store.ids), "nobody else", store.ids[0]]
    assert shared(seen(store), asked) == [*reversed(store.ids), store.ids[0]]
    assert shared(seen(store), ["nobody", "nobody else"]) == [] == shared(seen(store), [])
    assert shared(torch.zeros(0, dtype=torch.int64), list(store.ids)) == []


def test_a_mixture_counts_its_clips_under_their_own_ids_and_leaves_procedural_ones_out(poses: Path) -> None:
    both = opened({"uri": str(poses), "split": "test"}, {"uri": "procedural:6?seed=2"}, {"uri": str(poses)})
    own = open_store(str(poses))
    assert not set(both.ids) & set(own.ids)  # several sources: told apart by a prefix
    assert seen(both).tolist() == naive(list(own.ids))
    assert len(seen(opened({"uri": "procedural:6"}))) == 0 == len(seen(open_store("procedural:6")))
    thresholds = opened({"uri": "procedural:50", "min_frames": 40}, {"uri": str(poses), "split": "train"})
    assert shared(seen(thresholds), own.splits["train"]) == own.splits["train"]
    assert shared(seen(thresholds), own.splits["test"]) == []


def test_a_checkpoint_tells_the_clips_of_its_run_and_partners_the_same(tmp_path: Path, poses: Path) -> None:
    splits = open_store(str(poses)).splits
    held = saved(tmp_path, data=poses, split="train", **OBJECTIVES["distill"])
    partner = checkpoint.load(tmp_path / "x3d-shallow-joint.pt")
    for each in (held, partner):
        assert shared(each["seen"], splits["train"] + splits["test"]) == splits["train"]


def test_clips_of_the_weights_that_a_run_begins_with_count_too(tmp_path: Path, poses: Path) -> None:
    splits = open_store(str(poses)).splits
    saved(tmp_path / "first", data=poses, split="train")
    first = tmp_path / "first/checkpoint.pt"
    second = saved(tmp_path / "second", data="procedural:16", init=str(first))
    assert shared(second["seen"], splits["train"] + splits["test"]) == splits["train"]
    checkpoint.save_encoder(tmp_path / "old.pt", build_encoder("stgcn++", "coco17", width=8), 8, "joint")
    unknown = saved(tmp_path / "third", data="procedural:16", init=str(tmp_path / "old.pt"))
    assert unknown["seen"] is None and shared(unknown["seen"], splits["train"]) is None


def test_data_that_grow_are_hashed_anew_and_once(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(data: Store) -> torch.Tensor:
        calls.append(len(data))
        return seen(data)

    monkeypatch.setattr("pretrain.trainer.seen", counted)
    shards = tmp_path / "shards"
    write_shard(shards / "a.tar", store, range(16))
    trainer = Trainer(config(shards, tmp_path / "run"))
    for _ in range(2):
        trainer.save()
    before = checkpoint.load(tmp_path / "run/checkpoint.pt")["seen"]
    write_shard(shards / "b.tar", store, range(16, 24))
    assert trainer._grow()
    trainer.save()
    after = checkpoint.load(tmp_path / "run/checkpoint.pt")["seen"]
    assert before.tolist() == naive([f"clip-{i}/0000" for i in range(16)])
    assert after.tolist() == naive([f"clip-{i}/0000" for i in range(24)])
    assert calls == [16, 24]


def test_an_older_checkpoint_is_unknown_and_a_strange_one_refused() -> None:
    some = torch.tensor([1, 2])
    assert shared(None, ["a"]) is None and together(None, some) is None and together(some, None) is None
    assert together(some, torch.tensor([2, 5, 7])).tolist() == [1, 2, 5, 7]  # type: ignore[union-attr]
    for strange in ("yes", some.float(), torch.tensor([2, 1]), torch.tensor([[1, 2]]), [1, 2]):
        with pytest.raises(InputError, match="`seen`"):
            shared(strange, ["a"])  # type: ignore[arg-type]

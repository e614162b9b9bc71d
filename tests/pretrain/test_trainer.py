"""The loop: resuming, interruption, bad numbers, growing data, and that it learns."""

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.distributed import Group
from pretrain.trainer import Trainer
from skelcore import checkpoint, encoders, layouts
from skelcore.errors import InputError, RunError
from skelcore.layouts import Layout
from skelcore.store import Store
from tests.pretrain.runs import (
    OBJECTIVES,
    after_step,
    assert_equal,
    config,
    interrupt_at,
    state,
    write_shard,
)


def mixture(poses: Path) -> list[dict[str, Any]]:
    """11 clips an epoch, of a labelled source with one split and an unlabelled one of another weight."""
    return [{"uri": str(poses), "split": "test", "weight": 0.8}, {"uri": "procedural:6?seed=2", "weight": 0.5}]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_resumed_at_every_step_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, poses: Path,
                                                                             name: str) -> None:
    """Steps of two batches, of which an epoch has three: stops are in its middle and at its end."""
    changes = {**OBJECTIVES[name], "batch_size": 3, "accumulate": 2, "fill": 0.3,
               "optimizer": {"ema": 0.9, "warmup_epochs": 0.5, "name": "sgd" if name == "barlow" else "adamw"}}
    Trainer(config(mixture(poses), tmp_path / "whole", **changes)).run()
    for step in (1, 2, 3):
        torch.manual_seed(step)  # the caller's generator must not matter
        interrupt_at(config(mixture(poses), tmp_path / "parts", **changes), step)
        assert checkpoint.load(tmp_path / "parts/checkpoint.pt")["step"] == step
    Trainer(config(mixture(poses), tmp_path / "parts", **changes)).run()
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole[".step"] == 4 and whole[".clips_seen"] == 18
    assert_equal(whole, parts)
    if name == "distill":
        assert_partners_load(tmp_path)


def assert_partners_load(folder: Path) -> None:
    for partner, stream in (("x3d-shallow", "joint"), ("stgcn++", "joint_motion")):
        encoder, meta = checkpoint.load_encoder(folder / f"parts/{partner}-{stream}.pt", partner, "coco17")
        whole, _ = checkpoint.load_encoder(folder / f"whole/{partner}-{stream}.pt", partner)
        assert meta["stream"] == stream and meta["frames"] == 8 and encoder.accepts(2, stream)
        assert_equal(encoder.state_dict(), whole.state_dict())


@pytest.mark.parametrize(("name", "stream"), [("ctrgcn", "bone"), ("transformer", "joint_motion"),
                                              ("x3d-shallow", "joint_bone")])
def test_every_family_trains(tmp_path: Path, name: str, stream: str) -> None:
    trainer = Trainer(config("procedural:16", tmp_path, epochs=1, encoder={"name": name, "width": 8}, stream=stream))
    before = {key: value.clone() for key, value in trainer.encoder.named_parameters()}
    assert np.isfinite(trainer.run()["loss"])
    moved = [key for key, value in trainer.encoder.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.8 * len(before)  # a bias before a batch norm stays
    encoder, meta = checkpoint.load_encoder(tmp_path / "checkpoint.pt", name)
    assert meta["stream"] == stream and encoder.accepts(2, stream)


def test_a_stream_that_the_encoder_cannot_read_is_refused(tmp_path: Path, poses: Path) -> None:
    with pytest.raises(InputError, match="heatmaps show"):
        Trainer(config(poses, tmp_path, encoder={"name": "posec3d"}, stream="joint_motion"))
    with pytest.raises(InputError, match="joint_bone"):
        Trainer(config(poses, tmp_path, stream="joint_bone"))


def test_runs_differ_between_seeds_and_looking_moves_nothing(tmp_path: Path, poses: Path) -> None:
    for name, changes in (("never", {}), ("often", {"monitor": {"every_epochs": 1, "data": str(poses)}})):
        Trainer(config(poses, tmp_path / name, batch_size=20, **changes)).run()
    never, often = (state(tmp_path / name) for name in ("never", "often"))
    weights = [key for key in never if key.startswith((".encoder", ".objective", ".optimizer"))]
    assert_equal({key: never[key] for key in weights}, {key: often[key] for key in weights})
    one, other = (Trainer(config(poses, tmp_path / "other", seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.objective.expander[0].weight, other.objective.expander[0].weight)
    batch = one.dataset.__getitems__(range(8))
    assert not torch.equal(one.see(batch, 0)[0], other.see(batch, 0)[0])
    assert 0 <= often[".metrics.knn/accuracy"] <= 1 and [often[f".history.{i}.step"] for i in (0, 1)] == [2, 4]


def test_looking_at_reconstructions_moves_nothing_either(tmp_path: Path) -> None:
    for name, every in (("never", 99), ("often", 1)):
        Trainer(config("procedural:16", tmp_path / name, **OBJECTIVES["masked_motion"], optimizer={"ema": 0.5},
                       monitor={"every_epochs": every})).run()
    often, never = (state(tmp_path / name) for name in ("often", "never"))
    trained = [key for key in never if key.startswith((".encoder", ".trained", ".objective"))]
    assert_equal({key: never[key] for key in trained}, {key: often[key] for key in trained})


def test_the_average_is_what_is_saved_and_follows_the_naive_rule(tmp_path: Path, poses: Path) -> None:
    trainer = Trainer(config(poses, tmp_path, epochs=1, optimizer={"ema": 0.75}))
    naive = {key: value.clone() for key, value in trainer.objective.encoder.named_parameters()}
    for batch in list(trainer_batches(trainer))[:3]:
        trainer.train_step([batch])
        for key, value in trainer.objective.encoder.named_parameters():
            naive[key] = 0.75 * naive[key] + 0.25 * value.detach()
    trainer.save()
    encoder, _ = checkpoint.load_encoder(tmp_path / "checkpoint.pt")
    for key, value in encoder.named_parameters():
        torch.testing.assert_close(value, naive[key], rtol=1e-5, atol=1e-7)


def trainer_batches(trainer: Trainer) -> Any:
    from skelcore.batches import loader

    return loader(trainer.dataset, trainer.sampler)


def test_accumulated_gradients_are_the_mean_of_the_batches(tmp_path: Path, poses: Path) -> None:
    """Two batches of 8 in one step give the mean of their gradients, since their losses are averaged."""
    found = []
    for accumulate in (1, 2):
        trainer = Trainer(config(poses, tmp_path, accumulate=accumulate, optimizer={"clip": 1e9}))
        batches = list(trainer_batches(trainer))[:2]
        trainer.optimizer.step = lambda: None  # type: ignore[method-assign]
        gradients = []
        for number, chunk in enumerate([batches] if accumulate == 2 else [[batch] for batch in batches]):
            trainer.step = number  # the second batch's draws are those of number 1 in both
            trainer.train_step(chunk)
            gradients.append([p.grad.clone() for p in trainer.objective.parameters() if p.grad is not None])
        found.append([torch.stack(each).mean(0) for each in zip(*gradients, strict=True)])
    for one, both in zip(*found, strict=True):
        torch.testing.assert_close(both, one, rtol=1e-4, atol=1e-5)


def test_bf16_runs_the_encoder_in_it_and_the_loss_in_float32(tmp_path: Path, poses: Path) -> None:
    trainer = Trainer(config(poses, tmp_path, epochs=1, precision="bf16"))
    kinds: dict[str, set[torch.dtype]] = {"encoder": set(), "compare": set()}
    trainer.objective.encoder.register_forward_hook(lambda *seen: kinds["encoder"].add(seen[-1].dtype))
    compare = trainer.objective.compare
    trainer.objective.compare = lambda *views, weights: (  # type: ignore[method-assign]
        kinds["compare"].update(view.dtype for view in views) or compare(*views, weights=weights))
    batch, *_ = trainer_batches(trainer)
    shown = trainer.train_step([batch])
    assert kinds == {"encoder": {torch.bfloat16}, "compare": {torch.float32}}
    assert math.isfinite(shown["loss/total"]) and shown["loss/total"].dtype == torch.float32
    assert {p.dtype for p in trainer.objective.parameters()} == {torch.float32}


@pytest.mark.parametrize("what", ["the loss", "the norm of the gradient"])
def test_numbers_that_are_not_finite_stop_and_leave_the_checkpoint_whole(tmp_path: Path, poses: Path, what: str,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config(poses, tmp_path))
    forward = trainer.objective.forward

    def explode(*seen: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, terms = forward(*seen)
        if trainer.step == 6:
            # The root of zero is finite, and its slope is not.
            loss = loss * math.nan if what == "the loss" else loss + (loss - loss).sqrt()
        return loss, terms

    monkeypatch.setattr(trainer.objective, "forward", explode)
    with pytest.raises(RunError, match=f"{what} is (nan|inf) at step 7: lower optimizer.lr"):
        trainer.run()
    found = state(tmp_path)
    assert found[".step"] == 5
    assert all(value.isfinite().all() for value in found.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("warmup", [0, 2])
def test_collapse_stops_the_run_once_the_warm_up_is_over(tmp_path: Path, poses: Path, warmup: int,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.trainer._SETTLED", 5)
    settings = config(poses, tmp_path, epochs=2, monitor={"every_epochs": 1}, optimizer={"warmup_epochs": warmup})
    trainer = Trainer(settings)

    def collapse() -> None:
        for parameter in trainer.objective.encoder.parameters():
            parameter.data.zero_()

    with after_step(5 if warmup == 0 else 4, collapse), pytest.raises(RunError, match=r"all clips.*has collapsed; low"):
        trainer.run()
    assert (tmp_path / "checkpoint.pt").exists() == (warmup > 0)


def test_another_configuration_device_or_foreign_file_is_refused(tmp_path: Path, poses: Path) -> None:
    Trainer(config(poses, tmp_path, epochs=1, batch_size=20)).run()
    path = tmp_path / "checkpoint.pt"
    found = checkpoint.load(path)
    for changes, message in (({"seed": 5, "encoder": {"width": 16}}, r"another configuration \(encoder, seed\)"),
                             ({"split": "train"}, r"another configuration \(split\)"),
                             ({"data": "procedural:40"}, "not the clips of the run that was saved"),
                             ({"data": [{"uri": str(poses), "weight": 2}]}, "weights"),
                             ({"data": [str(poses), str(poses)]}, "2 sources, but the run that was saved had 1")):
        with pytest.raises(InputError, match=message):
            Trainer(config(**{"data": poses, "output": tmp_path, "epochs": 1, "batch_size": 20, **changes}))
    Trainer(config(poses, tmp_path, epochs=1, batch_size=20, log_every_steps=3, keep=5))
    for other, message in (({**found, "device": "cuda"}, "trained on cuda"),
                           ({key: value for key, value in found.items() if key != "data"}, "not written by a pretrain"),
                           ({"encoder": found["encoder"], "spec": found["spec"]}, "not written by a pretraining run"),
                           ({**found, "objective": {**found["objective"], "more": torch.ones(1)}}, "has other parts")):
        checkpoint.save(path, other)
        with pytest.raises(InputError, match=message):
            Trainer(config(poses, tmp_path, epochs=1, batch_size=20))


def test_a_second_stage_starts_from_the_firsts_encoder(tmp_path: Path, poses: Path) -> None:
    first = Trainer(config(poses, tmp_path / "first", epochs=1, batch_size=20))
    first.run()
    start = tmp_path / "first/checkpoint.pt"
    stage = {"init": str(start), "optimizer": {"layer_decay": 0.5}, "batch_size": 20, **OBJECTIVES["nnclr"]}
    second = Trainer(config(poses, tmp_path / "second", **stage))
    assert_equal(second.encoder.state_dict(), first.encoder.state_dict())
    interrupt_at(config(poses, tmp_path / "second", **stage), 1)
    assert not torch.equal(*(state(tmp_path / name)[".encoder.blocks.9.graph.conv.weight"]
                             for name in ("first", "second")))
    for changes, message in (({"encoder": {"width": 16}}, r"init=.*its encoder is .*this run's"),
                             ({"encoder": {"name": "ctrgcn", "width": 8}}, r"is for encoder 'stgcn\+\+'"),
                             ({"init": str(tmp_path / "none.pt")}, "none.pt: no such file"),
                             ({"init": str(poses)}, "mannequin.pkl")):
        with pytest.raises(InputError, match=message):
            Trainer(config(poses, tmp_path / "third", **{**stage, **changes}))


def test_shards_that_come_are_used_from_the_next_epoch_on_in_a_resumed_run_too(tmp_path: Path, store: Store,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """8 clips, 16 from the second epoch on, 20 from the third: 2 + 4 + 5 steps of 4."""
    def comes(number: int) -> None:
        for folder in folders:
            write_shard(folder / f"{number}.tar", store, range(8 * number, 8 * number + (4 if number == 2 else 8)))

    def looks(self: Trainer, *_: object) -> None:
        if self.sampler.epoch < 3 and not (folders[-1] / f"{self.sampler.epoch}.tar").exists():
            comes(self.sampler.epoch)

    monkeypatch.setattr(Trainer, "_look", looks)
    settings = {"epochs": 3, "batch_size": 4, "monitor": {"every_epochs": 1}}
    for name in ("whole", "parts"):
        folders = [tmp_path / f"clips of {name}"]
        comes(0)
        run = config(folders[0], tmp_path / name, **settings)
        if name == "parts":
            interrupt_at(run, 4)
            comes(2)  # too early for this epoch
        trainer = Trainer(run)
        trainer.run()
        assert trainer.step == 11 and len(trainer.data) == 20
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    named = [key for key in whole if not key.startswith(".data.")]  # where the shards lie differs
    assert_equal({key: whole[key] for key in named}, {key: parts[key] for key in named})


def test_a_shard_that_vanishes_in_mid_run_ends_it_with_the_last_checkpoint_whole(tmp_path: Path, store: Store) -> None:
    for number in range(2):
        write_shard(tmp_path / f"clips/{number}.tar", store, range(8 * number, 8 * number + 8))

    def vanish() -> None:
        (tmp_path / "clips/0.tar").unlink()
        (tmp_path / "clips/0.manifest.json").unlink()

    settings = config(tmp_path / "clips", tmp_path / "out", epochs=4)
    with after_step(4, vanish), pytest.raises(RunError, match=r"0\.tar: .*vanished"):
        Trainer(settings).run()
    assert state(tmp_path / "out")[".step"] == 2
    with pytest.raises(RunError, match=r"0\.tar: the shard has vanished"):
        Trainer(settings)
    write_shard(tmp_path / "clips/0.tar", store, range(8))
    trainer = Trainer(settings)
    trainer.run()
    assert trainer.step == 8


def test_data_that_are_too_few_or_too_alike_end_clearly(tmp_path: Path, poses: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.trainer._SETTLED", 0)
    one = [{"uri": "procedural:1"}]
    with pytest.raises(InputError, match="batch_size=8 exceeds the 1 clips"):
        Trainer(config(one, tmp_path))
    # One clip again and again: there is nothing to tell apart.
    trainer = Trainer(config([{**one[0], "weight": 8}], tmp_path, epochs=1, optimizer={"warmup_epochs": 0}))
    with pytest.raises(RunError, match="collapsed"):
        trainer.run()
    with pytest.raises(InputError, match=r"must be a multiple of.*number of processes, 4"):
        Trainer(config(poses, tmp_path, batch_size=2), Group(0, 4))
    with pytest.raises(InputError, match=r"holds no pose sequences|no split"):
        Trainer(config(poses, tmp_path, split="validation"))
    with pytest.raises(InputError, match="needs labels of 2 classes or more, and the data have none"):
        Trainer(config("procedural:16", tmp_path, objective={"name": "supervised"}))


@pytest.mark.parametrize("name", ["stgcn++", "ctrgcn", "transformer", "x3d-shallow"])
def test_a_layout_without_bones_trains_on_its_joints(tmp_path: Path, name: str,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    dots = Layout("dots", ("nose", "left_wrist", "right_wrist", "left_ankle", "right_ankle"), (), 0)
    monkeypatch.setitem(layouts.LAYOUTS, "dots", dots)
    trainer = Trainer(config("procedural:8", tmp_path, layout="dots", epochs=1, encoder={"name": name, "width": 8},
                             objective={"expander": 16, "partial": 1.0}))
    assert math.isfinite(trainer.run()["loss"]) and trainer.encoder.layout == dots
    with pytest.raises(InputError, match="stream=bone: layout dots has no bones; take stream=joint"):
        Trainer(config("procedural:8", tmp_path / "bones", layout="dots", stream="bone"))


def test_data_and_monitor_must_share_joints_and_dimensions(tmp_path: Path, poses: Path) -> None:
    from skelcore.annotations import write_pyskl
    from skelcore.sequence import PoseSequence

    with pytest.raises(InputError, match="give none of its joints"):
        Trainer(config(poses, tmp_path, layout="hand21"))
    deep = PoseSequence(np.ones((1, 4, 17, 3)), np.ones((1, 4, 17)), layouts.get("coco17"), id="deep", label=0)
    write_pyskl(tmp_path / "deep.pkl", [deep], {}, classes=["one"])
    with pytest.raises(InputError, match=r"3D poses.*2D"):
        Trainer(config(poses, tmp_path, monitor={"data": str(tmp_path / "deep.pkl")}))
    with pytest.raises(InputError, match=r"monitor.data=procedural:4: no labels"):
        Trainer(config(poses, tmp_path, monitor={"data": "procedural:4"}))


def test_resuming_and_repeating_keep_the_events(tmp_path: Path, poses: Path) -> None:
    def steps(tag: str) -> list[int]:
        events = EventAccumulator(str(tmp_path))
        events.Reload()
        return [point.step for point in events.Scalars(tag)]

    settings = config(poses, tmp_path, monitor={"every_epochs": 1, "data": str(poses), "split": "test"})
    interrupt_at(settings, 7)
    last = Trainer(settings).run()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"loss/total", "loss/invariance", "loss/variance", "loss/covariance", "optimizer/lr", "knn/accuracy",
            "optimizer/gradient_norm", "linear/accuracy", "features/std", "features/effective_rank",
            "features/alignment", "features/uniformity", "speed/clips_per_second", "speed/waiting_share",
            "memory/process_gib"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["views"]
    for _ in range(2):  # a run that is over has nothing to add
        assert steps("loss/total") == list(range(1, 11)) and steps("knn/accuracy") == [5, 10]
        assert Trainer(settings).run() == last


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path: Path, poses: Path) -> None:
    with after_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        Trainer(config(poses, tmp_path, epochs=1, batch_size=20)).run()
    assert state(tmp_path)[".sampler.epoch"] == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a compiler")
def test_compiled_encoders_train_alike(tmp_path: Path, poses: Path) -> None:
    losses = [Trainer(config(poses, tmp_path / str(compiled), epochs=1, batch_size=20, encoder=encoder,
                             compile=compiled)).run()["loss"]
              for encoder in [{"name": "transformer", "width": 16}] for compiled in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    encoder, _ = checkpoint.load_encoder(tmp_path / "True/checkpoint.pt")
    assert encoder.state_dict().keys() == encoders.build("transformer", "coco17", width=16).state_dict().keys()


@pytest.mark.slow
def test_pretraining_beats_random_weights_by_nearest_neighbours(tmp_path: Path, poses: Path) -> None:
    trainer = Trainer(config(poses, tmp_path, epochs=60, frames=24, batch_size=20, encoder={"width": 16},
                             objective={"expander": 256}, monitor={"every_epochs": 60, "data": str(poses), "k": 3},
                             optimizer={"lr": 2e-3}))
    # Batch-norm statistics make random weights a fair control.
    batch = trainer.dataset.__getitems__(range(len(trainer.dataset)))
    encoders.calibrate(trainer.encoder, [trainer.encoder.inputs(batch.keypoints, batch.scores)[0]])
    from pretrain.board import Board

    before = trainer.watch.look(trainer.objective, trainer.encoder, Board(None), 0, False)
    after = trainer.run()
    assert after["knn/accuracy"] > before["knn/accuracy"] + 0.1 and after["features/effective_rank"] > 5
